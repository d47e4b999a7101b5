"""Explorers: a few controls, one picture and a read-out that states its numbers.  Layer 5.

Each function returns an ipywidgets container.  They draw into `Image` and `HTML` from `observe` callbacks, so that they
work in JupyterLab and Voila, leave nothing to clear in a stored notebook, and can be tested without a browser.
"""

from collections.abc import Callable, Sequence

import ipywidgets as ipw
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from dashkit import curriculum, metrics, objectives, plots, sample
from dashkit.exact import ExactTeacher
from dashkit.guidance import Branches, branches
from dashkit.schedule import Schedule

_WIDE = {"style": {"description_width": "9em"}, "layout": ipw.Layout(width="28em")}


class Explorer(ipw.VBox):
    """Controls on top, picture and read-out below; `draw(**values)` returns a figure and what it says in words.

    `controls` maps the names of draw's arguments to widgets; `boxes` are what is shown for them.
    """

    def __init__(self, draw: Callable, controls: dict[str, ipw.Widget], boxes: Sequence[ipw.Widget]) -> None:
        self.controls, self.image, self.readout = controls, ipw.Image(format="png"), ipw.HTML()
        self._draw = draw
        super().__init__([*boxes, self.image, self.readout])
        for control in controls.values():
            control.observe(self._redraw, names="value")
        self._redraw()

    def __repr__(self) -> str:
        return "Interactive: run the notebook to use it. The figure above says the same without a kernel."

    def _redraw(self, _change: object = None) -> None:
        figure, text = self._draw(**{name: c.value for name, c in self.controls.items()})
        self.image.value, self.readout.value = plots.png(figure), f"<p>{text}</p>"


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


# ------------------------------------------------------------------------------------------------------ notebook 01


def guidance_explorer(teacher: ExactTeacher, x0: Tensor, y: Tensor, classify: Callable[[Tensor], Tensor], *, seed: int,
                     t: int = 500, w: float = 4.0, steps: int = 25) -> Explorer:
    """Noise level, guidance scale and x0 clipping on an exact teacher; x0 (B, C, H, W) are real images of classes y.

    Rows: the noised images, the guided x0 prediction of one step, and samples from noise under the same settings, whose
    classes `classify` (images to logits) names.
    """
    schedule = teacher.schedule
    generator = torch.Generator().manual_seed(seed)
    eps, x_T = torch.randn((2, *x0.shape), generator=generator)
    modes = {"recompute": {}, "keep": {"recompute_eps": False}, "none": {"x0_clip": None}}

    def draw(t: int, w: float, clip: str) -> tuple:
        at = torch.full_like(y, t)
        x_t = schedule.add_noise(x0, at, eps)
        one_step = schedule.predict_x0(x_t, at, branches(teacher, x_t, at, y).guided(w))
        outside = (one_step.abs() > 1).double().mean().item()
        if clip != "none":
            one_step = one_step.clamp(-1, 1)
        x = sample.sample(teacher, schedule, y, x_T=x_T, w=w, steps=steps, **modes[clip])
        right = (classify(x).argmax(1) == y).double().mean().item()
        title = f"noise level t = {t}, w = {w:g}, x0 clipping: {clip}"
        figure = plots.plot_image_rows({"x_t": x_t, "x0 from x_t": one_step, "samples": x}, title=title)
        text = (f"At t = {t} the signal-to-noise ratio is {schedule.snr[t].item():.3g}; {outside:.0%} of the pixels of "
                f"the guided x0 lie outside [-1, 1]. Of the {steps}-step samples at w = {w:g}, {right:.0%} show the "
                f"class they were asked for.")
        return figure, text

    level, level_box = number("noise level t", t, 0, schedule.T - 1)
    scale, scale_box = number("guidance scale w", w, 0.0, 8.0, step=0.5)
    clip = choice("x0 clipping", [("clip x0, recompute eps", "recompute"), ("clip x0, keep eps", "keep"),
                                  ("no clipping", "none")])
    return Explorer(draw, {"t": level, "w": scale, "clip": clip}, [level_box, scale_box, clip])


# ------------------------------------------------------------------------------------------------------ notebook 03


def metric_explorer(scales: Sequence[float] = (0, 1, 1.5, 2, 3, 4), *, on: Sequence[float] = (4,)) -> Explorer:
    """Which scales a composite loss averages over, and what its 2x2 metric then sees of the two branches' errors."""
    narrow = ipw.Layout(width="6em")
    ticks = {f"w{i}": ipw.Checkbox(value=s in on, description=f"w = {s:g}", indent=False, layout=narrow)
             for i, s in enumerate(scales)}
    more = ipw.Checkbox(value=False, description="and also w =", indent=False, layout=ipw.Layout(width="9em"))
    extra, extra_box = number("another scale w", 2.5, 0.0, 8.0, step=0.25)

    def draw(more: bool, extra: float, **ticked: bool) -> tuple:
        chosen = {s for s, use in zip(scales, ticked.values(), strict=True) if use}
        chosen = sorted(chosen | {extra}) if more else sorted(chosen)
        name = "{" + ", ".join(f"{s:g}" for s in chosen) + "}"
        if not chosen:
            return plt.figure(figsize=(4.8, 4.4)), "No scale is chosen: nothing is supervised."
        m = objectives.composite_metric(torch.tensor(chosen, dtype=torch.float64))
        ax = plots.plot_metric_ellipses({name: m.numpy()})
        rank, var = torch.linalg.matrix_rank(m).item(), np.var(chosen)
        seen = f"condition number {torch.linalg.cond(m).item():.3g}" if rank == 2 else (
            f"one direction unseen, (w − 1, w) = ({chosen[0] - 1:g}, {chosen[0]:g})")
        ax.set_title(f"scales {name}: rank {rank}")
        text = f"Scales {name}: rank {rank}, det M = Var(w) = {var:.3g}, {seen}."
        return ax.get_figure(), text

    return Explorer(draw, {**ticks, "more": more, "extra": extra},
                    [ipw.HBox(list(ticks.values())), ipw.HBox([more, extra_box])])


