
import pytest
import torch
from learners import batches, learner, loss_fn
from torch import nn

from dashkit.experiments.checkpoints import load_learner
from dashkit.method.training import Learner, fit


def test_a_learner_goes_on_from_its_tensors_bit_for_bit():
    whole, broken, fresh = learner(), learner(), learner(seed=5)
    stream = batches()
    list(fit({"a": whole}, loss_fn, batches(), steps=10))
    for step in fit({"a": broken}, loss_fn, stream, steps=10):
        if step.number == 4:
            break
    load_learner(fresh, broken.tensors())
    list(fit({"a": fresh}, loss_fn, stream, steps=10))
    assert fresh.done == 10
    assert all(torch.equal(v, whole.tensors()[k]) for k, v in fresh.tensors().items())


def test_a_checkpoint_of_another_model_is_refused():
    other = Learner(nn.Linear(4, 1), lr=0.1, steps=1, ema=0.9)
    with pytest.raises(ValueError, match="does not fit this model"):
        load_learner(learner(), other.tensors())
    with pytest.raises(ValueError, match="does not fit this model"):
        load_learner(learner(), {})


@pytest.mark.parametrize(("key", "change", "message"), [
    ("model.weight", lambda v: v.double(), "must be torch.float32"),
    ("model.weight", lambda v: v.int(), "torch.int32"),
    ("model.weight", lambda v: v.T, r"not torch.float32 \(3, 1\)"),
    ("ema.bias", None, "missing or unknown"),
    ("adam.exp_avg", lambda v: v[:1], "optimiser's state"), ("adam.step", None, "optimiser's state"),
    ("done", lambda v: v + 1, "4 updates, but 3 of the average"),
    ("done", lambda v: v.repeat(2), "(a Tensor with 2|only one element)"),
])  # fmt: skip
def test_a_checkpoint_of_another_type_or_shape_is_refused_and_changes_nothing(key, change, message):
    one, fresh = learner(), learner(seed=3)
    list(fit({"a": one}, loss_fn, batches(), steps=3))
    tensors, before = one.tensors(), fresh.model.weight.clone()
    value = tensors.pop(key)
    if change:
        tensors[key] = change(value)
    with pytest.raises(ValueError, match=f"does not fit this model: .*{message}"):
        load_learner(fresh, tensors)
    assert torch.equal(fresh.model.weight, before) and fresh.done == 0


@pytest.mark.parametrize("change", [
    {"adam.exp_avg": lambda v: v.double()}, {"adam.exp_avg_sq": lambda v: v - 1}, {"adam.step": lambda v: v + 1},
    {"done": lambda v: torch.tensor(float("inf"))},
])
def test_an_optimiser_state_of_another_kind_is_refused(change):
    learner = Learner(nn.Linear(3, 1), lr=0.1, steps=5, ema=0.9)
    learner.update(learner.model(torch.ones(2, 3)).sum())
    (name, spoil), = change.items()
    state = learner.tensors()
    state[name] = spoil(state[name])
    with pytest.raises(ValueError, match="does not fit this model"):
        load_learner(learner, state)
