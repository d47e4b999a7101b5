"""Classifier-free guidance: two branches, their gap, and guidance tables.

Convention everywhere: guided = u + w (c - u), gap = c - u; w = 0 unconditional, w = 1 conditional.
"""

import math
from numbers import Real
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dashkit.method.schedule import expand

W_MAX = 20.0


class Model(Protocol):
    """A class-conditional model of the noise; `null_label` is the number that means "no class"."""

    null_label: int

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor, /) -> Tensor:
        """eps (B, ...) from x_t (B, ...), t (B,) and y (B,)."""


def check_w(w: float) -> float:
    """Return the guidance scale w as a float, or raise ValueError if it is not a number in [0, 20]."""
    if isinstance(w, bool) or not isinstance(w, Real) or not math.isfinite(w) or not 0 <= w <= W_MAX:
        raise ValueError(f"the guidance scale w must be a number in [0, {W_MAX:g}], not {w!r}")
    return float(w)


class Branches(NamedTuple):
    """The two predictions of a class-conditional model at the same (x_t, t)."""

    cond: Tensor    # (B, ...)
    uncond: Tensor  # (B, ...)

    @property
    def gap(self) -> Tensor:
        """cond - uncond, (B, ...): the direction that guidance amplifies."""
        return self.cond - self.uncond

    def guided(self, w: float | Tensor) -> Tensor:
        """uncond + w gap, (B, ...); w is a number or a tensor (B,)."""
        return self.uncond + (expand(w, self.cond) if isinstance(w, Tensor) else w) * self.gap


def branches(model: Model, x_t: Tensor, t: Tensor, y: Tensor) -> Branches:
    """Evaluate both branches in one pass over 2B samples; y (B,) holds real labels.

    A model that predicts the guided output itself has no null row, but a method `branches`, and is asked for it.
    """
    if hasattr(model, "branches"):
        return model.branches(x_t, t, y)
    null = torch.full_like(y, model.null_label)
    eps = model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, null]))
    return Branches(*eps.chunk(2))


def check_eval(model: Model) -> None:
    """Raise ValueError if a network is in train mode: its dropout would add noise to every gap."""
    if getattr(model, "training", False):
        raise ValueError(f"the {type(model).__name__} is in train mode; call its eval() before measuring or sampling")


def check_labels(y: Tensor, model: Model) -> None:
    """Raise ValueError unless every label of y (B,) is a class of the model, or its null label."""
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) <= model.null_label:
        raise ValueError(f"labels must be in 0 .. {model.null_label - 1} ({model.null_label} for none), "
                         f"not {int(y.min())} .. {int(y.max())}")


def drop_labels(y: Tensor, null_label: int, *, p: float, generator: torch.Generator) -> Tensor:
    """Replace each label of y (B,) by the null label with probability p, independently for each sample."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], not {p!r}")
    drop = torch.rand(y.shape, generator=generator, device=generator.device).to(y.device) < p
    return torch.where(drop, null_label, y)


def constant(T: int, w: float) -> Tensor:
    """The table (T,) of one guidance scale at every timestep."""
    return torch.full((T,), check_w(w))


def tag(T: int, w_max: float = 4.0, *, w_min: float = 1.0, beta: float = 5.0) -> Tensor:
    """Timestep-adaptive guidance, w(t) = w_min + (w_max - w_min) sigmoid(beta (0.5 - t/T)), shape (T,).

    >>> table = tag(1000)
    >>> [round(float(w), 2) for w in (table[0], table.mean(), table[-1])]
    [3.77, 2.5, 1.23]
    """
    w_min, w_max = check_w(w_min), check_w(w_max)
    t = torch.arange(T) / T
    return w_min + (w_max - w_min) * torch.sigmoid(beta * (0.5 - t))


def interval(T: int, w: float, *, lo: float = 0.2, hi: float = 0.8) -> Tensor:
    """w for lo <= t/T < hi and 1 elsewhere, shape (T,) (Kynkäänniemi et al., 2024)."""
    if not 0 <= lo < hi <= 1:
        raise ValueError(f"an interval needs 0 <= lo < hi <= 1, not lo={lo!r}, hi={hi!r}")
    t = torch.arange(T) / T
    return torch.where((t >= lo) & (t < hi), check_w(w), 1.0)


def guidance_table(T: int, w: float | Tensor) -> Tensor:
    """A table (T,) from a number or from a table; raise ValueError for anything else."""
    if not isinstance(w, Tensor):
        return constant(T, w)
    if w.shape != (T,) or not bool(((w >= 0) & (w <= W_MAX)).all()):
        raise ValueError(f"a guidance table needs shape ({T},) and entries in [0, {W_MAX:g}], not {tuple(w.shape)}")
    return w


def corrected_w(w: float, beta: float) -> float:
    """The scale w' = 1 + (w - 1) beta at which what a student adds to its conditional branch is nearest to what its
    teacher adds at w, kept in [0, 20].

    Guided outputs are cond + (w - 1) gap.  With beta = E<gS, gT> / E|gS|^2 (`GapStats.beta`) the scale w' minimises
    E|(w' - 1) gS - (w - 1) gT|^2, whatever the student's gap holds besides the teacher's.  Dividing by the slope
    instead would repair a gap without noise, and make one with noise worse.  A student without a gap (beta is NaN)
    keeps w.

    So the guided output is nearest to the teacher's at w' if the student's conditional branch is the teacher's.  If it
    has an error e_c, the best scale has another term: it is w' - E<gS, e_c> / E|gS|^2.  And samples need not be nearer
    where predictions are.

    >>> corrected_w(4.0, 0.5)
    2.5
    """
    return min(max(1 + (check_w(w) - 1) * beta, 0.0), W_MAX) if math.isfinite(beta) else check_w(w)


def matched_tables(T: int, w_max: float = 4.0) -> dict[str, Tensor]:
    """Three guidance tables (T,) of equal mean: the published TAG, a constant, and an interval."""
    adaptive = tag(T, w_max)
    mean = adaptive.mean().item()
    return {"tag": adaptive, "constant": constant(T, mean), "interval": with_mean(interval(T, 2.0), mean)}


def with_mean(table: Tensor, mean: float) -> Tensor:
    """A guidance table (T,) of the same form whose mean is `mean`: what it adds to 1 is stretched.

    >>> round(with_mean(tag(1000), 1.5).mean().item(), 3)
    1.5
    """
    return 1 + (check_w(mean) - 1) * (table - 1) / (table - 1).mean()


def tables_at(T: int, w: float) -> dict[str, Tensor]:
    """Three guidance tables (T,) for a scale w: constant; TAG, which rises from 1 at much noise to w; an interval."""
    return {"constant": constant(T, w), "TAG": tag(T, w), "interval": interval(T, w)}
