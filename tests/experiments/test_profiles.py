import dataclasses
import json
from decimal import Decimal
from fractions import Fraction
from importlib import resources

import numpy as np
import pandas as pd
import profile_digests
import pytest
import torch

from dashkit import cli
from dashkit.analysis.tables import published_results, results_of
from dashkit.datasets import sources
from dashkit.experiments import campaign, sweeps
from dashkit.experiments.evaluation import _evaluation_path, results_path
from dashkit.experiments.profiles import PROFILES, Profile, address, resolve
from dashkit.experiments.run import Run, start_run
from dashkit.experiments.settings import SETTINGS, number, parse_settings, truth, typed
from dashkit.method import guidance
from dashkit.method.arms import ARMS
from dashkit.storage import paths, store


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
                             "cifar10_fast", "cifar10_loan", "cifar10_proof", "cifar16", "cifar16_loan"}
    fast, proof = PROFILES["cifar10_fast"], PROFILES["cifar10_proof"]
    assert (fast.student, fast.T, fast.label_dropout, fast.sample_steps) == (p.student, p.T, p.label_dropout, 50)
    assert proof.dataset == "cifar10" and {"dash", "scratch", "composite", "cond_only", "dash_no_un"} == set(proof.arms)


def test_what_was_trained_before_profiles_were_files_is_found_again():
    assert profile_digests.digests() == json.loads(profile_digests.PATH.read_text())


def test_every_built_in_profile_is_package_data_that_explains_itself():
    texts = {p.name: p.read_text() for p in resources.files("dashkit.experiments").joinpath("profile_files").iterdir()}
    assert sorted(texts) == sorted(f"{name}.toml" for name in PROFILES)
    assert all(text.startswith("# ") for text in texts.values())
    settings = [line for line in texts["digits.toml"].split("[student]")[0].splitlines() if " = " in line]
    silent = [line for line in settings if "#" not in line]
    assert {line.split(" = ")[0] for line in silent} <= {"dataset", "batch", "teacher_steps", "student_steps",
                                                         "student_lr", "student_ema", "num_classes", "dropout"}


@pytest.mark.parametrize(("settings", "message"), [
    ({"batch": 2.5}, r"batch must be an integer in \[2, 65536\], not 2.5"),
    ({"batch": True}, "batch must be an integer"), ({"student_lr": "fast"}, r"student_lr must be a number in \[1e-08"),
    ({"student_lr": float("nan")}, "student_lr must be a number"), ({"teacher_steps": 0}, "teacher_steps must be"),
    ({"base": "min-snr"}, "base must be one of uniform, min_snr, published"), ({"w": 21.0}, "w must be a number in"),
    ({"w": 2.5}, "must be one of ws"), ({"ws": ()}, "ws must be a non-empty"), ({"arms": []}, "arms must be a non"),
    ({"arms": ("dash", "dash")}, "must be distinct"), ({"sample_steps": 2000}, "at most T=1000"),
    ({"stepz": 1}, "unknown setting stepz; choose from T, base"), ({"ws": (1.5, 1.5000001)}, "ws must be distinct"),
    ({"teacher": {}}, "unknown setting teacher"), ({"batch": 1, "w": 77, "arms": ["dush"]}, "3 problems: .*dush"),
])  # fmt: skip
def test_bad_settings_are_refused_with_the_allowed_values(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve("smoke", **settings)
    assert "\n" not in str(caught.value)


def test_unknown_profile_arm_seed_and_device_are_refused():
    with pytest.raises(ValueError, match="unknown profile 'cifar'; choose from auto, smoke, digits"):
        start_run("cifar")
    for strange in (3, None, "", b"digits", ["digits"]):
        with pytest.raises(ValueError, match="unknown profile"):
            start_run(strange)
    with pytest.raises(ValueError, match="unknown arm 'dush'; choose from dash"):
        start_run("smoke", arms=["dush"])
    for seed in (-1, 1.5, True, "seven", None, 2**31, float("nan"), [7], np.bool_(True)):
        with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2147483647\]"):
            start_run("smoke", seed=seed)
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda"):
        start_run("smoke", device="gpu")


