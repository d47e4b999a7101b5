"""Students that are not a new small network: each is what its name says, also after training and a file."""

import torch
from torch import nn

from dashkit.experiments.profiles import PROFILES
from dashkit.method.distillation import seeded
from dashkit.method.guidance import branches
from dashkit.method.losses import per_sample
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule
from dashkit.method.students import IndependentCondition, SingleHead, hint_term, middle_channels, with_hint
from dashkit.method.unet import UNet, n_parameters

DIGITS = PROFILES["digits"]


def test_a_single_head_has_no_null_row_and_its_gap_does_not_ask_for_one(inputs):
    """Its training never uses the null row: whatever stands there must not change what is measured."""
    net = seeded(0, lambda: SingleHead(DIGITS.student)).eval().requires_grad_(False)
    before = branches(net, *inputs)
    net.net.class_table.weight[net.null_label] = 100.0
    after = branches(net, *inputs)
    assert torch.equal(before.cond, after.cond) and torch.equal(before.uncond, after.uncond)
    assert before.gap.abs().max() > 0


def test_a_single_head_is_asked_for_the_guided_output(inputs):
    net = seeded(0, lambda: SingleHead(DIGITS.student)).eval()
    assert abs(n_parameters(net) / n_parameters(UNet(DIGITS.student)) - 1) < 0.005
    x, t, y = inputs
    with torch.no_grad():
        pair = branches(net, x, t, y)
        torch.testing.assert_close(pair.cond, net.guided(x, t, y, 1.0))
        torch.testing.assert_close(pair.uncond, net.guided(x, t, y, 0.0))
        one, other = (sample(net, cosine_schedule(100), y, x_T=x, w=w, steps=3) for w in (2.0, 3.0))
    assert not torch.allclose(one, other)


def test_independent_conditions_replace_only_the_null_label(inputs):
    x, t, y = inputs
    net = seeded(0, lambda: UNet(DIGITS.student)).eval()
    icg = IndependentCondition(net)
    with torch.no_grad():
        torch.testing.assert_close(icg(x, t, y), net(x, t, y))
        null = torch.full((600,), net.null_label)
        drawn = icg(x[:1].expand(600, -1, -1, -1), t[:1].expand(600), null)
        classes = net(x[:1].expand(10, -1, -1, -1), t[:1].expand(10), torch.arange(10))
        again, earlier = icg(x[:1].expand(600, -1, -1, -1), t[:1].expand(600), null), icg(x, t - 1, y * 0 + 10)
    assert torch.equal(again, drawn)                 # whatever was asked before
    assert not torch.equal(IndependentCondition(net, seed=1)(x, t - 1, y * 0 + 10), earlier)
    nearest = torch.cdist(drawn.flatten(1), classes.flatten(1)).argmin(1)
    assert (torch.bincount(nearest, minlength=10) > 30).all()


def test_hints_are_the_middle_features_of_the_same_pass(untrained, inputs):
    with torch.no_grad():
        pair, hint = with_hint(untrained, *inputs)
        plain = branches(untrained, *inputs)
    assert torch.equal(pair.cond, plain.cond) and hint.shape == (12, middle_channels(DIGITS.teacher), 4, 4)
    assert not untrained.mid[-1]._forward_hooks
    term = hint_term(nn.Identity(), hint + 1, hint[:6])
    torch.testing.assert_close(term, torch.ones(6))
    assert hint_term(nn.Identity(), torch.cat([hint[:6], hint[6:] + 9]), hint[:6]).max() == 0  # conditional half


def test_dropping_only_the_students_label_is_the_unconditional_loss_in_expectation(generator):
    """For a teacher whose uncond is the mean of its cond over y, both have the same minimiser."""
    cond = torch.randn(4000, 3, generator=generator)
    best = cond.mean(0)                                    # the constant null output that minimises un_c
    grid = torch.stack([best, best + 0.1, best - 0.1])
    losses = torch.stack([per_sample(g.expand_as(cond), cond).mean() for g in grid])
    assert losses.argmin() == 0
