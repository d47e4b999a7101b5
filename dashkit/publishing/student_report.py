"""The report of a student beside its teacher: one page, one file, pictures inside."""

import os
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment
from torch import nn

from dashkit import environment
from dashkit.analysis.costs import guided_latencies
from dashkit.analysis.readings import (
    BIN_BOUNDS,
    BOUNDS,
    MIN_PICTURES,
    Gap,
    Reading,
    measure_gap,
    readings,
    seed_values,
    summary,
)
from dashkit.classroom import plots
from dashkit.datasets.files import said_of_copies
from dashkit.experiments.budget import format_seconds
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.run import SAMPLING_SEED, Run
from dashkit.experiments.turns import seconds_since_start
from dashkit.interop import networks
from dashkit.interop.networks import Source
from dashkit.method.sampling import sample
from dashkit.method.students import MeanCondition, compared
from dashkit.storage import paths, provenance, store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 10        # classes in a grid
_WORDS = {"rho": "size", "slope": "strength", "cos": "direction", "r2": "R²"}
_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


class Recipe(NamedTuple):
    """What makes a page again."""

    command: str            # as it is typed
    profile: str = ""       # the file that it reads, if it reads one: its text


class Picture(NamedTuple):
    """Images that stand beside each other, where there is room."""

    images: list[str]       # HTML elements
    caption: str


def write_student_report(path: Path | str, run: Run, models: Mapping[str, nn.Module], results: pd.DataFrame, *,
                         title: str, recipe: Recipe | None = None) -> dict[str, list[Reading]]:
    """Write the page; `models` are the teacher, under that name, and its students.  Returns the students' sentences.

    `results` is the tidy table of measurements.
    """
    plots.use_style()
    students = [name for name in models if name != "teacher"]
    gaps = {name: measure_gap(run, models["teacher"], models[name]) for name in students}
    said = {name: readings(run, gap, results, name) for name, gap in gaps.items()}
    seconds = guided_latencies(run, models)
    cost = _cost(results, seconds)
    made = provenance.manifest()
    device = provenance.device_name(run.device)
    page = _PAGE.render(
        of=_of_seed(students[0], run.seed, seed_values(results, students[0])),
        title=title, facts=f"{made['written'][:10]} · {device} · dashkit {made['commit']}",
        students=[{"name": n, "summary": summary(r), "readings": r} for n, r in said.items()],
        tiles=_tiles(results, seconds, gaps), grids=_grids(run, models), card=_card(run, results, gaps),
        curves=_curves(gaps, run.profile.T), quality=_quality(run, results), cost=cost,
        recipe=recipe or Recipe(""),
        cost_note="Operations are those of one pass of one image, two for a multiply-add. A guided sample takes two "
                  f"passes a step. Seconds are the median of one guided step of 16 images on {device}.",
        bounds=", ".join(f"{_WORDS[k]} {lo:g} to {hi:g}" for k, (lo, hi) in BOUNDS.items())
               + f"; in a tenth of the timesteps, size {BIN_BOUNDS[0]:g} to {BIN_BOUNDS[1]:g}", fewest=MIN_PICTURES,
        made=_facts(run, students) | _training(run, students) | {
            "sampling": f"DDIM, {run.profile.sample_steps} steps, {run.profile.samples:,} samples for each scale",
            "time": f"{format_seconds(seconds_since_start())}, from the start of the command to this page",
            "made": f"{made['written']} on {device}, dashkit {made['commit']}, torch {made['versions']['torch']}"},
        table=results[["arm", "seed", "metric", "value", "n"]].to_html(
            index=False, border=0, float_format="{:.4g}".format))
    store.write_bytes(Path(path), page.encode())
    return said


def write_student(folder: Path, run: Run, student: nn.Module) -> None:
    """Write a trained student of a run as a pipeline folder of diffusers; of a user's module only the weights."""
    scheduler = run.given.diffusion.config if isinstance(run.profile.teacher, Source) else None
    whole = networks.write(student, folder, schedule=run.schedule, names=run.images.names, scheduler=scheduler or None)
    if not whole:
        print("a module of your own is no pipeline of diffusers: its weights are in model.safetensors")


def _values(results: pd.DataFrame, arm: str) -> pd.Series:
    return results[results.arm == arm].groupby("metric", sort=False).value.mean()


