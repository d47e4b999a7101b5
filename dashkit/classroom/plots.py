"""Pictures of arrays and tables; this module knows no model.

`plot_<thing>(data, *, ax=None) -> Axes`, and `show(ax, alt)` to display a figure with its text.
"""

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Affine2D

from dashkit.analysis.statistics import Interval
from dashkit.classroom.journal import guess_label

PALETTE = {   # colour-blind safe (Okabe and Ito); one colour an arm, everywhere
    "teacher": "#000000", "dash": "#0072B2", "composite": "#D55E00", "cond_only": "#CC79A7", "scratch": "#999999",
    "multi_w": "#E69F00", "gap_match": "#009E73", "dash_no_un": "#56B4E9", "dash_no_im": "#7570B3",
    "dash_no_an": "#1B9E77", "dash_no_tirt": "#A6761D", "real": "#444444", "fitnets": "#8C510A",
    "single_head": "#C51B7D", "pruning": "#666600", "slicing": "#996633", "dash_sliced": "#00429D",
    "label_drop": "#5E3C99", "cond_only_icg": "#B2ABD2", "label_drop_10": "#8073AC", "dash_uniform": "#80B1D3",
    "dash_relearned": "#01665E", "im_un_base": "#4393C3", "im_an_base": "#92C5DE", "im_base": "#F4A582",
    "composite_mild": "#B35806", "composite_an": "#F1A340", "kd_drop": "#542788", "no_un_noise": "#7FBC41",
    "fitnets_drop": "#BF812D", "pruning_dash": "#99994D", "scratch_half": "#BBBBBB",
}
ON_TOP = {"dash_no_un": (0, (1.2, 1.2))}     # arms whose curve lies on another arm's: dashed, drawn over it


def _line(arm: str) -> dict[str, object]:
    """How the line of an arm is drawn, apart from its width."""
    style = {"color": PALETTE.get(arm), "ls": "--" if arm == "teacher" else "-"}
    return style | ({"ls": ON_TOP[arm], "zorder": 3} if arm in ON_TOP else {})


