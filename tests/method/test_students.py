"""Students that are not a new small network: each is what its name says, also after training and a file."""

import dataclasses

import pytest
import torch
from torch import nn

from dashkit.experiments.networks import load_curriculum, load_student
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import distil, get_students, get_teacher
from dashkit.method import pruning
from dashkit.method.arms import OBJECTIVES
from dashkit.method.distillation import seeded
from dashkit.method.guidance import branches
from dashkit.method.losses import per_sample
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule
from dashkit.method.students import IndependentCondition, SingleHead, hint_term, middle_channels, with_hint
from dashkit.method.unet import UNet, n_parameters

DIGITS = PROFILES["digits"]
ARMS = ("dash", "dash_relearned", "fitnets", "single_head", "pruning", "slicing", "cond_only_icg", "label_drop")


@pytest.fixture(scope="module")
def teacher():
    return seeded(0, lambda: UNet(DIGITS.teacher))


@pytest.fixture
def inputs(generator):
    return torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6) * 150, torch.arange(6)


def test_pruning_keeps_the_largest_weights_at_the_students_size(teacher):
    net, wanted = pruning.pruned(teacher, DIGITS.student), n_parameters(UNet(DIGITS.student))
    zero_biases = n_parameters(teacher) - pruning.n_nonzero(teacher)        # GroupNorm's start at 0
    assert abs(pruning.n_nonzero(net) + zero_biases - wanted) < 20
    kept = torch.cat([a[b != 0].abs().flatten() for a, b in zip(teacher.parameters(), net.parameters(), strict=True)
                      if a.ndim > 1])
    lost = torch.cat([a[b == 0].abs().flatten() for a, b in zip(teacher.parameters(), net.parameters(), strict=True)
                      if a.ndim > 1])
    assert kept.min() > lost.max()


def test_pruned_weights_stay_zero_in_training(teacher, inputs):
    net = pruning.pruned(teacher, DIGITS.student)
    before = [p != 0 for p in net.parameters()]
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        net(*inputs).square().mean().backward()
        optimiser.step()
    assert all(not bool(p[~b].any()) for p, b in zip(net.parameters(), before, strict=True) if p.ndim > 1)
    assert not torch.equal(net.conv_out.weight, teacher.conv_out.weight)


def test_slicing_to_the_same_size_is_a_copy_and_to_a_smaller_one_picks_whole_channels(teacher, inputs):
    same = pruning.sliced(teacher, DIGITS.teacher)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in teacher.state_dict().items())
    small = pruning.sliced(teacher, DIGITS.student)
    assert n_parameters(small) == n_parameters(UNet(DIGITS.student))
    rows = teacher.conv_in.weight.flatten(1)
    places = [int((rows == row).all(1).nonzero()) for row in small.conv_in.weight.flatten(1)]
    assert places == sorted(places) and len(set(places)) == DIGITS.student.ch
    assert {tuple(places[i : i + 4]) for i in range(0, 16, 4)} <= {tuple(range(g, g + 4)) for g in range(0, 32, 4)}
    with pytest.raises(ValueError, match="a width that divides"):
        pruning.sliced(teacher, dataclasses.replace(DIGITS.student, ch=24))


def test_a_sliced_network_of_redundant_channels_computes_the_same(inputs):
    """A teacher whose second half of channels is dead loses nothing by slicing, up to the norms' groups."""
    wide = dataclasses.replace(DIGITS.teacher, blocks=1, ch_mult=(1,), attention=(), groups=8)
    narrow = dataclasses.replace(wide, ch=16, groups=4)
    net = seeded(1, lambda: UNet(wide))
    small = pruning.sliced(net, narrow)
    kept = [int((net.conv_in.weight.flatten(1) == r).all(1).nonzero()) for r in small.conv_in.weight.flatten(1)]
    block, cut = net.down[0].res, small.down[0].res
    torch.testing.assert_close(cut.conv1.weight, block.conv1.weight[kept][:, kept])
    torch.testing.assert_close(cut.norm1.weight, block.norm1.weight[kept])
    both = [*kept, *(k + 32 for k in kept)]
    torch.testing.assert_close(small.up[0].res.conv1.weight, net.up[0].res.conv1.weight[kept][:, both])
    qkv = [k + 32 * i for i in range(3) for k in kept]
    torch.testing.assert_close(small.mid[0].attn.qkv.weight, net.mid[0].attn.qkv.weight[qkv][:, kept])


def test_a_single_head_is_asked_for_the_guided_output(inputs):
    net = seeded(0, lambda: SingleHead(DIGITS.student)).eval()
    assert abs(n_parameters(net) / n_parameters(UNet(DIGITS.student)) - 1) < 0.005
    x, t, y = inputs
    with torch.no_grad():
        pair = branches(net, x, t, y)
        torch.testing.assert_close(pair.cond, net.guided(x, t, y, 1.0))
        null = torch.full_like(y, net.null_label)
        torch.testing.assert_close(pair.uncond, net.guided(x, t, null, 0.0))
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


def test_hints_are_the_middle_features_of_the_same_pass(teacher, inputs):
    with torch.no_grad():
        pair, hint = with_hint(teacher, *inputs)
        plain = branches(teacher, *inputs)
    assert torch.equal(pair.cond, plain.cond) and hint.shape == (12, middle_channels(DIGITS.teacher), 4, 4)
    assert not teacher.mid[-1]._forward_hooks
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


def test_every_kind_of_student_trains_resumes_and_loads(tiny):
    run = tiny("whole")
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, arms=ARMS))
    teacher = get_teacher(run)
    get_students(run, teacher)
    broken = dataclasses.replace(run, root=run.root.with_name("broken"))
    for step in distil(broken, teacher, ARMS, 1):
        if step.number == 3:
            break
    assert len(list(distil(broken, teacher, ARMS, 1))) == 3
    for arm in ARMS:
        whole, again = load_student(run, arm, 1), None
        if not OBJECTIVES[arm].reuses:
            again = load_student(broken, arm, 1)
            assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        assert not any(p.requires_grad for p in whole.parameters())
    assert pruning.n_nonzero(load_student(run, "pruning", 1)) == n_parameters(UNet(run.profile.student))
    omega = load_curriculum(run, "dash_relearned", 1)
    assert omega.mean().item() == pytest.approx(1, abs=1e-5) and not torch.equal(omega, run.base)


def test_an_exact_teacher_refuses_what_needs_a_network_and_teaches_the_rest(tiny):
    exact = dataclasses.replace(tiny("exact").profile, exact_bandwidth=0.2)
    for arm in ("pruning", "slicing", "dash_sliced", "fitnets"):
        with pytest.raises(ValueError, match=f"{arm} needs a teacher that is a network"):
            dataclasses.replace(tiny(), profile=dataclasses.replace(exact, arms=(arm,)))
    run = dataclasses.replace(tiny("exact"), profile=dataclasses.replace(exact, arms=("dash", "single_head")))
    table = sweep(run)
    assert set(table.arm) == {"real", "teacher", "dash", "single_head"}
    assert "spearman" not in set(table.metric)        # it has learned no weights whose rank there could be
    assert table[(table.arm == "teacher") & (table.metric == "rho")].value.item() == pytest.approx(1)
