"""Noise schedules of diffusers: a scheduler's config as a `Schedule`, and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dashkit.method.schedule import Schedule

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may predict: the noise, the velocity sqrt(abar) eps - sqrt(1 - abar) x0, or x0."""
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
SMALLEST = 2.0**-24      # abar where a schedule says 0; diffusers takes the same
SAME = 1e-3              # two schedules differ if their signal or noise differs by more


@dataclass(frozen=True)
class Diffusion:
    """What a scheduler's config says: the schedule, what the network predicts, and what a reader should know."""

    schedule: Schedule
    prediction: str      # one of PREDICTIONS
    note: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)     # of the scheduler that it was read from


def read_scheduler(config: Mapping[str, Any]) -> Diffusion:
    """The diffusion of a diffusers scheduler, from its config; ValueError in one sentence for what is none.

    Zero terminal SNR (`rescale_betas_zero_snr`) is taken for v_prediction and sample, with abar 2^-24 in place of 0.
    With epsilon it is refused: where nothing but noise is left, a predicted noise says nothing of the image.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ValueError(f"the scheduler's prediction_type must be one of {', '.join(PREDICTIONS)}, not {prediction!r}")
    betas = _betas(config)
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError("the scheduler's betas must be inside (0, 1)")
    abar, note = torch.cumprod(1 - betas, 0), ""
    if config.get("rescale_betas_zero_snr"):
        if prediction == "epsilon":
            raise ValueError("the scheduler has zero terminal SNR and the network predicts epsilon; at the last "
                             "timestep such a prediction says nothing, so use a scheduler without "
                             "rescale_betas_zero_snr, or a network that predicts v_prediction or sample")
        root = abar.sqrt()
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square().clamp(min=SMALLEST)
        note = "zero terminal SNR: the last timestep has no signal, and abar counts as 2^-24 there"
    return Diffusion(Schedule(abar), str(prediction), note, dict(config))


def _betas(config: Mapping[str, Any]) -> Tensor:
    """The betas (T,) in float32, to the bit those of diffusers, which need not be there: a folder of this kit is read
    without it."""
    name, T = config.get("_class_name", "this scheduler"), config.get("num_train_timesteps", 1000)
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
        if betas.ndim != 1 or len(betas) < 2:
            raise ValueError(f"trained_betas of {name} must be a list of numbers")
        return betas
    kind = config.get("beta_schedule")
    if kind not in BETAS:
        raise ValueError(f"{name} has beta_schedule {kind!r}; this kit reads {', '.join(BETAS)} and trained_betas, the "
                         "schedules of discrete diffusion (no flow matching)")
    if not isinstance(T, int) or isinstance(T, bool) or not 2 <= T <= 100_000:
        raise ValueError(f"num_train_timesteps of {name} must be an integer in [2, 100000], not {T!r}")
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if kind == "linear":
        return torch.linspace(start, end, T, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, T, dtype=torch.float32) ** 2
    if kind == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, T)) * (end - start) + start
    f = [math.cos((i / T + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 1)]
    return torch.tensor([min(1 - f[i + 1] / f[i], 0.999) for i in range(T)], dtype=torch.float32)


def scheduler_config(schedule: Schedule, prediction: str, kept: Mapping[str, Any] | None = None) -> dict:
    """The config of a diffusers DDIMScheduler with this schedule; betas are those of `kept`, an older config.

    Without `kept` it is the cosine schedule of this kit, or a list of the schedule's own betas.
    """
    names = ("beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr")
    betas = {k: kept[k] for k in names if k in kept} if kept else {"beta_schedule": "squaredcos_cap_v2"}
    config = {
        "_class_name": "DDIMScheduler", "num_train_timesteps": schedule.T, **betas, "prediction_type": prediction,
        "clip_sample": schedule.clip is not None, "clip_sample_range": schedule.clip or 1.0, "set_alpha_to_one": True,
        "steps_offset": 0, "timestep_spacing": "leading", "thresholding": False}
    config.setdefault("rescale_betas_zero_snr", False)
    if config.get("beta_schedule") == "sigmoid" or not same(schedule, read_scheduler(config).schedule):
        abar = schedule.alphas_cumprod.double().cpu()
        own = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])      # DDIMScheduler knows no sigmoid
        config |= {"trained_betas": own.tolist(), "beta_schedule": "linear", "rescale_betas_zero_snr": False}
    return config


def same(a: Schedule, b: Schedule) -> bool:
    """Whether two schedules noise alike, up to rounding: ours and diffusers' cosine differ by 1e-4."""
    if a.T != b.T:
        return False
    x, y = a.alphas_cumprod.cpu(), b.alphas_cumprod.cpu()
    return bool(((x.sqrt() - y.sqrt()).abs() < SAME).all() and (((1 - x).sqrt() - (1 - y).sqrt()).abs() < SAME).all())


def to_eps(output: Tensor, x_t: Tensor, scales: tuple[Tensor, Tensor], prediction: str) -> Tensor:
    """The noise that a prediction means; `scales` are sqrt(abar_t) and sqrt(1 - abar_t), all (B, ...)."""
    if prediction == "epsilon":
        return output
    signal, noise = scales
    if prediction == "v_prediction":
        return signal * output + noise * x_t
    return (x_t - signal * output) / noise


def from_eps(eps: Tensor, x_t: Tensor, scales: tuple[Tensor, Tensor], prediction: str) -> Tensor:
    """The prediction that means this noise: the inverse of `to_eps`."""
    if prediction == "epsilon":
        return eps
    signal, noise = scales
    if prediction == "v_prediction":
        return (eps - noise * x_t) / signal
    return (x_t - noise * eps) / signal
