"""Average and warm-up that follow the planned number of steps."""

import pytest
import torch
from torch import nn

from dashkit.experiments.pace import paced
from dashkit.experiments.profiles import PROFILES, resolve
from dashkit.experiments.training import train_teacher
from dashkit.method.training import Learner, ramp
from dashkit.storage import store


def start_left(ema, steps=800):
    """The share of the first step's weights that the average holds after `steps` updates."""
    left = 1.0
    learner = Learner(nn.Linear(1, 1, bias=False), lr=1e-3, steps=steps, ema=ema)
    for n in range(1, steps):
        learner.averaged = n
        left *= 1 - learner._newest()
    return left


def test_a_ramped_average_forgets_its_start_and_a_fixed_one_does_not():
    assert start_left(ramp(0.9999)) < 0.01 < 0.9 < start_left(0.9999)
    assert start_left(ramp(0.9999), steps=8) < 0.01


def test_the_average_itself_follows_the_ramp():
    learner = Learner(nn.Linear(2, 1), lr=0.1, steps=800, ema=ramp(0.9999))
    with torch.no_grad():
        for value in [1.0] + [0.0] * 799:            # weights that are 1 at the first step, and 0 at all others
            learner.vector.fill_(value)
            learner._follow()
    assert learner.average.max() < 0.01 and learner.averaged == 800


def test_a_ramp_ends_at_the_decay_that_is_set():
    decay = ramp(0.99)
    values = [decay(n) for n in range(2000)]
    assert values == sorted(values) and values[-1] == 0.99 and values[0] == 0.1


@pytest.mark.parametrize(("pace", "steps", "warmup"), [
    ("fixed", 100, 50), ("ramped", 100, 10), ("ramped", 10_000, 50), ("ramped", 9, 0)])
def test_warm_up_is_at_most_a_tenth_where_it_is_ramped(pace, steps, warmup):
    learner = paced(resolve("digits", pace=pace), nn.Linear(1, 1), lr=1.0, steps=steps, ema=0.99)
    assert learner.warmup == warmup


def test_nothing_that_was_trained_before_has_another_name(tiny):
    """The setting is left out where it says what was always done."""
    run = tiny()
    assert "pace" not in run.profile.asdict() and "pace" not in run.teacher_settings()
    other = tiny(pace="ramped")
    assert other.teacher_settings() == run.teacher_settings() | {"pace": "ramped"}
    assert other.folder("dash", 1) != run.folder("dash", 1)
    assert [name for name, p in PROFILES.items() if p.pace == "ramped"] == ["cifar16", "cifar16_loan", "cifar10_loan"]
    with pytest.raises(ValueError, match="pace must be one of fixed, ramped, not 'slow'"):
        resolve("smoke", pace="slow")


def test_a_ramped_training_goes_on_bit_for_bit(tiny):
    def weights(root, stop):
        run = tiny(root=root, pace="ramped", teacher_ema=0.9999)
        steps = train_teacher(run)
        for step in steps:
            if step.number == stop:
                break
        steps.close()
        for _ in train_teacher(run):
            pass
        return store.load_tensors(run.folder("teacher", 1) / "final.safetensors").tensors

    whole, stopped = weights("whole", None), weights("stopped", 3)
    assert all(torch.equal(whole[k], stopped[k]) for k in whole)
