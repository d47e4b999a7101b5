"""Correct a trained student's guidance without training it: from its and its teacher's outputs on a few batches.

Every correction replaces `u + w (c - u)` by `a_t c + b_t u` with numbers a and b for each timestep.  They are fitted by
least squares to the teacher's guided output at the scale w.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashkit.method.guidance import Branches, Model, branches, check_w
from dashkit.method.schedule import expand

CORRECTIONS = ("none", "beta", "beta_t", "mix_t", "projected")
"""`beta`: one factor for the gap (`guidance.corrected_w`).  `beta_t`: one for each bin of timesteps.  `mix_t`: both
branches are weighted anew in each bin.  `projected`: u is first scaled so that it is as near to c as it can be (the
optimised scale of CFG-Zero*, Fan et al., 2025); this one needs no teacher."""


class Correction(NamedTuple):
    """What stands in place of guidance at one scale w."""

    kind: str
    w: float
    cond: Tensor      # (T,)  the weight of the conditional branch
    uncond: Tensor    # (T,)  the weight of the unconditional branch


def equal_bins(T: int, n: int = 10) -> Tensor:
    """The number of each timestep's bin, 0 .. n-1, for n bins of equal width, (T,)."""
    return torch.arange(T) * n // T


def fit_correction(kind: str, student: Branches, teacher: Branches, t: Tensor, *, w: float,
                   bins: Tensor) -> Correction:
    """Fit a correction for the scale w to the branches (B, ...) of student and teacher on the same states.

    t (B,) are their timesteps, `bins` (T,) is the bin of each timestep (see `equal_bins`).  Within a bin the numbers
    are the same; a bin without states is not corrected.  ValueError for another kind.
    """
    if kind not in CORRECTIONS:
        raise ValueError(f"a correction is one of {', '.join(CORRECTIONS)}, not {kind!r}")
    check_w(w)
    cond, uncond = torch.full((len(bins),), float(w)), torch.full((len(bins),), 1.0 - w)
    places = bins if kind.endswith("_t") else torch.zeros_like(bins)
    c, u, gap, wanted = (v.flatten(1).double().cpu() for v in (*student, student.gap, teacher.guided(w)))
    wanted_gap, places_of = teacher.gap.flatten(1).double().cpu(), places[t.cpu()]
    for b in places_of.unique().tolist() if kind in ("beta", "beta_t", "mix_t") else []:
        here = places_of == b
        if kind == "mix_t":
            basis = torch.stack([c[here].flatten(), u[here].flatten()], dim=1)
            a, rest = torch.linalg.lstsq(basis, wanted[here].flatten()[:, None]).solution.flatten().tolist()
        else:
            power = gap[here].square().sum()
            beta = ((gap[here] * wanted_gap[here]).sum() / power).item() if power > 0 else 1.0
            a, rest = 1 + (w - 1) * beta, -(w - 1) * beta
        cond[places == b], uncond[places == b] = a, rest
    return Correction(kind, float(w), cond, uncond)


class Corrected(nn.Module):
    """A model whose guided output is corrected; it is sampled like any other, with the correction's own w."""

    def __init__(self, model: Model, correction: Correction) -> None:
        super().__init__()
        self.model, self.correction, self.null_label = model, correction, model.null_label
        self.register_buffer("cond", correction.cond, persistent=False)
        self.register_buffer("uncond", correction.uncond, persistent=False)
        self.train(getattr(model, "training", False))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """A branch of the model as it is, (B, ...)."""
        return self.model(x_t, t, y)

    def guided(self, x_t: Tensor, t: Tensor, y: Tensor, w: float) -> Tensor:
        """The corrected output, (B, ...).  ValueError for another scale than it was fitted for."""
        if not math.isclose(w, self.correction.w, rel_tol=1e-6):         # a table of scales is of single precision
            raise ValueError(f"this correction was fitted for w = {self.correction.w:g}, not {w:g}")
        c, u = branches(self.model, x_t, t, y)
        if self.correction.kind == "projected":
            dot, power = ((v * u).flatten(1).sum(1) for v in (c, u))
            u = u * expand(dot / power.clamp(min=1e-12), u)
        return expand(self.cond[t], c) * c + expand(self.uncond[t], u) * u


class GuidedBy(nn.Module):
    """A model that is guided away from another network's output g: c + (w - 1) (c - g).  Its null row is not used.

    The guide is a teacher without a label, or with `labelled` a weaker copy of the model with the same label
    (autoguidance, Karras et al., 2024).
    """

    def __init__(self, model: Model, guide: Model, *, labelled: bool = False) -> None:
        super().__init__()
        self.model, self.guide, self.labelled, self.null_label = model, guide, labelled, model.null_label
        self.eval()

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """A branch of the model as it is, (B, ...)."""
        return self.model(x_t, t, y)

    def guided(self, x_t: Tensor, t: Tensor, y: Tensor, w: float) -> Tensor:
        """The guided output, (B, ...)."""
        away = self.guide(x_t, t, y if self.labelled else torch.full_like(y, self.guide.null_label))
        return Branches(self.model(x_t, t, y), away).guided(w)
