"""What a student is trained on: one loss term a sample, and their weighted sum."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dashkit.method.guidance import Branches

TERMS = ("im", "un", "an", "an_un", "un_c", "comp", "gap")


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
        "un_c": per_sample(student.uncond, teacher.cond),              # added if only the student's label is dropped
        "comp": per_sample(student.guided(w), teacher.guided(w)),      # match only the guided output
        "gap": per_sample(student.gap, teacher.gap),                   # match the gap
    }


def total(terms: Mapping[str, Tensor], lam: Mapping[str, float], omega_t: Tensor) -> Tensor:
    """mean over the batch of omega_t * sum_k lam_k term_k: the only place where losses are weighted."""
    unknown = set(lam) - set(terms)
    if unknown:
        raise ValueError(f"unknown loss term {', '.join(sorted(unknown))}; known: {', '.join(terms)}")
    return (omega_t * sum(c * terms[k] for k, c in lam.items())).mean()


def composite_metric(w: Tensor) -> Tensor:
    """The 2x2 matrix M for which E_w |e_w|^2 = (e_c, e_u) M (e_c, e_u)^T, with e_w = w e_c + (1 - w) e_u.

    w (n,) are the scales that a composite loss averages over.  det M = Var(w): with one scale it is zero, and errors of
    the two branches can cancel each other.

    >>> composite_metric(torch.tensor([0.0, 1.0])).tolist()     # L_im + L_un, halved: perfectly conditioned
    [[0.5, 0.0], [0.0, 0.5]]
    >>> torch.linalg.matrix_rank(composite_metric(torch.tensor([4.0]))).item()
    1
    """
    basis = torch.stack([w, 1 - w])                                    # (2, n)
    return basis @ basis.T / len(w)


class GapLoss(NamedTuple):
    """What a quadratic loss of the two branches asks for: s (|e_u + w e_g|^2 + kappa |e_g|^2), with e_g = e_c - e_u.

    Its first term is blind to one mixture of a common shift of both branches and an error of the gap; `kappa` alone
    says how much the gap counts for itself.
    """

    w: float        # the scale at which the guided output is compared
    kappa: float    # how much the gap counts beside it: Var(w) of a composite loss
    share: float    # s kappa over the trace of the matrix: the gap's part of what is punished, by the two outputs


def gap_loss(m: Tensor) -> GapLoss:
    """The numbers of the quadratic loss (e_c, e_u) M (e_c, e_u)^T from its matrix M (2, 2).

    For a composite loss they are the mean and the variance of its scales, since
    E_w |e_u + w e_g|^2 = |e_u + mean(w) e_g|^2 + Var(w) |e_g|^2.  Unlike `share` and the condition number of M
    they do not depend on the axes that the errors are drawn in.  ValueError for a loss that does not see a common shift
    of both branches.

    >>> gap_loss(composite_metric(torch.tensor([1.0, 2.0, 3.0, 4.0])))[:2]
    (2.5, 1.25)
    """
    s = m.sum()
    if not s > 1e-12 * m.abs().sum():
        raise ValueError("this loss does not see a shift of both branches alike, so it has no scale w")
    w = m[0].sum() / s
    kappa = m[0, 0] / s - w**2
    return GapLoss(w.item(), kappa.item(), (s * kappa / m.trace()).item())