def use_style() -> None:
    """The look of every figure in the series."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    size = {"figure.dpi": 90, "savefig.dpi": 90, "figure.figsize": (6.4, 3.6)}
    matplotlib.rcParams.update({"axes.titlesize": "medium", **size})


def png(figure: Figure) -> bytes:
    """The figure as PNG, tightly cropped and without a time stamp; it is closed.

    Where it shows a guess of `plot_guess`, the file's text "guess" says where another guess would stand.
    """
    buffer, found = io.BytesIO(), [line for ax in figure.axes for line in ax.lines if line.get_gid()]
    for line in found:
        _keep_inside(line)
    said = {"Guess": json.dumps(_guess(figure, found[0]))} if found else {}
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None, **said})
    plt.close(figure)
    return buffer.getvalue()


def plot_guess(ax: Axes, name: str, value: float, *, x: float | None = None, y: float | None = None,
               unit: float = 1.0) -> None:
    """Mark the value of `predict(name, …)`: a point above `x`, or beside `y`, or else a line across at this x.

    `unit` is what a guess of one is on the axis.  A guess outside the axis is drawn at its edge, with its number.  A
    page without a kernel draws its reader's own guess beside it.
    """
    known = json.dumps([name, "x" if x is None else "y", unit])
    style = {"color": "#D55E00", "label": guess_label(name), "gid": known}
    if x is None and y is None:
        ax.axvline(value * unit, ls=":", **style)
    else:
        ax.plot(value * unit if x is None else x, value * unit if y is None else y, "o", mfc="none", ms=10, mew=2,
                clip_on=False, zorder=4, **style)


def _keep_inside(line: Line2D) -> None:
    """Move a guess that lies outside its axis to the edge of it, and write its number there."""
    name, along, unit = json.loads(line.get_gid())
    ax, data, k = line.axes, np.array(line.get_xydata(), dtype=float), "xy".index(along)
    value = data[0, k]
    edge = np.clip(value, *sorted((ax.get_xlim, ax.get_ylim)[k]()))
    if edge == value:
        return
    data[:, k] = edge
    line.set_data(*data.T)
    place = (line.get_transform() + ax.transAxes.inverted()).transform(data.mean(0))
    left, low = place < 0.5
    text = ax.annotate(f"{guess_label(name)} {value / unit:g}: outside", place, xycoords="axes fraction", zorder=5,
                       xytext=(9 if left else -9, 9 if low else -9), textcoords="offset points", fontsize="small",
                       ha="left" if left else "right", va="bottom" if low else "top", color=line.get_color())
    text.set_in_layout(False)                   # the picture is as large as with any other guess
    line.set_in_layout(False)


def _guess(figure: Figure, line: Line2D) -> dict[str, object]:
    """Where guesses stand in a figure, in shares of the cropped picture from its top left.

    The guesses `values` stand at equal steps between the two places `ends` of the axis `along`, "x" or "y"; `across` is
    the place on the other axis, or null for a line.
    """
    name, along, unit = json.loads(line.get_gid())
    figure.draw_without_rendering()
    box = figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])
    to_shares = line.axes.transData + Affine2D().scale(1 / figure.dpi).translate(-box.x0, -box.y0).scale(
        1 / box.width, 1 / box.height) + Affine2D().scale(1, -1).translate(0, 1)
    k, limits = "xy".index(along), [line.axes.get_xlim(), line.axes.get_ylim()]
    low, high = to_shares.transform(np.transpose(limits))
    values = to_shares.inverted().transform(np.linspace(low, high, 41))[:, k] / unit
    own = to_shares.transform(line.get_xydata()[0])
    return {"name": name, "along": along, "values": [float(f"{v:.5g}") for v in values],
            "ends": [round(float(end[k]), 4) for end in (low, high)],
            "across": None if len(line.get_xydata()) > 1 else round(float(own[1 - k]), 4)}


def image_element(drawing: Axes | Figure, alt: str) -> str:
    """A figure as a self-contained HTML <img> with its alt text."""
    figure = drawing if isinstance(drawing, Figure) else drawing.get_figure()
    code = base64.b64encode(png(figure)).decode()
    return f'<img alt="{html.escape(alt)}" style="max-width:100%" src="data:image/png;base64,{code}">'


def show(drawing: Axes | Figure, alt: str) -> None:
    """Display a figure as an HTML image whose alt text, which is also the plain-text output, states what it shows."""
    from IPython.display import display

    display({"text/html": image_element(drawing, alt), "text/plain": alt}, raw=True)


def plot_images(images: np.ndarray, *, columns: int = 10, ax: Axes | None = None) -> Axes:
    """Images (N, C, H, W) in [-1, 1], tiled in rows of `columns`, with one white pixel between them."""
    x = np.clip((np.asarray(images, dtype=float) + 1) / 2, 0, 1)
    n, c, h, w = x.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, c))
    for i, image in enumerate(x):
        r, k = divmod(i, columns)
        sheet[r * (h + 1) : r * (h + 1) + h, k * (w + 1) : k * (w + 1) + w] = image.transpose(1, 2, 0)
    ax = ax or plt.subplots(figsize=(0.55 * columns, 0.55 * rows))[1]
    ax.imshow(sheet.squeeze(-1) if c == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_image_rows(rows: Mapping[str, np.ndarray], *, title: str = "", asked: Sequence[str] = (),
                    wrong: Mapping[str, Sequence[bool]] | None = None, size: float = 0.62) -> Figure:
    """Named rows of images, each (N, C, H, W): one row a name, the same column being the same start.

    `asked` (N,) is written above the columns; `wrong[name]` (N,) frames images of that row; `size` is an image's width
    in inches.
    """
    n = max(len(v) for v in rows.values())
    figure, axes = plt.subplots(len(rows), 1, figsize=(size * n + 1.6, (size + 0.04) * len(rows)), squeeze=False)
    for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        plot_images(images, columns=n, ax=ax)
        ax.text(-0.01, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize="small")
        height, width = np.shape(images)[-2:]
        for k in np.flatnonzero(np.asarray((wrong or {}).get(name, ()), dtype=bool)):
            ax.add_patch(Rectangle((k * (width + 1) - 0.5, -0.5), width, height, fill=False, ec="#D55E00", lw=3))
    height, width = np.shape(next(iter(rows.values())))[-2:]
    for k, text in enumerate(asked):
        axes[0, 0].text(k * (width + 1) + width / 2 - 0.5, -1, text, ha="center", va="bottom", fontsize="small")
    if asked:
        axes[0, 0].set_title(title, fontsize="medium", pad=18)
    else:
        figure.suptitle(title, fontsize="medium")
    return figure


def plot_network(config: object, *, ax: Axes | None = None) -> Axes:
    """The blocks of a UNet from its `UNetConfig`, and where the timestep and the class enter it."""
    depth, blue, orange = len(config.ch_mult), "#d6e6f4", "#fbe3c0"
    ax = ax or plt.subplots(figsize=(9.5, 1.1 * depth + 2.8))[1]

    def box(x: float, y: float, text: str, colour: str = "#eeeeee") -> tuple[float, float]:
        ax.text(x, y, text, ha="center", va="center", fontsize="small", zorder=3,
                bbox={"boxstyle": "round,pad=0.5", "fc": colour, "ec": "#444444"})
        return x, y

    def arrow(start: tuple, end: tuple, colour: str = "#444444", shrink: float = 22) -> None:
        ax.annotate("", end, start, zorder=1, arrowprops={
            "arrowstyle": "-|>", "color": colour, "shrinkA": 18, "shrinkB": shrink})

    shape = f"{config.channels} x {config.size} x {config.size}"
    top = box(0, 1, f"noised image $x_t$\n{shape}"), box(10, 1, f"predicted noise\n{shape}")
    time = box(3.6, 2.1, "timestep $t$: sines and\na small network", orange)
    label = box(6.7, 2.1, f"class $y$: table of {config.num_classes} rows\nand the null row", orange)
    both = box(5.1, 1, "sum", orange)
    arrow(time, both), arrow(label, both)
    above = list(top)
    for i, factor in enumerate(config.ch_mult):
        side = config.size >> i
        text = f"{config.ch * factor} x {side} x {side}" + (", attention" if side in config.attention else "")
        pair = [box(x, -i, f"{n} residual block{'s' * (n > 1)}\n{text}", blue)
                for x, n in ((0, config.blocks), (10, config.blocks + 1))]
        inner = (1.3, -i), (8.7, -i)
        arrow(above[0], pair[0]), arrow(pair[1], above[1]), arrow(pair[0], inner[1], "#999999", 0)
        arrow(both, inner[0], "#E69F00", 0), arrow(both, inner[1], "#E69F00", 0)
        above = pair
    middle = box(5.1, -depth, "2 residual blocks, attention", blue)
    arrow(above[0], (3.4, -depth), shrink=0), arrow(middle, above[1]), arrow(both, middle, "#E69F00")
    ax.set(xlim=(-1.8, 11.8), ylim=(-depth - 0.6, 2.7))
    ax.set_axis_off()
    return ax


def plot_curves(curves: Mapping[str, Sequence[float]], *, x: Sequence[float] | None = None, xlabel: str = "timestep t",
                ylabel: str = "", log: bool = False, ax: Axes | None = None) -> Axes:
    """Named curves over a common x (their index by default); known arms keep their colour."""
    ax = ax or plt.subplots()[1]
    for name, y in curves.items():
        y = np.asarray(y, dtype=float)
        ax.plot(np.arange(len(y)) if x is None else x, y, label=name, color=PALETTE.get(name))
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if len(curves) > 1:
        ax.legend(fontsize="small")
    return ax


def plot_losses(history: pd.DataFrame, *, smooth: int = 50, ax: Axes | None = None) -> Axes:
    """Training losses against step: a table with a `step` column and one column a learner; running means."""
    ax = ax or plt.subplots()[1]
    for name in history.columns.drop("step"):
        y = history[name].rolling(smooth, min_periods=1).mean()
        ax.plot(history.step, y, label=name, **_line(name) | {"color": PALETTE.get(name, "#0072B2")})
    ax.set(xlabel="step", ylabel=f"loss (mean of {smooth} steps)", yscale="log")
    if len(history.columns) > 2:
        ax.legend(fontsize="small")
    return ax


def w_curve(results: pd.DataFrame, metric: str = "frechet") -> pd.DataFrame:
    """Tidy results to columns arm, seed, w, value for a metric measured at several scales.

    Fréchet distances are divided by the real-vs-real floor.
    """
    part = results[results.metric.str.startswith(f"{metric}@w=")].copy()
    part["w"] = part.metric.str.removeprefix(f"{metric}@w=").astype(float)
    if metric == "frechet":
        part["value"] /= results.query("arm == 'real' and metric == 'frechet'").value.mean()
    return part[["arm", "seed", "w", "value"]]


def plain_log(ax: Axes, axis: str = "y") -> None:
    """A logarithmic axis, "x" or "y", labelled 1, 2, 5, 10 and so on in plain numbers."""
    (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
    ticks = ax.xaxis if axis == "x" else ax.yaxis
    ticks.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ticks.set_major_formatter("{x:g}")
    ticks.set_minor_formatter("")


def plot_w_curve(results: pd.DataFrame, *, arms: Sequence[str] | None = None, metric: str = "frechet",
                 ax: Axes | None = None) -> Axes:
    """Quality against the guidance scale: thin lines are training seeds, thick ones their (geometric) mean.

    `metric` is frechet, frechet_teacher (to the teacher's samples) or accuracy.
    """
    ax = ax or plt.subplots(figsize=(6.8, 4.2))[1]
    curve = w_curve(results, metric)
    thin = []
    for arm in arms or curve.arm.unique():
        wide = curve[curve.arm == arm].pivot(index="w", columns="seed", values="value")
        if wide.shape[1] > 1:
            thin = ax.plot(wide.index, wide, color=PALETTE.get(arm), lw=0.8, alpha=0.5)
        mean = np.exp(np.log(wide).mean(axis=1)) if metric.startswith("frechet") else wide.mean(axis=1)
        ax.plot(wide.index, mean, lw=2.4, marker="o", ms=4, label=arm, **_line(arm))
    labels = {"frechet": "Fréchet distance / real-vs-real floor",
              "frechet_teacher": "Fréchet distance to the teacher's samples"}
    ax.set(ylabel=labels.get(metric, metric))
    if metric == "frechet":
        ax.axhline(1, color=PALETTE["real"], lw=1, ls=":")
    if metric in labels:
        plain_log(ax)
    ax.set(xlabel="guidance scale w")
    seeds = [Line2D([], [], color="#777777", lw=0.8, label="thin: one training seed")] if thin else []
    ax.legend(handles=ax.get_legend_handles_labels()[0] + seeds, fontsize="small", ncols=2)
    return ax


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """rho against slope, one point an arm, from a table indexed by arm; a perfect student sits at (1, 1)."""
    ax = ax or plt.subplots(figsize=(5.2, 4.2))[1]
    ax.axvline(1, color="#bbbbbb", lw=1)
    ax.axhline(1, color="#bbbbbb", lw=1)
    for arm, row in table.drop(index="teacher", errors="ignore").iterrows():
        ax.scatter(row.rho, row.slope, color=PALETTE.get(arm), s=60, zorder=3, label=arm)
    ax.set(xlabel="rho (size of the gap over the teacher's)", ylabel="slope (share of the teacher's gap)")
    ax.margins(0.15)
    ax.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def plot_gap_arrows(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Gaps as arrows beside their teacher's, which has length 1 and points to the right.

    `table` has a row for each gap, with columns rho, its length, and cos, of the angle to the teacher's.  The dotted
    line from the tip of an arrow ends at the share of the teacher's gap that is in it.
    """
    ax = ax or plt.subplots(figsize=(7.2, 4.4))[1]
    ax.plot(np.cos(arc := np.linspace(0, np.pi / 2, 100)), np.sin(arc), color="#bbbbbb", lw=1)
    colours = sns.color_palette("colorblind", len(table))
    for colour, (name, row) in zip(colours, table.iterrows(), strict=True):
        angle = np.arccos(np.clip(row.cos, -1, 1))
        x, y = row.rho * np.cos(angle), row.rho * np.sin(angle)
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.6, "shrinkA": 0,
                                                    "shrinkB": 0, "mutation_scale": 18})
        ax.plot([x, x], [0, y], ":", color=colour, lw=1.4)
        ax.plot([], [], color=colour, lw=2.6, label=f"{name}: length {row.rho:.1f}, {np.degrees(angle):.0f}°")
    ax.set(xlim=(-0.12, 1.5), ylim=(-0.12, 1.2), aspect="equal", xlabel="along the teacher's gap",
           ylabel="away from it")
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def plot_by_timestep(results: pd.DataFrame, *, name: str = "rho", arms: Sequence[str] | None = None,
                     ax: Axes | None = None) -> Axes:
    """A gap statistic against t, one line an arm (mean over seeds)."""
    ax = ax or plt.subplots()[1]
    part = results[results.metric.str.startswith(f"{name}@t=")].copy()
    part["t"] = part.metric.str.removeprefix(f"{name}@t=").astype(int)
    for arm in arms or part.arm.unique():
        mean = part[part.arm == arm].groupby("t").value.mean()
        ax.plot(mean.index, mean, marker="o", ms=3, label=arm, **_line(arm))
    ax.axhline(1, color="#bbbbbb", lw=1)
    ax.set(xlabel="timestep t", ylabel=name)
    ax.legend(fontsize="x-small", ncols=2)
    return ax


