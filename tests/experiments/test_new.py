"""From a folder of pictures, and a teacher, to a profile; or to one sentence."""

import re
import sys
import tomllib

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from dashkit import cli, environment
from dashkit.experiments import budget, new
from dashkit.experiments.new import Wish, write_profile
from dashkit.experiments.profiles import resolve
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import Run, start_run
from dashkit.interop.networks import Source
from dashkit.method.unet import UNetConfig
from dashkit.storage import paths


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """A machine whose speed is known."""
    monkeypatch.setattr(budget, "rates", lambda run: budget.Rates(0.1, 0.05, 0.02, 0.01, 0.02))
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


def pictures(folder, classes=3, each=4, size=(8, 8), mode="L"):
    rng = np.random.default_rng(0)
    for k in range(classes):
        place = folder / f"kind {k:04d}"
        place.mkdir(parents=True)
        for i in range(each):
            shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def teacher(folder, **changes):
    torch.manual_seed(0)
    UNet2DModel(**{"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4,
                   "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                   "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "num_class_embeds": 4} | changes).save_pretrained(
        folder / "unet")
    DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    return folder


def test_pictures_alone_become_a_profile_that_says_everything(tmp_path):
    written = write_profile(tmp_path / "my.toml", Wish(str(pictures(tmp_path / "pics")), hours=0.5), device="cpu")
    text, p = (tmp_path / "my.toml").read_text(), written.profile
    assert p == resolve(tmp_path / "my.toml") and p.name == "my" and p.dataset == str(tmp_path / "pics")
    assert isinstance(p.teacher, UNetConfig) and p.teacher.num_classes == 3
    assert (p.teacher.size, p.pace) == (8, "ramped")
    assert 'dataset = "./pics"' in text and "extends" not in text
    settings = {line.split(" = ")[0] for line in text.splitlines() if " = " in line and not line.startswith("#")}
    assert settings >= set(tomllib.loads(text)) - {"teacher", "student"}
    assert all("#" in line for line in text.splitlines() if re.match(r"(batch|arms|states) ", line))
    assert "12 pictures in 3 classes, 4 to 4 a class" in written.said[0]
    assert "too few to learn from" in " ".join(written.said)
    # half an hour: half for the teacher at 0.1 s a step, but no more than the cap for so few pictures
    assert p.teacher_steps == 2000 and p.student_steps == 2000
    run = Run(p)
    assert run.images.names == ("kind 0000", "kind 0001", "kind 0002")
    check_run(run)


@pytest.mark.parametrize(("windows", "quote"), [(False, "'"), (True, '"')])
def test_the_command_to_go_on_with_can_be_typed(tmp_path, capsys, monkeypatch, windows, quote):
    path = tmp_path / "my first try" / "my.toml"
    path.parent.mkdir()
    typed = ["new", str(path), "--images", str(pictures(tmp_path / "p")), "--device", "cpu"]
    monkeypatch.setattr(environment, "WINDOWS", windows)
    assert cli.main(typed) == 0
    assert capsys.readouterr().out.rstrip().endswith(f" dashkit shrink {quote}{path}{quote}")


@pytest.mark.parametrize("hours", [0.01, 0.1, 0.5])
def test_the_steps_fit_into_the_hours(tmp_path, hours):
    written = write_profile(tmp_path / "my.toml", Wish(str(pictures(tmp_path / "p")), hours=hours), device="cpu")
    p = written.profile
    assert p.teacher_steps * 0.1 <= max(1800 * hours, 300 * 0.1) and p.samples in (50, 100, 200, 300, 500)
    assert p.student_steps * (0.02 + 2 * 0.05) <= max(1800 * hours, 300 * 0.12)


