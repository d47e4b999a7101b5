"""The exercises of notebook 01."""

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import Exercise, draw_fields, draw_noise, source


def _step(g: torch.Generator) -> tuple:
    """Inputs: x_t and eps (5, 3), abar, and abar_next of the next, less noisy timestep."""
    x_t, eps, _ = draw_fields(2)(g)
    a, b = torch.rand(2, generator=g).tolist()
    return x_t, eps, 0.1 + 0.4 * a, 0.55 + 0.4 * b


def _x0(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    return (x - (1 - abar) ** 0.5 * eps) / abar**0.5


def _ddim(x: Tensor, eps: Tensor, a: float, b: float, *, clip: float = 1.0) -> Tensor:
    x0 = _x0(x, eps, a).clamp(-clip, clip)
    return b**0.5 * x0 + (1 - b) ** 0.5 * (x - a**0.5 * x0) / (1 - a) ** 0.5


def answer_01_1(x_t, eps, abar):
    return (x_t - (1 - abar) ** 0.5 * eps) / abar ** 0.5


def answer_01_2(c, u, w):
    return u + w * (c - u)


def answer_01_3(x_t, eps, abar):
    x0 = ((x_t - (1 - abar) ** 0.5 * eps) / abar ** 0.5).clamp(-1, 1)
    return (x_t - abar ** 0.5 * x0) / (1 - abar) ** 0.5


def answer_01_4(x_t, eps, abar, abar_next):
    x0 = ((x_t - (1 - abar) ** 0.5 * eps) / abar ** 0.5).clamp(-1, 1)
    eps = (x_t - abar ** 0.5 * x0) / (1 - abar) ** 0.5
    return abar_next ** 0.5 * x0 + (1 - abar_next) ** 0.5 * eps


EXERCISES = {
    "01.1": Exercise(
        "Write answer(x_t, eps, abar) that returns x0.",
        _x0, draw_noise,
        {"You forgot the square roots: abar is a variance, the formula mixes standard deviations.":
            lambda x, e, a: (x - (1 - a) * e) / a,
         "You removed the noise but did not divide by sqrt(abar).": lambda x, e, a: x - (1 - a) ** 0.5 * e,
         "Swapped: sqrt(abar) belongs to the signal, sqrt(1 - abar) to the noise.":
            lambda x, e, a: (x - a**0.5 * e) / (1 - a) ** 0.5,
         "The sign: the noise was added to the image, so take it away.":
            lambda x, e, a: (x + (1 - a) ** 0.5 * e) / a**0.5},
        ("Start from x_t = sqrt(abar) x0 + sqrt(1 - abar) eps.", "Solve it for x0.", "Subtract, then divide."),
        source(answer_01_1)),
    "01.2": Exercise(
        "Write answer(c, u, w) that returns the guided prediction.",
        lambda c, u, w: u + w * (c - u), draw_fields(2),
        {"Swapped branches: w = 1 must give c.": lambda c, u, w: c + w * (u - c),
         "You forgot w - 1: starting from c, only w - 1 gaps are added (or start from u).":
            lambda c, u, w: c + w * (c - u),
         "Starting from u, w gaps are added; w - 1 belongs to the form that starts from c.":
            lambda c, u, w: u + (w - 1) * (c - u)},
        ("w = 0 gives u and w = 1 gives c.", "It is a straight line through u and c.", "Start at u, add w gaps."),
        source(answer_01_2)),
    "01.3": Exercise(
        "Write answer(x_t, eps, abar) that returns the eps that belongs to x_t and to x0 clamped to [-1, 1].",
        lambda x, e, a: (x - a**0.5 * _x0(x, e, a).clamp(-1, 1)) / (1 - a) ** 0.5, draw_noise,
        {"That is the eps you started from: nothing was clamped.": lambda x, e, a: e,
         "That is the clamped x0; turn it back into eps.": lambda x, e, a: _x0(x, e, a).clamp(-1, 1),
         "You clamped eps itself; clamp x0.": lambda x, e, a: e.clamp(-1, 1),
         "You removed the image but did not divide by sqrt(1 - abar).":
            lambda x, e, a: x - a**0.5 * _x0(x, e, a).clamp(-1, 1)},
        ("Three steps: eps to x0, clamp, x0 to eps.", "x_t stays what it is; x0 and eps must add up to it.",
         "eps = (x_t - sqrt(abar) x0) / sqrt(1 - abar)."),
        source(answer_01_3)),
    "01.4": Exercise(
        "Write answer(x_t, eps, abar, abar_next): one DDIM step down to abar_next, with x0 clamped and eps recomputed.",
        _ddim, _step,
        {"You kept the eps that was predicted; recompute it after the clamp.":
            lambda x, e, a, b: b**0.5 * _x0(x, e, a).clamp(-1, 1) + (1 - b) ** 0.5 * e,
         "Nothing was clamped.": lambda *v: _ddim(*v, clip=1e9),
         "That is x0; mix it with eps again, at the new timestep.": lambda x, e, a, b: _x0(x, e, a).clamp(-1, 1),
         "You mixed with the old timestep's factors, which leads back to x_t.": lambda x, e, a, b: x,
         "Swapped: x_t has abar, the result has abar_next.": lambda x, e, a, b: _ddim(x, e, b, a)},
        ("Three steps you have written before: x0, clamp, the eps that belongs to it.",
         "Then noise that x0 with that eps, at the new timestep.", "sqrt(abar_next) x0 + sqrt(1 - abar_next) eps."),
        source(answer_01_4)),
}
