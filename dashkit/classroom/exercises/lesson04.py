"""The exercises of notebook 04."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import Exercise, dots, draw_gaps, norms, source
from dashkit.method.guidance import Branches
from dashkit.method.losses import distil_terms, total


def _terms(g: torch.Generator) -> tuple:
    """Inputs: four loss terms by name, each (6,), coefficients of two or three of them, and omega_t (6,).

    The two dictionaries have orders of their own.
    """
    values = torch.rand(5, 6, generator=g, dtype=torch.float64) + 0.1
    names, named = ([("im", "un", "an", "gap")[i] for i in torch.randperm(4, generator=g)] for _ in range(2))
    some = named[: 2 + g.initial_seed() % 2]
    lam = dict(zip(some, (0.2 + 2 * torch.rand(len(some), generator=g)).tolist(), strict=True))
    return dict(zip(names, values[:4], strict=True)), lam, 2 * values[4]


def _students(g: torch.Generator) -> tuple:
    """Inputs: a student's and a teacher's Branches, eps (7, C, H, W), and omega_t (7,)."""
    pairs = Branches(*draw_gaps(g)), Branches(*draw_gaps(g))
    return *pairs, draw_gaps(g)[0], 0.1 + torch.rand(7, generator=g, dtype=torch.float64)


def _dash(s: Branches, t: Branches, eps: Tensor, omega_t: Tensor, **lam: float) -> Tensor:
    return total(distil_terms(s, t, eps=eps, w=1.0), {"im": 1.0, "un": 1.0, "an": 0.1} | lam, omega_t)


def _sum(terms: Mapping[str, Tensor], lam: Mapping[str, float]) -> Tensor:
    return sum(c * terms[k] for k, c in lam.items())


def answer_04_1(s, t, eps, omega_t):
    im, un, an = (((a - b) ** 2).mean(dim=(1, 2, 3))
                  for a, b in ((s.cond, t.cond), (s.uncond, t.uncond), (s.cond, eps)))
    return (omega_t * (im + un + 0.1 * an)).mean()


def answer_04_2(gap_s, gap_t):
    return (gap_s * gap_t).sum() / gap_t.square().sum()


def answer_04_3(terms, lam, omega_t):
    return (omega_t * sum(c * terms[k] for k, c in lam.items())).mean()


def answer_04_4(gap_s, gap_t):
    return gap_s.flatten(1).norm(dim=1).mean() / gap_t.flatten(1).norm(dim=1).mean()


EXERCISES = {
    "04.1": Exercise(
        "Write answer(s, t, eps, omega_t): the DASH loss, a scalar, coefficients 1, 1 and 0.1; s and t are Branches.",
        _dash, _students,
        {"You forgot omega_t.": lambda s, t, e, o: _dash(s, t, e, torch.ones_like(o)),
         "The anchor's coefficient is 0.1.": lambda *v: _dash(*v, an=1.0),
         "You forgot the anchor.": lambda *v: _dash(*v, an=0.0),
         "You forgot the unconditional branch.": lambda *v: _dash(*v, un=0.0),
         "The anchor belongs to the conditional branch.": lambda *v: _dash(*v, an=0.0, an_un=0.1),
         "Weight each sample before averaging over the batch, not after.":
            lambda s, t, e, o: o.mean() * _dash(s, t, e, torch.ones_like(o)),
         "Those are squared norms, sums over the pixels; take their mean.":
            lambda s, t, e, o: e[0].numel() * _dash(s, t, e, o),
         "That is the sum over the batch; take the mean.": lambda s, t, e, o: len(o) * _dash(s, t, e, o)},
        ("per_sample(s.cond, t.cond) is L_im, one number a sample; likewise L_un with .uncond.",
         "The anchor is per_sample(s.cond, eps).", "Add with coefficients, multiply by omega_t, then .mean()."),
        source(answer_04_1)),
    "04.2": Exercise(
        "Write answer(gap_s, gap_t), both (B, C, H, W): the slope, one number for all images together.",
        lambda s, t: (s * t).sum() / t.square().sum(), draw_gaps,
        {"That is rho, a ratio of sizes; it cannot see directions.": lambda s, t: norms(s).mean() / norms(t).mean(),
         "That is the cosine; the slope is not divided by the student's size.":
            lambda s, t: (dots(s, t) / (norms(s) * norms(t))).mean(),
         "You divided by the student's power; divide by the teacher's.": lambda s, t: (s * t).sum() / s.square().sum(),
         "That is a mean of ratios; take the ratio of the means.": lambda s, t: (dots(s, t) / dots(t, t)).mean(),
         "You divided by the teacher's size; divide by its square.": lambda s, t: (s * t).sum() / t.norm(),
         "That is R^2, which also pays for what is not in the teacher's direction.":
            lambda s, t: 1 - (s - t).square().sum() / t.square().sum()},
        ("It is a regression of the student's gap on the teacher's, through zero.", "Sum the products gS gT.",
         "Divide by the sum of gT squared."),
        source(answer_04_2)),
    "04.3": Exercise(
        "Write answer(terms, lam, omega_t): the weighted loss of the terms that lam names, a scalar.",
        total, _terms,
        {"You forgot the coefficients.": lambda terms, lam, o: (o * sum(terms[k] for k in lam)).mean(),
         "Only the terms that lam names are wanted, not all of them.":
            lambda terms, lam, o: (o * _sum(terms, dict.fromkeys(terms, 1.0) | lam)).mean(),
         "You paired coefficients and terms by their order; pair them by their names.":
            lambda terms, lam, o: (o * sum(c * v for c, v in zip(lam.values(), terms.values(), strict=False))).mean(),
         "You forgot omega_t.": lambda terms, lam, o: _sum(terms, lam).mean(),
         "Weight each sample before averaging over the batch, not after: this is the batch mean of omega_t times the "
         "batch mean of the terms.": lambda terms, lam, o: o.mean() * _sum(terms, lam).mean(),
         "That is the sum over the batch; take the mean.": lambda terms, lam, o: (o * _sum(terms, lam)).sum(),
         "That is one number a sample; average over the batch.": lambda terms, lam, o: o * _sum(terms, lam),
         "The coefficients are no shares: do not divide by their sum.":
            lambda terms, lam, o: total(terms, lam, o) / sum(lam.values())},
        ("Loop over lam.items(): a name and its coefficient.", "Add up coefficient times terms[name]: (B,).",
         "Multiply by omega_t (B,), then .mean()."),
        source(answer_04_3)),
    "04.4": Exercise(
        "Write answer(gap_s, gap_t), both (B, C, H, W): rho, one number for all images together.",
        lambda s, t: norms(s).mean() / norms(t).mean(), draw_gaps,
        {"Those are squared norms; rho has the norms themselves.": lambda s, t: s.square().sum() / t.square().sum(),
         "You averaged the squares and took one root (or one norm of the whole batch); take the norm of each image.":
            lambda s, t: s.norm() / t.norm(),
         "That is a mean of ratios; take the ratio of the means.": lambda s, t: (norms(s) / norms(t)).mean(),
         "Upside down: the teacher's size belongs below.": lambda s, t: norms(t).mean() / norms(s).mean(),
         "That is the slope, which sees directions; rho is a ratio of sizes.":
            lambda s, t: (s * t).sum() / t.square().sum()},
        ("gap.flatten(1).norm(dim=1) has one number an image.", "Average it over the batch, for each network.",
         "Divide the student's mean by the teacher's."),
        source(answer_04_4)),
}
