"""The exercise of notebook 09."""

import torch

from dashkit.classroom.exercises.exercise import Exercise, source


def _ends(g: torch.Generator) -> tuple:
    """Inputs: an interval's ends and a bound: the interval below it, above it, and twice around it."""
    a, b, c = torch.sort(torch.randn(3, generator=g, dtype=torch.float64)).values.tolist()
    return [(a, b, c), (b, c, a), (a, c, a + 0.3 * (c - a)), (a, c, a + 0.7 * (c - a))][g.initial_seed() % 4]


def answer_09_1(lo, hi, at):
    if lo > at:
        return 1
    return -1 if hi < at else 0


EXERCISES = {
    "09.1": Exercise(
        "Write answer(lo, hi, at) for a claim that something is above `at`: 1 if it holds, -1 if the whole interval "
        "from lo to hi is on the other side, 0 if the interval cannot decide.",
        answer_09_1, _ends,
        {"The interval decides, not its middle: where it includes the bound, the data cannot say.":
            lambda lo, hi, at: 1 if (lo + hi) / 2 > at else -1,
         "A claim holds with the end of the interval that is nearer to the bound: lo.":
            lambda lo, hi, at: 1 if hi > at else -1,
         "Three verdicts are wanted: an interval that includes the bound is no -1.":
            lambda lo, hi, at: 1 if lo > at else -1,
         "Three verdicts are wanted: a whole interval below the bound is no 0.": lambda lo, hi, at: 1 if lo > at else 0,
         "The sign: here a claim holds above the bound.": lambda lo, hi, at: -answer_09_1(lo, hi, at)},
        ("Where must the whole interval be for the claim to hold?", "lo > at is one case, hi < at another.",
         "In all other cases the bound is inside the interval."),
        source(answer_09_1)),
}
