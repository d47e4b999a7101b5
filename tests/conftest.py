"""What tests share.  A tiny run is trained, and measured, once a session; each test that needs one works on a copy."""

import copy
import hashlib
import os
import shutil
import sys
import traceback
from functools import partial

os.environ["DASHKIT_PROGRESS"] = "0"
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from small import small_run

from dashkit.analysis.ledger import claim_ledger
from dashkit.classroom import journal
from dashkit.experiments.networks import load_teacher
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import get_teacher
from dashkit.method import quality
from dashkit.method.distillation import seeded
from dashkit.method.guidance import Branches
from dashkit.method.schedule import cosine_schedule
from dashkit.method.unet import UNet

torch.set_num_threads(1)      # small networks: quicker, and kind to a busy machine


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """Where a test's learner keeps predictions and answers: not among those of whoever runs the tests."""
    monkeypatch.setattr(journal, "PATH", tmp_path / "learner" / "work.json")
    return journal.PATH


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def inputs(generator):
    """What a network of the profile digits takes: x_t (6, 1, 8, 8), t and y."""
    return torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6) * 150, torch.arange(6)


@pytest.fixture(scope="session")
def untrained():
    """The teacher of the profile digits before training; no test changes it."""
    return seeded(0, lambda: UNet(PROFILES["digits"].teacher))


@pytest.fixture(scope="session")
def cosine():
    return cosine_schedule(1000)


@pytest.fixture(scope="session")
def ledger():
    """The ledger as the committed tables give it; no test changes it."""
    return claim_ledger()


@pytest.fixture
def pair(generator):
    """Makes random branches (B, 1, 4, 4)."""

    def make(batch=16, scale=1.0):
        c, u = scale * torch.randn((2, batch, 1, 4, 4), generator=generator)
        return Branches(c, u)

    return make


@pytest.fixture(scope="session")
def poor_classifier():
    """Trains a classifier for one epoch, and only once for the same images and seed; each caller gets a copy."""
    train, kept = partial(quality.train_classifier, epochs=1), {}

    def take(x, y, *, num_classes, seed):
        content = hashlib.sha256(x.cpu().numpy().tobytes() + y.cpu().numpy().tobytes()).digest()
        key = (content, tuple(x.shape), num_classes, seed)
        if key not in kept:
            kept[key] = train(x, y, num_classes=num_classes, seed=seed)
        return copy.deepcopy(kept[key])

    return take


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Calls a function in a forked child, which has all that is imported here: its exit code, and what it said."""

    def call(function, *arguments):
        files = [tmp_path_factory.mktemp("forked") / name for name in ("stdout", "stderr")]
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if not child:
            code = 1
            try:
                for number, path in enumerate(files, 1):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
                function(*arguments)
                code = 0
            except SystemExit as left:
                code = left.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return (code, *(path.read_text() for path in files))

    return call


@pytest.fixture
def tiny(tmp_path, monkeypatch, poor_classifier):
    """Makes a run of a few steps that lives in a temporary folder; its judge learns for one epoch, and is as poor."""
    monkeypatch.setattr(quality, "train_classifier", poor_classifier)

    def make(root="runs", seed=1, **settings):
        return small_run(tmp_path / root, seed, **settings)

    return make


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """The folder of a tiny run with its teacher."""
    run = small_run(tmp_path_factory.mktemp("trained") / "runs")
    get_teacher(run)
    return run.root


@pytest.fixture(scope="session")
def swept_once(tmp_path_factory, trained_once, poor_classifier):
    """The folder of a tiny run with its teacher, its students and their measurements."""
    run = small_run(tmp_path_factory.mktemp("swept") / "runs")
    shutil.copytree(trained_once, run.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "train_classifier", poor_classifier)
        sweep(run)
    return run.root


@pytest.fixture
def trained(tiny, trained_once):
    """A tiny run and its teacher."""
    run = tiny()
    shutil.copytree(trained_once, run.root)
    return run, load_teacher(run)


@pytest.fixture
def swept(tiny, swept_once):
    """A tiny run with its teacher, its students and their measurements."""
    run = tiny()
    shutil.copytree(swept_once, run.root)
    return run
