"""The exercises of notebook 10."""

import torch

from dashkit.classroom.exercises.exercise import Exercise, source


def _gaussians(g: torch.Generator) -> tuple:
    """Inputs: means (6,) and standard deviations (6,) of two Gaussians: m1, sd1, m2, sd2."""
    m, s = torch.randn(2, 2, 6, generator=g, dtype=torch.float64)
    s = 0.2 + s.abs()
    return m[0], s[0], m[1], s[1]


def _distances(g: torch.Generator) -> tuple:
    """Inputs: a distance from n images and a smaller one from 2n."""
    end, bias = (1 + 9 * torch.rand(2, generator=g, dtype=torch.float64)).tolist()
    return end + bias, end + bias / 2


def answer_10_1(m1, sd1, m2, sd2):
    return ((m1 - m2) ** 2 + (sd1 - sd2) ** 2).sum()


def answer_10_2(at_n, at_2n):
    return 2 * at_2n - at_n


EXERCISES = {
    "10.1": Exercise(
        "Write answer(m1, sd1, m2, sd2): the squared Fréchet distance of two Gaussians of independent features, from "
        "means (D,) and standard deviations (D,).",
        lambda m1, sd1, m2, sd2: ((m1 - m2) ** 2 + (sd1 - sd2) ** 2).sum(), _gaussians,
        {"The spreads count, too.": lambda m1, sd1, m2, sd2: ((m1 - m2) ** 2).sum(),
         "The means count, too.": lambda m1, sd1, m2, sd2: ((sd1 - sd2) ** 2).sum(),
         "The formula has no root: it is the squared distance.":
            lambda m1, sd1, m2, sd2: ((m1 - m2) ** 2 + (sd1 - sd2) ** 2).sum().sqrt(),
         "Sum over the features, do not average.": lambda m1, sd1, m2, sd2: ((m1 - m2) ** 2 + (sd1 - sd2) ** 2).mean(),
         "C holds variances, sd standard deviations: the root of C1 C2 is sd1 sd2.":
            lambda m1, sd1, m2, sd2: ((m1 - m2) ** 2 + sd1 + sd2 - 2 * (sd1 * sd2).sqrt()).sum()},
        ("A diagonal matrix is handled entry by entry.",
         "C1 + C2 - 2 (C1 C2)^(1/2) is sd1^2 + sd2^2 - 2 sd1 sd2 there.",
         "That is (sd1 - sd2)^2."),
        source(answer_10_1)),
    "10.2": Exercise(
        "Write answer(at_n, at_2n): where a distance ends for infinitely many images if its error goes as 1 / N.",
        lambda a, b: 2 * b - a, _distances,
        {"Swapped: the measurement from more images is the one to start from.": lambda a, b: 2 * a - b,
         "That is the error that is left at 2n; take it off the distance at 2n.": lambda a, b: a - b,
         "Their mean has an error as well.": lambda a, b: (a + b) / 2,
         "From n to 2n half of the error goes away, not all of it.": lambda a, b: b},
        ("Write at_n = end + c / n and at_2n = end + c / (2n).", "at_n - at_2n is c / (2n).",
         "Subtract that from at_2n."),
        source(answer_10_2)),
}
