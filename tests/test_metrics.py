import numpy as np
import pytest
import scipy.linalg
import torch

from dashkit import data
from dashkit.guidance import Branches
from dashkit.metrics import (
    class_accuracy,
    frechet_distance,
    gap_stats,
    gap_stats_by_timestep,
    real_floor,
    train_classifier,
)


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


def test_frechet_distance_equals_the_formula(generator):
    a = torch.randn((300, 6), generator=generator) @ torch.randn((6, 6), generator=generator)
    b = torch.randn((200, 6), generator=generator) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_degenerate_features_is_finite():
    a = torch.zeros(10, 3)
    a[:, 0] = torch.arange(10)
    assert frechet_distance(a, torch.zeros(5, 3)) > 0
    with pytest.raises(ValueError, match="N, M >= 2"):
        frechet_distance(a[:1], a)


def test_the_classifier_judges_and_real_digits_set_a_floor():
    images = data.load("digits")
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    judge = train_classifier(images.x0, images.labels, num_classes=10, seed=0, epochs=8)
    assert torch.equal(before, torch.random.get_rng_state())
    assert class_accuracy(judge, images.test_x0, images.test_labels) > 0.97
    floor = real_floor(judge.features, images.x0, images.test_x0, 300, seed=0)
    noise = frechet_distance(judge.features(torch.rand_like(images.x0[:300]) * 2 - 1), judge.features(images.test_x0))
    assert len(floor) == 8 and floor.max() < noise / 5
    with pytest.raises(ValueError, match=r"n must be in 2 \.\. 1297"):
        real_floor(judge.features, images.x0, images.test_x0, 5000, seed=0)
