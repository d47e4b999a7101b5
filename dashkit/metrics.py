"""Calibration, quality and cost.  Layer 2."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dashkit.data import check_images, to_float
from dashkit.guidance import Branches
from dashkit.unet import UNet


class GapStats(NamedTuple):
    """How a student's CFG gap compares with its teacher's on matched (x_t, t, y); ideal 1, 1, 1, 1, 0."""

    rho: float     # E|gS| / E|gT|              size; can be 1 with the wrong direction
    slope: float   # E<gS, gT> / E|gT|^2        the part of the teacher's gap that is there
    cos: float     # E[<gS, gT> / (|gS| |gT|)]  direction, over the samples where the teacher has a gap
    r2: float      # 1 - E|gS - gT|^2 / E|gT|^2
    mse: float     # E[mean (gS - gT)^2]


def gap_stats(student: Branches, teacher: Branches) -> GapStats:
    """Statistics of the gaps of `student` and `teacher`, both (B, ...), over all B samples.

    NaN or infinite where the teacher's gap is zero everywhere; a zero student gap has cos 0.  Samples whose teacher gap
    is below a millionth of the mean have no direction and do not count in cos.
    """
    s, t = student.gap.flatten(1).double(), teacher.gap.flatten(1).double()
    if s.shape != t.shape or len(s) == 0:
        raise ValueError(f"both gaps need the same non-empty shape, not {tuple(s.shape)} and {tuple(t.shape)}")
    dot, s_norm, t_norm = (s * t).sum(1), s.norm(dim=1), t.norm(dim=1)
    error, power = (s - t).square(), t_norm.square().mean()
    cos = (dot / (s_norm * t_norm).clamp(min=1e-30))[t_norm > 1e-6 * t_norm.mean()]
    return GapStats(
        rho=(s_norm.mean() / t_norm.mean()).item(),
        slope=(dot.mean() / power).item(),
        cos=cos.mean().item(),
        r2=(1 - error.sum(1).mean() / power).item(),
        mse=error.mean().item(),
    )


def gap_stats_by_timestep(
    student: Branches, teacher: Branches, t: Tensor, *, T: int, bins: int = 10
) -> dict[int, GapStats]:
    """`gap_stats` within equal bins of t (B,), keyed by each bin's middle timestep; empty bins are left out."""
    index = t * bins // T
    return {
        int((b + 0.5) * T / bins): gap_stats(_take(student, index == b), _take(teacher, index == b))
        for b in range(bins)
        if bool((index == b).any())
    }


