"""Explorers: a few controls, one picture and a read-out that states its numbers.

Each function returns an ipywidgets container.  They draw into `Image` and `HTML` from `observe` callbacks, so that they
work in JupyterLab and Voila, leave nothing to clear in a stored notebook, and can be tested without a browser.  Each
also names the values that its controls have on a page without a kernel: `Explorer.grid`.
"""

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import ipywidgets as ipw
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from dashkit.analysis.statistics import Interval, bootstrap
from dashkit.analysis.tables import by_seed
from dashkit.classroom import plots
from dashkit.interop.schedules import read_scheduler
from dashkit.method import curriculum
from dashkit.method.calibration import gap_stats
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.guidance import Branches, Model, branches, tables_at
from dashkit.method.losses import composite_metric
from dashkit.method.sampling import Sampling, ddim, sample
from dashkit.method.schedule import Schedule

STEPS = 25          # of DDIM, where an explorer samples
_WIDE = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="30em")}


class Explorer(ipw.VBox):
    """Controls on top, picture and read-out below; `draw(**values)` returns a figure and what it says in words.

    `controls` maps the names of draw's arguments to widgets; `boxes` are what is shown for them.  `page` gives the
    values of a control on a page without a kernel: every slider needs some; a list has all its options, a tick both.
    `play` names the control that a page moves by itself: a time or a scale.
    """

    def __init__(self, draw: Callable, controls: dict[str, ipw.Widget], boxes: Sequence[ipw.Widget], *,
                 page: Mapping[str, Sequence] | None = None, play: str = "") -> None:
        self.controls, self.readout, self.play = controls, ipw.HTML(), play
        self.grid = {name: _values(control, (page or {}).get(name)) for name, control in controls.items()}
        self.labels = {name: _label(control, boxes) for name, control in controls.items()}
        self.image = ipw.Image(format="png", layout=ipw.Layout(align_self="flex-start", max_width="100%"))
        self._draw, self._lock, self._moves, self._drawing = draw, threading.Lock(), 0, False
        super().__init__([*map(_for_arrows, boxes), self.image, self.readout])
        for control in controls.values():
            control.observe(self._redraw, names="value")
        self._redraw()
        gc.collect(), gc.freeze()       # else half a second for all that was imported, in the middle of some move

    def draw(self, **values: object) -> tuple[bytes, str]:
        """The picture (PNG) and the read-out (HTML) at the values of all controls."""
        figure, text = self._draw(**values)
        return plots.png(figure), text

    def __repr__(self) -> str:
        return "Interactive: run the notebook to use it. The figure above says the same without a kernel."

    def _redraw(self, _change: object = None) -> None:
        """Draw the present values.  A move that comes while one is drawn is left to that drawing, which goes on until
        what it shows is what the controls say."""
        with self._lock:
            self._moves += 1
            if self._drawing:
                return
            self._drawing = True
        drawn = 0
        while True:
            with self._lock:
                if drawn == self._moves:
                    self._drawing = False
                    return
                drawn = self._moves
            try:
                self.image.value, text = self.draw(**{name: c.value for name, c in self.controls.items()})
                self.readout.value = f'<p aria-live="polite">{text}</p>'
            except BaseException:
                self._drawing = False
                raise


def _values(control: ipw.Widget, given: Sequence | None) -> list[tuple[str, object]]:
    """The values of a control on a page, each with its text; none for a slider that was given none."""
    if isinstance(control, ipw.Checkbox):
        return [("no", False), ("yes", True)]
    if given is None:
        return [o if isinstance(o, tuple) else (str(o), o) for o in getattr(control, "options", ())]
    return [(value if isinstance(value, str) else f"{value:g}", value) for value in given]


def _label(control: ipw.Widget, boxes: Sequence[ipw.Widget]) -> str:
    """What a control is called: by its own description, or by that of the box beside it."""
    beside = next((box for box in boxes if isinstance(box, ipw.HBox) and control in box.children), None)
    return control.description or (beside.children[0].description if beside else "")


