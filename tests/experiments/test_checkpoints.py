import dataclasses

import pytest
import torch
from steps_helpers import ARMS, equal, final

from dashkit.experiments import checkpoints
from dashkit.experiments.checkpoints import _finish
from dashkit.experiments.run import CHECKPOINT
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import distil, train_teacher
from dashkit.storage import store


def test_locks_of_processes_that_died_when_their_work_was_done_go(swept):
    run = swept
    places = [run.folder("teacher", 1), run.folder("dash", 1), run.lockstep(run.profile.arms, 1)]
    locks = [place / ".lock" for place in places]
    for lock in locks:
        lock.parent.mkdir(exist_ok=True)
        lock.write_text("process 1 on a machine")
    sweep(run)
    assert not list(run.root.rglob(".lock")) and not locks[-1].parent.exists()


def test_a_death_between_two_final_files_loses_and_leaves_nothing(trained, monkeypatch):
    run, teacher = trained
    whole = dataclasses.replace(run, root=run.root.with_name("whole"))
    list(distil(whole, teacher, ARMS, 1))
    real, written = _finish, []

    def die(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments[1])
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_finish", die)
    with pytest.raises(KeyboardInterrupt):
        list(distil(run, teacher, ARMS, 1))
    monkeypatch.setattr(checkpoints, "_finish", real)
    assert [s.number for s in distil(run, teacher, ARMS, 1)] == [6]
    assert all(equal(final(run, a, 1), final(whole, a, 1)) for a in ARMS)
    assert not list(run.root.rglob("*lockstep*")) and not list(run.root.rglob(".*"))
    stray = run.lockstep(ARMS, 1) / CHECKPOINT
    store.write_bytes(stray, b"x")                           # died between the last file and the checkpoint's removal
    assert list(distil(run, teacher, ARMS, 1)) == [] and not stray.parent.exists()


@pytest.mark.parametrize(("tensors", "meta"), [
    ({"history": torch.ones(2, 3)}, {}), ({"history": torch.ones(())}, {}), ({"history": torch.ones(9, 1)}, {}),
    ({"history": torch.ones(2, 1).double()}, {}),
    ({}, {"seconds": 10**400}), ({}, {"seconds": -1}), ({}, {"seconds": []}),
])  # fmt: skip
def test_a_checkpoint_with_a_strange_history_is_refused_and_named(tiny, tensors, meta):
    run = tiny()
    training = train_teacher(run)
    next(training), next(training)
    training.close()
    path = run.folder("teacher", 1) / CHECKPOINT
    saved = store.load_tensors(path)
    store.save_tensors(path, saved.tensors | tensors, saved.meta | meta)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors cannot be resumed"):
        next(train_teacher(run))


def test_a_gpu_spends_a_small_share_of_its_time_on_checkpoints():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert checkpoints._pause(gpu, 0.1) == checkpoints._pause(cpu, 30.0) == checkpoints.CHECKPOINT_SECONDS
    assert checkpoints._pause(gpu, 6.0) == pytest.approx(300)


def test_what_is_not_finite_is_found_among_many_tensors():
    found = checkpoints._all_finite([torch.ones(3), torch.tensor([1.0, float("nan")]), torch.tensor(float("inf"))])
    assert found == [True, False, False] and checkpoints._all_finite([]) == []
