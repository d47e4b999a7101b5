import dataclasses

import numpy as np
import pytest

from dashkit.datasets import sources
from dashkit.experiments.networks import stale
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run
from dashkit.experiments.training import get_teacher
from dashkit.storage import paths


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
