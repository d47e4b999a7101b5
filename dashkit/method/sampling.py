"""Deterministic sampling with guidance."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dashkit.method.guidance import Model, branches, check_eval, check_labels, guidance_table
from dashkit.method.memory import Parts
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


def ddim(
    model: Model,
    schedule: Schedule,
    y: Tensor,
    *,
    shape: tuple[int, ...] | None = None,
    x_T: Tensor | None = None,
    w: float | Tensor = 1.0,
    steps: int = 50,
    x0_clip: float | str | None = "schedule",
    recompute_eps: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """DDIM with eta = 0 (Song et al., 2021, eq. 12), yielding x (B, ...) after each of exactly `steps` steps.

    y (B,) are labels; start from `x_T` (B, ...), or from noise of `shape` (...) drawn with `generator`.  w is a number
    or a guidance table (T,).  The prediction of x0 is clamped to [-x0_clip, x0_clip], unless x0_clip is None; the value
    "schedule" means the schedule's own `clip`, which is 1 for images.  Then eps is recomputed, so that x_t is again
    made of x0 and eps.  `recompute_eps=False` keeps the original eps; with strong guidance the samples then get worse,
    as notebook 01 shows.  Gradients are off.
    """
    if x_T is None:
        if shape is None or generator is None:
            raise ValueError("ddim needs either x_T, or both shape and generator")
        x_T = torch.randn((len(y), *shape), generator=generator, device=generator.device).to(y.device)
    if len(x_T) != len(y):
        raise ValueError(f"x_T and y need the same length, not {len(x_T)} and {len(y)}")
    if x0_clip == "schedule":
        x0_clip = schedule.clip
    if x0_clip is not None and not x0_clip > 0:
        raise ValueError(f"x0_clip must be positive or None, not {x0_clip!r}")
    check_eval(model), check_labels(y, model)
    table, times, abar = guidance_table(schedule.T, w).tolist(), schedule.grid(steps).tolist(), schedule.alphas_cumprod

    @torch.no_grad()
    def states(x: Tensor) -> Iterator[Tensor]:
        for time, earlier in zip(times, [*times[1:], None], strict=True):
            t = torch.full_like(y, time)
            eps = guided_eps(model, x, t, y, table[time])
            x0 = schedule.predict_x0(x, t, eps)
            if x0_clip is not None:
                x0 = x0.clamp(-x0_clip, x0_clip)
                if recompute_eps:
                    eps = schedule.predict_eps(x, t, x0)
            # the last step lands where abar = 1 and no noise is left
            x = x0 if earlier is None else abar[earlier].sqrt() * x0 + (1 - abar[earlier]).sqrt() * eps
            yield x

    return states(x_T)


class _Start(NamedTuple):
    """Where sampling starts: labels (B,), and noise (B, ...), which is empty if it is still to be drawn."""

    y: Tensor
    x_T: Tensor


def sample(model: Model, schedule: Schedule, y: Tensor, *, batch: int = 256, **ddim_arguments) -> Tensor:
    """The last state of `ddim` for all y, on the device of y; `batch` images at a time, or fewer if memory is short."""
    if batch < 1:
        raise ValueError(f"batch must be positive, not {batch!r}")
    x_T, generator, in_parts = ddim_arguments.pop("x_T", None), ddim_arguments.get("generator"), Parts()
    noise = torch.empty(0) if x_T is None else x_T

    def last(start: _Start) -> Tensor:
        given = {} if x_T is None else {"x_T": start.x_T}
        return deque(ddim(model, schedule, start.y, **given, **ddim_arguments), maxlen=1).pop()

    starts = (_Start(y[i : i + batch], noise[i : i + batch]) for i in range(0, len(y), batch))
    return torch.cat([in_parts.map(start, last, generator=generator) for start in starts])