def test_a_teacher_from_elsewhere_gets_a_smaller_student_of_its_class(tmp_path):
    wish = Wish(str(pictures(tmp_path / "p")), str(teacher(tmp_path / "T")), factor=5)
    written = write_profile(tmp_path / "my.toml", wish, device="cpu")
    p = written.profile
    assert isinstance(p.teacher, Source) and p.teacher.source == str(tmp_path / "T")
    assert p.student.source == "teacher" and "block_out_channels" in p.student.config
    assert "teacher_steps" not in (tmp_path / "my.toml").read_text()
    run = Run(p)
    check_run(run)
    sizes = [sum(v.numel() for v in m.parameters()) for m in (run.given.model, run.student.make())]
    assert 3 < sizes[0] / sizes[1] < 7
    # the profile goes with its folder
    (tmp_path / "elsewhere").mkdir()
    for name in ("p", "T", "my.toml"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = Run(resolve(tmp_path / "elsewhere" / "my.toml"))
    assert moved.teacher_settings() == run.teacher_settings()
    assert moved.folder("dash", 42).name == run.folder("dash", 42).name


def test_a_student_of_ours_or_of_ones_own(tmp_path, monkeypatch):
    images, place = str(pictures(tmp_path / "p")), str(teacher(tmp_path / "T"))
    ours = write_profile(tmp_path / "a.toml", Wish(images, place, "ours"), device="cpu").profile
    assert isinstance(ours.student, UNetConfig)
    check_run(Run(ours))

    class Mine(torch.nn.Module):
        null_label, num_classes = 3, 3

        def __init__(self, mute=False, width=64):
            super().__init__()
            self.table, self.layer = torch.nn.Embedding(4, width), torch.nn.Linear(64, 64)
            self.mute = mute

        def forward(self, x_t, t, y):
            return (self.layer(x_t.flatten(1)) + (0 if self.mute else self.table(y)[:, :64])).reshape(x_t.shape)

    module = type(sys)("my_students")
    module.mine, module.mute, module.large = Mine, lambda: Mine(True), lambda: Mine(width=100_000)
    monkeypatch.setitem(sys.modules, "my_students", module)
    mine = write_profile(tmp_path / "b.toml", Wish(images, place, "my_students:mine"), device="cpu").profile
    assert mine.student.source == "my_students:mine"
    check_run(Run(mine))
    for name, message in (("mute", "the student ignores its label: its output is the same for every class"),
                          ("large", r"the student has [\d,]+ parameters and the teacher [\d,]+: a student is smaller")):
        with pytest.raises(ValueError, match=message):
            write_profile(tmp_path / f"{name}.toml", Wish(images, place, f"my_students:{name}"), device="cpu")


def test_a_student_that_could_not_be_trained_or_written_gets_no_profile(tmp_path, monkeypatch, capsys):
    class Eps(torch.nn.Module):
        null_label = 3

        def __init__(self, prediction="epsilon", **more):
            super().__init__()
            self.table, self.prediction_type = torch.nn.Embedding(4, 64), prediction
            vars(self).update(more)

        def forward(self, x_t, t, y):
            return x_t * self.table(y).reshape(x_t.shape)

    module = type(sys)("my_students")
    module.eps, module.x0, module.linear = Eps, lambda: Eps("sample"), lambda: Eps(
        "sample", alphas_cumprod=torch.linspace(0.99, 0.01, 1000))
    monkeypatch.setitem(sys.modules, "my_students", module)
    place = teacher(tmp_path / "T")
    DDPMScheduler(beta_schedule="scaled_linear", prediction_type="sample", rescale_betas_zero_snr=True).save_pretrained(
        place / "scheduler")
    images = str(pictures(tmp_path / "p"))
    for student, message in (("eps", "zero terminal SNR: .* a function whose module has prediction_type"), ("linear", (
            "the student has another noise schedule than its teacher"))):
        typed = ["new", str(tmp_path / "my.toml"), "--images", images, "--teacher", str(place), "--student",
                 f"my_students:{student}", "--device", "cpu"]
        assert cli.main(typed) == 2
        said = capsys.readouterr().err
        assert re.search(message, said) and said.count("\n") == 1 and not (tmp_path / "my.toml").exists()
    write_profile(tmp_path / "my.toml", Wish(images, str(place), "my_students:x0"), device="cpu")


SHAPES = {
    "7x9": ({"size": (7, 9)}, 6, 1), "64x64 RGB": ({"size": (64, 64), "mode": "RGB"}, 64, 3),
    "1,000 classes": ({"classes": 1000, "each": 2}, 8, 1), "33 pixels": ({"size": (33, 40), "mode": "RGB"}, 32, 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_pictures_of_any_shape_are_taken(tmp_path, name):
    how, size, channels = SHAPES[name]
    written = write_profile(tmp_path / "my.toml", Wish(str(pictures(tmp_path / "p", **how))), device="cpu")
    net = written.profile.teacher
    assert (net.size, net.channels, net.num_classes) == (size, channels, how.get("classes", 3))
    assert ("cut square" in written.said[0]) == (name in ("7x9", "33 pixels"))
    check_run(Run(written.profile))


@pytest.mark.parametrize(("how", "message"), [
    ({"classes": 1}, r"has one class \(kind 0000\): guidance is the difference"),
    ({"each": 1}, "kind 0000 has 1 image, .*each needs two: to learn and to test"),
    ({"classes": 0}, "has no subfolder|there is no folder"),
])  # fmt: skip
def test_pictures_that_cannot_be_used_are_one_sentence(tmp_path, capsys, how, message):
    (tmp_path / "p").mkdir()
    pictures(tmp_path / "p", **how)
    assert cli.main(["new", str(tmp_path / "my.toml"), "--images", str(tmp_path / "p"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1 and not (tmp_path / "my.toml").exists()


def test_arrays_that_networks_cannot_halve_get_a_proposal(tmp_path):
    np.savez(tmp_path / "a.npz", pixels=np.zeros((8, 1, 7, 9), np.uint8), labels=np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"of 7 x 9, which networks cannot halve; crop or reduce them to 6 x 6"):
        write_profile(tmp_path / "my.toml", Wish(str(tmp_path / "a.npz")), device="cpu")


def test_latents_are_not_clamped_and_learn_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "l.npz", pixels=rng.normal(size=(20, 4, 8, 8)).astype(np.float32), labels=np.arange(20) % 2)
    run = Run(write_profile(tmp_path / "my.toml", Wish(str(tmp_path / "l.npz")), device="cpu").profile)
    check_run(run)
    assert run.schedule.clip is None and run.images.latent and run.profile.teacher.channels == 4


@pytest.mark.parametrize(("classes", "size", "changes", "message"), [
    (5, 8, {}, "does not say which one|knows 3 classes and .* has 5"), (3, 4, {}, "takes pictures of 8 x 8, and .* "
                                                                                  "has 4 x 4"),
    (3, 8, {"num_class_embeds": 3}, 'no row for "no class"'),
    (3, 8, {"in_channels": 3, "out_channels": 3}, "takes 3 channels, and 12 of the pictures .* are grey"),
])  # fmt: skip
def test_a_teacher_that_does_not_fit_is_one_sentence_before_anything(tmp_path, classes, size, changes, message):
    images = pictures(tmp_path / "p", classes=classes, size=(size, size))
    wish = Wish(str(images), str(teacher(tmp_path / "T", **changes)))
    with pytest.raises(ValueError, match=message):
        write_profile(tmp_path / "my.toml", wish, device="cpu")
    assert not (tmp_path / "my.toml").exists()


def test_a_scheduler_of_another_T_and_an_own_file_are_refused(tmp_path):
    wish = Wish(str(pictures(tmp_path / "p")), str(teacher(tmp_path / "T")))
    path = write_profile(tmp_path / "my.toml", wish, device="cpu").path
    with pytest.raises(FileExistsError, match="is there already; delete it"):
        write_profile(path, wish, device="cpu")
    path.write_text(path.read_text().replace("T = 1000 ", "T = 500 "))
    with pytest.raises(ValueError, match="scheduler has 1000 timesteps, but the profile has T = 500"):
        check_run(start_run(path, device="cpu"))
    with pytest.raises(ValueError, match=r"a profile is a \.toml file"):
        write_profile(tmp_path / "my.yaml", wish, device="cpu")


def test_texts_of_a_profile_are_toml():
    for value in ("a \"b\" \\ c", "tschüß 🐈", "./my # pics", [1.0, 2.5], 1e-05, True, 3, ["x", "y"]):
        assert tomllib.loads(f"v = {new._value(value)}")["v"] == value
        line = new._aligned(f"v = {new._value(value)}   # why: a \"#\" too")
        assert tomllib.loads(line)["v"] == value and line.index("# why") >= 30


def test_the_rows_of_a_teacher_are_said_beside_the_folders(tmp_path):
    images = str(pictures(tmp_path / "p"))
    plain = str(teacher(tmp_path / "T"))
    said = write_profile(tmp_path / "a.toml", Wish(images, plain, null_label=1), device="cpu").said
    assert "The teacher's rows and their folders: 0 kind 0000, 2 kind 0001, 3 kind 0002; 1 for no class." in said
    random = str(teacher(tmp_path / "R", num_class_embeds=3))
    said = write_profile(tmp_path / "b.toml", Wish(images, random, null_label="random"), device="cpu").said
    assert "0 kind 0000, 1 kind 0001, 2 kind 0002; a random class for no class" in " ".join(said)
