"""The exercises of notebook 02."""

from collections.abc import Callable

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import Exercise, WrongAnswer, as_numbers, as_tensor, draw_noise, norms, source


def _predictions(g: torch.Generator) -> tuple:
    """Inputs: eps_hat and eps (6, 1, 4, 4), and omega_t (6,)."""
    eps_hat, eps = torch.randn(2, 6, 1, 4, 4, generator=g, dtype=torch.float64)
    return eps_hat, eps, 0.1 + 2 * torch.rand(6, generator=g, dtype=torch.float64)


def _check_drop(answer: Callable) -> None:
    y, g = torch.arange(4000) % 10, torch.Generator().manual_seed(0)
    for p in (0.0, 1.0, 0.1):
        kept = y.clone()
        out = as_numbers(answer(kept, 10, p, g), y.shape)
        if out.shape != y.shape:
            raise WrongAnswer(f"Labels of shape {tuple(y.shape)} are wanted; yours have shape {tuple(out.shape)}.")
        if not torch.equal(kept, y):
            raise WrongAnswer("Your function changed the labels it was given; make a new tensor (torch.where).")
        if not bool(((out == 10) | (out == y)).all()):
            raise WrongAnswer("Every label must either stay as it is or become the null label.")
        share = float((out == 10).double().mean())
        if p == 0.1 and share in (0, 1):
            raise WrongAnswer("You draw one number for the whole batch; draw one for each sample.")
        if abs(share - (1 - p)) < 0.03:
            raise WrongAnswer("Swapped: you keep a label with probability p instead of dropping it.")
        if abs(share - p) > 0.03:
            raise WrongAnswer(f"With p = {p:g} a share of {share:.2g} was dropped.")
    if torch.equal(as_tensor(answer(y, 10, 0.5, g)), as_tensor(answer(y, 10, 0.5, g))):
        raise WrongAnswer("Two calls dropped the same samples: draw from `generator`.")


def _loss(s: Tensor, t: Tensor, omega_t: Tensor) -> Tensor:
    return (omega_t * (s - t).square().flatten(1).mean(1)).mean()


def answer_02_1(y, null_label, p, generator):
    return torch.where(torch.rand(y.shape, generator=generator) < p, null_label, y)


def answer_02_2(average, new, decay):
    return decay * average + (1 - decay) * new


def answer_02_3(eps_hat, eps, omega_t):
    return (omega_t * ((eps_hat - eps) ** 2).mean(dim=(1, 2, 3))).mean()


EXERCISES = {
    "02.1": Exercise(
        "Write answer(y, null_label, p, generator) that drops each label of y by itself with probability p.",
        lambda *_: None, lambda g: (), {},
        ("Draw one uniform number for each sample.", "torch.rand(y.shape, generator=generator) < p is a mask.",
         "torch.where(mask, null_label, y)."),
        source(answer_02_1),
        check_answer=_check_drop),
    "02.2": Exercise(
        "Write answer(average, new, decay) that returns the updated moving average.",
        lambda a, n, d: d * a + (1 - d) * n, draw_noise,
        {"Swapped: a decay near 1 must keep most of the old average.": lambda a, n, d: (1 - d) * a + d * n,
         "The shares do not add up to 1: the new value needs the factor 1 - decay.": lambda a, n, d: d * a + n},
        ("decay = 1 changes nothing.", "decay = 0 forgets everything.", "Two shares that add up to 1."),
        source(answer_02_2)),
    "02.3": Exercise(
        "Write answer(eps_hat, eps, omega_t), images (B, C, H, W) and weights (B,): the teacher's loss, one number.",
        _loss, _predictions,
        {"You forgot omega_t.": lambda s, t, o: _loss(s, t, torch.ones_like(o)),
         "Weight each sample before averaging over the batch, not after: this is the batch mean of omega_t times the "
         "batch mean of the error.": lambda s, t, o: o.mean() * _loss(s, t, torch.ones_like(o)),
         "That is the squared norm, a sum over the pixels; take their mean.":
            lambda s, t, o: s[0].numel() * _loss(s, t, o),
         "That is the norm; the error is squared.": lambda s, t, o: (o * norms(s - t)).mean(),
         "That is one loss a sample; average over the batch.":
            lambda s, t, o: o * (s - t).square().flatten(1).mean(1),
         "That is the sum over the batch; take the mean.": lambda s, t, o: len(o) * _loss(s, t, o)},
        ("Square the difference, then average over everything but the batch: (B,).", "Multiply by omega_t (B,).",
         "Then .mean()."),
        source(answer_02_3)),
}
