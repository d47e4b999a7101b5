"""Per-timestep weights omega (T,), mean 1 over the whole table.

A curriculum is a tensor: transfer and freeze are `tirt().detach()`.
"""

import torch
from torch import Tensor, nn

from dashkit.method.schedule import Schedule


def normalised(omega: Tensor) -> Tensor:
    """Divide omega (T,) by its mean over all T entries.

    With the mean of a batch, the weight of a sample would depend on the other samples of its batch.
    """
    if omega.ndim != 1 or not bool((omega >= 0).all()) or not bool(omega.sum() > 0):
        raise ValueError("omega must be a non-negative (T,) tensor with a positive sum")
    return omega / omega.mean()


def uniform(schedule: Schedule) -> Tensor:
    """omega = 1: the loss of DDPM."""
    return torch.ones_like(schedule.snr)


def min_snr(schedule: Schedule, gamma: float = 5.0) -> Tensor:
    """min(snr, gamma) / snr, normalised: Min-SNR (Hang et al., 2023) in the form that fits an eps loss."""
    return normalised(schedule.snr.clamp(max=_positive(gamma)) / schedule.snr)


def published(schedule: Schedule, gamma: float = 5.0) -> Tensor:
    """min(snr, gamma), normalised: the base that the paper applies to an eps loss.

    On an eps loss this is not Min-SNR: the noisier half of the timesteps gets 7% of the weight.
    """
    return normalised(schedule.snr.clamp(max=_positive(gamma)))


class TIRT(nn.Module):
    """Timestep-importance rebalanced training: omega_t = base_t sigmoid(lambda_t), divided by its mean over T.

    `base` is a curriculum (T,), the paper's being `published(schedule)`; lambda starts at 0, where omega equals base.

    >>> from dashkit.method.schedule import cosine_schedule
    >>> tirt = TIRT(uniform(cosine_schedule(10)))
    >>> tirt().mean().item()
    1.0
    """

    base: Tensor

    def __init__(self, base: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", normalised(base))
        self.lambda_t = nn.Parameter(torch.zeros_like(base))

    def forward(self) -> Tensor:
        omega = self.base * self.lambda_t.sigmoid()          # positive by construction: a check would stop a GPU
        return omega / omega.mean()


def _positive(gamma: float) -> float:
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, not {gamma!r}")
    return gamma
