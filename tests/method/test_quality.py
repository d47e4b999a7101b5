
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F

from dashkit.datasets import sources
from dashkit.method import quality
from dashkit.method.calibration import States, all_branches
from dashkit.method.images import Images
from dashkit.method.memory import at_a_time
from dashkit.method.quality import (
    Classifier,
    balanced_labels,
    class_accuracy,
    frechet_distance,
    in_chunks,
    largest_pile,
    real_floor,
    train_classifier,
)
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule


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
    floor = real_floor(judge.features, images, 300, seed=0)
    noise = frechet_distance(judge.features(torch.rand_like(images.x0[:300]) * 2 - 1), judge.features(images.test_x0))
    assert len(floor) == 8 and floor.max() < noise / 5
    with pytest.raises(ValueError, match=r"n must be in 2 \.\. 1268"):
        real_floor(judge.features, images, 5000, seed=0)


def test_frechet_distance_needs_two_samples_and_finite_ones():
    a = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert frechet_distance(a, a + 1) == pytest.approx(2, abs=1e-6)
    for bad in (a[:1], a[0], torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="N, M >= 2"):
            frechet_distance(a, bad)
    for first, second in ((a, a / 0), (a / 0, a)):
        with pytest.raises(ValueError, match=r"^features must be finite: samples or weights hold NaN or infinity$"):
            frechet_distance(first, second)


def of_labels(labels, test_labels, generator, *, spread=0):
    """Images (N, 1, 1, 2) that are their class, and noise of `spread` grey levels at most."""
    def pixels(y):
        noise = torch.randint(spread + 1, (len(y), 1, 1, 2), generator=generator)
        return (30 + 40 * torch.stack([y, y**2 % 5], 1)[:, None, None] + noise).to(torch.uint8)
    return Images(pixels(labels), labels, pixels(test_labels), test_labels)


def test_real_piles_are_drawn_as_samples_are(generator):
    """Where an image is its class, only the shares of the classes can differ from the held-out ones: balanced, no
    distance at all."""
    images = of_labels(torch.randint(5, (400,), generator=generator), balanced_labels(100, 5), generator)
    floor = real_floor(lambda x: x.flatten(1), images, 100, seed=0)
    assert floor.max() < 1e-9
    at_random = torch.randperm(400, generator=generator)[:100]
    assert frechet_distance(images.x0[at_random].flatten(1), images.test_x0.flatten(1)) > 1e-4


def test_no_image_is_twice_in_a_real_pile(generator):
    images = of_labels(balanced_labels(23, 5), balanced_labels(23, 5), generator, spread=20)
    assert largest_pile(images) == 23
    itself = Images(images.pixels, images.labels, images.pixels, images.labels)
    assert real_floor(lambda x: x.flatten(1), itself, 23, seed=0).max() < 1e-9


@pytest.mark.parametrize(("labels", "most"), [([0, 1, 2], 3), ([0, 0, 0, 1, 2], 4), ([0, 1, 2, 2, 1, 0, 0, 0], 7)])
def test_the_smallest_class_limits_a_balanced_pile(labels, most, generator):
    images = of_labels(torch.tensor(labels), torch.arange(3), generator)
    assert largest_pile(images) == most
    wanted = torch.bincount(balanced_labels(most, 3), minlength=3)
    assert (wanted <= torch.bincount(images.labels)).all()
    assert (torch.bincount(balanced_labels(most + 1, 3), minlength=3) > torch.bincount(images.labels)).any()


def test_a_floor_needs_at_least_two_images_and_at_most_a_balanced_pile(generator):
    images = of_labels(balanced_labels(12, 3), balanced_labels(12, 3), generator, spread=9)
    state = torch.random.get_rng_state()
    for n in (2, 12):
        assert len(real_floor(lambda x: x.flatten(1), images, n, seed=0, draws=3)) == 3
    assert torch.equal(torch.random.get_rng_state(), state)
    for n in (1, 13):
        with pytest.raises(ValueError, match=r"n must be in 2 \.\. 12, not"):
            real_floor(lambda x: x.flatten(1), images, n, seed=0)


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


def test_few_large_images_are_computed_at_a_time_and_many_small_ones():
    for most in (250, 256, 2000):
        for size in (1, 8, 16, 31, 32):
            assert at_a_time((5000, 3, size, size), most) == most
        assert at_a_time((9, 64), most) == most                          # of features
        for size in (33, 48, 100, 256):
            n = at_a_time((5000, 3, size, size), most)
            assert 0.75 < n * size**2 / (most * 32**2) <= 1 and n < most
        assert at_a_time((5, 3, 9000, 9000), most) == 1                  # one image at least


class Counted(torch.nn.Module):
    null_label = 2

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x_t, t=None, y=None):
        self.sizes.append(len(x_t))
        return 0.1 * x_t if y is None else 0.1 * x_t + y[:, None, None, None]


@pytest.mark.parametrize(("size", "chunk", "batch", "states"), [(96, 222, 28, 27), (30, 2000, 256, 250)])
def test_whatever_is_measured_takes_few_large_images_at_a_time(size, chunk, batch, states):
    net, x = Counted().eval(), torch.ones(1, 1, size, size).expand(280, -1, -1, -1)
    y, t = torch.arange(280) % 2, torch.full((280,), 3)
    assert torch.equal(in_chunks(net, x), 0.1 * x) and max(net.sizes) == min(chunk, 280)
    net.sizes.clear()
    sample(net, cosine_schedule(10), y, x_T=x, w=1.0, steps=2)
    assert max(net.sizes) == batch
    net.sizes.clear()
    all_branches(net, States(x, t, y))
    assert max(net.sizes) == 2 * states                                  # both branches
