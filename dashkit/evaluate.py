"""Samples and metrics into tidy rows.  Layer 3."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dashkit.data import Images
from dashkit.guidance import Branches, Model, branches
from dashkit.metrics import (
    Classifier,
    GapStats,
    class_accuracy,
    frechet_distance,
    gap_stats,
    gap_stats_by_timestep,
    real_floor,
    train_classifier,
)
from dashkit.sample import sample
from dashkit.schedule import Noised, Schedule, noised


class Judge(NamedTuple):
    """What samples are held against: a classifier trained on the training images, and the held-out images."""

    classifier: Classifier
    reference: Tensor   # (M, 32)  features of the held-out images
    floor: Tensor       # (draws,) Fréchet distances of n real training images to the held-out ones
    accuracy: float     # of the classifier on the held-out images


def make_judge(images: Images, *, n: int, seed: int) -> Judge:
    """Train the classifier and measure the floor for n samples (or as many as there are images)."""
    classifier = train_classifier(images.x0, images.labels, num_classes=images.num_classes, seed=seed)
    n = min(n, len(images.pixels))
    floor = real_floor(classifier.features, images.x0, images.test_x0, n, seed=seed, draws=32)
    return Judge(
        classifier, classifier.features(images.test_x0), floor,
        class_accuracy(classifier, images.test_x0, images.test_labels),
    )


class Quality(NamedTuple):
    """How samples drawn at one guidance scale compare with real images."""

    w: float
    frechet: float
    accuracy: float
    n: int


def measure_quality(
    model: Model, schedule: Schedule, judge: Judge, *, shape: Sequence[int], num_classes: int, w: float, n: int,
    steps: int, seed: int, device: torch.device | str = "cpu", **ddim_arguments,
) -> Quality:
    """Sample n images with balanced labels and judge them; equal seeds give every model the same labels and noise."""
    y = (torch.arange(n) % num_classes).to(device)
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn((n, *shape), generator=generator).to(device)
    x = sample(model, schedule, y, x_T=x_T, w=w, steps=steps, **ddim_arguments)
    return Quality(
        w, frechet_distance(judge.classifier.features(x), judge.reference), class_accuracy(judge.classifier, x, y), n
    )


def held_out_states(schedule: Schedule, images: Images, n: int, *, seed: int) -> Noised:
    """n forward-noised held-out images, images repeated as needed: the states that gaps are compared on."""
    device = images.test_pixels.device
    i = (torch.arange(n) % len(images.test_pixels)).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    return noised(schedule, images.test_x0[i], images.test_labels[i], generator=generator)


@torch.no_grad()
def all_branches(model: Model, states: Noised, *, batch: int = 250) -> Branches:
    """`branches` of a model on many states, `batch` at a time."""
    n = len(states.t)
    parts = [
        branches(model, states.x_t[i : i + batch], states.t[i : i + batch], states.y[i : i + batch])
        for i in range(0, n, batch)
    ]
    return Branches(*(torch.cat(p) for p in zip(*parts, strict=True)))


class Calibration(NamedTuple):
    """A student's two branches held against the teacher's on the same states."""

    gap: GapStats
    by_timestep: dict[int, GapStats]
    cond_error: float     # E[mean (s_cond - t_cond)^2]
    uncond_error: float   # E[mean (s_uncond - t_uncond)^2]


def measure_calibration(student: Model, teacher: Branches, states: Noised, *, T: int) -> Calibration:
    """Compare a student with the teacher's `all_branches` on the same states."""
    own = all_branches(student, states)
    return Calibration(
        gap_stats(own, teacher),
        gap_stats_by_timestep(own, teacher, states.t, T=T),
        (own.cond - teacher.cond).square().mean().item(),
        (own.uncond - teacher.uncond).square().mean().item(),
    )


def rows(
    *, quality: Sequence[Quality] = (), calibration: Calibration | None = None, n_states: int = 0
) -> Iterator[dict]:
    """Tidy {metric, value, n}; metrics at a scale are called NAME@w=1.5, those in a bin of timesteps NAME@t=250."""
    for q in quality:
        yield {"metric": f"frechet@w={q.w:g}", "value": q.frechet, "n": q.n}
        yield {"metric": f"accuracy@w={q.w:g}", "value": q.accuracy, "n": q.n}
    if calibration is not None:
        for name, value in calibration.gap._asdict().items():
            yield {"metric": name, "value": value, "n": n_states}
        yield {"metric": "cond_error", "value": calibration.cond_error, "n": n_states}
        yield {"metric": "uncond_error", "value": calibration.uncond_error, "n": n_states}
        for t, stats in calibration.by_timestep.items():
            for name in ("rho", "slope", "cos"):
                yield {"metric": f"{name}@t={t}", "value": getattr(stats, name), "n": n_states}


