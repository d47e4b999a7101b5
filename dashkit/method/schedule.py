"""The noise schedule and the forward process."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Append axes to `values` (B,) until it broadcasts against `like` (B, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving diffusion: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps.

    `alphas_cumprod` is abar, shape (T,), nowhere increasing, inside (0, 1); ValueError for any other table.  Timesteps
    are integers 0 .. T-1.  `clip` is the largest |x0| there is: 1 for images, to which a sampler clamps its prediction
    of x0; None for latents.

    >>> schedule = cosine_schedule(1000)
    >>> schedule.grid(4).tolist()
    [750, 500, 250, 0]
    """

    alphas_cumprod: Tensor
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        a = self.alphas_cumprod
        if a.ndim != 1 or not bool(((a > 0) & (a < 1)).all()):
            raise ValueError("alphas_cumprod must be a 1-D tensor with every entry inside (0, 1)")
        if bool((a.diff() > 0).any()):           # equal ones there are: where a zero SNR is rounded up
            raise ValueError("alphas_cumprod must fall from the first timestep, almost the picture, to the last, "
                             f"almost noise; this table, of {float(a.min()):.3g} to {float(a.max()):.3g}, rises")

    @property
    def T(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio abar_t / (1 - abar_t), shape (T,)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    def to(self, device: torch.device | str) -> "Schedule":
        return Schedule(self.alphas_cumprod.to(device), self.clip)

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to broadcast against `like` (B, ...)."""
        abar = expand(self.alphas_cumprod[t], like)
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Noise x0 (B, ...) to timestep t (B,) with eps (B, ...)."""
        signal, noise = self.scales(t, x0)
        return signal * x0 + noise * eps

    def predict_x0(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The x0 that x_t and a predicted eps imply; the inverse of `add_noise`."""
        signal, noise = self.scales(t, x_t)
        return (x_t - noise * eps) / signal

    def clamped(self, x0: Tensor) -> Tensor:
        """x0 within what there is: inside [-clip, clip], or as it is if `clip` is None."""
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def predict_eps(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The eps that x_t and a predicted x0 imply."""
        signal, noise = self.scales(t, x_t)
        return (x_t - signal * x0) / noise

    def grid(self, steps: int) -> Tensor:
        """Exactly `steps` timesteps in decreasing order down to 0, leading spacing, for any 1 <= steps <= T."""
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= self.T:
            raise ValueError(f"steps must be an integer in 1 .. {self.T}, not {steps!r}")
        return (torch.arange(steps) * self.T // steps).flip(0).to(self.alphas_cumprod.device)


def cosine_schedule(T: int = 1000, *, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """The cosine schedule of Nichol & Dhariwal (2021), eq. 17, with betas clipped at `max_beta`."""
    if not isinstance(T, int) or T < 1:
        raise ValueError(f"T must be a positive integer, not {T!r}")
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return Schedule(torch.cumprod(1 - betas, 0).float())


class Noised(NamedTuple):
    """A batch with its noise: everything that a loss may use."""

    x0: Tensor    # (B, C, H, W)
    y: Tensor     # (B,)          class labels, no null label
    t: Tensor     # (B,)          timesteps 0 .. T-1
    eps: Tensor   # (B, C, H, W)  standard normal
    x_t: Tensor   # (B, C, H, W)


def noised(schedule: Schedule, x0: Tensor, y: Tensor, *, generator: torch.Generator) -> Noised:
    """Draw t (uniform) and eps for a batch x0 (B, ...).  Training noise is drawn here and nowhere else."""
    t = torch.randint(schedule.T, (len(x0),), generator=generator, device=generator.device).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=generator.device, dtype=x0.dtype).to(x0.device)
    return Noised(x0, y, t, eps, schedule.add_noise(x0, t, eps))
