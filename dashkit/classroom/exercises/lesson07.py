"""The exercises of notebook 07."""

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import Exercise, source


def _coalitions(g: torch.Generator) -> tuple:
    """Inputs: the values of {}, {a}, {b} and {a, b}."""
    return tuple(torch.rand(4, generator=g).double().tolist())


def _paired(g: torch.Generator) -> tuple:
    """Inputs: results (6,) of two arms that share their seeds' luck."""
    luck, a, b = torch.randn(3, 6, generator=g, dtype=torch.float64)
    return luck + 0.3 * a, luck + 0.3 * b


def _resampled(g: torch.Generator) -> tuple:
    """Inputs: differences (6,), and the seeds of 200 draws (200, 6)."""
    return torch.randn(6, generator=g, dtype=torch.float64), torch.randint(6, (200, 6), generator=g)


def _quantiles(values: Tensor, low: float, high: float) -> Tensor:
    return torch.stack([torch.quantile(values, q) for q in (low, high)])


def answer_07_1(v0, va, vb, vab):
    return ((va - v0) + (vab - vb)) / 2


def answer_07_2(a, b):
    return (a - b).std() / len(a) ** 0.5


def answer_07_3(d, index):
    means = d[index].mean(1)
    return means.quantile(0.025), means.quantile(0.975)


EXERCISES = {
    "07.1": Exercise(
        "Two players a and b. Write answer(v0, va, vb, vab), the values of nobody, a alone, b alone and both, in "
        "points: a's Shapley share in points, one number.",
        lambda v0, va, vb, vab: ((va - v0) + (vab - vb)) / 2, _coalitions,
        {"That is leave-one-out: what is lost when a leaves last.": lambda v0, va, vb, vab: vab - vb,
         "That is one-in: what a brings when it comes first.": lambda v0, va, vb, vab: va - v0,
         "That is b's share.": lambda v0, va, vb, vab: ((vb - v0) + (vab - va)) / 2,
         "Add both orders, then halve.": lambda v0, va, vb, vab: (va - v0) + (vab - vb),
         "You forgot the value of nobody, v0.": lambda v0, va, vb, vab: (va + vab - vb) / 2,
         "That is the fraction of the whole gain; the share is wanted in points, so do not divide by vab - v0.":
            lambda v0, va, vb, vab: ((va - v0) + (vab - vb)) / 2 / (vab - v0)},
        ("a may come first or second.", "First it brings va - v0, second it brings vab - vb.",
         "Shapley's share is the mean over the orders."),
        source(answer_07_1)),
    "07.2": Exercise(
        "Write answer(a, b): from results (S,) of two arms on the same S seeds, the standard error of their mean "
        "difference, one number.",
        lambda a, b: (a - b).std() / len(a) ** 0.5, _paired,
        {"Unpaired: the seeds are common, so subtract first.":
            lambda a, b: ((a.var() + b.var()) / len(a)) ** 0.5,
         "ddof = 1: divide by S - 1, the mean was estimated too.":
            lambda a, b: (a - b).std(correction=0) / len(a) ** 0.5,
         "That is the standard deviation; the error of a mean is smaller by sqrt(S).": lambda a, b: (a - b).std(),
         "sqrt(S), not S.": lambda a, b: (a - b).std() / len(a),
         "The number of seeds is len(a): the check has other data than the table above.":
            lambda a, b: (a - b).std() / 8**0.5,
         "Subtract seed by seed, then take the standard deviation; not the other way round.":
            lambda a, b: (a.std() - b.std()) / len(a) ** 0.5},
        ("Differences first: a - b, one a seed.", "Their standard deviation has ddof = 1 (torch's default).",
         "Divide by the square root of the number of seeds."),
        source(answer_07_2)),
    "07.3": Exercise(
        "Write answer(d, index): d (S,) are paired differences, index (draws, S) says which seeds each draw takes. "
        "Return two numbers, the 2.5% and the 97.5% quantile of the draws' means.",
        lambda d, i: _quantiles(d[i].mean(1), 0.025, 0.975), _resampled,
        {"Those are quantiles of the differences; average each draw first.":
            lambda d, i: _quantiles(d, 0.025, 0.975),
         "That is a 90% interval.": lambda d, i: _quantiles(d[i].mean(1), 0.05, 0.95),
         "You averaged over the draws; average over the seeds of each draw.":
            lambda d, i: _quantiles(d[i].mean(0), 0.025, 0.975),
         "Swapped: the lower end comes first.": lambda d, i: _quantiles(d[i].mean(1), 0.975, 0.025)},
        ("d[index] has shape (draws, S): one resampled experiment a row.", "Its mean over dimension 1 is (draws,).",
         "means.quantile(0.025), and the same at 0.975."),
        source(answer_07_3)),
}
