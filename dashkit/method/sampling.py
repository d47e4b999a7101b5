"""Deterministic sampling with guidance."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashkit.method.guidance import Model, branches, check_eval, check_labels, guidance_table
from dashkit.method.memory import Parts, at_a_time
from dashkit.method.schedule import Schedule


def guided_eps(model: Model, x_t: Tensor, t: Tensor, y: Tensor, w: float) -> Tensor:
    """eps_w of one timestep, (B, ...).  If w is 1 or 0, only one branch is used, and only that one is computed.

    A model that predicts the guided output itself has a method `guided(x_t, t, y, w)`; then this method is called.
    """
    if hasattr(model, "guided"):
        return model.guided(x_t, t, y, w)
    if w == 1:
        return model(x_t, t, y)
    if w == 0:
        return model(x_t, t, torch.full_like(y, model.null_label))
    return branches(model, x_t, t, y).guided(w)


@dataclass(frozen=True)
class Sampling:
    """How `ddim` samples.

    The prediction of x0 is clamped to [-x0_clip, x0_clip], unless x0_clip is None; "schedule" means the schedule's own
    `clip`, which is 1 for images.  Then eps is recomputed, so that x_t is again made of x0 and eps.
    `recompute_eps=False` keeps the original eps; with strong guidance the samples then get worse, as notebook 01 shows.
    """

    w: float | Tensor = 1.0       # the guidance scale, or a guidance table (T,)
    steps: int = 50
    x0_clip: float | str | None = "schedule"
    recompute_eps: bool = True

    def __post_init__(self) -> None:
        number = self.x0_clip if not isinstance(self.x0_clip, str) else 1.0 if self.x0_clip == "schedule" else 0.0
        if number is not None and not number > 0:
            raise ValueError(f"x0_clip must be positive or None, not {self.x0_clip!r}")


def ddim(model: Model, schedule: Schedule, y: Tensor, x_T: Tensor, how: Sampling) -> Iterator[Tensor]:
    """DDIM with eta = 0 (Song et al., 2021, eq. 12), yielding x (B, ...) after each of exactly `how.steps` steps.

    y (B,) are labels, x_T (B, ...) is the noise to start from.  Gradients are off.
    """
    if len(x_T) != len(y):
        raise ValueError(f"x_T and y need the same length, not {len(x_T)} and {len(y)}")
    check_eval(model)
    check_labels(y, model)
    table, times = guidance_table(schedule.T, how.w).tolist(), schedule.grid(how.steps).tolist()
    abar, clip = schedule.alphas_cumprod, schedule.clip if isinstance(how.x0_clip, str) else how.x0_clip

    @torch.no_grad()
    def states(x: Tensor) -> Iterator[Tensor]:
        for time, earlier in zip(times, [*times[1:], None], strict=True):
            t = torch.full_like(y, time)
            eps = guided_eps(model, x, t, y, table[time])
            x0 = schedule.predict_x0(x, t, eps)
            if clip is not None:
                x0 = x0.clamp(-clip, clip)
                if how.recompute_eps:
                    eps = schedule.predict_eps(x, t, x0)
            # the last step lands where abar = 1 and no noise is left
            x = x0 if earlier is None else abar[earlier].sqrt() * x0 + (1 - abar[earlier]).sqrt() * eps
            yield x

    return states(x_T)


class _Start(NamedTuple):
    y: Tensor     # (B,)
    x_T: Tensor   # (B, ...)


def sample(model: Model, schedule: Schedule, y: Tensor, *, x_T: Tensor, batch: int = 256, **how: Any) -> Tensor:
    """The last state of `ddim` for labels y (B,) and noise x_T (B, ...); `how` is w, steps and the rest of `Sampling`.

    `batch` images of up to 32x32 pixels are computed at a time; fewer if they are larger, or memory is short.
    """
    if batch < 1:
        raise ValueError(f"batch must be positive, not {batch!r}")
    settings, in_parts, batch = Sampling(**how), Parts(), at_a_time(x_T.shape, batch)

    def last(start: _Start) -> Tensor:
        return deque(ddim(model, schedule, start.y, start.x_T, settings), maxlen=1).pop()

    starts = (_Start(y[i : i + batch], x_T[i : i + batch]) for i in range(0, len(y), batch))
    return torch.cat([in_parts.map(start, last) for start in starts])
