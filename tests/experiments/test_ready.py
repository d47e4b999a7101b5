"""What would stop a run after hours stops it before the first step, whichever way it is started."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dashkit import cli
from dashkit.analysis import tables
from dashkit.datasets import fetch, files, sources
from dashkit.experiments import budget, campaign, ready, training
from dashkit.experiments import run as experiments_run
from dashkit.experiments.cost import peak_memory
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.reference import ColourClassifier
from dashkit.experiments.run import Run, Teacher
from dashkit.experiments.sweeps import sweep, tune
from dashkit.experiments.training import distil, get_students, get_teacher, train_teacher
from dashkit.method import quality
from dashkit.method.distillation import seeded
from dashkit.method.quality import Classifier
from dashkit.method.training import Learner
from dashkit.method.unet import UNet, UNetConfig, n_parameters
from dashkit.publishing import series
from dashkit.storage import paths, store


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """No step may be taken, and no rate measured."""
    def fail(*arguments, **how):
        pytest.fail("it trained")

    monkeypatch.setattr(Learner, "update", fail)
    monkeypatch.setattr(budget, "rates", fail)


def grey(n=40, held_out=20, classes=10, size=8):
    """Images like the digits, in other numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (n + held_out, 1, size, size), dtype=np.uint8)
    labels = np.arange(n + held_out) % classes
    return files.from_arrays(pixels[:n], labels[:n], pixels[n:], labels[n:])


@pytest.fixture
def images(monkeypatch):
    """Puts other images in the place of every data set."""
    return lambda found: monkeypatch.setattr(sources, "load_images", lambda *a, **k: found)


def teacher_of(run):
    return Teacher(seeded(0, lambda: UNet(run.profile.teacher)).eval(), run.base, None)


STARTS = {
    "teacher": lambda run, _: next(train_teacher(run)),
    "students": lambda run, _: next(distil(run, teacher_of(run), run.profile.arms, 1)),
    "notebook 02": lambda run, _: get_teacher(run),
    "notebook 04": lambda run, _: get_students(run, teacher_of(run)),
    "sweep": lambda run, _: sweep(run), "sweep in processes": lambda run, _: sweep(run, jobs=2),
    "tune": lambda run, _: tune(run), "campaign": lambda run, _: campaign.make_plan(run, 1.0),
    "series": lambda run, build: series.run_series("smoke", build=build),
}


@pytest.mark.parametrize("start", STARTS)
def test_one_held_out_image_is_noticed_at_every_start(tiny, tmp_path, images, monkeypatch, start):
    run = tiny()
    images(grey(held_out=1))
    monkeypatch.setattr(experiments_run, "start_run", lambda *a, **k: run)
    with pytest.raises(ValueError, match="digits has 1 held-out image, and measuring takes 2 or more: add images"):
        STARTS[start](run, tmp_path / "build")
    assert not list(run.root.rglob("*.safetensors"))


@pytest.mark.parametrize(("found", "message"), [
    (grey(n=1, classes=1), "digits has one class: guidance is the difference"),
    (grey(classes=3), r"images \(1, 8, 8\) in 3 classes, but the profile's networks expect \(1, 8, 8\) in 10"),
    (grey(size=16), r"images \(1, 16, 16\) in 10 classes"),
], ids=["one class", "other classes", "another size"])  # fmt: skip
def test_images_that_do_not_fit_are_noticed(tiny, images, found, message):
    run = tiny()
    if found.num_classes == 1:
        networks = {k: replace(getattr(run.profile, k), num_classes=1) for k in ("teacher", "student")}
        run = replace(run, profile=replace(run.profile, **networks))
    images(found)
    with pytest.raises(ValueError, match=message):
        next(train_teacher(run))


def test_images_that_fit_no_memory_once_they_are_floats_are_noticed(tiny, images, monkeypatch):
    run, found = tiny(), grey()
    images(found)
    need = ready.measuring_memory(found, "small")
    assert need > 4 * 60 * 64
    monkeypatch.setattr(store, "machine_memory", lambda: need - 1)
    with pytest.raises(ValueError, match=r"holds the training images of digits as floats.*take fewer images"):
        next(train_teacher(run))
    monkeypatch.setattr(store, "machine_memory", lambda: need)
    ready.check_run(run)


@pytest.mark.parametrize(("kind", "train"), [(Classifier, "small"), (ColourClassifier, "colour")])
@pytest.mark.parametrize("size", [16, 48])
def test_the_memory_of_measuring_is_what_a_classifier_takes(monkeypatch, kind, train, size):
    for module in (quality, ready):
        monkeypatch.setattr(module, "at_a_time", lambda *_: 9)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (24, 3, size, size), dtype=np.uint8), np.arange(24) % 2
    found = files.from_arrays(pixels[:20], labels[:20], pixels[20:], labels[20:])
    batch, floats = ready.STEP[train]
    monkeypatch.setitem(ready.STEP, train, (5, floats))
    judge, x = kind(found.shape, 2), found.x0
    own = 4 * n_parameters(judge)                                        # a step's gradients
    step = peak_memory(lambda: judge(x[:5]).sum().backward()) - own
    chunks = peak_memory(lambda: quality.in_chunks(judge.features, x))
    said = ready.measuring_memory(found, train) - 4 * 24 * 3 * size**2
    assert 0.75 * said < max(step, chunks) < 1.01 * said and batch >= 64