def plot_bars(values: Mapping[str, float], *, errors: Mapping[str, float] | None = None, xlabel: str = "",
              limits: tuple[float, float] | None = None, ax: Axes | None = None) -> Axes:
    """Horizontal bars, one a name; known arms keep their colour.

    `limits` are those of the axis: a bar that they cut has its number at the edge, and one without a value says so.
    """
    ax = ax or plt.subplots(figsize=(6.0, 0.34 * len(values) + 0.8))[1]
    names = list(values)
    ax.barh(names, [values[n] for n in names], color=[PALETTE.get(n, "#0072B2") for n in names],
            xerr=None if errors is None else [errors.get(n, 0) for n in names])
    ax.invert_yaxis()
    ax.set(xlabel=xlabel)
    if limits:
        ax.set_xlim(limits)
        for i, value in enumerate(values.values()):
            if not limits[0] <= value <= limits[1]:
                right, known = value > 0, not np.isnan(value)
                said = (f"{value:.2f} →" if right else f"← {value:.2f}") if known else "no value"
                ax.text(limits[right] if known else 0, i, f" {said} ", ha="right" if right else "left", va="center",
                        color="white" if known else "black")
    return ax


def plot_metric_ellipses(metrics: Mapping[str, np.ndarray], *, extent: float = 6.0, ax: Axes | None = None) -> Axes:
    """Where a quadratic loss e M e^T equals its trace/2, one ellipse a 2x2 matrix M, over (cond error, uncond error).

    A long ellipse is a direction that the loss hardly sees; a singular M gives two parallel lines, open for ever.
    """
    ax = ax or plt.subplots(figsize=(4.8, 4.4))[1]
    colours = sns.color_palette("colorblind", len(metrics))
    grid = np.linspace(-extent, extent, 401)
    c, u = np.meshgrid(grid, grid)
    handles = []
    for colour, (name, m) in zip(colours, metrics.items(), strict=True):
        m = np.asarray(m, dtype=float)
        loss = (m[0, 0] * c * c + 2 * m[0, 1] * c * u + m[1, 1] * u * u) / (np.trace(m) / 2)
        ax.contour(c, u, loss, levels=[1.0], colors=[colour])
        handles.append(Line2D([], [], color=colour, label=name))
    ax.set(xlabel="error of the conditional branch", ylabel="error of the unconditional branch", aspect="equal")
    ax.legend(handles=handles, fontsize="x-small", loc="upper right")
    return ax


