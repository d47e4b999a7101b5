"""What a student is trained on: loss terms a sample, and objectives as rows of coefficients.  Layer 2."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dashkit.guidance import Branches

TERMS = ("im", "un", "an", "an_un", "comp", "gap")


def per_sample(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of a and b (B, ...) over everything but the batch, (B,)."""
    return (a - b).square().flatten(1).mean(1)


def distil_terms(student: Branches, teacher: Branches, *, eps: Tensor, w: float | Tensor) -> dict[str, Tensor]:
    """Every loss term, each (B,); w is the scale, or the scales (B,), at which `comp` compares the guided outputs."""
    return {
        "im": per_sample(student.cond, teacher.cond),                  # imitate the conditional branch
        "un": per_sample(student.uncond, teacher.uncond),              # imitate the unconditional branch
        "an": per_sample(student.cond, eps),                           # anchor cond to the true noise
        "an_un": per_sample(student.uncond, eps),                      # and uncond: together, training from scratch
        "comp": per_sample(student.guided(w), teacher.guided(w)),      # match only the guided output
        "gap": per_sample(student.gap, teacher.gap),                   # match the gap
    }


def total(terms: Mapping[str, Tensor], lam: Mapping[str, float], omega_t: Tensor) -> Tensor:
    """mean over the batch of omega_t * sum_k lam_k term_k: the only place where losses are weighted."""
    unknown = set(lam) - set(terms)
    if unknown:
        raise ValueError(f"unknown loss term {', '.join(sorted(unknown))}; known: {', '.join(terms)}")
    return (omega_t * sum(c * terms[k] for k, c in lam.items())).mean()


class Objective(NamedTuple):
    """One arm: coefficients of the terms, the scales w that `comp` is matched at, and the curriculum.

    `transferred` is the teacher's learned omega, frozen; `base` the one that the teacher started from.
    """

    lam: dict[str, float]
    w: tuple[float, ...] = (4.0,)
    curriculum: str = "transferred"


OBJECTIVES = {
    "dash":          Objective({"im": 1.0, "un": 1.0, "an": 0.1}),
    "dash_no_im":    Objective({"un": 1.0, "an": 0.1}),
    "dash_no_un":    Objective({"im": 1.0, "an": 0.1}),
    "dash_no_an":    Objective({"im": 1.0, "un": 1.0}),
    "dash_no_tirt":  Objective({"im": 1.0, "un": 1.0, "an": 0.1}, curriculum="base"),
    "gap_match":     Objective({"im": 1.0, "gap": 1.0}),
    "multi_w":       Objective({"comp": 1.0}, w=(1.0, 2.0, 3.0, 4.0)),
    "composite":     Objective({"comp": 1.0}, w=(4.0,)),
    "cond_only":     Objective({"im": 1.0}),
    "scratch":       Objective({"an": 0.9, "an_un": 0.1}, curriculum="base"),
}
"""Every arm.  `scratch` never sees the teacher: 0.9 and 0.1 are the shares of label dropout, taken in expectation."""


def objective(name: str) -> Objective:
    """The row called `name`; ValueError names the rows there are."""
    if name not in OBJECTIVES:
        raise ValueError(f"unknown arm {name!r}; choose from {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def pick_w(row: Objective, u: Tensor) -> Tensor:
    """Turn uniform numbers u (B,) in [0, 1) into scales drawn evenly from the row's, (B,).

    The numbers are the batch's, not the arm's, so that all arms share their randomness.
    """
    scales = torch.tensor(row.w, device=u.device)
    return scales[(u * len(scales)).long()]


def composite_metric(w: Tensor) -> Tensor:
    """The 2x2 matrix M for which E_w |e_w|^2 = (e_c, e_u) M (e_c, e_u)^T, with e_w = w e_c + (1 - w) e_u.

    w (n,) are the scales that a composite loss averages over; det M = Var(w), so one scale alone cannot tell the
    branches apart.

    >>> composite_metric(torch.tensor([0.0, 1.0])).tolist()     # L_im + L_un, halved: perfectly conditioned
    [[0.5, 0.0], [0.0, 0.5]]
    >>> torch.linalg.matrix_rank(composite_metric(torch.tensor([4.0]))).item()
    1
    """
    basis = torch.stack([w, 1 - w])                                    # (2, n)
    return basis @ basis.T / len(w)
