import os
from functools import partial

os.environ["DASHKIT_PROGRESS"] = "0"
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch

from dashkit.classroom import journal
from dashkit.experiments.profiles import resolve
from dashkit.experiments.run import Run
from dashkit.method import quality
from dashkit.method.guidance import Branches
from dashkit.method.schedule import cosine_schedule

torch.set_num_threads(1)      # small networks: quicker, and kind to a busy machine


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """Where a test's learner keeps predictions and answers: not among those of whoever runs the tests."""
    monkeypatch.setattr(journal, "PATH", tmp_path / "learner" / "work.json")
    return journal.PATH


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def cosine():
    return cosine_schedule(1000)


@pytest.fixture
def pair(generator):
    """Makes random branches (B, 1, 4, 4)."""

    def make(batch=16, scale=1.0):
        c, u = scale * torch.randn((2, batch, 1, 4, 4), generator=generator)
        return Branches(c, u)

    return make


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Makes a run of a few steps that lives in a temporary folder; its judge learns for one epoch, and is as poor."""
    monkeypatch.setattr(quality, "train_classifier", partial(quality.train_classifier, epochs=1))

    def make(root="runs", seed=1, **settings):
        small = {"teacher_steps": 6, "student_steps": 6, "samples": 20, "states": 40, "sample_steps": 2,
                 "ws": (1.0, 1.5), "batch": 8, "warmup": 0, "arms": ("dash", "cond_only")}
        return Run(resolve("smoke", **small | settings), seed=seed, root=tmp_path / root)

    return make
