import dataclasses

import numpy as np
import pytest
import torch

from dashkit.datasets import files, sources
from dashkit.experiments import reference
from dashkit.experiments.networks import stale
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run
from dashkit.experiments.training import get_teacher
from dashkit.method.images import to_float
from dashkit.method.quality import frechet_distance
from dashkit.method.unet import UNetConfig
from dashkit.storage import paths, store


def test_data_that_does_not_fit_the_networks_is_refused(tiny):
    run = tiny()
    wrong = dataclasses.replace(run, profile=dataclasses.replace(PROFILES["cifar10"], dataset="digits"))
    with pytest.raises(ValueError, match=r"digits has images \(1, 8, 8\) in 10 classes"):
        _ = wrong.images


def test_networks_of_another_data_file_are_not_taken(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    digits, path = sources.load_images("digits"), tmp_path / "cifar10.npz"
    names = ("pixels", "labels", "test_pixels", "test_labels")
    profile = dataclasses.replace(tiny().profile, dataset="cifar10_mirrored")
    folders = []
    for change in (lambda pixels: pixels, lambda pixels: 255 - pixels):
        arrays = {name: getattr(digits, name).numpy() for name in names}
        np.savez(path, **arrays | {"pixels": change(arrays["pixels"])})
        run = Run(profile, seed=1, root=tmp_path / "runs")
        assert not run.is_trained("teacher", 1)
        get_teacher(run)
        folders += [run.folder("teacher", 1), run.folder("dash", 1)]
        assert stale(run, "teacher", 1) == []
    assert len(set(folders)) == 4 and "data" not in tiny().teacher_settings()


def test_a_run_belongs_to_the_images_that_it_has_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    digits, path = sources.load_images("digits"), tmp_path / "cifar10.npz"
    arrays = {name: getattr(digits, name).numpy() for name in ("pixels", "labels", "test_pixels", "test_labels")}
    run = Run(dataclasses.replace(tiny().profile, dataset="cifar10"), seed=1, root=tmp_path / "runs")
    empty = run.folder("teacher", 1)                        # asked for before the data was fetched
    with pytest.raises(FileNotFoundError, match="dashkit fetch cifar10"):
        _ = run.images
    np.savez(path, **arrays)
    assert run.folder("teacher", 1) != empty
    _ = run.images
    read = run.folder("teacher", 1)
    np.savez(path, **arrays | {"pixels": 255 - arrays["pixels"]})
    assert run.folder("teacher", 1) == read != Run(run.profile, seed=1, root=run.root).folder("teacher", 1)
    other = Run(run.profile, seed=1, root=run.root)
    load = sources.load_images
    monkeypatch.setattr(sources, "load_images", lambda *a, **k: (load(*a, **k), np.savez(path, **arrays))[0])
    with pytest.raises(ValueError, match=r"cifar10\.npz was changed while it was read; start again"):
        _ = other.images


def test_what_cannot_be_compiled_is_refused(tiny):
    with pytest.raises(ValueError, match="fitnets looks inside its networks, and cannot be compiled"):
        dataclasses.replace(tiny(arms=("dash", "fitnets")), compile=True)


def test_the_reference_of_colour_images_is_made_once_and_read_again_as_it_was(tiny, monkeypatch):
    """Trained with random labels by few steps: only that nothing is lost on the way through the file counts here."""
    rng = np.random.default_rng(0)
    found = files.from_arrays(*(part for n in (60, 30) for part in (
        rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), np.arange(n) % 10)))
    monkeypatch.setattr(sources, "load_images", lambda *a, **k: found)
    net = UNetConfig(8, 3, 10, ch=8, ch_mult=(1,), blocks=1, groups=2, attention=())
    run = tiny(classifier="colour", samples=50)
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, teacher=net, student=net))
    made, read = run.image_reference, dataclasses.replace(run).image_reference
    assert made.n == read.n == 50 and made.accuracy == read.accuracy and torch.equal(made.floor, read.floor)
    features = made.classifier.features(run.images.test_x0)
    torch.testing.assert_close(read.classifier.features(run.images.test_x0), features)
    assert frechet_distance(features, read.reference) == pytest.approx(0, abs=1e-3)     # its points stand for all
    monkeypatch.setattr(reference, "train_colour_classifier", lambda *a, **k: pytest.fail("trained again"))
    _ = dataclasses.replace(run).image_reference
    [path] = (run.root / run.profile.name).glob("reference-*.safetensors")
    store.save_tensors(path, {"reference": made.reference}, {"accuracy": 1.0})
    with pytest.raises(ValueError, match="holds no reference of these images"):
        _ = dataclasses.replace(run).image_reference


def test_a_colour_classifier_learns_from_few_images():
    """Fewer than a batch: the images of a folder of one's own."""
    colours = torch.tensor([[250, 20, 20], [20, 250, 20], [20, 20, 250]], dtype=torch.uint8)
    labels = torch.arange(12) % 3
    pixels = colours[labels][:, :, None, None].expand(12, 3, 16, 16).contiguous()
    model = reference.train_colour_classifier(pixels, labels, num_classes=3, seed=0)
    assert torch.equal(model(to_float(pixels)).argmax(1), labels)
