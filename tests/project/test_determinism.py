"""The same seed gives the same bytes: in fresh processes, with another order of hashing, with a warm cache."""

import os
import subprocess
import sys

import pytest
import torch

from dashkit.analysis.costs import thread_rows
from dashkit.experiments.profiles import PROFILES, resolve

CODE = """
import hashlib, sys
from pathlib import Path
from functools import partial
from dashkit.experiments.evaluation import get_results
from dashkit.experiments.profiles import resolve
from dashkit.experiments.run import Run
from dashkit.experiments.training import get_students
from dashkit.experiments.training import get_teacher
from dashkit.method import quality
from dashkit.method.quality import train_classifier
from dashkit.method.sampling import sample
from dashkit.storage import store
quality.train_classifier = partial(train_classifier, epochs=1)      # a poor judge is as good here
import torch
torch.set_num_threads(1)
settings = dict(teacher_steps=6, student_steps=6, samples=20, states=40, sample_steps=2, ws=(1.0, 1.5), batch=8,
                warmup=0, arms=sys.argv[2].split(","))
run = Run(resolve("smoke", **settings), seed=1, root=Path(sys.argv[1]))
teacher = get_teacher(run)
students = get_students(run, teacher)
table = get_results(run, teacher, students).sort_values(["arm", "metric"])
x_T = torch.randn((10, *run.images.shape), generator=torch.Generator().manual_seed(0))
x = sample(students["dash", 1], run.schedule, torch.arange(10), x_T=x_T, w=1.5, steps=2)
digest = hashlib.sha256()
for path in sorted(run.root.rglob("final.safetensors")):
    for name, value in sorted(store.load_tensors(path).tensors.items()):
        digest.update(name.encode() + value.numpy().tobytes())
print(digest.hexdigest(), hashlib.sha256(x.numpy().tobytes()).hexdigest(),
      hashlib.sha256(table.to_csv(index=False).encode()).hexdigest())
"""


def main_part(root, code):
    sys.argv = ["", str(root), "dash,cond_only"]
    exec(code, {})


@pytest.fixture(scope="module")
def again(forked):
    """The digests from a forked child, which has imported everything; from a root, and the code."""

    def call(root, code=CODE):
        status, said, wrong = forked(main_part, root, code)
        assert status == 0, wrong
        return said.split()

    return call


@pytest.fixture(scope="module")
def first(tmp_path_factory, again):
    """The folder that the first process has filled, and its digests."""
    root = tmp_path_factory.mktemp("first")
    return root, again(root)


@pytest.mark.parametrize(("arms", "hashing"), [
    pytest.param("dash,cond_only", "0", marks=pytest.mark.slow), ("cond_only,dash", "123"),
])  # fmt: skip
def test_a_fresh_process_with_another_order_of_hashing_and_of_arms_repeats_every_byte(first, tmp_path, arms, hashing):
    """SHA-256 of all weights, of samples, and of the table of results."""
    environment = {**os.environ, "PYTHONHASHSEED": hashing, "DASHKIT_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path), arms], env=environment, text=True,
                          capture_output=True, check=True)
    assert done.stdout.split() == first[1]


def test_a_warm_cache_changes_nothing(first, again):
    root, wanted = first
    kept = sorted(root.rglob("evaluation-*.csv"))
    assert len(kept) == 3
    kept[-1].unlink()                                   # half of it measured anew, beside networks that were loaded
    assert again(root) == wanted


def test_another_seed_changes_every_byte(tmp_path, first, again):
    other = CODE.replace("seed=1", "seed=2").replace('["dash", 1]', '["dash", 2]')
    assert not set(again(tmp_path, other)) & set(first[1])


def test_the_difference_between_one_and_two_threads_is_measured_and_is_rounding(monkeypatch):
    small = resolve("smoke", teacher_steps=10, student_steps=10, sample_steps=4, batch=16)
    monkeypatch.setitem(PROFILES, "smoke", small)
    before, rows = torch.get_num_threads(), thread_rows().set_index("what")
    assert set(rows.index) == {"loss", "samples", "weights"} and torch.get_num_threads() == before
    # float32 keeps 2^-24 of a number; twenty steps of AdamW, whose updates are of the size of the learning rate
    # whatever the gradient's, may make it ten thousand times as large
    assert (rows.largest_difference < 10_000 * 2**-24 * rows.typical_size.clip(lower=1)).all()
    assert (rows.typical_size > 1e-3).all()