def number(text: str, value: float, low: float, high: float, *, step: float = 1) -> tuple[ipw.Widget, ipw.HBox]:
    """A slider linked with a box to type the number into; whole numbers if `step` is one."""
    whole = isinstance(step, int)
    box = (ipw.BoundedIntText if whole else ipw.BoundedFloatText)(
        value=value, min=low, max=high, step=step, description=text, **_WIDE)
    slider = (ipw.IntSlider if whole else ipw.FloatSlider)(
        value=value, min=low, max=high, step=step, readout=False, continuous_update=False)
    ipw.link((slider, "value"), (box, "value"))
    return slider, ipw.HBox([box, slider])


def choice(text: str, options: Sequence[str] | Sequence[tuple[str, object]]) -> ipw.Dropdown:
    """A drop-down list with a visible description."""
    return ipw.Dropdown(options=options, description=text, **_WIDE)


def _for_arrows(box: ipw.Widget) -> ipw.Widget:
    """A drop-down list with a slider beside it: in JupyterLab the arrow keys leave a list for the next cell."""
    if not isinstance(box, ipw.Dropdown):
        return box
    slider = ipw.SelectionSlider(options=box.options, index=box.index, readout=False, continuous_update=False)
    ipw.link((slider, "index"), (box, "index"))
    return ipw.HBox([box, slider])


def size_explorer(student: Callable[[float], Model], schedule: Schedule, y: Tensor, *, x_T: Tensor,
                  classify: Callable[[Tensor], Tensor], name: Callable[[int], str] = str) -> Explorer:
    """The size of a student's gap and the scale it is asked for; `student(rho)` makes one, 1 being its teacher.

    Rows: the teacher at w, the student at w, the teacher at w rho.  y (B,) are labels, x_T (B, C, H, W) their noise,
    and `name(label)` is what to call a class: `Images.class_name`.
    """
    @lru_cache
    def drawn(rho: float, w: float) -> Tensor:
        return sample(student(rho), schedule, y, x_T=x_T, w=w, steps=STEPS)

    def draw(rho: float, w: float) -> tuple[plt.Figure, str]:
        rows = {f"teacher at w = {w:g}": drawn(1.0, w), f"student at w = {w:g}": drawn(rho, w),
                f"teacher at w rho = {w * rho:g}": drawn(1.0, w * rho)}
        right = {row: int((classify(x).argmax(1) == y).sum()) for row, x in rows.items()}
        _, second, third = rows.values()
        apart = (second - third).abs().max().item()
        listed = ", ".join(f"{n} by {row}" for row, n in right.items())
        text = (f"Of {len(y)} images, as asked for: {listed}. The second row and the third differ by "
                f"{'nothing' if apart < 1e-3 else f'up to {apart:.2g}'}.")
        title = f"A student with rho = {rho:g}, asked for {', '.join(map(name, y.tolist()))}"
        return plots.plot_image_rows(rows, title=title), text

    size, size_box = number("size of the gap, rho", 0.5, 0.0, 2.0, step=0.05)
    scale, scale_box = number("guidance scale w", 3.0, 0.0, 8.0, step=0.5)
    return Explorer(draw, {"rho": size, "w": scale}, [size_box, scale_box], play="w",
                    page={"rho": [k / 4 for k in range(9)], "w": range(9)})


def photo_explorer(models: Mapping[str, Model], schedule: Schedule, y: Tensor, *, x_T: Tensor,
                   name: Callable[[int], str] = str, steps: int = 25) -> Explorer:
    """Guidance scale and time of sampling: one row a model, the first being the teacher, all from the same noise.

    y (B,) are labels, x_T (B, C, H, W) their noise, and `name(label)` is what to call a class.
    """
    @lru_cache
    def path(model: str, w: float) -> list[Tensor]:
        return [x_T, *ddim(models[model], schedule, y, x_T, Sampling(w=w, steps=steps))]

    def draw(w: float, step: int) -> tuple[plt.Figure, str]:
        rows = {model: path(model, w)[step].cpu() for model in models}
        first, *others = rows.values()
        title = f"Guidance scale w = {w:g}, after {step} of {steps} sampling steps"
        off = ", ".join(f"{model} {(x - first).abs().mean().item():.2f}"
                        for model, x in zip(list(models)[1:], others, strict=True))
        text = f"{title}. Mean difference of a pixel from the first row, in units of [-1, 1]: {off}."
        return plots.plot_image_rows(rows, title=title, asked=[name(k) for k in y.tolist()], size=0.9), text

    scale, scale_box = number("guidance scale w", 4.0, 0.0, 8.0, step=0.5)
    time, time_box = number("sampling step", steps, 0, steps)
    late = sorted({0, *(round(steps * k / 10) for k in range(4, 11)), steps})     # there is only noise to see before
    return Explorer(draw, {"w": scale, "step": time}, [scale_box, time_box], play="step",
                    page={"w": (0, 1, 1.5, 2, 3, 4, 5, 6, 8), "step": late})