def test_a_profile_is_frozen_and_checked_whenever_it_is_replaced():
    profile = resolve("smoke")
    assert isinstance(profile, Profile)
    with pytest.raises(AttributeError):
        profile.batch = 3
    assert Run(resolve("smoke", seeds=3), seed=5).seeds == [5, 6, 7]
    assert dataclasses.replace(profile, clip=2).asdict()["clip"] == 2.0
    plain = dataclasses.replace(profile, teacher=dataclasses.replace(profile.teacher, dropout=0))
    assert store.fingerprint(plain.asdict()) == store.fingerprint(profile.asdict())
    with pytest.raises(ValueError, match="batch must be an integer"):
        dataclasses.replace(profile, batch=None)
    with pytest.raises(ValueError, match=r"student\.channels must be the teacher's 1, not 3"):
        dataclasses.replace(profile, student=dataclasses.replace(profile.student, channels=3))


@pytest.mark.parametrize(("settings", "message"), [
    ({"name": "x"}, "unknown setting name"), ({"arms": [["dash"]]}, "arms must be a non-empty list of names"),
    ({"arms": [1]}, "arms must be a non-empty list of names"),
])
def test_settings_of_a_strange_kind_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        resolve("smoke", **settings)


# ------------------------------------------------------------------------------------------------------- spellings

SAME = {
    "batch": (8, [8.0, "8", " 8 ", "8.0", "+8", "8e0", np.int64(8), np.uint8(8), np.float32(8), np.array(8),
                  torch.tensor(8), Decimal(8), Fraction(8), pd.Series([8])[0]]),
    "student_steps": (1000, [1e3, "1e3", "1_000", np.float64(1000)]),
    "student_lr": (0.01, ["0.01", "1e-2", ".01", np.float32(0.01), np.float16(0.01), np.array(0.01),
                          torch.tensor(0.01), Decimal("0.01"), Fraction(1, 100)]),
    "clip": (1.0, [1, "1", "1.0", np.int64(1), np.float32(1)]),
    "gamma": (5.0, [5, "5", np.uint8(5)]),
    "exact_bandwidth": (0.0, [0, -0.0, "-0", "0e5"]),
    "warmup": (0, [0.0, -0.0, "0"]),
    "ws": ((1.0, 1.5, 4.0), [(1, 1.5, 4), [1, 1.5, 4], "1,1.5,4", "1.0, 1.5, 4.0", "[1, 1.5, 4]", "(1, 1.5, 4,)",
                             {4, 1.5, 1}, np.array([1, 1.5, 4]), np.array([4, 1.5, 1], dtype=np.float32),
                             torch.tensor([1, 1.5, 4]), pd.Series([1, 1.5, 4]), pd.Index([1, 1.5, 4]),
                             iter([1, 1.5, 4]), ("1", "1.5", np.int64(4)), {1: 0, 1.5: 0, 4: 0}.keys()]),
    "arms": (("dash", "scratch"), [["dash", "scratch"], "dash,scratch", "dash, scratch", "[dash,scratch]",
                                   "['dash', 'scratch']", '["dash", "scratch"]', np.array(["dash", "scratch"]),
                                   pd.Series(["dash", "scratch"]), {"scratch", "dash"}, iter(("dash", "scratch"))]),
    "base": ("uniform", [" uniform", np.str_("uniform")]),
}


@pytest.mark.parametrize("name", SAME)
def test_every_spelling_of_a_setting_is_the_same_setting(name):
    wanted, spellings = SAME[name]
    for given in spellings:
        found = typed(name, given)
        assert found == wanted and repr(found) == repr(wanted), given
    plain = resolve("smoke", **{name: wanted, "w": 1.5}).asdict()
    again = [name for name in spellings if not hasattr(name, "__next__")]
    assert all(json.dumps(resolve("smoke", **{name: one}).asdict()) == json.dumps(plain) for one in again)


