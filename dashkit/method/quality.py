"""Quality: compare samples with real images, by a small classifier and the Fréchet distance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dashkit.method.guidance import Model
from dashkit.method.images import Images, check_images
from dashkit.method.memory import at_a_time
from dashkit.method.sampling import sample
from dashkit.method.schedule import Schedule

CHUNK = 2000
"""Images of up to 32x32 pixels that are classified at a time."""


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features a (N, D) and b (M, D); see `gaussian_distance`.

    Smaller is better.  Few samples make it too large: compare only distances of equal N, and show the floor beside.
    It is called FID only with Inception features.  ValueError for fewer than two samples.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be (N, D) and (M, D), N, M >= 2, not {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite: samples or weights hold NaN or infinity")
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    return gaussian_distance(a.mean(0), cov_a, b.mean(0), cov_b)


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (AB)^(1/2)) of two Gaussians: means (D,), covariances (D, D), in float64."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    mean = (mean_a - mean_b).square().sum()
    return (mean + cov_a.trace() + cov_b.trace() - 2 * cross).item()


class Classifier(nn.Module):
    """A small convolutional classifier: logits for class accuracy, `features` (B, 32) for the Fréchet distance."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.body, self.head = self.layers(shape, num_classes)

    @staticmethod
    def layers(shape: tuple[int, ...], num_classes: int) -> tuple[nn.Module, nn.Module]:
        """From images to features, and from features to logits."""
        c, h, w = shape
        body = nn.Sequential(
            nn.Conv2d(c, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * (h // 2) * (w // 2), 32),
        )
        return body, nn.Sequential(nn.ReLU(), nn.Linear(32, num_classes))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def train_classifier(x: Tensor, y: Tensor, *, num_classes: int, seed: int, epochs: int = 20,
                     bounded: bool = True) -> Classifier:
    """Train a `Classifier` on images x (N, C, H, W) in [-1, 1] with labels y (N,), lightly jittered; about ten seconds.

    At most 2,000 steps of 64 images, however many images there are.

    The seed decides everything and the caller's random state is left as it was.  ValueError for images outside
    [-1, 1], unless `bounded` is False (latents), or labels outside 0 .. num_classes-1.
    """
    if bounded:
        check_images(x)
    if not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(f"labels must be in 0 .. {num_classes - 1}, not {int(y.min())} .. {int(y.max())}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(tuple(x.shape[1:]), num_classes).to(x.device)
        optimiser = torch.optim.AdamW(model.parameters())          # the schedule sets the rate
        steps = min(epochs * (len(x) // 64 + 1), 2000)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
        for _ in range(steps):
            i = torch.randint(len(x), (64,))
            noise = torch.randn(64, *x.shape[1:]).to(x.device)
            loss = F.cross_entropy(model(x[i] + 0.15 * noise), y[i], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, size: int = CHUNK) -> Tensor:
    """function(x) of images (N, C, H, W), or of features (N, D), `size` of them `at_a_time`: the activations of many
    images, or of large ones, do not fit into memory."""
    return torch.cat([function(part) for part in x.split(at_a_time(x.shape, size))])


@torch.no_grad()
def class_accuracy(classifier: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images x (N, C, H, W) that `classifier` gives their label y (N,)."""
    return (in_chunks(classifier, x).argmax(1) == y).double().mean().item()


@torch.no_grad()
def real_floor(
    features: Callable[[Tensor], Tensor], images: Images, n: int, *, seed: int, draws: int = 8
) -> Tensor:
    """Fréchet distances (draws,) of n real training images to the held-out ones: what a perfect sampler would get.

    The labels of each pile are those of samples, `balanced_labels`.  Piles with labels at random are further from the
    held-out images, because their shares of the classes differ too; samples would look too good beside them.
    ValueError for n above `largest_pile`.
    """
    if not 2 <= n <= largest_pile(images):
        raise ValueError(f"n must be in 2 .. {largest_pile(images)}, not {n!r}")
    generator = torch.Generator().manual_seed(seed)
    a, b = in_chunks(features, images.x0), in_chunks(features, images.test_x0)
    wanted = torch.bincount(balanced_labels(n, images.num_classes), minlength=images.num_classes).tolist()
    of_class = [(images.labels.cpu() == k).nonzero()[:, 0] for k in range(images.num_classes)]

    def pile() -> Tensor:
        return torch.cat([i[torch.randperm(len(i), generator=generator)[:m]]
                          for i, m in zip(of_class, wanted, strict=True)])
    return torch.tensor([frechet_distance(a[pile().to(a.device)], b) for _ in range(draws)])


def largest_pile(images: Images) -> int:
    """How many training images can be drawn with `balanced_labels` without taking one twice."""
    counts = torch.bincount(images.labels, minlength=images.num_classes).tolist()
    return min(k + images.num_classes * count for k, count in enumerate(counts))


def balanced_labels(n: int, num_classes: int) -> Tensor:
    """The labels (n,) that samples are drawn for: every class in turn."""
    return torch.arange(n) % num_classes


class ImageReference(NamedTuple):
    """What samples are compared with: a classifier of the training images, and features of the held-out images."""

    classifier: Classifier
    reference: Tensor   # (M, D)   features of the held-out images
    floor: Tensor       # (draws,) Fréchet distances of n real training images to the held-out ones
    accuracy: float     # of the classifier on the held-out images
    n: int              # of real images that the floor is measured with


def make_image_reference(images: Images, *, n: int, seed: int, classifier: Classifier | None = None) -> ImageReference:
    """Train the classifier, unless there is one, and measure the floor for n samples, or for the `largest_pile`."""
    if classifier is None:
        latent = {"bounded": False} if images.latent else {}
        classifier = train_classifier(images.x0, images.labels, num_classes=images.num_classes, seed=seed, **latent)
    n = min(n, largest_pile(images))
    floor = real_floor(classifier.features, images, n, seed=seed, draws=128)
    return ImageReference(
        classifier, in_chunks(classifier.features, images.test_x0), floor,
        class_accuracy(classifier, images.test_x0, images.test_labels), n,
    )


class Quality(NamedTuple):
    """How samples drawn under one guidance compare with real images."""

    frechet: float
    accuracy: float
    n: int
    features: Tensor   # (n, 32) of the samples, to compare them with another model's


def measure_quality(model: Model, schedule: Schedule, real: ImageReference, *, y: Tensor, x_T: Tensor,
                    **how: Any) -> Quality:
    """`sample` images of the labels y (n,) from the noise x_T (n, C, H, W) and compare them with real ones."""
    x = sample(model, schedule, y, x_T=x_T, **how)
    return quality_of(real, in_chunks(real.classifier.features, x), y)


def quality_of(real: ImageReference, features: Tensor, y: Tensor) -> Quality:
    """The quality of samples with these features (n, D), drawn for the labels y (n,)."""
    accuracy = class_accuracy(real.classifier.head, features, y)
    return Quality(frechet_distance(features, real.reference), accuracy, len(features), features)
