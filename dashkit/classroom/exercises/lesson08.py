"""The exercises of notebook 08."""

import torch

from dashkit.classroom.exercises.exercise import Exercise, source


def _convolution(g: torch.Generator) -> tuple:
    """Inputs: channels in and out, filter size, height and width, no two alike."""
    return tuple((2 + torch.randperm(9, generator=g)[:5]).tolist())


def _steps(g: torch.Generator) -> tuple:
    """Inputs: a number of steps and a scale; 0, 1, and two others in turn."""
    n = int(torch.randint(5, 60, (), generator=g))
    return n, {0: 1, 1: 0, 2: 1.5, 3: 4.0}[g.initial_seed() % 4]


def _matrix(g: torch.Generator) -> tuple:
    """Inputs: a matrix (6, 5), and how many entries to keep."""
    return torch.randn(6, 5, generator=g, dtype=torch.float64), int(torch.randint(3, 12, (), generator=g))


def answer_08_1(cin, cout, k, h, w):
    return 2 * cin * cout * k * k * h * w


def answer_08_2(steps, w):
    return steps if w in (0, 1) else 2 * steps


def answer_08_3(weight, keep):
    bar = weight.abs().flatten().topk(keep).values[-1]
    return weight * (weight.abs() >= bar)


EXERCISES = {
    "08.1": Exercise(
        "Write answer(cin, cout, k, h, w): operations of a k x k convolution with output h x w, 2 a multiply-add.",
        lambda ci, co, k, h, w: 2 * ci * co * k * k * h * w, _convolution,
        {"A multiply-add counts as 2.": lambda ci, co, k, h, w: ci * co * k * k * h * w,
         "Those are its weights; each is used at every output position.": lambda ci, co, k, h, w: ci * co * k * k,
         "The filter has k * k positions.": lambda ci, co, k, h, w: 2 * ci * co * k * h * w,
         "Each output number is a sum over all cin input channels.": lambda ci, co, k, h, w: 2 * co * k * k * h * w,
         "The output has h * w positions, as its size is given; nothing is cut off.":
            lambda ci, co, k, h, w: 2 * ci * co * k * k * (h - k + 1) * (w - k + 1)},
        ("Each output number is a sum over cin * k * k products.", "There are cout * h * w output numbers.",
         "A product and its addition are 2 operations."),
        source(answer_08_1)),
    "08.2": Exercise(
        "Write answer(steps, w): how many network passes an image costs with classifier-free guidance at scale w.",
        lambda n, w: n if w in (0, 1) else 2 * n, _steps,
        {"At w = 1 and w = 0 one branch is not used.": lambda n, w: 2 * n,
         "Guidance needs both branches.": lambda n, w: n,
         "At w = 0 only the unconditional branch is used.": lambda n, w: n if w == 1 else 2 * n,
         "At w = 1 only the conditional branch is used.": lambda n, w: n if w == 0 else 2 * n,
         "That is a pass for each step and one more; the second branch is needed at every step.":
            lambda n, w: n if w in (0, 1) else n + 1},
        ("guided = u + w (c - u): when does c or u drop out?", "At w = 1 it is c, at w = 0 it is u.",
         "Otherwise both are needed at every step."),
        source(answer_08_2)),
    "08.3": Exercise(
        "Write answer(weight, keep): from a matrix and a whole number, a matrix of the same shape: the `keep` entries "
        "of largest absolute value as they were, and 0 elsewhere.",
        lambda m, k: m * (m.abs() >= m.abs().flatten().topk(k).values[-1]), _matrix,
        {"In absolute value: a large negative weight matters, too.":
            lambda m, k: m * (m >= m.flatten().topk(k).values[-1]),
         "Those are the smallest.": lambda m, k: m * (m.abs() <= m.abs().flatten().topk(k, largest=False).values[-1]),
         "That is the mask; multiply by it.": lambda m, k: m.abs() >= m.abs().flatten().topk(k).values[-1],
         "One entry too few: the smallest of those that stay is kept, too (>=).":
            lambda m, k: m * (m.abs() > m.abs().flatten().topk(k).values[-1]),
         "You set the largest to 0 and kept the rest.":
            lambda m, k: m * (m.abs() < m.abs().flatten().topk(k).values[-1]),
         "You kept the sizes and lost the signs; multiply the weights themselves by the mask.":
            lambda m, k: m.abs() * (m.abs() >= m.abs().flatten().topk(k).values[-1])},
        ("weight.abs().flatten().topk(keep).values[-1] is the smallest size that stays.",
         "Compare weight.abs() with it.", "Multiply by the mask."),
        source(answer_08_3)),
}
