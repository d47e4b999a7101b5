"""The exercises of notebook 06."""

import torch

from dashkit.classroom.exercises.exercise import Exercise, dots, draw_gaps, image_shape, norms, source


def _scaled(g: torch.Generator) -> tuple:
    """Inputs: a gap (5, 3), and abar."""
    return torch.randn(5, 3, generator=g, dtype=torch.float64), 0.1 + 0.8 * float(torch.rand((), generator=g))


def _scales(g: torch.Generator) -> tuple:
    """Inputs: w above 1, a student's gap, which is a part of the teacher's and something else, and the teacher's."""
    a, b = torch.rand(2, generator=g).tolist()
    teacher, other = torch.randn(2, 6, *image_shape(g), generator=g, dtype=torch.float64)
    return 1.2 + 3 * a, (0.3 + b) * teacher + 0.7 * other, teacher


def answer_06_1(gap_s, gap_t):
    return 1 - (gap_s - gap_t).square().sum() / gap_t.square().sum()


def answer_06_2(gap, abar):
    return -((1 - abar) / abar) ** 0.5 * gap


def answer_06_3(w, gap_s, gap_t):
    return 1 + (w - 1) * (gap_s * gap_t).sum() / gap_s.square().sum()


EXERCISES = {
    "06.1": Exercise(
        "Write answer(gap_s, gap_t), both (B, C, H, W): R^2 of the student's gap, one number for all images together.",
        lambda s, t: 1 - (s - t).square().sum() / t.square().sum(), draw_gaps,
        {"You forgot 1 -: this is the part that is not explained.":
            lambda s, t: (s - t).square().sum() / t.square().sum(),
         "That is a mean of ratios; take the ratio of the means.":
            lambda s, t: 1 - (dots(s - t, s - t) / dots(t, t)).mean(),
         "You divided by the student's power; divide by the teacher's.":
            lambda s, t: 1 - (s - t).square().sum() / s.square().sum(),
         "That is the slope; R^2 also pays for what is not in the teacher's direction.":
            lambda s, t: (s * t).sum() / t.square().sum(),
         "The norms are squared.": lambda s, t: 1 - norms(s - t).mean() / norms(t).mean()},
        ("The squared error of the gap is (gap_s - gap_t) squared.", "Divide its sum by the sum of gap_t squared.",
         "A perfect gap has 1, no gap 0, a wrong one less than 0."),
        source(answer_06_1)),
    "06.2": Exercise(
        "Write answer(gap, abar): from a gap of eps (B, D) and abar at its timestep, a number, the gap (B, D) of the "
        "two x0 predictions (not clamped).",
        lambda g, a: -((1 - a) ** 0.5) * g / a**0.5, _scaled,
        {"The sign: more predicted noise is less image.": lambda g, a: ((1 - a) / a) ** 0.5 * g,
         "You forgot the square root.": lambda g, a: -(1 - a) / a * g,
         "Upside down: this leads from x0 to eps.": lambda g, a: -((a / (1 - a)) ** 0.5) * g,
         "You forgot to divide by sqrt(abar).": lambda g, a: -((1 - a) ** 0.5) * g},
        ("x0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar), for each branch.", "Subtract the two; x_t cancels.",
         "What is left is the gap of eps times a negative number."),
        source(answer_06_2)),
    "06.3": Exercise(
        "Known: the student's conditional branch is the teacher's. Write answer(w, gap_s, gap_t), a number and gaps "
        "(B, C, H, W): the scale w', one number, that guides most like the teacher at w, in the least squares.",
        lambda w, s, t: 1 + (w - 1) * (s * t).sum() / s.square().sum(), _scales,
        {"w = 1 needs no gap: only the part of w above 1 is scaled.":
            lambda w, s, t: w * (s * t).sum() / s.square().sum(),
         "This divides by the slope: right for a gap without noise, and worse than nothing for one with noise.":
            lambda w, s, t: 1 + (w - 1) * t.square().sum() / (s * t).sum(),
         "That is the slope, which divides by the teacher's power: divide by the student's.":
            lambda w, s, t: 1 + (w - 1) * (s * t).sum() / t.square().sum(),
         "You forgot the 1 in front: guided = cond + (w - 1) gap.":
            lambda w, s, t: (w - 1) * (s * t).sum() / s.square().sum(),
         "That is the scale itself: another gap needs another one.": lambda w, s, t: w},
        ("Write the guided output as cond + (w - 1) gap.",
         "Minimise E||(w' - 1) gS - (w - 1) gT||^2: a line through zero, fitted to the student's gap.",
         "(w' - 1) = (w - 1) beta, beta = E<gS, gT> / E||gS||^2."),
        source(answer_06_3)),
}
