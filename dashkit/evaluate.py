"""Samples and metrics into tidy rows.  Layer 3."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from dashkit.data import Images
from dashkit.guidance import Branches, Model, branches, check_eval, check_labels
from dashkit.metrics import (
    Classifier,
    ColourClassifier,
    GapStats,
    class_accuracy,
    frechet_distance,
    gap_stats,
    gap_stats_by_timestep,
    in_chunks,
    real_floor,
    train_classifier,
)
from dashkit.sample import ddim, sample
from dashkit.schedule import Noised, Schedule, noised


class Judge(NamedTuple):
    """What samples are held against: a classifier trained on the training images, and the held-out images."""

    classifier: Classifier | ColourClassifier
    reference: Tensor   # (M, D)   features of the held-out images
    floor: Tensor       # (draws,) Fréchet distances of n real training images to the held-out ones
    accuracy: float     # of the classifier on the held-out images


def make_judge(images: Images, *, n: int, seed: int, classifier: Classifier | ColourClassifier | None = None) -> Judge:
    """Train the classifier, unless there is one, and measure the floor for n samples (or as many as there are images).
    """
    if classifier is None:
        classifier = train_classifier(images.x0, images.labels, num_classes=images.num_classes, seed=seed)
    n = min(n, len(images.pixels))
    floor = real_floor(classifier.features, images.x0, images.test_x0, n, seed=seed, draws=32)
    return Judge(
        classifier, in_chunks(classifier.features, images.test_x0), floor,
        class_accuracy(classifier, images.test_x0, images.test_labels),
    )


class Quality(NamedTuple):
    """How samples drawn under one guidance compare with real images."""

    frechet: float
    accuracy: float
    n: int
    features: Tensor   # (n, 32) of the samples, to compare them with another model's


def measure_quality(
    model: Model, schedule: Schedule, judge: Judge, *, shape: Sequence[int], num_classes: int, w: float | Tensor,
    n: int, steps: int, seed: int, device: torch.device | str = "cpu", **ddim_arguments,
) -> Quality:
    """Sample n images with balanced labels and judge them; equal seeds give every model the same labels and noise."""
    y = balanced_labels(n, num_classes).to(device)
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn((n, *shape), generator=generator).to(device)
    x = sample(model, schedule, y, x_T=x_T, w=w, steps=steps, **ddim_arguments)
    return quality_of(judge, in_chunks(judge.classifier.features, x), num_classes)


def balanced_labels(n: int, num_classes: int) -> Tensor:
    """The labels (n,) that samples are drawn for: every class in turn."""
    return torch.arange(n) % num_classes


def quality_of(judge: Judge, features: Tensor, num_classes: int) -> Quality:
    """What the judge says of samples with these features (n, 32), drawn for `balanced_labels`."""
    y = balanced_labels(len(features), num_classes).to(features.device)
    accuracy = class_accuracy(judge.classifier.head, features, y)
    return Quality(frechet_distance(features, judge.reference), accuracy, len(features), features)


def held_out_states(schedule: Schedule, images: Images, n: int, *, seed: int) -> Noised:
    """n forward-noised held-out images, images repeated as needed: the states that gaps are compared on."""
    device = images.test_pixels.device
    i = (torch.arange(n) % len(images.test_pixels)).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    return noised(schedule, images.test_x0[i], images.test_labels[i], generator=generator)


class States(NamedTuple):
    """Where two models are compared."""

    x_t: Tensor   # (B, C, H, W)
    t: Tensor     # (B,)
    y: Tensor     # (B,)


def visited_states(model: Model, schedule: Schedule, y: Tensor, *, x_T: Tensor, w: float, steps: int) -> States:
    """The states that a model's own guided sampling passes through, steps for each label of y; the last step's end is
    no state.  A student's errors lead it to places where no noised image is."""
    times = schedule.grid(steps).tolist()
    path = [x_T, *ddim(model, schedule, y, x_T=x_T, w=w, steps=steps)][:-1]
    t = torch.tensor(times, device=y.device).repeat_interleave(len(y))
    return States(torch.cat(path), t, y.repeat(steps))


def x0_branches(pair: Branches, schedule: Schedule, states: States | Noised) -> Branches:
    """The two branches as predictions of x0, clamped to [-1, 1] as in sampling: what guidance does to the picture."""
    return Branches(*(schedule.predict_x0(states.x_t, states.t, eps).clamp(-1, 1) for eps in pair))


@torch.no_grad()
def all_branches(model: Model, states: States | Noised, *, batch: int = 250) -> Branches:
    """`branches` of a model on many states, `batch` at a time; ValueError in train mode or for an unknown label."""
    check_eval(model), check_labels(states.y, model)
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


def measure_calibration(own: Branches, teacher: Branches, states: Noised, *, T: int) -> Calibration:
    """Compare the `all_branches` of a student and of its teacher on the same states."""
    return Calibration(
        gap_stats(own, teacher),
        gap_stats_by_timestep(own, teacher, states.t, T=T),
        (own.cond - teacher.cond).square().mean().item(),
        (own.uncond - teacher.uncond).square().mean().item(),
    )


def quality_rows(name: str, quality: Quality, teacher: Tensor | None = None) -> Iterator[dict]:
    """Tidy {metric, value, n} of samples under the guidance called `name`, e.g. frechet@w=1.5.

    `teacher` (n, 32) are features of the teacher's samples, to which the distance is measured too.
    """
    yield {"metric": f"frechet@{name}", "value": quality.frechet, "n": quality.n}
    yield {"metric": f"accuracy@{name}", "value": quality.accuracy, "n": quality.n}
    if teacher is not None:
        value = frechet_distance(quality.features, teacher)
        yield {"metric": f"frechet_teacher@{name}", "value": value, "n": quality.n}


def gap_rows(stats: GapStats, n: int, suffix: str = "") -> Iterator[dict]:
    """Tidy rows of gap statistics: rho, slope, cos, r2 and mse, with a suffix for where or in which space."""
    for name, value in stats._asdict().items():
        yield {"metric": f"{name}{suffix}", "value": value, "n": n}


def calibration_rows(found: Calibration, n: int) -> Iterator[dict]:
    """Tidy rows of a `Calibration`; a metric in a bin of timesteps is called NAME@t=250."""
    yield from gap_rows(found.gap, n)
    yield {"metric": "cond_error", "value": found.cond_error, "n": n}
    yield {"metric": "uncond_error", "value": found.uncond_error, "n": n}
    for t, stats in found.by_timestep.items():
        for name in ("rho", "slope", "cos"):
            yield {"metric": f"{name}@t={t}", "value": getattr(stats, name), "n": n}


def rank_of_difficulty(omega: Tensor, base: Tensor, losses: Tensor, t: Tensor, *, bins: int = 20) -> float:
    """Spearman's correlation of the learned part omega / base (T,) of a curriculum with the loss, over bins of t.

    losses (B,) and t (B,) are held-out losses and their timesteps; +1 if more loss goes with more weight.
    """
    gate, index = (omega / base).log()[t], t * bins // len(omega)
    pairs = torch.stack([torch.stack([gate[index == b].mean(), losses[index == b].mean()])
                         for b in index.unique().tolist()]).double()
    return float(pd.DataFrame(pairs.cpu().numpy()).corr(method="spearman").iloc[0, 1])