def _tiles(results: pd.DataFrame, seconds: Mapping[str, float], gaps: Mapping[str, Gap]) -> list[tuple[str, ...]]:
    """The numbers to see first, of the first student: each with what it is and, if there is one, its interval."""
    name, teacher = next(iter(gaps)), _values(results, "teacher")
    own = _values(results, name)
    gap = gaps[name].whole
    ends = {k: f"[{i.lo:.2f}, {i.hi:.2f}]" if np.isfinite(i.lo) else "" for k, i in gap.items()}
    return [(f"{teacher['parameters'] / own['parameters']:.1f}x", "fewer parameters"),
            (f"{teacher['flops'] / own['flops']:.1f}x", "fewer operations"),
            (f"{seconds['teacher'] / seconds[name]:.1f}x", "faster here"),
            *((f"{gap[k].value:.2f}", f"{said} (teacher: 1)", ends[k]) for k, said in (
                ("rho", "size of the guidance gap"), ("cos", "its direction, a cosine"), ("r2", "R² of the gap")))]


def _cost(results: pd.DataFrame, seconds: Mapping[str, float]) -> pd.DataFrame:
    rows = {}
    for name, taken in seconds.items():
        v = _values(results, name)
        rows[name] = {"parameters": f"{v['parameters']:,.0f}", "operations": f"{v['flops'] / 1e6:,.1f} M",
                      "passes for a sample": f"{v['passes']:,.0f}", "seconds a step": f"{taken:.3g}"}
    return pd.DataFrame(rows).T


def _card(run: Run, results: pd.DataFrame, gaps: Mapping[str, Gap]) -> pd.DataFrame:
    """The numbers of every student and training seed; with intervals, where the gap itself was at hand."""
    rows = {}
    for name, gap in gaps.items():
        seeds = seed_values(results, name)
        for seed, v in seeds.iterrows():
            whole = seed == run.seed
            own = {_WORDS[k]: str(gap.whole[k]).replace(" [", "\n[") if whole else f"{v[k]:.2f}" for k in _WORDS}
            rows[_of_seed(name, seed, seeds)] = own | {
                "beta": f"{v['beta']:.2f}", "error, class": f"{v['cond_error']:.2g}",
                "error, none": f"{v['uncond_error']:.2g}"}
    return pd.DataFrame(rows).T


def _of_seed(name: str, seed: object, seeds: Sized) -> str:
    return name if len(seeds) == 1 else f"{name}, seed {seed}"


def _picture(drawings: Sequence[object], caption: str) -> Picture:
    return Picture([plots.image_element(drawing, caption) for drawing in drawings], caption)


def _grids(run: Run, models: Mapping[str, nn.Module]) -> list[Picture]:
    """Samples of every network at three scales, the same noise and classes in every row."""
    n = min(MOST_COLUMNS, max(run.images.num_classes, 8))
    y = (torch.arange(n) % run.images.num_classes).to(run.device)
    x_T = torch.randn((n, *run.images.shape), generator=torch.Generator().manual_seed(SAMPLING_SEED)).to(run.device)
    scales, found = sorted({min(run.profile.ws), run.profile.w, max(run.profile.ws)}), []
    names = [run.images.class_name(int(k)) for k in y]
    for w in progress_bar(scales, total=len(scales), title="grids"):
        rows = {name: _shown(sample(model, run.schedule, y, x_T=x_T, w=w, steps=run.profile.sample_steps).cpu().numpy(),
                             run.images.latent) for name, model in models.items()}
        sheet = plots.plot_image_rows(rows, title=f"w = {w:g}", asked=[_short(k) for k in names], size=1.0)
        latents = " (three channels of the latents, stretched)" if run.images.latent else ""
        found.append(_picture([sheet], f"Guidance scale w = {w:g}: {_listed(models)}, one column a class{latents}."))
    return found


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:9]}…"


def _shown(x: np.ndarray, latent: bool) -> np.ndarray:
    """What can be looked at: pictures in [-1, 1] of one or three channels."""
    if x.shape[1] not in (1, 3):
        x = x[:, :3] if x.shape[1] > 3 else x[:, :1]
    return np.clip(x / (3 * x.std() if latent else 1.0), -1, 1)