def plot_grid(table: pd.DataFrame, worst: float, best: float, *, ax: Axes | None = None) -> Axes:
    """A table as a heat map with its numbers in it, from blue (`worst` and what is beyond) to yellow (`best`)."""
    ax = ax or plt.subplots(figsize=(5.2, 3.2))[1]
    colours = "viridis" if worst < best else "viridis_r"
    return sns.heatmap(table, vmin=min(worst, best), vmax=max(worst, best), cmap=colours, cbar=False, annot=True,
                       fmt=".2f", annot_kws={"size": 8}, ax=ax)


def plot_intervals(table: pd.DataFrame, *, ideal: float | None = None, xlabel: str = "", log: bool = False,
                   ax: Axes | None = None) -> Axes:
    """One line an arm: columns value, lo and hi, index the names; `ideal` is marked."""
    ax = ax or plt.subplots(figsize=(6.0, 0.3 * len(table) + 0.8))[1]
    if ideal is not None:
        ax.axvline(ideal, color="#999999", lw=1)
    for i, (name, row) in enumerate(table.iterrows()):
        colour = PALETTE.get(name, "#0072B2")
        ax.plot([row.lo, row.hi], [i, i], color=colour, lw=2.4, solid_capstyle="round")
        ax.plot(row.value, i, "o", color=colour, ms=6)
    ax.set(yticks=range(len(table)), yticklabels=table.index, xlabel=xlabel, ylim=(len(table) - 0.5, -0.5))
    if log:
        plain_log(ax, "x")
    return ax


