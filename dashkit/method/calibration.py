"""Calibration: compare the guidance gap of a student with its teacher's, and choose the states to compare on."""

from typing import NamedTuple

import torch
from torch import Tensor

from dashkit.method.guidance import Branches, Model, branches, check_eval, check_labels
from dashkit.method.images import Images
from dashkit.method.memory import at_a_time
from dashkit.method.sampling import Sampling, ddim
from dashkit.method.schedule import Noised, Schedule, noised


class GapStats(NamedTuple):
    """How a student's CFG gap compares with its teacher's on matched (x_t, t, y); ideal 1, 1, 1, 1, 1, 0."""

    rho: float     # E|gS| / E|gT|              size; can be 1 with the wrong direction
    slope: float   # E<gS, gT> / E|gT|^2        the part of the teacher's gap that is there
    beta: float    # E<gS, gT> / E|gS|^2        what the student's gap is multiplied by to be nearest to the teacher's
    cos: float     # E[<gS, gT> / (|gS| |gT|)]  direction, over the samples where the teacher has a gap
    r2: float      # 1 - E|gS - gT|^2 / E|gT|^2
    mse: float     # E[mean (gS - gT)^2]


def gap_stats(student: Branches, teacher: Branches) -> GapStats:
    """Statistics of the gaps of `student` and `teacher`, both (B, ...), over all B samples.

    NaN or infinite where the teacher's gap is zero everywhere; a zero student gap has cos 0 and beta NaN.  Samples
    whose teacher gap is below a millionth of the mean have no direction and do not count in cos.
    """
    s, t = student.gap.flatten(1).double(), teacher.gap.flatten(1).double()
    if s.shape != t.shape or len(s) == 0:
        raise ValueError(f"both gaps need the same non-empty shape, not {tuple(s.shape)} and {tuple(t.shape)}")
    dot, s_norm, t_norm = (s * t).sum(1), s.norm(dim=1), t.norm(dim=1)
    error, power = (s - t).square(), t_norm.square().mean()
    cos = (dot / (s_norm * t_norm).clamp(min=1e-30))[t_norm > 1e-6 * t_norm.mean()]
    return GapStats(
        rho=(s_norm.mean() / t_norm.mean()).item(),
        slope=(dot.mean() / power).item(),
        beta=(dot.mean() / s_norm.square().mean()).item(),
        cos=cos.mean().item(),
        r2=(1 - error.sum(1).mean() / power).item(),
        mse=error.mean().item(),
    )


def gap_stats_by_timestep(
    student: Branches, teacher: Branches, t: Tensor, *, T: int, bins: int = 10
) -> dict[int, GapStats]:
    """`gap_stats` within equal bins of t (B,), keyed by each bin's middle timestep; empty bins are left out."""
    index = t * bins // T
    return {
        int((b + 0.5) * T / bins): gap_stats(_take(student, index == b), _take(teacher, index == b))
        for b in range(bins)
        if bool((index == b).any())
    }


def _take(pair: Branches, mask: Tensor) -> Branches:
    return Branches(pair.cond[mask], pair.uncond[mask])


def held_out_states(schedule: Schedule, images: Images, n: int, *, seed: int) -> Noised:
    """n forward-noised held-out images, images repeated as needed: the states that gaps are compared on."""
    device = images.test_pixels.device
    i = (torch.arange(n) % len(images.test_pixels)).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    return noised(schedule, images.test_x0[i], images.test_labels[i], generator=generator)


class States(NamedTuple):
    """Where two models are compared."""

    x_t: Tensor   # (B, C, H, W)
    t: Tensor     # (B,)
    y: Tensor     # (B,)


def visited_states(model: Model, schedule: Schedule, y: Tensor, *, x_T: Tensor, w: float, steps: int) -> States:
    """The states that a model passes through when it samples with guidance: `steps` states for each label of y.

    The finished image is not one of them.  A student's errors lead it to states that no noised image reaches.
    """
    times = schedule.grid(steps).tolist()
    path = [x_T, *ddim(model, schedule, y, x_T, Sampling(w, steps))][:-1]
    t = torch.tensor(times, device=y.device).repeat_interleave(len(y))
    return States(torch.cat(path), t, y.repeat(steps))


def x0_branches(pair: Branches, schedule: Schedule, states: States | Noised) -> Branches:
    """The two branches as predictions of x0, clamped as in sampling: to [-1, 1] for images."""
    return Branches(*(schedule.clamped(schedule.predict_x0(states.x_t, states.t, eps)) for eps in pair))


@torch.no_grad()
def all_branches(model: Model, states: States | Noised, *, batch: int = 250) -> Branches:
    """`branches` of a model on many states, `batch` of them `at_a_time`.

    ValueError in train mode or for an unknown label.
    """
    check_eval(model)
    check_labels(states.y, model)
    n, batch = len(states.t), at_a_time(states.x_t.shape, batch)
    parts = [
        branches(model, states.x_t[i : i + batch], states.t[i : i + batch], states.y[i : i + batch])
        for i in range(0, n, batch)
    ]
    return Branches(*(torch.cat(p) for p in zip(*parts, strict=True)))


class Calibration(NamedTuple):
    """A student's two branches compared with the teacher's on the same states."""

    gap: GapStats
    by_timestep: dict[int, GapStats]
    cond_error: float     # E[mean (s_cond - t_cond)^2]
    uncond_error: float   # E[mean (s_uncond - t_uncond)^2]


def measure_calibration(own: Branches, teacher: Branches, states: Noised, *, T: int) -> Calibration:
    """Compare the `all_branches` of a student and of its teacher on the same states."""
    return Calibration(
        gap_stats(own, teacher),
        gap_stats_by_timestep(own, teacher, states.t, T=T),
        (own.cond - teacher.cond).square().mean().item(),
        (own.uncond - teacher.uncond).square().mean().item(),
    )
