"""The exercises of notebook 11."""

import torch

from dashkit.classroom.exercises.exercise import Exercise, image_shape, source


def _betas(g: torch.Generator) -> tuple:
    """Input: betas (12,), of which no two are alike."""
    return (0.02 + 0.3 * torch.rand(12, generator=g, dtype=torch.float64),)


def _prediction(g: torch.Generator) -> tuple:
    """Inputs: v and x_t (3, C, H, W), abar between 0.1 and 0.9."""
    v, x_t = torch.randn((2, 3, *image_shape(g)), generator=g, dtype=torch.float64)
    return v, x_t, 0.1 + 0.8 * torch.rand((), generator=g, dtype=torch.float64).item()


def answer_11_1(betas):
    return (1 - betas).cumprod(0)


def answer_11_2(v, x_t, abar):
    return abar**0.5 * v + (1 - abar) ** 0.5 * x_t


EXERCISES = {
    "11.1": Exercise(
        "Write answer(betas): the table abar (T,) of a scheduler with these betas (T,).",
        lambda b: (1 - b).cumprod(0), _betas,
        {"That is the product of the betas; a step keeps 1 - beta of the signal's power.": lambda b: b.cumprod(0),
         "That is 1 minus the sum; powers multiply.": lambda b: 1 - b.cumsum(0),
         "That is what one step keeps; multiply up to t.": lambda b: 1 - b,
         "That is the noise's share, 1 - abar.": lambda b: 1 - (1 - b).cumprod(0),
         "That is the square root of abar, the signal's size and not its power.": lambda b: (1 - b).cumprod(0).sqrt(),
         "It runs from the last timestep to the first.": lambda b: (1 - b).flip(0).cumprod(0).flip(0),
         "It lags one step: abar_0 is 1 - beta_0 already.":
            lambda b: torch.cat([torch.ones(1, dtype=b.dtype), (1 - b).cumprod(0)[:-1]])},
        ("One step keeps the share 1 - beta of the signal's power.", "Shares of several steps multiply.",
         "A tensor has cumprod(0)."),
        source(answer_11_1)),
    "11.2": Exercise(
        "Write answer(v, x_t, abar): the noise that a predicted velocity v means; v, x_t (B, C, H, W), abar a number.",
        lambda v, x, a: a**0.5 * v + (1 - a) ** 0.5 * x, _prediction,
        {"That is x0: sqrt(abar) x_t - sqrt(1 - abar) v.": lambda v, x, a: a**0.5 * x - (1 - a) ** 0.5 * v,
         "The two factors are swapped.": lambda v, x, a: (1 - a) ** 0.5 * v + a**0.5 * x,
         "The sign: both parts are added.": lambda v, x, a: a**0.5 * v - (1 - a) ** 0.5 * x,
         "abar is a power: take its square root.": lambda v, x, a: a * v + (1 - a) * x,
         "v was taken for the noise itself.": lambda v, x, a: v,
         "v was taken for x0.": lambda v, x, a: (x - a**0.5 * v) / (1 - a) ** 0.5},
        ("x_t = sqrt(abar) x0 + sqrt(1 - abar) eps, and v = sqrt(abar) eps - sqrt(1 - abar) x0.",
         "(x_t, v) is (x0, eps), turned by an angle. Turn it back.",
         "Multiply v by sqrt(abar), x_t by sqrt(1 - abar), and add: x0 drops out."),
        source(answer_11_2)),
}
