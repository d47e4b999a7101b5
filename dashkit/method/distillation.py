"""The lesson: the teacher's targets, the student's terms, and one plain loop."""

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashkit.method.arms import Objective, pick_w
from dashkit.method.guidance import Branches, branches
from dashkit.method.losses import distil_terms, per_sample
from dashkit.method.schedule import Noised
from dashkit.method.students import hint_term, with_hint

_seeding = threading.Lock()  # torch's own random state is one for all threads


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module with initial weights from `seed`, leaving the caller's random state as it was."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Drawn(NamedTuple):
    """What one lockstep step offers every arm."""

    batch: Noised      # images, timesteps, noise
    target: Branches   # the teacher's branches there, (B, C, H, W)
    hint: Tensor       # the teacher's middle features of the conditional one, (B, D, h, w); empty if no arm asks for it
    u: Tensor          # uniform numbers (B,)


def teacher_targets(teacher: nn.Module, batch: Noised, *, hinted: bool) -> tuple[Branches, Tensor]:
    """The teacher's branches on a batch, and its middle features of the conditional one (empty unless `hinted`)."""
    inputs = (batch.x_t, batch.t, batch.y)
    if not hinted:
        return branches(teacher, *inputs), batch.x_t.new_empty(0)
    target, features = with_hint(teacher, *inputs)
    return target, features[: len(batch.t)]


def student_terms(model: Mapping[str, nn.Module], row: Objective, drawn: Drawn) -> dict[str, Tensor]:
    """Every loss term that the row's student, `net` with its `adapter` if it has one, gets; each (B,)."""
    batch, net = drawn.batch, model["net"]
    if row.student == "single_head":
        low, high = net.W_RANGE
        w = low + (high - low) * drawn.u
        return {"guided": per_sample(net.guided(batch.x_t, batch.t, batch.y, w), drawn.target.guided(w))}
    if "adapter" in model:
        student, features = with_hint(net, batch.x_t, batch.t, batch.y)
        extra = {"hint": hint_term(model["adapter"], features, drawn.hint)}
    else:
        student, extra = branches(net, batch.x_t, batch.t, batch.y), {}
    return distil_terms(student, drawn.target, eps=batch.eps, w=pick_w(row, drawn.u)) | extra