def _take(pair: Branches, mask: Tensor) -> Branches:
    return Branches(pair.cond[mask], pair.uncond[mask])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features a (N, D) and b (M, D): |mu|^2 + tr(A + B - 2 (AB)^(1/2)).

    Smaller is better; biased upwards for few samples, so compare only distances of equal N, and beside a floor.
    This is FID only for Inception features.  ValueError for fewer than two samples.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be (N, D) and (M, D), N, M >= 2, not {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite: samples or weights hold NaN or infinity")
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return (mean + cov_a.trace() + cov_b.trace() - 2 * cross).item()


class Classifier(nn.Module):
    """A small convolutional classifier: logits for class accuracy, `features` (B, 32) for the Fréchet distance."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        c, h, w = shape
        self.body = nn.Sequential(
            nn.Conv2d(c, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * (h // 2) * (w // 2), 32),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(32, num_classes))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ColourClassifier(nn.Module):
    """A convolutional classifier of colour photographs: logits, and `features` (B, 64) for the Fréchet distance."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()

        def block(cin: int, cout: int) -> list[nn.Module]:
            return [nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]

        self.body = nn.Sequential(
            *block(shape[0], 48), *block(48, 96), nn.MaxPool2d(2), *block(96, 96), *block(96, 192), nn.MaxPool2d(2),
            *block(192, 192), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 64))
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, num_classes))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def train_colour_classifier(
    pixels: Tensor, labels: Tensor, *, num_classes: int, seed: int, epochs: int = 20, batch: int = 256
) -> ColourClassifier:
    """Train a `ColourClassifier` on uint8 images (N, 3, H, W) with labels (N,); mirrored and shifted at random.

    The seed decides everything, and the caller's random state is left as it was.  Minutes on a CPU, seconds on a GPU.
    """
    device = pixels.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = ColourClassifier(tuple(pixels.shape[1:]), num_classes).to(device, memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = epochs * len(pixels) // batch
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=steps)
        for _ in range(steps):
            i = torch.randint(len(pixels), (batch,), device=device)
            x = to_float(pixels[i])
            flip, (dy, dx) = torch.rand(batch, device=device) < 0.5, torch.randint(-2, 3, (2,)).tolist()
            x = torch.where(flip[:, None, None, None], x.flip(3), x).roll((dy, dx), (2, 3))
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[i],
                                   label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def train_classifier(x: Tensor, y: Tensor, *, num_classes: int, seed: int, epochs: int = 20) -> Classifier:
    """Train a `Classifier` on images x (N, C, H, W) in [-1, 1] with labels y (N,), lightly jittered; about ten seconds.

    At most 2,000 steps of 64 images, however many images there are.

    The seed decides everything and the caller's random state is left as it was.  ValueError for images outside
    [-1, 1] or labels outside 0 .. num_classes-1.
    """
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
def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, size: int = 2000) -> Tensor:
    """function(x), `size` images at a time: the activations of fifty thousand images fit no memory."""
    return torch.cat([function(part) for part in x.split(size)])


@torch.no_grad()
def class_accuracy(classifier: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images x (N, C, H, W) that `classifier` gives their label y (N,)."""
    return (in_chunks(classifier, x).argmax(1) == y).double().mean().item()


@torch.no_grad()
def real_floor(
    features: Callable[[Tensor], Tensor], train: Tensor, test: Tensor, n: int, *, seed: int, draws: int = 8
) -> Tensor:
    """Fréchet distances (draws,) of n real training images to the held-out ones: what a perfect sampler would get."""
    if not 2 <= n <= len(train):
        raise ValueError(f"n must be in 2 .. {len(train)}, not {n!r}")
    generator = torch.Generator().manual_seed(seed)
    a, b = in_chunks(features, train), in_chunks(features, test)
    return torch.tensor([
        frechet_distance(a[torch.randperm(len(a), generator=generator)[:n].to(a.device)], b) for _ in range(draws)
    ])


def inner_unet(model: nn.Module) -> UNet:
    """The UNet that a model is, or wraps."""
    return next(m for m in model.modules() if isinstance(m, UNet))


def flops(model: nn.Module) -> int:
    """Operations of one pass of a model's UNet for one image, 2 for each multiply-add, by torch's FlopCounterMode."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = inner_unet(model)             # the network alone: a wrapper may draw random numbers
    cfg, device = model.config, next(model.parameters()).device
    t = torch.zeros(1, dtype=torch.long, device=device)
    # the counter knows the products of attention only when they are not fused
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, cfg.channels, cfg.size, cfg.size, device=device), t, t)
    return counter.get_total_flops()


@contextmanager
def counted_passes(model: nn.Module) -> Iterator[list[int]]:
    """Count the images that go through the UNet of `model` inside the block: a list with one number.

    >>> from dashkit.unet import UNet, UNetConfig
    >>> net = UNet(UNetConfig(8, 1, 2, ch=4, ch_mult=(1,), blocks=1, groups=1, attention=(8,)))
    >>> with counted_passes(net) as passes:
    ...     _ = net(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=int), torch.zeros(3, dtype=int))
    >>> passes
    [3]
    """
    seen = [0]

    def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen[0] += len(arguments[0])

    handle = inner_unet(model).register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def peak_memory(work: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors that `work()` holds at once beyond what is there before it.

    On CUDA by the allocator's own counter, on a CPU by replaying the profiler's record of allocations.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")      # the profiler's own notices would reach the notebook
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
