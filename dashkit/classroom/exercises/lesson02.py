"""The exercises of notebook 02."""

from collections.abc import Callable

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import (
    Exercise,
    WrongAnswer,
    as_numbers,
    as_tensor,
    draw_noise,
    image_shape,
    norms,
    source,
)


def _predictions(g: torch.Generator) -> tuple:
    """Inputs: eps_hat and eps (6, C, H, W), and omega_t (6,)."""
    eps_hat, eps = torch.randn(2, 6, *image_shape(g), generator=g, dtype=torch.float64)
    return eps_hat, eps, 0.1 + 2 * torch.rand(6, generator=g, dtype=torch.float64)


def _check_drop(answer: Callable) -> None:
    y, g = torch.arange(4000) % 10, torch.Generator().manual_seed(0)

    def dropped(generator: torch.Generator) -> Tensor:
        return as_tensor(answer(y, 10, 0.5, generator)) == 10

    for p, null_label in ((0.0, 10), (1.0, 100), (0.1, 7)):
        labels = y % min(null_label, 10)
        kept = labels.clone()
        result = answer(kept, null_label, p, g)
        out = as_numbers(result, labels.shape)
        if out.shape != labels.shape:
            raise WrongAnswer(f"Labels of shape {tuple(labels.shape)} are wanted; yours have shape {tuple(out.shape)}.")
        if isinstance(result, Tensor) and result.is_floating_point():
            raise WrongAnswer("Labels are whole numbers; yours have become decimal ones.")
        if not torch.equal(kept, labels):
            raise WrongAnswer("Your function changed the labels it was given; make a new tensor (torch.where).")
        if not bool(((out == null_label) | (out == labels)).all()):
            raise WrongAnswer(f"Every label must either stay as it is or become the null label, here {null_label}.")
        share = float((out == null_label).double().mean())
        if p == 0.1 and share in (0, 1):
            raise WrongAnswer("You draw one number for the whole batch or for a class; draw one for each sample.")
        if abs(share - (1 - p)) < 0.03:
            raise WrongAnswer("Swapped: you keep a label with probability p instead of dropping it.")
        if abs(share - p) > 0.03:
            raise WrongAnswer(f"With p = {p:g} a share of {share:.2g} was dropped.")
    draws = [dropped(g) for _ in range(4)]
    if torch.equal(draws[0], draws[1]):
        raise WrongAnswer("Two calls dropped the same samples: draw from `generator`, which goes on from call to call.")
    if not torch.equal(*(dropped(torch.Generator().manual_seed(1)) for _ in range(2))):
        raise WrongAnswer("Two generators in the same state dropped different samples: draw from `generator` alone.")
    if len({int(d.sum()) for d in draws}) == 1:
        raise WrongAnswer("Each call dropped the same number of samples; draw for each sample by itself.")
    if max(abs(float(d[y == k].double().mean()) - 0.5) for d in draws for k in range(10)) > 0.2:
        raise WrongAnswer("You draw one number for a class; draw one for each sample.")


def _loss(s: Tensor, t: Tensor, omega_t: Tensor) -> Tensor:
    return (omega_t * (s - t).square().flatten(1).mean(1)).mean()


def answer_02_1(y, null_label, p, generator):
    return torch.where(torch.rand(y.shape, generator=generator) < p, null_label, y)


def answer_02_2(average, weights, decay):
    return decay * average + (1 - decay) * weights


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
        "Write answer(average, weights, decay) that returns the updated moving average.",
        lambda a, n, d: d * a + (1 - d) * n, draw_noise,
        {"Swapped: a decay near 1 must keep most of the old average.": lambda a, n, d: (1 - d) * a + d * n,
         "The shares do not add up to 1: the new value needs the factor 1 - decay.": lambda a, n, d: d * a + n,
         "That is a plain mean: `decay` decides how much of the old average stays.": lambda a, n, d: (a + n) / 2},
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
         "That is the sum over the batch; take the mean.": lambda s, t, o: len(o) * _loss(s, t, o),
         "You divided by the sum of the batch's weights; a sample's weight must not depend on its batch-mates.":
            lambda s, t, o: _loss(s, t, o) / o.mean()},
        ("Square the difference, then average over everything but the batch: (B,).", "Multiply by omega_t (B,).",
         "Then .mean()."),
        source(answer_02_3)),
}
