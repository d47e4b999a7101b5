"""Students that are not a new small network: each is what its name says, also after training and a file."""

import pytest
import torch
from torch import nn

from dashkit.experiments.profiles import PROFILES
from dashkit.method.calibration import States, all_branches, gap_stats
from dashkit.method.distillation import seeded
from dashkit.method.guidance import branches
from dashkit.method.losses import per_sample
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule
from dashkit.method.students import (
    IndependentCondition,
    MeanCondition,
    SingleHead,
    compared,
    hint_term,
    middle_channels,
    with_hint,
)
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


class OfClass(nn.Module):
    """Predicts a number for each class, times the timestep."""

    def __init__(self, classes):
        super().__init__()
        self.null_label = self.config = classes
        self.values = torch.randn(classes, generator=torch.Generator().manual_seed(0))

    def forward(self, x_t, t, y):
        assert int(y.max()) < self.null_label                  # it has no row for "no class"
        return (self.values[y] * t)[:, None, None, None].expand_as(x_t)


@pytest.mark.parametrize(("classes", "r2"), [(3, 1.0), (7, 1.0), (400, 0.95)])
def test_a_student_with_the_mean_of_a_random_class_is_calibrated(classes, r2):
    net = OfClass(classes)
    teacher = IndependentCondition(net).eval()

    class Student(nn.Module):
        null_label = classes

        def forward(self, x_t, t, y):
            values = torch.cat([net.values, net.values.mean()[None]])
            return (values[y] * t)[:, None, None, None].expand_as(x_t)
    states = States(torch.zeros(200, 1, 2, 2), torch.arange(200) % 9 + 1, torch.arange(200) % classes)
    exact = Student().eval()
    target = all_branches(compared(teacher, teacher), states)
    found = gap_stats(all_branches(compared(exact, teacher), states), target)
    assert found.r2 > r2 - 1e-5 and found.cos > r2 - 1e-5 and abs(found.rho - 1) < 1 - r2 + 1e-5
    assert gap_stats(all_branches(exact, states), all_branches(teacher, states)).r2 < 0.8
    assert len(compared(teacher, teacher).classes) <= MeanCondition.MOST
    same = gap_stats(all_branches(compared(IndependentCondition(net, seed=5).eval(), teacher), states), target)
    assert same.r2 == pytest.approx(1)                         # a student whose null label is random, too
    assert compared(teacher, exact) is teacher                 # what an arm of this kind is beside other teachers stays
    with pytest.raises(ValueError, match="train mode"):
        all_branches(compared(teacher.train(), teacher), states)


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
