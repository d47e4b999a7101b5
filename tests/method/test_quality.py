import os

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F

from dashkit.datasets import sources
from dashkit.experiments.profiles import PROFILES
from dashkit.method import quality
from dashkit.method.calibration import gap_stats, gap_stats_by_timestep
from dashkit.method.cost import counted_passes, flops, peak_memory
from dashkit.method.guidance import Branches
from dashkit.method.quality import Classifier, class_accuracy, frechet_distance, in_chunks, real_floor, train_classifier
from dashkit.method.unet import UNet


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
    images = sources.load_images("digits")
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


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_ratios_do_not_depend_on_the_unit_and_all_are_plain_numbers(scale, generator):
    s, t = torch.randn((2, 50, 1, 4, 4), generator=generator)
    one, other = gap_stats(with_gap(s), with_gap(t)), gap_stats(with_gap(scale * s), with_gap(scale * t))
    assert other[:4] == pytest.approx(one[:4], rel=1e-5) and other.mse == pytest.approx(scale**2 * one.mse, rel=1e-5)
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


def test_frechet_distance_needs_two_samples_and_finite_ones():
    a = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert frechet_distance(a, a + 1) == pytest.approx(2, abs=1e-6)
    for bad in (a[:1], a[0], torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="N, M >= 2"):
            frechet_distance(a, bad)
    for first, second in ((a, a / 0), (a / 0, a)):
        with pytest.raises(ValueError, match=r"^features must be finite: samples or weights hold NaN or infinity$"):
            frechet_distance(first, second)


def test_a_floor_needs_at_least_two_images_and_at_most_all(generator):
    train, test = torch.randn((2, 12, 3), generator=generator)
    state = torch.random.get_rng_state()
    for n in (2, 12):
        assert len(real_floor(lambda x: x, train, test, n, seed=0, draws=3)) == 3
    assert torch.equal(torch.random.get_rng_state(), state)
    for n in (1, 13):
        with pytest.raises(ValueError, match=r"n must be in 2 \.\. 12, not"):
            real_floor(lambda x: x, train, test, n, seed=0)


def test_a_trained_classifier_is_frozen_and_knows_its_labels(generator):
    x = torch.rand((8, 1, 4, 4), generator=generator)
    y = torch.zeros(8, dtype=torch.long)
    judge = train_classifier(x, y, num_classes=1, seed=0)                    # one class is enough
    assert not judge.training and not any(p.requires_grad for p in judge.parameters())
    accuracy = class_accuracy(judge, x, y)
    assert accuracy == 1 and type(accuracy) is float
    for label in (-1, 2):
        with pytest.raises(ValueError, match=rf"labels must be in 0 \.\. 1, not .*{label}"):
            train_classifier(x, y.index_fill(0, torch.tensor([3]), label), num_classes=2, seed=0)


def test_the_classifier_is_two_convolutions_and_two_linear_layers(generator):
    judge = Classifier((1, 4, 4), 3).eval()
    x = torch.randn((5, 1, 4, 4), generator=generator)
    (a, _, b, *_, features), (_, logits) = judge.body, judge.head
    hidden = F.max_pool2d(F.relu(b(F.relu(a(x)))), 2)
    torch.testing.assert_close(judge.features(x), features(hidden.flatten(1)))
    torch.testing.assert_close(judge(x), logits(F.relu(judge.features(x))))


class Watched(torch.nn.Linear):
    """In the classifier's place: keeps what it is shown."""

    def __init__(self, shape, num_classes):
        super().__init__(shape[0] * shape[1] * shape[2], num_classes)
        self.shown = []

    def forward(self, x):
        self.shown.append(x)
        return super().forward(x.flatten(1))


@pytest.mark.parametrize(("images", "asked", "steps"), [(640, {}, 220), (640, {"epochs": 1}, 11),
                                                        (63, {"epochs": 3}, 3), (640, {"epochs": 200}, 2000)])
def test_the_classifier_sees_every_epoch_in_batches_of_64_up_to_2000(images, asked, steps, monkeypatch):
    monkeypatch.setattr(quality, "Classifier", Watched)
    x, y = torch.zeros(images, 1, 4, 4), torch.arange(images) % 3
    shown = train_classifier(x, y, num_classes=3, seed=0, **asked).shown
    assert len(shown) == steps and all(batch.shape == (64, 1, 4, 4) for batch in shown)
    assert torch.stack(shown[:3]).std().item() == pytest.approx(0.15, abs=0.01)
    assert not torch.equal(shown[0][0], shown[0][1])                      # every image has a jitter of its own


def test_labels_are_smoothed(monkeypatch):
    seen, cross_entropy = [], F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda *_, **k: seen.append(k) or cross_entropy(*_, **k))
    train_classifier(torch.zeros(8, 1, 4, 4), torch.zeros(8, dtype=torch.long), num_classes=2, seed=0, epochs=1)
    assert seen == [{"label_smoothing": 0.05}]


def test_chunks_are_of_the_size_asked_for():
    sizes = []
    assert torch.equal(in_chunks(lambda v: sizes.append(len(v)) or 2 * v, torch.arange(5), 2), 2 * torch.arange(5))
    assert sizes == [2, 2, 1]


def test_images_are_counted_inside_the_block_alone(capsys):
    net = UNet(PROFILES["smoke"].student)
    inputs = torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    with counted_passes(net) as passes:
        net(*inputs), net(*inputs)
    net(*inputs)
    assert passes == [6]
    assert flops(net) > 0 and capsys.readouterr().out == ""
    assert flops(net.to("meta")) == flops(UNet(net.config))          # where the network is, wherever that is


def test_peak_memory_is_what_is_held_at_once(monkeypatch):
    def work():
        first = torch.ones(2**20)                            # 4 MiB
        del first
        second, third = torch.ones(2**19), torch.ones(2**19)
        return second, third

    def together():
        return [torch.ones(2**18) for _ in range(3)]         # 3 MiB, none as large

    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    assert 4 * 2**20 <= peak_memory(work) < 4.5 * 2**20
    assert 3 * 2**20 <= peak_memory(together) < 3.5 * 2**20
    assert os.environ["KINETO_LOG_LEVEL"] == "99"


def test_peak_memory_on_cuda_is_the_allocators_above_what_was_there(monkeypatch):
    order = []
    for name, value in (("reset_peak_memory_stats", None), ("memory_allocated", 100), ("max_memory_allocated", 175)):
        monkeypatch.setattr(torch.cuda, name, lambda device, n=name, v=value: order.append((n, device)) or v)
    assert peak_memory(lambda: order.append("work"), device="cuda:1") == 75
    assert order == [("reset_peak_memory_stats", "cuda:1"), ("memory_allocated", "cuda:1"), "work",
                     ("max_memory_allocated", "cuda:1")]
