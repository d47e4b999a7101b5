
import pytest
import torch

from dashkit.analysis.tables import beta_of
from dashkit.method.calibration import gap_stats, gap_stats_by_timestep
from dashkit.method.guidance import Branches, corrected_w


def with_gap(gap):
    return Branches(gap, torch.zeros_like(gap))


def test_gap_stats_of_known_gaps(generator):
    teacher = torch.randn((500, 1, 4, 4), generator=generator)
    other = torch.randn((500, 1, 4, 4), generator=generator)
    other -= teacher * (other * teacher).sum((1, 2, 3), keepdim=True) / (teacher**2).sum((1, 2, 3), keepdim=True)
    other *= (teacher.flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
    stats = gap_stats(with_gap(0.6 * teacher + 0.8 * other), with_gap(teacher))      # as long, 0.6 along the teacher's
    assert stats.rho == pytest.approx(1, abs=1e-5) and stats.cos == pytest.approx(0.6, abs=1e-5)
    assert stats.slope == pytest.approx(0.6, abs=1e-5) and stats.r2 == pytest.approx(1 - 0.8, abs=1e-5)
    assert stats.mse == pytest.approx(0.8 * teacher.square().mean().item(), rel=1e-4)


def noisy_gap(generator, *, part=0.5, noise=1.0):
    """A gap that holds a part of the teacher's, and as much noise as `noise` times the teacher's."""
    teacher, other = torch.randn((2, 400, 1, 4, 4), generator=generator)
    return with_gap(part * teacher + noise * other), with_gap(teacher)


def test_beta_is_the_slope_seen_from_the_student(generator):
    student, teacher = noisy_gap(generator)
    stats, other_way = gap_stats(student, teacher), gap_stats(teacher, student)
    assert stats.beta == pytest.approx(other_way.slope) == pytest.approx(0.5 / 1.25, rel=0.05)
    assert beta_of(stats.slope, stats.r2) == pytest.approx(stats.beta)
    empty = gap_stats(with_gap(torch.zeros_like(teacher.gap)), teacher)
    assert empty.slope == 0 and empty.beta != empty.beta                       # NaN: there is nothing to scale


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("w", [0.5, 1.5, 4.0])
def test_the_corrected_scale_is_the_one_that_guides_most_like_the_teacher(noise, w, generator):
    student, teacher = noisy_gap(generator, noise=noise)
    stats = gap_stats(student, teacher)

    def error(scale):
        return ((scale - 1) * student.gap - (w - 1) * teacher.gap).square().mean().item()
    found = corrected_w(w, stats.beta)
    assert all(error(found) < error(found + d) for d in (-0.1, 0.1)) and error(found) < error(w)
    by_slope = 1 + (w - 1) / stats.slope                                       # what the kit did before
    assert found == pytest.approx(by_slope) if noise == 0 else error(by_slope) > 1.2 * error(found)


@pytest.mark.parametrize("k", [0.5, 0.6, 2.0])
def test_a_twin_is_best_at_the_teachers_scale_though_its_gap_is_another(k, generator):
    w, (teacher, other) = 3.0, (Branches(*torch.randn((2, 40, 1, 4, 4), generator=generator)) for _ in range(2))
    gap = k * teacher.gap + 0.2 * other.gap
    cond = teacher.guided(w) - (w - 1) * gap                                   # so its composite loss at w is zero
    twin, beta = Branches(cond, cond - gap), gap_stats(Branches(gap, 0 * gap), teacher).beta
    torch.testing.assert_close(twin.guided(w), teacher.guided(w))
    found, error = corrected_w(w, beta), cond - teacher.cond
    assert abs(found - w) > 0.5
    assert found - ((gap * error).sum() / (gap * gap).sum()).item() == pytest.approx(w, abs=1e-4)


def test_a_student_without_a_gap_keeps_its_scale():
    assert corrected_w(4.0, float("nan")) == 4.0 and corrected_w(4.0, 10.0) == 20.0 and corrected_w(4.0, -1.0) == 0.0


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_a_scaled_gap_has_rho_and_slope_of_its_factor(factor, generator):
    teacher = torch.randn((50, 1, 4, 4), generator=generator)
    stats = gap_stats(with_gap(factor * teacher), with_gap(teacher))
    assert stats.rho == pytest.approx(factor) and stats.slope == pytest.approx(factor)
    assert stats.cos == pytest.approx(float(factor > 0)) and stats.r2 == pytest.approx(1 - (factor - 1) ** 2)


def test_the_error_splits_into_size_and_direction(pair):
    s, t = pair(batch=1), pair(batch=1)
    stats, size = gap_stats(s, t), s.gap.numel()
    a, b = s.gap.norm().item(), t.gap.norm().item()
    assert stats.mse * size == pytest.approx((a - b) ** 2 + 2 * a * b * (1 - stats.cos), rel=1e-4)


def test_samples_without_a_teacher_gap_have_no_direction():
    gap = torch.zeros(4, 1, 2, 2)
    gap[0] = 1.0
    assert gap_stats(with_gap(gap), with_gap(gap)).cos == pytest.approx(1)


def test_bins_of_timesteps_hold_their_samples(pair):
    s, t = pair(batch=40), pair(batch=40)
    times = torch.arange(40) * 25
    binned = gap_stats_by_timestep(s, t, times, T=1000, bins=4)
    assert list(binned) == [125, 375, 625, 875]
    first = Branches(s.cond[:10], s.uncond[:10]), Branches(t.cond[:10], t.uncond[:10])
    assert binned[125] == gap_stats(*first)


def test_gap_stats_refuse_other_shapes(pair):
    with pytest.raises(ValueError, match="same non-empty shape"):
        gap_stats(pair(batch=2), pair(batch=3))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_ratios_do_not_depend_on_the_unit_and_all_are_plain_numbers(scale, generator):
    s, t = torch.randn((2, 50, 1, 4, 4), generator=generator)
    one, other = gap_stats(with_gap(s), with_gap(t)), gap_stats(with_gap(scale * s), with_gap(scale * t))
    assert other[:5] == pytest.approx(one[:5], rel=1e-5) and other.mse == pytest.approx(scale**2 * one.mse, rel=1e-5)
    assert all(type(v) is float for v in one)


def test_a_gap_below_a_millionth_of_the_mean_has_no_direction(generator):
    teacher = torch.randn((4, 1, 4, 4), generator=generator)
    teacher[1] *= 1e-8
    student = teacher.clone()
    student[1] = -1.0
    assert gap_stats(with_gap(student), with_gap(teacher)).cos == pytest.approx(1)


def test_double_precision_where_floats_would_not_do(generator):
    s, t = (1e-25 * torch.randn((20, 1, 4, 4), generator=generator) for _ in range(2))     # squares vanish in float32
    assert gap_stats(with_gap(s), with_gap(t)).rho == pytest.approx(1, abs=0.3)
    assert gap_stats(with_gap(t), with_gap(t)).slope == pytest.approx(1)


def test_there_are_ten_bins_and_empty_ones_are_left_out(pair):
    s, t = pair(batch=40), pair(batch=40)
    whole = gap_stats_by_timestep(s, t, torch.arange(40) * 25, T=1000)
    half = gap_stats_by_timestep(s, t, torch.arange(40) * 12, T=1000)
    assert list(whole) == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950] and list(half) == list(whole)[:5]
