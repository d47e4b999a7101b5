"""Photographs from the networks that come with the kit: what a guidance scale does to teacher and students."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from dashkit.classroom import explorers, plots
from dashkit.experiments import load_student, load_teacher
from dashkit.experiments.run import Run
from dashkit.method.guidance import Model
from dashkit.method.sampling import sample

SHOWN = {"teacher": "teacher", "dash": "DASH", "kd_drop": "label dropout", "cond_only": "c branch only"}
SCALES = (1.0, 2.0, 4.0)
CLASSES = (0, 1, 5, 7, 9)


def sampled(run: Run, arms: Sequence[str], scales: Sequence[float], labels: Sequence[int], *, seed: int = 3,
            steps: int = 50) -> dict[str, list[Tensor]]:
    """Images (len(labels), C, H, W) of each arm at each guidance scale; each class has the same noise everywhere."""
    y, noise = start(run, labels, seed=seed)
    return {a: [sample(m, run.schedule, y, x_T=noise, w=w, steps=steps).cpu() for w in scales]
            for a, m in models(run, arms).items()}


def start(run: Run, labels: Sequence[int], *, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Labels (len(labels),) and their noise (len(labels), C, H, W): a class has the same noise in every sheet."""
    y = torch.tensor(labels, device=run.device)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((run.images.num_classes, *run.images.shape), generator=generator)
    return y, noise[y.cpu()].to(run.device)


def models(run: Run, arms: Sequence[str]) -> dict[str, Model]:
    """The teacher and the students of these arms."""
    return {a: load_teacher(run).model if a == "teacher" else load_student(run, a, run.seed) for a in arms}


def scale_explorer(run: Run, *, arms: Mapping[str, str] = SHOWN, labels: Sequence[int] = tuple(range(8)),
                   steps: int = 25) -> explorers.Explorer:
    """Guidance scale and time of sampling over the teacher and the students of `arms`, which maps arms to names."""
    y, x_T = start(run, labels)
    named = {arms[arm]: model for arm, model in models(run, list(arms)).items()}
    return explorers.photo_explorer(named, run.schedule, y, x_T=x_T, name=run.images.class_name, steps=steps)


def plot_guidance(images: Mapping[str, Sequence[Tensor]], *, titles: Mapping[str, str], scales: Sequence[float],
                  columns: Sequence[str]) -> Figure:
    """A sheet for each arm, two beside each other: a row for each guidance scale, a column for each class asked for."""
    rows = -(-len(images) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11.5, 3.7 * rows), squeeze=False, layout="constrained")
    for ax, (arm, drawn) in zip(axes.flat, images.items(), strict=False):
        n, height = len(columns), drawn[0].shape[-1] + 1
        plots.plot_images(torch.cat(list(drawn)).numpy(), columns=n, ax=ax)
        ax.set_axis_on()
        ax.grid(False)
        ax.set_title(titles[arm], fontsize="large", pad=10)
        ax.xaxis.tick_top()
        ax.set_xticks([height * (i + 0.5) - 1 for i in range(n)], columns, fontsize="medium")
        ax.set_yticks([height * (i + 0.5) - 1 for i in range(len(scales))], [f"w = {w:g}" for w in scales])
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
    for ax in axes.flat[len(images):]:
        ax.set_axis_off()
    return figure


def from_teacher(images: Mapping[str, Sequence[Tensor]]) -> dict[str, list[float]]:
    """How far each student's images are from the teacher's at each scale: the mean difference of a pixel, in [0, 2]."""
    return {arm: [(x - t).abs().mean().item() for x, t in zip(rows, images["teacher"], strict=True)]
            for arm, rows in images.items() if arm != "teacher"}