# ------------------------------------------------------------------------------------------------------ notebook 05


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
    """TIRT's cap gamma, learning rate, steps and base against the curve it ends in, for frozen losses (T,)."""
    loss, bases = np.asarray(losses, dtype=float), {"published": curriculum.published, "min_snr": curriculum.min_snr}
    half = schedule.T // 2

    def draw(gamma: float, lr: float, steps: int, base: str) -> tuple:
        start = bases[base](schedule, gamma).double().numpy()
        end = frozen_tirt(start, loss, lr=lr, steps=steps)
        before, after = (start * loss).mean(), (end * loss).mean()
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.3), layout="constrained")
        plots.plot_curves({"base": start, "after TIRT": end}, ylabel="weight omega", ax=axes[0])
        plots.plot_bars({"weighted, before": before, "weighted, after": after, "plain mean": loss.mean()},
                        xlabel="loss of the same frozen network", ax=axes[1])
        axes[0].set_title(f"gamma {gamma:g}, {steps} steps at {lr:g}")
        shares = [omega[half:].sum() / omega.sum() for omega in (start, end)]
        text = (f"Base {base}, gamma {gamma:g}: {steps} steps at learning rate {lr:g} take the weighted loss from "
                f"{before:.3g} to {after:.3g}, while the network's plain loss stays {loss.mean():.3g}. The share of "
                f"weight at t ≥ {half} goes from {shares[0]:.1%} to {shares[1]:.1%}.")
        return figure, text

    cap, cap_box = number("gamma", 5.0, 0.5, 20.0, step=0.5)
    rate, rate_box = number("learning rate", 0.005, 0.0, 0.02, step=0.001)
    steps, steps_box = number("steps", 500, 0, 2000)
    base = choice("base", list(bases))
    return Explorer(draw, {"gamma": cap, "lr": rate, "steps": steps, "base": base},
                    [base, cap_box, rate_box, steps_box])


# ------------------------------------------------------------------------------------------------------ notebook 06


def synthetic_gap(size: float, noise: float, *, n: int = 400, dim: int = 64, seed: int = 0) -> tuple[Branches, ...]:
    """A student's gap, `size` times the teacher's plus `noise` times another, and the teacher's; normal, (n, dim)."""
    generator = torch.Generator().manual_seed(seed)
    gap, other = torch.randn((2, n, dim), generator=generator)
    zero = torch.zeros_like(gap)
    return Branches(size * gap + noise * other, zero), Branches(gap, zero)


def gap_explorer() -> Explorer:
    """Size and noise of a synthetic student gap against rho, slope, cos and R²."""
    def draw(size: float, noise: float) -> tuple[plt.Figure, str]:
        found = metrics.gap_stats(*synthetic_gap(size, noise))._asdict()
        del found["mse"]
        ax = plots.plot_bars(found)
        ax.axvline(1, color="#bbbbbb", lw=1)
        ax.set(xlim=(-2, 2), title=f"student gap = {size:g} × teacher gap + {noise:g} × noise")
        return ax.figure, ", ".join(f"{name} {value:.2f}" for name, value in found.items())

    controls, boxes = {}, []
    for name, text, value in (("size", "share of the gap", 0.8), ("noise", "noise", 0.5)):
        controls[name], box = number(text, value, 0.0, 2.0, step=0.05)
        boxes.append(box)
    return Explorer(draw, controls, boxes)


# ------------------------------------------------------------------------------------------------------ notebook 09


def ledger_explorer(ledger: pd.DataFrame) -> Explorer:
    """The claim ledger by claim and verdict: a forest plot of the rows, and each with its link."""
    def draw(claim: str, verdict: str) -> tuple[plt.Figure, str]:
        rows = ledger[(ledger.claim == claim) | (claim == "all")]
        rows = rows[(rows.verdict == verdict) | (verdict == "all")]
        ax = plots.plot_ledger(rows)
        lines = [f"<b>{r.claim}</b> {r.measure}: {r.verdict} " + (f"({r.note}) " if r.note else "") +
                 f'<a href="{r.figure.replace("#", ".ipynb#")}">figure</a>' for r in rows.fillna("").itertuples()]
        return ax.figure, f"{len(rows)} rows.<br>" + "<br>".join(lines)

    controls = {"claim": choice("claim", ["all", *ledger.claim.unique()]),
                "verdict": choice("verdict", ["all", *ledger.verdict.unique()])}
    return Explorer(draw, controls, list(controls.values()))
