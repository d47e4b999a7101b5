"""The exercises of notebook 03."""

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import Exercise, draw_fields, source
from dashkit.method.losses import composite_metric


def _scale(g: torch.Generator) -> tuple:
    """Inputs: a scale w above 1."""
    return (1.2 + 3 * float(torch.rand((), generator=g)),)


def _direction(d: Tensor) -> Tensor:
    """A pair without its length and sign."""
    return d if d.shape != (2,) else d / d.norm().clamp(min=1e-12) * (-1.0 if d[1] < 0 else 1.0)


def _twin(c: Tensor, u: Tensor, gap: Tensor, w: float) -> tuple[Tensor, Tensor]:
    u2 = u + w * (c - u) - w * gap
    return u2 + gap, u2


def answer_03_1(c, u, gap, w):
    u2 = u + w * (c - u) - w * gap
    return u2 + gap, u2


def answer_03_2(w):
    return w - 1, w


EXERCISES = {
    "03.1": Exercise(
        "Write answer(c, u, gap, w): a pair (c', u') with the guided output of (c, u) at w, but with this gap.",
        _twin, draw_fields(3),
        {"The gap is right, the guided output is not: u' must move too.": lambda c, u, gap, w: (u + gap, u),
         "You forgot w - 1: from the guided output to c' it is w - 1 gaps, to u' w gaps.":
            lambda c, u, gap, w: (u + w * (c - u) - w * gap, u + w * (c - u) - (w + 1) * gap),
         "You moved the branches by the new gap; move them by the change of the gap, (c - u) - gap.":
            lambda c, u, gap, w: (c + (w - 1) * gap, u + w * gap),
         "The sign: where the gap becomes smaller by v, c moves by (w - 1) v and u by w v.":
            lambda c, u, gap, w: (c - (w - 1) * (c - u - gap), u - w * (c - u - gap)),
         "Swapped: first c', then u'.": lambda c, u, gap, w: _twin(c, u, gap, w)[::-1]},
        ("Two equations for two unknowns: u' + w gap = guided, and c' - u' = gap.", "Solve the first for u'.",
         "Then c' = u' + gap."),
        source(answer_03_1)),
    "03.2": Exercise(
        "Write answer(w): a pair (d_c, d_u), not both 0, by which c and u can move unseen by a composite loss at w.",
        lambda w: (w - 1, w), _scale,
        {"Not both 0: a direction is wanted.": lambda w: (0.0, 0.0),
         "You forgot w - 1: moving both branches alike moves the guided output, too.": lambda w: (w, w),
         "Swapped: this is (w, w - 1), but it is the conditional branch that moves by w - 1.": lambda w: (w, w - 1),
         "The sign: w d_c + (1 - w) d_u must vanish, and 1 - w is negative here.": lambda w: (1 - w, w),
         "Those are the factors of c and u in the guided output, so moving so is what the loss sees best.":
            lambda w: (w, 1 - w)},
        ("The guided output is w c + (1 - w) u.", "w d_c + (1 - w) d_u = 0.", "Try d_u = w."),
        source(answer_03_2), view=_direction),
    "03.3": Exercise(
        "What is det M for a composite loss that averages over the scales 1, 2, 3 and 4? Give a number.",
        lambda: torch.linalg.det(composite_metric(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))), None,
        {"Divide by n, not by n - 1: the loss is a plain mean over the scales.": lambda: 5 / 3,
         "That is the standard deviation; det M is the variance.": lambda: 1.25**0.5,
         "That is the mean of w; det M is its variance.": lambda: 2.5,
         "That is the mean of the squares; take the square of the mean away.": lambda: 7.5},
        ("There is no need for a matrix.", "det M = Var(w).", "The mean is 2.5; average the squared distances."),
        "answer = (2 * 1.5 ** 2 + 2 * 0.5 ** 2) / 4"),
}