def _curves(gaps: Mapping[str, Gap], T: int) -> Picture:
    """Size and direction of the gap against the timestep, with intervals, beside each other."""
    drawn, titles = [], {"rho": "size of the gap over the teacher's", "cos": "direction: cosine with the teacher's gap"}
    for key, said in titles.items():
        ax = _axes()
        for name, gap in gaps.items():
            t = list(gap.bins)
            middle, low, high = ([getattr(gap.bins[k][key], part) for k in t] for part in ("value", "lo", "hi"))
            colour = plots.PALETTE.get(name, plots.PALETTE["dash"])
            ax.plot(t, middle, marker="o", ms=3, color=colour, label=name)
            ax.fill_between(t, low, high, color=colour, alpha=0.2, lw=0)
        ax.axhline(1, color="#999999", lw=1)
        ax.set(xlabel="timestep t", xlim=(0, T), title=said)
        ax.legend(fontsize="small")
        drawn.append(ax)
    return _picture(drawn, "Size and direction of the gap against the timestep, from little noise (left) to much; 1 is "
                           "the teacher. Bands are 95% intervals over pictures.")


def _quality(run: Run, results: pd.DataFrame) -> Picture:
    distance = plots.plot_w_curve(results, ax=_axes())
    accuracy = plots.plot_w_curve(results, metric="accuracy", ax=_axes())
    distance.set(title="distance to real over real-to-real", ylabel="")
    accuracy.set(title="share of samples with the asked class", ylabel="")
    things, right = "latents" if run.images.latent else "pictures", _values(results, "real")["accuracy"]
    real = int(results[(results.arm == "real") & (results.metric == "frechet")].n.iloc[0])
    few = "" if real >= run.profile.samples else (
        f" One class has few {things}, so the distance of real ones is that of {real:,} at a time and not of "
        f"{run.profile.samples:,}. It is larger for that: here 1 is not as good as real.")
    return _picture([distance, accuracy],
                    f"Distance of samples to held-out {things} over that of real ones (1 is as good as real), in the "
                    "features of a small classifier; and how often that classifier sees the class that was asked for. "
                    f"It names {right:.0%} of the real held-out {things} rightly. On {run.profile.samples:,} samples "
                    f"for each scale.{few}")


def _axes() -> "Axes":
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(4.9, 3.5), layout="constrained")[1]


def command_line(*words: str | os.PathLike) -> str:
    """A command as it is typed in the project's folder; what lies below the current folder is named from there."""
    start = (paths.PYTHON, "run.py", "dashkit") if paths.IS_PROJECT else ("dashkit",)
    return environment.quoted(*start, *map(_typed, words))


def _typed(word: str | os.PathLike) -> str:
    path, here = Path(word), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_absolute() and path.is_relative_to(here) else os.fspath(word)


def _facts(run: Run, students: Sequence[str]) -> dict[str, str]:
    """What the networks and the pictures are."""
    here = set(students) <= set(run.profile.arms)
    seen = "" if not isinstance(run.profile.teacher, Source) else (
        f" (a {'teacher' if here else 'network'} from elsewhere may have learned from them)")
    images, shape = run.images, " x ".join(map(str, run.images.shape))
    names = [images.class_name(k) for k in range(min(images.num_classes, 12))]
    found = {"pictures": f"{len(images.labels):,} to learn from, {len(images.test_labels):,} held out"
                         f"{' from the students' if here else ''}{seen}, {shape}",
             "classes": f"{images.num_classes}: {', '.join(names)}{', …' if images.num_classes > len(names) else ''}",
             "timesteps": f"T = {run.profile.T}"}
    if copies := said_of_copies(images):
        found["copies"] = copies
    if isinstance(run.profile.teacher, Source):
        config, diffusion = run.given.model.config, run.given.diffusion
        found["teacher"] = f"{getattr(config, 'kind', 'UNet of this kit')}, predicts {diffusion.prediction}"
        found |= {"note": diffusion.note} if diffusion.note else {}
        mean = compared(run.given.model, run.given.model)
        if isinstance(mean, MeanCondition):
            found["without a class"] = ("the teacher takes a random class there; its gap is compared as that to the "
                                        f"mean over {len(mean.classes)} of its {mean.null_label} classes")
    return found


def _training(run: Run, students: Sequence[str]) -> dict[str, str]:
    """How the students were trained, if they are this run's."""
    homes = [run.folder(arm, run.seed) / "manifest.json" for arm in students if arm in run.profile.arms]
    if len(homes) < len(students) or not all(home.is_file() for home in homes):
        return {}
    p, seconds = run.profile, max(store.read_json(home, "seconds")["seconds"] for home in homes)
    beside = " side by side" if len(students) > 1 else ""
    return {"training": f"{_listed(students)}{beside}, {p.student_steps:,} steps of {p.distil_batch} "
                        f"{'latents' if run.images.latent else 'pictures'}, seed {run.seed}: "
                        f"{format_seconds(seconds)}; what is trained and measured is kept, and not done again"}
