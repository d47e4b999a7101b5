import pytest

from dashkit.experiments.profiles import PROFILES, Profile, parse_settings, resolve
from dashkit.experiments.run import Run, start_run


def test_auto_is_the_environment_or_digits(monkeypatch):
    monkeypatch.delenv("DASHKIT_PROFILE", raising=False)
    assert resolve().name == "digits"
    monkeypatch.setenv("DASHKIT_PROFILE", "smoke")
    assert resolve("auto").name == "smoke" and resolve("digits").name == "digits"


def test_none_leaves_a_setting_alone():
    assert resolve("smoke", student_steps=None, batch=8) == resolve("smoke", batch=8)


def test_the_paper_profiles_carry_the_published_settings():
    p = PROFILES["cifar10"]
    assert (p.teacher.ch, p.teacher.blocks, p.teacher.dropout, p.student.ch, p.student.blocks) == (128, 2, 0.1, 64, 1)
    assert (p.batch, p.teacher_steps, p.student_steps, p.teacher_lr) == (64, 391_000, 234_000, 2e-4)
    assert (p.teacher_ema, p.sample_steps, p.samples, p.base, p.gamma) == (0.9999, 50, 50_000, "published", 5.0)
    assert set(PROFILES) == {"cifar10", "cifar100", "fashion_mnist", "imagenet64", "smoke", "digits", "exact", "tuning",
                             "cifar10_fast", "cifar10_proof", "cifar16"}
    fast, proof = PROFILES["cifar10_fast"], PROFILES["cifar10_proof"]
    assert (fast.student, fast.T, fast.label_dropout, fast.sample_steps) == (p.student, p.T, p.label_dropout, 50)
    assert proof.dataset == "cifar10" and {"dash", "scratch", "composite", "cond_only", "dash_no_un"} == set(proof.arms)


@pytest.mark.parametrize(("settings", "message"), [
    ({"batch": 2.5}, r"batch must be an integer in \[2, 65536\], not 2.5"),
    ({"batch": True}, "batch must be an integer"), ({"student_lr": "fast"}, r"student_lr must be a number in \[1e-08"),
    ({"student_lr": float("nan")}, "student_lr must be a number"), ({"teacher_steps": 0}, "teacher_steps must be"),
    ({"base": "min-snr"}, "base must be one of uniform, min_snr, published"), ({"w": 21.0}, "w must be a number in"),
    ({"w": 2.5}, "must be one of ws"), ({"ws": ()}, "ws must be a non-empty"), ({"arms": "dash"}, "arms must be a non"),
    ({"arms": ("dash", "dash")}, "must be distinct"), ({"sample_steps": 2000}, "at most T=1000"),
    ({"stepz": 1}, "unknown setting stepz; choose from T, base"),
])  # fmt: skip
def test_bad_settings_are_refused_with_the_allowed_values(settings, message):
    with pytest.raises(ValueError, match=message):
        resolve("smoke", **settings)


def test_unknown_profile_arm_seed_and_device_are_refused():
    with pytest.raises(ValueError, match="unknown profile 'cifar'; choose from auto, smoke, digits"):
        start_run("cifar")
    with pytest.raises(ValueError, match="unknown arm 'dush'; choose from dash"):
        start_run("smoke", arms=["dush"])
    for seed in (-1, 1.5, True, "7"):
        with pytest.raises(ValueError, match="seed must be an integer in"):
            start_run("smoke", seed=seed)
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda"):
        start_run("smoke", device="gpu")


def test_a_profile_is_frozen():
    assert isinstance(resolve("smoke"), Profile)
    with pytest.raises(AttributeError):
        resolve("smoke").batch = 3
    assert Run(resolve("smoke", seeds=3), seed=5).seeds == [5, 6, 7]


@pytest.mark.parametrize(("settings", "message"), [
    ({"name": "x"}, "unknown setting name"), ({"arms": [["dash"]]}, "arms must be names"),
    ({"arms": [1]}, "arms must be names"),
])
def test_settings_of_a_strange_kind_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        resolve("smoke", **settings)


def test_settings_are_read_as_numbers_lists_and_words():
    read = parse_settings(["student_steps=10", "arms=dash", "ws=[1,1.5]", "base=uniform", "student_lr=1e-3"])
    assert read == {"student_steps": 10, "arms": ["dash"], "ws": [1, 1.5], "base": "uniform", "student_lr": 1e-3}
    with pytest.raises(ValueError, match="looks like student_steps=100"):
        parse_settings(["student_steps"])


@pytest.mark.parametrize("name", ["profile", "seed", "device"])
def test_what_has_an_option_of_its_own_is_no_setting(name):
    with pytest.raises(ValueError, match=f"say it with --{name}"):
        parse_settings([f"{name}=1"])


@pytest.mark.parametrize("text", ["{[]: 1}", "(" * 300, "-" * 9000 + "1"])
def test_values_that_are_no_python_are_text(text):
    assert parse_settings([f"base={text}"]) == {"base": text}
