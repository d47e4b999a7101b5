import os
import re
import subprocess
import sys

import pytest
import torch

from dashkit.experiments import processes as experiments_processes
from dashkit.experiments.profiles import resolve
from dashkit.experiments.run import FINAL, Run
from dashkit.experiments.training import get_students, get_teacher
from dashkit.storage import store
from dashkit.storage import tables as storage_tables

TINY = {"teacher_steps": 12, "student_steps": 8, "samples": 20, "states": 40, "sample_steps": 2, "ws": (1.0, 1.5),
        "batch": 16, "warmup": 0, "arms": ("dash", "cond_only")}


def launch(root, *command, processes=2):
    """`accelerate launch` with CPU processes, as a user would on several GPUs; one process goes without it."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes",
                str(processes), "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *(launcher if processes > 1 else []), *map(str, command)]
    environment = {**os.environ, "DASHKIT_RUNS": str(root), "DASHKIT_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)


def dashkit(root, task, processes=2):
    pairs = [a for k, v in TINY.items() for a in ("--set", f"{k}={v}")]
    return launch(root, "-m", "dashkit", task, "--profile", "smoke", "--device", "cpu", *pairs, processes=processes)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two processes of eight samples, and one of sixteen."""
    root = tmp_path_factory.mktemp("parallel")
    done = dashkit(root / "two", "distil")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("teacher: ") == 1                  # only the main process speaks
    one, two = (Run(resolve("smoke", **TINY), root=root / name) for name in ("one", "two"))
    get_students(one, get_teacher(one))
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["teacher", "dash", "cond_only"])
def test_two_processes_compute_what_one_computes_with_the_doubled_batch(both, arm):
    one, two = (store.load_tensors(run.folder(arm, run.seed) / FINAL).tensors for run in both)
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=0)
    assert len(set(one["losses"].tolist())) > 5
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_two_processes_leave_only_finished_networks(both):
    # not the fingerprints: a student's is of its teacher's weights, which differ by rounding
    one, two = (sorted(re.sub(r"-[0-9a-f]{8}\b", "", str(p.relative_to(run.root))) for p in run.root.rglob("*"))
                for run in both)
    assert one == two and any("dash-s42/final" in name for name in one)


@pytest.mark.slow
def test_work_for_one_process_is_refused(tmp_path):
    done = dashkit(tmp_path, "sweep")
    assert done.returncode and "sweep is for one process; several can share train, distil" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_batches_that_cannot_be_shared_evenly_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments_processes, "size", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 16 cannot be shared by 3 processes evenly; take a batch of 15"):
        Run(resolve("smoke", **TINY), root=tmp_path)


CAMPAIGN = """
import sys
from pathlib import Path
from dashkit.experiments import budget
from dashkit.experiments import campaign
from dashkit.experiments import fid
from dashkit.experiments import processes
from dashkit.experiments.run import start_run
from dashkit.storage import tables
budget.rates = lambda run: budget.Rates(1.0, 1.0, 1.0, 1.0, 1.0)
raw = lambda images: images.flatten(1).float()           # pixels in the place of Inception's features
raw.classifier, raw.distances = None, ("fid", "kid")
run = start_run("smoke", device="cpu", **{tiny!r})
plan = campaign.make_plan(run, 10.0, fid_samples=40)
run, real = campaign.with_plan(run, plan), fid.statistics(raw(run.images.test_pixels))
turns = 1
while not campaign.run_stages(run, plan, minutes={minutes}, extract=raw, reference=real):
    turns += 1
if processes.is_main():
    tables.write_table(Path(sys.argv[1]), campaign.table(run, plan, raw, real))
    print("turns", turns)
processes.wait()
processes.leave()
"""


@pytest.mark.slow
def test_a_campaign_of_two_processes_in_short_turns_gives_the_table_of_one(tmp_path):
    tables = []
    for processes, minutes in ((1, 60), (2, 0)):
        script = tmp_path / f"{processes}.py"
        script.write_text(CAMPAIGN.format(tiny=TINY, minutes=minutes))
        root, target = tmp_path / f"runs{processes}", tmp_path / f"{processes}.csv"
        done = launch(root, script, target, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("turns 1\n" in done.stdout) == (processes == 1)
        tables.append(storage_tables.read_table(target))
    one, two = tables
    assert one.drop(columns="value").equals(two.drop(columns="value")) and {"fid@tag", "rho"} <= set(one.metric)
    torch.testing.assert_close(torch.tensor(two.value), torch.tensor(one.value), rtol=0.02, atol=0.02)


def test_alone_nothing_is_shared():
    x = torch.ones(3)
    experiments_processes.average(x)
    experiments_processes.wait()
    with experiments_processes.main_first():
        assert experiments_processes.size() == 1 and experiments_processes.is_main() and x.tolist() == [1, 1, 1]
    assert experiments_processes.own_slice(7) == slice(0, 7) and experiments_processes.own([1, 2, 3]) == [1, 2, 3]
    assert experiments_processes.agree(True) and not experiments_processes.agree(False)


@pytest.mark.slow
def test_the_self_test_runs_in_several_processes(tmp_path):
    done = launch(tmp_path, "-m", "dashkit", "doctor", "--self-test", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 of 15 checks failed" in done.stdout and done.stdout.count("every arm, float32") == 1
    saved = store.read_json(next(tmp_path.glob("selftest-*.json")))
    assert saved["manifest"]["processes"] == 2 and not (tmp_path / "selftest").exists()