def guidance_explorer(teacher: ExactTeacher, x0: Tensor, y: Tensor, classify: Callable[[Tensor], Tensor], *, seed: int,
                     w: float = 4.0) -> Explorer:
    """Noise level, guidance scale, schedule and x0 clipping on an exact teacher; x0 (B, C, H, W) have the classes y.

    Rows: the noised images, the guided x0 prediction of one step, and samples from noise under the same settings, whose
    classes `classify` (images to logits) names.
    """
    schedule = teacher.schedule
    generator = torch.Generator().manual_seed(seed)
    eps, x_T = torch.randn((2, *x0.shape), generator=generator)
    modes = {"recompute": {}, "keep": {"recompute_eps": False}, "none": {"x0_clip": None}}

    @lru_cache
    def drawn(w: float, table: str, clip: str) -> Tensor:
        return sample(teacher, schedule, y, x_T=x_T, w=tables_at(schedule.T, w)[table], steps=STEPS, **modes[clip])

    def draw(t: int, w: float, table: str, clip: str) -> tuple:
        scales, at = tables_at(schedule.T, w)[table], torch.full_like(y, t)
        x_t = schedule.add_noise(x0, at, eps)
        one_step = schedule.predict_x0(x_t, at, branches(teacher, x_t, at, y).guided(scales[t].item()))
        outside = (one_step.abs() > 1).double().mean().item()
        if clip != "none":
            one_step = one_step.clamp(-1, 1)
        x = drawn(w, table, clip)
        right = (classify(x).argmax(1) == y).double().mean().item()
        title = f"noise level t = {t}, {table} w = {w:g}, x0 clipping: {clip}"
        figure = plots.plot_image_rows({"x_t": x_t, "x0 from x_t": one_step, "samples": x}, title=title)
        text = (f"At t = {t} the signal-to-noise ratio is {schedule.snr[t].item():.3g} and the scale "
                f"{scales[t].item():.3g}; {outside:.0%} of the pixels of the guided x0 lie outside [-1, 1]. Of the "
                f"{STEPS}-step samples ({table}, w = {w:g}), {right:.0%} show the class they were asked for.")
        return figure, text

    level, level_box = number("noise level t", 500, 0, schedule.T - 1)
    scale, scale_box = number("guidance scale w", w, 0.0, 8.0, step=0.5)
    table = choice("schedule", list(tables_at(schedule.T, w)))
    clip = choice("x0 clipping", [("clip x0, recompute eps", "recompute"), ("clip x0, keep eps", "keep"),
                                  ("no clipping", "none")])
    return Explorer(draw, {"t": level, "w": scale, "table": table, "clip": clip}, [level_box, scale_box, table, clip],
                    page={"t": [schedule.T * k // 10 for k in (1, 3, 5, 7, 9)], "w": (0, 1, 2, 4, 8)}, play="t")


FORMS = {"L_im": [[1.0, 0.0], [0.0, 0.0]], "L_un": [[0.0, 0.0], [0.0, 1.0]], "gap": [[1.0, -1.0], [-1.0, 1.0]]}
"""Other losses as quadratic forms of the errors (e_c, e_u) of the two branches."""


def metric_explorer(scales: Sequence[float] = (4, 4, 4)) -> Explorer:
    """A composite loss over three scales, and other losses beside it: does their sum identify both branches?"""
    knobs, boxes = {}, []
    for i, value in enumerate(scales, 1):
        knobs[f"w{i}"], box = number(f"scale w{i}", float(value), 0.0, 8.0, step=0.25)
        boxes.append(box)
    ticks = {name: ipw.Checkbox(value=name == "composite", description=name, indent=False,
                                layout=ipw.Layout(width="7em")) for name in ("composite", *FORMS)}

    def draw(**values: float | bool) -> tuple:
        w = torch.tensor([values.pop(k) for k in knobs], dtype=torch.float64)
        used = [name for name, use in values.items() if use]
        if not used:
            return plt.figure(figsize=(4.8, 4.4)), "No loss is chosen: nothing is supervised."
        over = f"composite over {{{', '.join(f'{v:g}' for v in w.tolist())}}}"
        name = " + ".join(over if n == "composite" else n for n in used)
        m = sum(composite_metric(w) if n == "composite" else torch.tensor(FORMS[n]).double() for n in used)
        rank = int(torch.linalg.matrix_rank(m))
        blind = torch.linalg.eigh(m).eigenvectors[:, 0]
        blind = blind / blind[blind.abs().argmax()]
        unseen = ", ".join(f"{v + 0.0:.3g}" for v in torch.where(blind.abs() < 1e-9, 0.0, blind).tolist())
        what = f"condition number {torch.linalg.cond(m).item():.3g}" if rank == 2 else f"unseen: ({unseen})"
        ax = plots.plot_metric_ellipses({name: m.numpy()})
        ax.set_title("both branches identified" if rank == 2 else "one direction is free")
        text = (f"{name}: rank {rank}, {what}, so "
                f"{'both branches are identified' if rank == 2 else 'one combination of the branches is free'}.")
        if used == ["composite"]:
            text += f" det M = Var(w) = {w.var(correction=0).item():.3g}."
        return ax.get_figure(), text

    coarse = dict(zip(knobs, ((1, 4), (0, 1, 2, 3, 4), (1, 4)), strict=False))     # the order of scales is no matter
    return Explorer(draw, {**knobs, **ticks}, [*boxes, ipw.HBox(list(ticks.values()))], page=coarse)


Grid = Mapping[tuple[str, float], Mapping[str, Tensor]]
"""Samples (B, C, H, W) of each model by name, for each guidance schedule and scale."""


def sample_grid(models: Mapping[str, Model], schedule: Schedule, y: Tensor, *, x_T: Tensor, ws: Sequence[float],
                steps: int) -> Grid:
    """Samples of every model under every guidance table of `schedules` at every scale, all from the same noise."""
    return {(kind, w): {name: sample(model, schedule, y, x_T=x_T, w=table.to(x_T.device), steps=steps).cpu()
                        for name, model in models.items()}
            for w in ws for kind, table in tables_at(schedule.T, w).items()}


def sample_explorer(grid: Grid, y: Tensor, classify: Callable[[Tensor], Tensor]) -> Explorer:
    """Guidance schedule and scale over samples that were drawn before; the first model is the one to agree with."""
    kinds, ws = (list(dict.fromkeys(part)) for part in zip(*grid, strict=True))

    def draw(kind: str, w: float) -> tuple[plt.Figure, str]:
        rows = grid[kind, w]
        first = next(iter(rows.values()))
        found = []
        for name, x in rows.items():
            off = (x - first).square().mean().sqrt().item()
            right = (classify(x).argmax(1) == y).double().mean().item()
            found.append(f"{name} {right:.0%} as asked" + (f", off by {off:.2f}" if x is not first else ""))
        title = f"{kind}, w = {w:g}"
        text = f"{title}: {'; '.join(found)} (root mean square distance to the first row's samples)."
        return plots.plot_image_rows(rows, title=title), text

    controls = {"kind": choice("schedule", kinds), "w": choice("guidance scale w", [(f"{w:g}", w) for w in ws])}
    return Explorer(draw, controls, list(controls.values()), play="w")


def frozen_tirt(base: np.ndarray, losses: np.ndarray, *, lr: float, steps: int) -> np.ndarray:
    """omega (T,) after `steps` of Adam on lambda alone, minimising sum(omega losses) / sum(omega).

    The losses (T,) never change: nothing is learned about images.  Equal to training `curriculum.TIRT`, but fast.
    """
    lam, m, v = np.zeros((3, len(base)))
    for k in range(1, steps + 1):
        sigma = 1 / (1 + np.exp(-lam))
        omega = base * sigma
        total = omega.sum()
        grad = omega * (1 - sigma) / total * (losses - (omega @ losses) / total)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad * grad
        lam = lam - lr * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    omega = base / (1 + np.exp(-lam))
    return omega / omega.mean()


def tirt_explorer(schedule: Schedule, losses: Tensor) -> Explorer:
    """TIRT's cap gamma, learning rate, steps and base against the curve it ends in, for frozen losses (T,).

    About 250 of the timesteps are trained: the same curve, in time for the next move.
    """
    t = np.arange(0, schedule.T, max(schedule.T // 250, 1))
    loss, bases = np.asarray(losses, dtype=float)[t], {"published": curriculum.published, "min_snr": curriculum.min_snr}
    half = schedule.T // 2

    def draw(gamma: float, lr: float, steps: int, base: str) -> tuple:
        start = bases[base](schedule, gamma).double().numpy()[t]
        start /= start.mean()
        end = frozen_tirt(start, loss, lr=lr, steps=steps)
        before, after = (start * loss).mean(), (end * loss).mean()
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.3), layout="constrained")
        plots.plot_curves({"base": start, "after TIRT": end}, x=t, ylabel="weight omega", ax=axes[0])
        plots.plot_bars({"weighted, before": before, "weighted, after": after, "plain mean": loss.mean()},
                        xlabel="loss of the same frozen network", ax=axes[1])
        axes[0].set_title(f"gamma {gamma:g}, {steps} steps at {lr:g}")
        shares = [omega[t >= half].sum() / omega.sum() for omega in (start, end)]
        text = (f"Base {base}, gamma {gamma:g}: {steps} steps at learning rate {lr:g} take the weighted loss from "
                f"{before:.3g} to {after:.3g}, while the network's plain loss stays {loss.mean():.3g}. The share of "
                f"weight at t ≥ {half} goes from {shares[0]:.1%} to {shares[1]:.1%}.")
        return figure, text

    cap, cap_box = number("gamma", 5.0, 0.5, 20.0, step=0.5)
    rate, rate_box = number("learning rate", 0.005, 0.0, 0.02, step=0.001)
    steps, steps_box = number("steps", 500, 0, 2000)
    base = choice("base", list(bases))
    return Explorer(draw, {"gamma": cap, "lr": rate, "steps": steps, "base": base},
                    [base, cap_box, rate_box, steps_box], play="steps",
                    page={"gamma": (1, 2, 5, 10), "lr": (0.002, 0.005, 0.02), "steps": (0, 100, 200, 500, 1000, 2000)})


SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Schedules of diffusers; the last one is the cosine schedule of this kit."""


def prediction_weights(schedule: Schedule) -> dict[str, np.ndarray]:
    """How large an error of eps an error of size one in each kind of prediction makes, (T,) by kind."""
    abar = schedule.alphas_cumprod.double().numpy()
    signal, noise = np.sqrt(abar), np.sqrt(1 - abar)
    return {"epsilon": np.ones_like(signal), "v_prediction": signal, "sample": signal / noise}


def named_schedule(kind: str, end: float = 0.02) -> Schedule:
    """A schedule of diffusers by its name; `end` is the last beta of a linear one."""
    return read_scheduler({"beta_schedule": kind, "beta_end": end, "num_train_timesteps": 1000}).schedule


def prediction_explorer() -> Explorer:
    """A scheduler's betas, and what the same error in eps, v or x0 does to eps at every timestep."""
    def draw(kind: str, end: float, t: int) -> tuple[plt.Figure, str]:
        schedule = named_schedule(kind, end)
        weights, abar = prediction_weights(schedule), schedule.alphas_cumprod.numpy()
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.3), layout="constrained")
        plots.plot_curves({"signal": np.sqrt(abar), "noise": np.sqrt(1 - abar)}, ylabel="size", ax=axes[0])
        plots.plot_curves(weights, ylabel="error of eps", log=True, ax=axes[1])
        for ax in axes:
            ax.axvline(t, color="#999999", lw=1)
        axes[0].set_title(kind)
        said = ", ".join(f"{weights[k][t]:.2g} in {k}" for k in weights)
        return figure, (f"{kind}, last beta {end:g}: at t = {t} an image keeps {np.sqrt(abar[t]):.3f} of its size, "
                        f"and an error of size 1 counts as {said}. At the last timestep {np.sqrt(abar[-1]):.4f} of it "
                        "is left.")

    last, last_box = number("last beta (if linear)", 0.02, 0.005, 0.04, step=0.005)
    t, t_box = number("timestep", 200, 0, 999)
    kind = choice("schedule", list(SCHEDULES))
    return Explorer(draw, {"kind": kind, "end": last, "t": t}, [kind, last_box, t_box],
                    page={"end": (0.005, 0.01, 0.02, 0.04), "t": [*range(0, 1000, 100), 999]}, play="t")


def synthetic_gap(size: float, noise: float, *, n: int = 400, dim: int = 64, seed: int = 0) -> tuple[Branches, ...]:
    """A student's gap, `size` times the teacher's plus `noise` times another, and the teacher's; normal, (n, dim)."""
    generator = torch.Generator().manual_seed(seed)
    gap, other = torch.randn((2, n, dim), generator=generator)
    zero = torch.zeros_like(gap)
    return Branches(size * gap + noise * other, zero), Branches(gap, zero)


def gap_explorer() -> Explorer:
    """Size and noise of a synthetic student gap against rho, slope, cos and R²."""
    def draw(size: float, noise: float) -> tuple[plt.Figure, str]:
        found = gap_stats(*synthetic_gap(size, noise))._asdict()
        del found["mse"]
        ax = plots.plot_bars(found, limits=(-4.2, 3))
        ax.axvline(1, color="#bbbbbb", lw=1)
        ax.set(title=f"student gap = {size:g} × teacher gap + {noise:g} × noise")
        return ax.figure, ", ".join(f"{name} {value:.2f}" for name, value in found.items())

    controls, boxes = {}, []
    for name, text, value in (("size", "share of the gap", 0.8), ("noise", "noise", 0.5)):
        controls[name], box = number(text, value, 0.0, 2.0, step=0.05)
        boxes.append(box)
    return Explorer(draw, controls, boxes, page={"size": [k / 10 for k in range(0, 21, 2)],
                                                 "noise": [k / 10 for k in (0, 2, 5, 8, 10, 15, 20)]})


STATISTICS = ("slope", "cos", "rho", "r2")


def results_explorer(results: pd.DataFrame, arms: Sequence[str], *, arm: str, other: str = "dash") -> Explorer:
    """Arm, statistic of its gap and timestep over a tidy results table, beside another arm, paired by training seed."""
    there = results.metric.unique()
    by_timestep = {s: results[results.arm.isin(arms) & results.metric.str.startswith(f"{s}@t=")] for s in STATISTICS}
    times = sorted({int(m.partition("@t=")[2]) for m in there if "@t=" in m})

    @lru_cache
    def table(metric: str) -> pd.DataFrame:
        return by_seed(results, metric)[list(arms)]

    @lru_cache
    def paired(metric: str, arm: str, other: str) -> tuple[Interval, Interval]:
        both = table(metric)
        difference = (both[arm] - both[other]).to_frame("d")
        return (bootstrap(both[[arm]], lambda m: m[arm], draws=2000),
                bootstrap(difference, lambda m: m.d, draws=2000))

    def draw(arm: str, other: str, statistic: str, t: str) -> tuple[plt.Figure, str]:
        place = f"{statistic}@t={t}"
        metric = place if place in there else statistic
        where = f"around t = {t}" if metric == place else "over all timesteps"
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 0.22 * len(arms) + 1.6), layout="constrained")
        means = table(metric).mean()
        plots.plot_bars(means.to_dict(), xlabel=f"{statistic} {where}", ax=axes[0])
        axes[0].tick_params("y", labelsize="x-small")
        for label in axes[0].get_yticklabels():
            label.set_fontweight("bold" if label.get_text() in (arm, other) else "normal")
        if len(by_timestep[statistic]):
            both = list(dict.fromkeys([other, arm]))
            plots.plot_by_timestep(by_timestep[statistic], name=statistic, arms=both, ax=axes[1])
        else:
            axes[1].text(0.5, 0.5, f"{statistic} is kept for all timesteps together", ha="center", color="#444444")
            axes[1].set_axis_off()
        if metric == place:
            axes[1].axvline(int(t), color="#D55E00", lw=1)
        own, difference = paired(metric, arm, other)
        rank = int((means > means[arm]).sum()) + 1
        text = (f"{statistic} of {arm} {where}: {own}, number {rank} of {len(arms)} from the top; minus {other}'s, "
                f"paired: {difference}.")
        return figure, text

    controls = {"arm": choice("arm", list(arms)), "other": choice("beside", list(arms)),
                "statistic": choice("statistic", [s for s in STATISTICS if s in there]),
                "t": choice("timestep", ["all", *map(str, times)])}
    controls["arm"].value, controls["other"].value = arm, other
    coarse = {"arm": [*(a for a in arms[:5] if a != arm), arm],
              "other": list(dict.fromkeys(a for a in (other, "scratch") if a in arms)),
              "t": ["all", *(str(t) for t in times[:: max(len(times) // 2, 1)])]}
    return Explorer(draw, controls, list(controls.values()), page=coarse)


CORRECTED = {"beta:noised": "one factor beta", "beta:path": "beta, on its path", "beta_t:noised": "beta by timestep",
             "beta_t:path": "beta by timestep, on its path", "mix_t:noised": "both branches by timestep",
             "mix_t:path": "both branches by timestep, on its path", "projected": "projected, no teacher",
             "teacher_u": "the teacher's u", "weaker": "a weaker copy"}
"""What `experiments.correction` can do to a trained student, in words."""


def corrected(study: pd.DataFrame, arm: str, *, w: float, to: str = "frechet_teacher") -> pd.DataFrame:
    """The logarithm of the distance of an arm's corrected samples over that of its plain ones; a column a correction.

    `study` is the table of the study `correction`; `to` is frechet_teacher, or frechet, the distance to real images.
    """
    def distance(kind: str) -> pd.Series:
        return by_seed(study, f"{to}@{kind},w={w:g}@ch=16")[arm]

    return pd.DataFrame({kind: np.log(distance(kind) / distance("none")) for kind in CORRECTED})


def correction_explorer(study: pd.DataFrame, arms: Sequence[str]) -> Explorer:
    """Student, guidance scale and what the distance is to, against every correction of a trained student."""
    scales = sorted(study.metric.str.extract(r",w=([\d.]+)@")[0].dropna().astype(float).unique())

    def draw(arm: str, w: float, to: str) -> tuple[plt.Figure, str]:
        logs = corrected(study, arm, w=w, to=to)
        table = np.exp(pd.DataFrame({CORRECTED[k]: bootstrap(logs[[k]], lambda m, k=k: m[k], draws=2000)._asdict()
                                     for k in logs}).T[["value", "lo", "hi"]].astype(float))
        where = {"frechet_teacher": "its teacher's samples", "frechet": "real images"}[to]
        ax = plots.plot_intervals(table, ideal=1, log=True, xlabel=f"distance to {where} over that without correction")
        ax.set_title(f"{arm}, w = {w:g}: left of 1, a correction helps")
        best = table.value.idxmin()
        helped = [name for name, row in table.iterrows() if row.hi < 1]
        text = (f"{arm} at w = {w:g}: the best correction is {best}, with {Interval(*table.loc[best], len(logs))} "
                f"of the distance to {where}. The whole interval is below 1 for {len(helped)} of {len(table)}.")
        return ax.figure, text

    controls = {"arm": choice("student", list(arms)), "w": choice("guidance scale w", [(f"{w:g}", w) for w in scales]),
                "to": choice("distance to", [("the teacher's samples", "frechet_teacher"), ("real images", "frechet")])}
    controls["w"].value = scales[-1]
    return Explorer(draw, controls, list(controls.values()))


def ledger_explorer(ledger: pd.DataFrame) -> Explorer:
    """The claim ledger by claim and verdict: a forest plot of the rows, and each with its link."""
    def draw(claim: str, verdict: str) -> tuple[plt.Figure, str]:
        rows = ledger[(ledger.claim == claim) | (claim == "all")]
        rows = rows[(rows.verdict == verdict) | (verdict == "all")]
        figure = plots.plot_ledger(rows)
        lines = [f"<b>{r.claim}</b> {r.measure}: {r.verdict} " + (f"({r.note}) " if r.note else "") +
                 f'<a href="{r.figure.replace("#", ".ipynb#")}">figure</a>' for r in rows.fillna("").itertuples()]
        return figure, f"{len(rows)} rows.<br>" + "<br>".join(lines)

    controls = {"claim": choice("claim", ["all", *ledger.claim.unique()]),
                "verdict": choice("verdict", ["all", *ledger.verdict.unique()])}
    return Explorer(draw, controls, list(controls.values()))