VERDICTS = {"holds": "#009E73", "contradicted": "#D55E00", "undecided": "#E69F00", "not testable here": "#999999"}


QUANTITIES = (   # of the ledger's rows: the panel's title, and what its measure contains
    ("R² of the gap", "R²"), ("share, as a fraction of the gain", "share of"), ("ratio", " / "), ("rho", "rho"),
    ("cos of the gap", "cos"), ("rank correlation", "Spearman"), ("rank", "rank"),
    ("Fréchet distance over the floor, difference", "Fréchet/floor"), ("Fréchet distance, difference", ""),
)


def plot_ledger(rows: pd.DataFrame) -> Figure:
    """Forest plots of ledger rows, a panel for each quantity: ours with its interval, coloured by the verdict.

    A tick marks a row's bound, with a triangle on the side where its claim holds; a share has two.  The numbers stand
    on the right, since a wide interval makes its neighbours look narrow.
    """
    title = [next(t for t, part in QUANTITIES if part in measure) for measure in rows.measure]
    panels = {t: rows[[found == t for found in title]] for t, _ in QUANTITIES if t in title} or {"": rows}
    figure, axes = plt.subplots(len(panels), 1, squeeze=False, layout="constrained", gridspec_kw={
        "height_ratios": [len(p) + 1.6 for p in panels.values()]}, figsize=(10.2, 0.27 * len(rows) + 0.8 * len(panels)))
    for ax, (name, part) in zip(axes[:, 0], panels.items(), strict=True):
        labels = []
        for i, row in enumerate(part.itertuples()):
            colour = VERDICTS[row.verdict]
            rule = re.fullmatch(r"the whole interval is (above|below|in) \[?([^],]+)(?:(,) (.+)\])?", row.rule)
            bounds = [rule.groups()[:2], rule.groups()[2:]] if rule else []
            ax.plot([row.lo, row.hi], [i, i], color=colour, lw=2.4, solid_capstyle="round")
            ax.plot(row.ours, i, "o", color=colour, ms=5)
            for side, number in filter(all, bounds):
                ax.plot(float(number), i, "|", color="black", ms=11)
                ax.plot(float(number), i, "<" if side in ("below", ",") else ">", color="black", ms=3.5)
            labels.append(f"{row.claim}  {row.measure}"
                          + ("" if row.profile in ("digits", "any") else f" ({row.profile})"))
        ax.set(yticks=range(len(labels)), ylim=(len(labels) - 0.4, -0.6), xscale="log" if name == "ratio" else "linear")
        ax.set_yticklabels(labels, fontsize="x-small")
        numbers = ax.secondary_yaxis("right")
        numbers.set_yticks(range(len(labels)), [str(Interval(r.ours, r.lo, r.hi, r.n)) for r in part.itertuples()],
                           fontsize="x-small")
        ax.set_title(name, fontsize="small", loc="left")
        ax.tick_params("x", labelsize="x-small")
    handles = [Line2D([], [], color=c, marker="o", label=v) for v, c in VERDICTS.items()]
    handles.append(Line2D([], [], color="black", marker="|", ls="", ms=11, label="bound, and the side that holds"))
    figure.legend(handles=handles, fontsize="x-small", loc="outside lower center", ncols=5)
    return figure
