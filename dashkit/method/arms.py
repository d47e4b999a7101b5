"""The arms: objectives as rows of coefficients."""

import re
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dashkit.method.guidance import check_w


class Objective(NamedTuple):
    """One arm, a way to train a student: the coefficients of its loss terms, its curriculum, and how it begins.

    `curriculum` is one of four.  `transferred`: the omega that the teacher learned, frozen.  `base`: the omega that the
    teacher started from.  `uniform`: 1 everywhere.  `relearned`: the student learns its own, starting from the base.
    """

    lam: dict[str, float]
    w: tuple[float, ...] = (4.0,)     # the scales that `comp` is matched at
    curriculum: str = "transferred"
    student: str = "new"              # how it begins: a key of `experiments.students.STUDENTS`
    lr: float = 1.0                   # its learning rate over the profile's, chosen on a validation split
    reuses: str = ""                  # the arm whose trained student this is, sampled by another rule


_DASH = {"im": 1.0, "un": 1.0, "an": 0.1}
_NOISE = {"an": 0.9, "an_un": 0.1}
OBJECTIVES = {
    "dash":            Objective(_DASH),
    "dash_no_im":      Objective({"un": 1.0, "an": 0.1}),
    "dash_no_un":      Objective({"im": 1.0, "an": 0.1}),
    "dash_no_an":      Objective({"im": 1.0, "un": 1.0}),
    "dash_no_tirt":    Objective(_DASH, curriculum="base"),
    "dash_uniform":    Objective(_DASH, curriculum="uniform"),
    "dash_relearned":  Objective(_DASH, curriculum="relearned"),
    "im_un_base":      Objective({"im": 1.0, "un": 1.0}, curriculum="base"),
    "im_an_base":      Objective({"im": 1.0, "an": 0.1}, curriculum="base"),
    "im_base":         Objective({"im": 1.0}, curriculum="base"),
    "gap_match":       Objective({"im": 1.0, "gap": 1.0}),
    "multi_w":         Objective({"comp": 1.0}, w=(1.0, 2.0, 3.0, 4.0)),
    "composite":       Objective({"comp": 1.0}, lr=0.25),
    "composite_mild":  Objective({"comp": 1.0}, w=(1.5,)),
    "composite_an":    Objective({"comp": 1.0, "an": 0.1}, lr=0.25),
    "cond_only":       Objective({"im": 1.0}),
    "cond_only_icg":   Objective({"im": 1.0}, reuses="cond_only"),
    "label_drop":      Objective({"im": 0.5, "un_c": 0.5}),
    "label_drop_10":   Objective({"im": 0.9, "un_c": 0.1}),
    "kd_drop":         Objective({"im": 0.9, "un": 0.1}),
    "no_un_noise":     Objective({"im": 1.0, "an": 0.1, "an_un": 0.1}),
    "fitnets":         Objective({"im": 1.0, "hint": 0.1}),
    "fitnets_drop":    Objective({"im": 0.9, "un": 0.1, "hint": 0.1}),
    "single_head":     Objective({"guided": 1.0}, student="single_head"),
    "pruning":         Objective(_NOISE, curriculum="base", student="pruned", lr=0.25),
    "pruning_dash":    Objective(_DASH, student="pruned", lr=0.25),
    "slicing":         Objective(_NOISE, curriculum="base", student="sliced", lr=0.25),
    "dash_sliced":     Objective(_DASH, student="sliced", lr=0.25),
    "scratch":         Objective(_NOISE, curriculum="base"),
    "scratch_half":    Objective({"an": 0.5, "an_un": 0.5}, curriculum="base"),
}  # fmt: skip
"""Every arm.  `scratch` and the fine-tuned prunings never see the teacher's output: 0.9 and 0.1 on the true noise are
the shares of label dropout, taken in expectation, as is the dropping of only the student's label in `label_drop`.
Rivals with a fair null row: `kd_drop` has the weights of one label in ten dropped for teacher and student alike,
`fitnets_drop` has them beside its hints, `no_un_noise` trains the null row on the true noise alone, `scratch_half`
gives both branches the same share."""

ARMS = tuple(OBJECTIVES)
"""Every arm: what `dashkit sweep` compares, and what `arms = "all"` means in a profile."""

FACTORIAL = {
    frozenset(): "im_base", frozenset("U"): "im_un_base", frozenset("A"): "im_an_base", frozenset("T"): "cond_only",
    frozenset("UA"): "dash_no_tirt", frozenset("UT"): "dash_no_an", frozenset("AT"): "dash_no_un",
    frozenset("UAT"): "dash",
}
"""The 2^3 design: unconditional loss U, anchor A, transferred curriculum T; all imitate the conditional branch."""


def quadratic(w: float, kappa: float) -> Objective:
    """The quadratic loss of the two branches with the scale w and the weight kappa of the gap (`losses.gap_loss`).

    Its matrix has trace 2, like that of L_im + L_un.
    """
    share = 2 / (check_w(w)**2 + (1 - w) ** 2 + 2 * kappa)
    return Objective({"comp": share} | ({"gap": share * kappa} if kappa else {}), w=(w,))


def quadratic_name(w: float, kappa: float) -> str:
    """What the arm of a quadratic loss is called: its two numbers in hundredths.

    >>> quadratic_name(1.5, 0.25), objective("quadratic_150_25") == quadratic(1.5, 0.25)
    ('quadratic_150_25', True)
    """
    return f"quadratic_{round(100 * w)}_{round(100 * kappa)}"


def objective(name: str) -> Objective:
    """The row called `name`, or a quadratic loss by its name, as quadratic_150_25; ValueError names what there is."""
    if found := re.fullmatch(r"quadratic_(\d{1,4})_(\d{1,4})", str(name)):
        return quadratic(*(int(v) / 100 for v in found.groups()))
    if name not in OBJECTIVES:
        raise ValueError(f"unknown arm {name!r}; choose from {', '.join(OBJECTIVES)}, or quadratic_150_25 for the "
                         "quadratic loss with w = 1.5 and kappa = 0.25")
    return OBJECTIVES[name]


def pick_w(row: Objective, u: Tensor) -> Tensor:
    """Turn uniform numbers u (B,) in [0, 1) into scales drawn evenly from the row's, (B,).

    The numbers belong to the batch, not to the arm: all arms use the same ones.
    """
    scales = _scales(row.w, u.device)
    return scales[(u * len(scales)).long()]


@lru_cache(maxsize=64)
def _scales(w: tuple[float, ...], device: torch.device) -> Tensor:
    """The scales (n,) on a device.  They are copied once: a copy in every step would make a GPU wait."""
    return torch.tensor(w, device=device)
