"""Networks that come with the kit."""

import pytest
import torch

from dashkit.datasets import sources
from dashkit.experiments import pretrained, run
from dashkit.experiments.networks import load_student, load_teacher
from dashkit.experiments.training import distil, train_teacher
from dashkit.method.guidance import branches
from dashkit.storage import paths


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A clone on which nothing was fetched or trained."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path


def test_a_fresh_clone_has_a_teacher_and_a_student_of_every_arm(fresh):
    here = run.start_run("cifar16", device="cpu")
    teacher = load_teacher(here).model
    shown = here.images.test_x0[:2]
    t, y = torch.tensor([500, 500]), here.images.test_labels[:2]
    for arm in here.profile.arms:
        pair = branches(load_student(here, arm, 42), shown, t, y)
        assert pair.cond.shape == shown.shape and bool(pair.gap.abs().max() > 0)
    assert branches(teacher, shown, t, y).cond.isfinite().all()


def test_what_is_there_already_stays(fresh):
    first = pretrained.put_in_place("cifar16", fresh / "runs")
    mine = fresh / "runs" / "cifar16" / next(name for name in first if name.endswith("manifest.json"))
    mine.write_text("{}")
    assert first and pretrained.put_in_place("cifar16", fresh / "runs") == [] and mine.read_text() == "{}"


def test_a_copy_that_was_stopped_is_finished_by_the_next(fresh):
    first = pretrained.put_in_place("cifar16", fresh / "runs")
    lost = next(name for name in first if name.endswith("final.safetensors"))
    (fresh / "runs" / "cifar16" / lost).unlink()
    assert pretrained.put_in_place("cifar16", fresh / "runs") == [lost]


def test_a_profile_without_networks_gets_none(fresh):
    assert pretrained.put_in_place("digits", fresh / "runs") == [] and not (fresh / "runs").exists()


def test_training_wants_all_images_and_says_where_to_get_them(fresh):
    here = run.start_run("cifar16", device="cpu", pretrained=False)
    assert here.has_sample_only and len(here.images.pixels) == 800
    with pytest.raises(FileNotFoundError, match=r"needs all images of cifar16.*fetch cifar16"):
        next(train_teacher(here))
    theirs = run.start_run("cifar16", device="cpu", student_steps=3)
    with pytest.raises(FileNotFoundError, match="fetch cifar16"):
        next(distil(theirs, load_teacher(theirs), ("dash",), 42))


def test_anew_does_not_see_what_comes_with_the_kit(fresh):
    run.start_run("cifar16", device="cpu")
    assert not run.start_run("cifar16", device="cpu", pretrained=False).is_trained("teacher", 42)


def test_a_damaged_network_is_refused(fresh):
    here = run.start_run("cifar16", device="cpu")
    final = here.folder("dash", 42) / "final.safetensors"
    content = bytearray(final.read_bytes())
    content[-1] ^= 255
    final.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"final\.safetensors"):
        load_student(here, "dash", 42)


def test_the_sample_is_of_the_whole_set_that_networks_name():
    assert set(sources.SAMPLES) == {"cifar16"} and all(len(pin) == 64 for pin in sources.SAMPLES.values())
    images = sources.load_images("cifar16", cache=paths.CACHE / "nowhere")
    assert images.shape == (3, 16, 16) and images.test_labels.bincount().tolist() == [20] * 10