def test_the_same_scales_in_another_spelling_are_the_same_run(tiny):
    plain = tiny(ws=(1.0, 1.5, 4.0), clip=1.0, gamma=5.0)
    other = tiny(ws="1,1.5,4", clip=1, gamma=np.int64(5), seed=np.int64(1))
    assert store.fingerprint(plain.profile.asdict()) == store.fingerprint(other.profile.asdict())
    assert [plain.folder(a, 1) for a in ("teacher", "dash")] == [other.folder(a, np.int64(1)) for a in
                                                                ("teacher", "dash")]
    assert results_path(plain) == results_path(other)
    assert _evaluation_path(plain, "dash", 1) == _evaluation_path(other, "dash", 1)


def test_single_values_and_all_arms():
    assert typed("ws", 1.5) == typed("ws", "1.5") == typed("ws", np.float64(1.5)) == (1.5,)
    assert typed("ws", range(1, 4)) == (1.0, 2.0, 3.0)
    assert typed("arms", "dash") == ("dash",) and typed("arms", "all") == typed("arms", ["all"]) == ARMS


class Awkward:
    def __repr__(self):
        raise RuntimeError("no name")


REFUSED = {
    "batch": ["", "big", "8 8", "1,000", "0x10", "nan", "inf", "1e400", 8.5, True, np.bool_(True), None, b"8", [8], {},
              10**5000, float("nan"), 1j, np.array([8]), np.timedelta64(8, "s"), np.datetime64("2020-01-01"),
              torch.tensor([8.0]), torch.tensor(True), Awkward(), pd.NA, "-8", object, 10**400],
    "student_lr": ["", "fast", "1%", "0,01", float("inf"), True, (0.1,), "1/100"],
    "ws": ["", "[]", "1;1.5", "1,,1.5", (1.5, None), (1.5, True), (1.5, "x"), {1.5: 2}, b"1.5", [[1.5]], (),
           np.ones((2, 2)), pd.DataFrame({"1.5": [1]}), True, None, Awkward(), [1.5] * 2000, 21],
    "arms": ["", "dash scratch", "dush", ["dash", 1], {"dash": 1}, b"dash", 3, None, "dash,dush", [""]],
    "base": ["min-snr", "", 3, None, ["uniform"], True],
    "precision": ["float16", np.dtype("float32"), torch.float32],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_setting_is_refused_by_name_in_one_line(name):
    for given in REFUSED[name]:
        with pytest.raises(ValueError) as caught:
            typed(name, given)
        message = str(caught.value)
        assert message.startswith((f"{name} must be ", "unknown arm '")) and "\n" not in message, given
        assert len(message) < 250 or "unknown arm" in message


def test_an_endless_list_is_refused():
    import itertools

    with pytest.raises(ValueError, match="ws must be a non-empty list"):
        typed("ws", itertools.count())


def test_settings_are_read_as_numbers_lists_and_words():
    read = parse_settings(["student_steps=10", "arms=dash", "ws=[1,1.5]", "base=uniform", "student_lr=1e-3"])
    assert read == {"student_steps": 10, "arms": ("dash",), "ws": (1.0, 1.5), "base": "uniform", "student_lr": 1e-3}
    for text in ("student_steps", "=3", "a b=3", "student steps=3"):
        with pytest.raises(ValueError, match="looks like student_steps=100"):
            parse_settings([text])


@pytest.mark.parametrize("given", [
    {"student_steps": 100, "ws": [1, 1.5]}, '{"student_steps": 100, "ws": [1, 1.5]}', "student_steps=100 ws=1,1.5",
    ["student_steps=100", "ws=1.0,1.5"], {"student_steps": "1e2", "ws": "1,1.5", "batch": None, "clip": "null"},
    '{"student_steps": 100.0, "ws": "1,1.5", "batch": null}', ("student_steps=100", "ws=1.5,1", "batch=None"),
], ids=str)
def test_settings_may_be_said_in_many_ways(given):
    assert parse_settings(given) == {"student_steps": 100, "ws": (1.0, 1.5)}
    assert start_run("smoke", settings=given).profile == resolve("smoke", student_steps=100, ws=(1.0, 1.5))


@pytest.mark.parametrize("nothing", [None, {}, [], (), "", " ", "null", "None", "{}"], ids=repr)
def test_no_settings_may_be_said_in_many_ways(nothing):
    assert parse_settings(nothing) == {} and start_run("smoke", settings=nothing).profile == PROFILES["smoke"]


@pytest.mark.parametrize(("given", "message"), [
    (3, "settings must look like"), (True, "settings must look like"), ('{"batch": 8', "settings are no JSON"),
    ("[1]", "a setting looks like"), ('{"batch": 8, "batch": 9}', "says a name twice"), ({3: 4}, "name of a setting"),
    ('{"batch": NaN}', "settings are no JSON"), ("batch", "a setting looks like"), ([3], "a setting looks like"),
    ({"batch": 1}, "batch must be an integer"), ('{"batch": {}}', "batch must be an integer"), (b"", "must look like"),
    ({"a\nb": 1}, r"unknown setting 'a\\nb'"), ('{"a":' * 5000, "settings are no JSON"), ({"seed": 7}, "not a setting"),
], ids=str)  # fmt: skip
def test_settings_that_are_none_are_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        start_run("smoke", settings=given)
    assert "\n" not in str(caught.value)


def test_what_a_call_says_goes_before_what_a_parameter_says():
    assert start_run("smoke", settings={"batch": 8, "clip": 2}, batch=16, clip=None).profile == resolve(
        "smoke", batch=16, clip=2)


@pytest.mark.parametrize("name", ["profile", "seed", "device"])
def test_what_has_an_option_of_its_own_is_no_setting(name):
    with pytest.raises(ValueError, match=f"say it with --{name}"):
        parse_settings([f"{name}=1"])


@pytest.mark.parametrize("text", ["{[]: 1}", "(" * 300, "-" * 9000 + "1"])
def test_values_that_are_nothing_are_refused(text):
    with pytest.raises(ValueError, match="base must be one of"):
        parse_settings([f"base={text}"])


def test_a_truth_value_may_be_a_text():
    for yes in (True, "true", "True", "yes", "on", "1", 1, np.bool_(True)):
        assert truth("recompute", yes) is True
    for no in (False, "false", "False", "no", "off", "0", 0, np.bool_(False)):
        assert truth("recompute", no) is False
    for neither in ("maybe", "", 2, None, [], "tru", 0.5):
        with pytest.raises(ValueError, match="recompute must be true or false, not"):
            truth("recompute", neither)


def test_no_text_is_a_truth_value_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    assert start_run("smoke", pretrained="false").root == tmp_path / "anew"
    assert start_run("smoke", compile="off", pretrained="1").root == tmp_path
    for name in ("pretrained", "compile"):
        with pytest.raises(ValueError, match=f"{name} must be true or false, not 'maybe'"):
            start_run("smoke", **{name: "maybe"})


@pytest.mark.parametrize(("name", "good", "bad"), [
    ("hours", ("0.4", 0.4, np.float32(0.4), "4e-1"), ("0,4", "0", None, "soon", float("nan"))),
    ("minutes", ("9", 9, 9.0), ("-1", True, [9])), ("jobs", ("2", 2, 2.0, np.int8(2)), ("two", 0, 1.5, None)),
    ("fid_samples", ("1e3", 1000, "1000"), ("10", "many", 20.5)),
])  # fmt: skip
def test_what_a_notebook_or_a_command_takes_beside_settings_is_typed_too(name, good, bad):
    assert len({typed(name, value) for value in good}) == 1
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must be "):
            typed(name, value)


@pytest.mark.parametrize("option", ["--hours=0,4", "--minutes=soon", "--fid-samples=many"])
def test_a_campaign_refuses_its_parameters_before_it_reads_an_image(monkeypatch, capsys, option):
    monkeypatch.setattr(sources, "load_images", lambda *a, **k: pytest.fail("it read images"))
    assert cli.main(["campaign", "--profile", "cifar10_fast", option]) == 2
    assert capsys.readouterr().err.startswith(f"dashkit: {option[2:].partition('=')[0].replace('-', '_')} must be ")


def test_a_sweep_refuses_jobs_that_are_no_number_before_any_work(tiny, monkeypatch):
    monkeypatch.setattr(sweeps, "check_run", lambda run: pytest.fail("it began"))
    with pytest.raises(ValueError, match=r"jobs must be an integer in \[1, 1024\], not 'two'"):
        sweeps.sweep(tiny(), jobs="two")


def test_no_text_starts_a_sweep(tiny, monkeypatch):
    monkeypatch.setattr(sweeps, "sweep", lambda run: pytest.fail("a sweep was started"))
    for text in ("false", "False", "no", "0", 0):
        assert results_of(tiny(), recompute=text).source == published_results("digits").source
    with pytest.raises(ValueError, match="recompute must be true or false, not 'nope'"):
        results_of(tiny(), recompute="nope")


def test_numbers_of_other_types_are_the_same_everywhere(tiny):
    run = tiny(seed="7")
    assert run == tiny(seed=np.int64(7)) == tiny(seed=7.0) and type(run.seed) is int
    assert guidance.check_w(np.int64(4)) == guidance.check_w(np.float32(4)) == 4.0
    assert number("hours", "0.5", 0, 9) == 0.5
    for hours in ("soon", 0, -1, True, None):
        with pytest.raises(ValueError, match="hours must be a number in"):
            campaign.make_plan(run, hours)
    with pytest.raises(ValueError, match="fid_samples must be an integer in"):
        campaign.make_plan(run, 1.0, fid_samples=19.5)
    with pytest.raises(ValueError, match="minutes must be a number in"):
        campaign.run_stages(run, None, minutes="five", extract=None, reference=None)


# ----------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def write(tmp_path):
    def make(text, name="my.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name
    return make


def test_a_file_of_ones_own_is_a_profile_by_its_path(write, monkeypatch, tmp_path):
    path = write('extends = "smoke"\nclip = 2\nws = "1, 1.5"\n[student]\nch = 16\ngroups = 4\n')
    base = resolve("smoke", clip=2.0, ws=(1.0, 1.5))
    wanted = dataclasses.replace(base, name="my", student=base.teacher)
    assert resolve(path) == resolve(str(path)) == start_run(path).profile == wanted
    assert resolve(path, clip=3).clip == 3.0 and address(path) == str(path)
    monkeypatch.setenv("DASHKIT_PROFILE", str(path))
    assert resolve("auto") == wanted and address() == str(path)
    monkeypatch.chdir(tmp_path)
    assert resolve("my.toml") == resolve("./my.toml") == wanted and address("my.toml") == str(path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert resolve("../my.toml") == wanted
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/my.toml") == wanted


def test_files_extend_each_other(write):
    write('extends = "digits"\nbatch = 16\n', "first.toml")
    second = write('extends = "first.toml"\nstudent_steps = 7\n', "second.toml")
    assert resolve(second) == dataclasses.replace(resolve("digits", batch=16, student_steps=7), name="second")
    whole = resources.files("dashkit.experiments").joinpath("profile_files", "digits.toml").read_text()
    assert resolve(write("\ufeff" + whole, "alone.toml")) == dataclasses.replace(PROFILES["digits"], name="alone")


def test_a_built_in_file_is_the_built_in_profile_by_its_path_too():
    path = resources.files("dashkit.experiments").joinpath("profile_files", "smoke.toml")
    assert resolve(path) == PROFILES["smoke"] and address(path) == "smoke"


@pytest.mark.parametrize(("text", "message"), [
    ("batch = ", r"is no TOML file \(Invalid value"),
    ('extends = "digits"\nstepz = 1', "unknown setting stepz; choose from extends, dataset, teacher, student, T, base"),
    ('extends = "digits"\nbatch = 1', r"batch must be an integer in \[2, 65536\], not 1"),
    ('extends = "digits"\n[teacher]\nwidth = 3', r"unknown setting teacher\.width; choose from size, channels"),
    ('extends = "digits"\nteacher = 3', "teacher must be a table of the settings of a network, not 3"),
    ('extends = "digits"\n[teacher]\nch = 31\n[student]\nch = "x"', r"student\.ch must be an integer in"),
    ('extends = "digits"\n[teacher]\nch = 31', "teacher: ch must be even and a multiple of groups"),
    ('extends = "digits"\n[teacher]\nch = 31\n[student]\nsize = 7', "2 problems: .*teacher: .*student: size 7 cannot"),
    ('extends = "digits"\n[teacher]\nch_mult = []', r"teacher\.ch_mult must be a non-empty list of integers in"),
    ("batch = 8", "dataset, teacher, student, T, base, gamma, .* missing; give them, or extend"),
    ('extends = "digitz"', "my.toml: extends: unknown profile 'digitz'; choose from auto, smoke"),
    ('extends = "nowhere.toml"', "my.toml: extends: there is no profile at .*nowhere.toml"),
    ("extends = 3", "extends must be the name of a profile or the path of its file, not 3"),
    ('extends = "my.toml"', "extends my.toml, which extends this file again"),
    ('extends = "digits"\nname = "x"', "unknown setting name"),
    ('extends = "digits"\nbatch = 1\nw = 77\nbase = "x"\nstepz = 1', "my.toml: 4 problems: .*stepz.*base.*batch.*w m"),
    ('extends = "digits"\nT = 20', "my.toml: sample_steps must be at most T=20"),
    ('extends = "digits"\narms = ["dush"]', "my.toml: unknown arm 'dush'; choose from dash"),
    ('extends = "digits"\nclip = nan', "clip must be a number in"),
    ('extends = "digits"\nclip = 1979-05-27', "clip must be a number in"),
    ('extends = "digits"\n"a\\nb" = 1', r"unknown setting 'a\\nb'"), ("a = " + "[" * 5000, "is no TOML file"),
    ('extends = "digits"\nbatch = ' + "9" * 5000, "my.toml"), ("#" * 2**21, "more than 1,048,576 bytes"),
])  # fmt: skip
def test_a_bad_file_is_refused_by_name_in_one_line(write, text, message):
    path = write(text)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        resolve(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for flawless in ("smoke", "digits"):
        resolve(flawless)


def test_files_that_extend_each_other_in_a_circle_are_refused(write):
    one, _ = write('extends = "two.toml"', "one.toml"), write('extends = "one.toml"', "two.toml")
    with pytest.raises(ValueError, match=r"two\.toml: extends one\.toml, which extends this file again"):
        resolve(one)


@pytest.mark.parametrize(("name", "message"), [
    ("digits.toml", "digits is the name of a built-in profile; rename the file"), ("Smoke.toml", "built-in"),
    ("auto.toml", "auto is the name of a built-in"), ("my profile.toml", "take letters, digits"),
    ("..toml", "take letters"), (".toml", "take letters"),
])
def test_a_file_must_have_a_name_of_its_own(write, name, message):
    with pytest.raises(ValueError, match=message):
        resolve(write('extends = "digits"', name))


def test_no_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    for path in ("nowhere.toml", "./nowhere", tmp_path / "nowhere", tmp_path / "folder.toml", "a\0b.toml"):
        with pytest.raises(FileNotFoundError, match="there is no profile at"):
            resolve(path)
    (tmp_path / "latin.toml").write_bytes("# größe".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.toml is no TOML file"):
        resolve(tmp_path / "latin.toml")


def test_the_command_takes_a_file_and_refuses_a_bad_one_in_one_line(write, capsys):
    assert cli.main(["train", "--profile", str(write('extends = "smoke"\nbatch = 1'))]) == 2
    assert capsys.readouterr().err.startswith("dashkit: ") and not capsys.readouterr().err
    options = cli.parser().parse_args(["train", "--profile", str(write('extends = "smoke"')), "--seed", "7",
                                       "--set", "ws=1.0,1.5", "--set", "arms=dash"])
    run = cli._start(options)
    assert (run.profile.name, run.seed, run.profile.ws, run.profile.arms) == ("my", 7, (1.0, 1.5), ("dash",))


def test_every_setting_may_be_changed_and_is_a_field():
    assert set(SETTINGS) == {f.name for f in dataclasses.fields(Profile)} - {"name", "dataset", "teacher", "student"}
