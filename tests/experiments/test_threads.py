import dataclasses

import pytest
import torch
from steps_helpers import equal, final

from dashkit.experiments import training as experiments_training
from dashkit.experiments.training import distil, get_students
from dashkit.storage import store


def test_seeds_side_by_side_equal_seeds_in_turn(trained, two_threads):
    run, teacher = trained
    two = dataclasses.replace(run, profile=dataclasses.replace(run.profile, seeds=2))
    get_students(two, teacher)
    turn = dataclasses.replace(two, root=run.root.with_name("turn"))
    assert torch.get_num_threads() == 2                   # given back
    torch.set_num_threads(1)                               # what each of two jobs on two threads gets
    for seed in two.seeds:
        list(distil(turn, teacher, two.profile.arms, seed))
    assert all(equal(final(two, a, s), final(turn, a, s)) for a in two.profile.arms for s in two.seeds)
    assert not equal(final(two, "dash", 1), final(two, "dash", 2))


def test_an_error_in_one_job_stops_the_others_and_keeps_their_checkpoints(trained, two_threads, monkeypatch):
    run, teacher = trained
    two = dataclasses.replace(run, profile=dataclasses.replace(run.profile, seeds=2, student_steps=2000))

    def broken(run, teacher, arms, seed):
        yield from () if seed == 1 else [None]
        raise FloatingPointError("planted")

    real = distil
    monkeypatch.setattr(experiments_training, "distil", lambda *a: (broken if a[3] == 2 else real)(*a))
    with pytest.raises(FloatingPointError, match="planted"):
        get_students(two, teacher)
    [checkpoint] = two.root.rglob("checkpoint.safetensors")
    assert 0 < int(store.load_tensors(checkpoint).tensors["dash/done"]) < 2000