@pytest.mark.parametrize(("arm", "student", "message"), [
    ("slicing", {"ch": 6, "groups": 2}, "a width that divides"), ("slicing", {"ch_mult": (1, 1)}, "the same levels"),
    ("slicing", {"attention": (8, 4)}, "their layers differ, the first is 'down.0.attn"),
    ("pruning", {"ch": 64}, "cannot be pruned to"),
])  # fmt: skip
def test_students_that_their_teacher_cannot_become_are_noticed_before_it_is_trained(tiny, arm, student, message):
    run = tiny(arms=("dash", arm))
    run = replace(run, profile=replace(run.profile, student=replace(run.profile.student, **student)))
    with pytest.raises(ValueError, match=rf"{arm} cannot start from the teacher of smoke: .*{message}"):
        next(train_teacher(run))


def test_every_profile_has_networks_that_fit():
    for profile in PROFILES.values():
        ready._check_networks(Run(profile))


@pytest.fixture
def colour(tiny, images, monkeypatch, tmp_path):
    """A run of colour images, for which a campaign takes FID; nothing of FID is there."""
    rng = np.random.default_rng(0)
    images(files.from_arrays(rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8), np.arange(40) % 10,
                            rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), np.arange(20) % 10))
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    run, net = tiny(), UNetConfig(8, 3, 10, ch=8, ch_mult=(1,), blocks=1, groups=2, attention=())
    run = replace(run, profile=replace(run.profile, teacher=net, student=net))
    monkeypatch.setattr(cli, "_start", lambda options, **settings: run)
    return run


def weights(run):
    path = paths.CACHE / fetch.INCEPTION
    store.save_tensors(path, {"a": torch.ones(2)}, {})
    return path


def test_a_campaign_without_the_weights_of_fid_is_refused(colour, capsys):
    with pytest.raises(FileNotFoundError, match=r"inception\.safetensors is not there; .* dashkit fetch inception"):
        campaign.make_plan(colour, 1.0)
    assert cli.main(["campaign"]) == 2 and "dashkit fetch inception" in capsys.readouterr().err
    assert not colour.root.exists()


def test_a_series_without_the_weights_of_fid_leaves_fid_out_unless_it_is_asked_for(colour, tmp_path, monkeypatch,
                                                                                    capsys):
    monkeypatch.setattr(series, "start_run", lambda *a, **k: colour)
    began = []
    monkeypatch.setattr(series, "execute", lambda path, *a, **k: began.append(path.name[:2]))
    monkeypatch.setattr(series, "write_report", lambda *a: None)
    with pytest.raises(FileNotFoundError, match=r"inception\.safetensors is not there; .* dashkit fetch inception"):
        series.run_series("smoke", build=tmp_path, only=["09", "10"])
    assert began == []
    assert series.run_series("smoke", build=tmp_path)
    assert "10" not in began and {"00", "09", "12"} <= set(began)
    assert re.search(r"10_the_papers_experiment +left out: .*dashkit fetch inception", capsys.readouterr().out)
    saved = store.read_json(tmp_path / colour.profile.name / "series.json")
    status = {n["name"][:2]: n["status"] for n in saved["notebooks"]}
    assert saved["ok"] and status["10"] == "left out" and status["11"] == "ok"


def test_a_campaign_without_the_package_of_fid_is_refused(colour, monkeypatch):
    weights(colour)
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="FID needs torch-fidelity"):
        campaign.make_plan(colour, 1.0)


def test_a_campaign_with_damaged_weights_of_fid_is_refused(colour):
    weights(colour).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"inception\.safetensors is damaged"):
        campaign.make_plan(colour, 1.0)


@pytest.mark.parametrize("n", [3, 41])
def test_a_reference_of_too_few_or_too_many_images_is_refused(colour, capsys, n):
    weights(colour)
    assert cli.main(["campaign", "--reference", str(n)]) == 2
    assert f"the number of reference images must be an integer in [4, 40], not {n}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sweep", "tune", "campaign"])
def test_results_that_could_not_be_published_are_not_measured(colour, tmp_path, monkeypatch, capsys, command):
    weights(colour)
    (tmp_path / "results").write_text("a file where a folder is wanted")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    assert cli.main([command, "--publish"]) == 2
    assert "results" in capsys.readouterr().err


def test_a_folder_that_can_be_written_keeps_nothing_of_the_question(tmp_path):
    store.check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_trained_already_is_not_looked_at_again(tiny, monkeypatch):
    run = tiny()
    monkeypatch.setattr(Run, "is_trained", lambda *a: True)
    monkeypatch.setattr(training, "check_run", lambda run: pytest.fail("looked"))
    assert list(train_teacher(run)) == []
