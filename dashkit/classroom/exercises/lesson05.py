"""The exercises of notebook 05."""

import torch
from torch import Tensor

from dashkit.classroom.exercises.exercise import Exercise, source


def _weights(g: torch.Generator) -> tuple:
    """Inputs: omega (20,) with a mean that is not 1, and timesteps t (6,)."""
    return 0.1 + 2 * torch.rand(20, generator=g, dtype=torch.float64), torch.randint(20, (6,), generator=g)


def _snr(g: torch.Generator) -> tuple:
    """Inputs: snr (30,), and a gamma that some of them exceed."""
    return 4 * torch.randn(30, generator=g).double().exp(), 2 + 6 * torch.rand((), generator=g).item()


def _mean_one(omega: Tensor) -> Tensor:
    return omega / omega.mean()


def answer_05_1(snr, gamma):
    omega = snr.clamp(max=gamma) / snr
    return omega / omega.mean()


def answer_05_2(omega, t):
    return omega[t] / omega.mean()


def answer_05_3(omega, sigma, losses):
    J = (omega * losses).sum() / omega.sum()
    return omega * (1 - sigma) / omega.sum() * (losses - J)


EXERCISES = {
    "05.1": Exercise(
        "Write answer(snr, gamma): the Min-SNR weights (T,) of an eps loss, with mean 1.",
        lambda s, g: _mean_one(s.clamp(max=g) / s), _snr,
        {"You forgot to divide by the snr: this is the published form, and fits an x0 loss.":
            lambda s, g: _mean_one(s.clamp(max=g)),
         "Right shape, but its mean is not 1.": lambda s, g: s.clamp(max=g) / s,
         "max instead of min: the cap bounds the weights from above.": lambda s, g: _mean_one(s.clamp(min=g) / s),
         "Its sum is 1, not its mean.": lambda s, g: _mean_one(s.clamp(max=g) / s) / len(s),
         "Without the minimum: where the snr is below gamma, the weight does not grow any more.":
            lambda s, g: _mean_one(g / s)},
        ("min(snr, gamma) is snr.clamp(max=gamma).", "On an eps loss it is min(snr, gamma) / snr.",
         "Then divide by the mean of the whole table."),
        source(answer_05_1)),
    "05.2": Exercise(
        "Write answer(omega, t): the weights (B,) at timesteps t (B,); the table omega (T,) has no mean of 1 yet.",
        lambda o, t: o[t] / o.mean(), _weights,
        {"You divided by the mean of the batch; divide by the mean of the table.": lambda o, t: o[t] / o[t].mean(),
         "You forgot to normalise.": lambda o, t: o[t],
         "You divided by the sum; divide by the mean.": lambda o, t: o[t] / o.sum(),
         "You divided by the largest weight; divide by the mean.": lambda o, t: o[t] / o.max(),
         "That is the whole table; look up the timesteps t in it.": lambda o, t: o / o.mean()},
        ("Normalise first, look up afterwards.", "A sample's weight must not depend on its batch-mates.",
         "omega.mean() runs over all T entries."),
        source(answer_05_2)),
    "05.3": Exercise(
        "Write answer(omega, sigma, losses): dJ/dlambda (T,), J = sum(omega losses) / sum(omega), omega = base sigma.",
        lambda o, s, x: o * (1 - s) / o.sum() * (x - (o * x).sum() / o.sum()),
        lambda g: tuple(torch.rand(3, 12, generator=g, dtype=torch.float64) + 0.05),
        {"The sign: weight on a timestep of above-average loss raises J.":
            lambda o, s, x: o * (1 - s) / o.sum() * ((o * x).sum() / o.sum() - x),
         "You forgot 1 - sigma, the slope of the logistic.":
            lambda o, s, x: o / o.sum() * (x - (o * x).sum() / o.sum()),
         "sigma (1 - sigma) is the slope of sigma; omega = base sigma has the slope omega (1 - sigma).":
            lambda o, s, x: s * (1 - s) / o.sum() * (x - (o * x).sum() / o.sum()),
         "omega holds sigma already: its slope is omega (1 - sigma).":
            lambda o, s, x: o * s * (1 - s) / o.sum() * (x - (o * x).sum() / o.sum()),
         "You forgot to divide by the sum of omega.": lambda o, s, x: o * (1 - s) * (x - (o * x).sum() / o.sum()),
         "You forgot that the weights are normalised: subtract J.": lambda o, s, x: o * (1 - s) / o.sum() * x,
         "J is the weighted mean of the losses, not the plain one.":
            lambda o, s, x: o * (1 - s) / o.sum() * (x - x.mean())},
        ("d sigma / d lambda = sigma (1 - sigma), so d omega / d lambda = omega (1 - sigma).",
         "Differentiate a quotient: the sum of omega depends on lambda, too.", "The bracket is losses - J."),
        source(answer_05_3)),
}
