"""The lesson: the teacher's targets, the student's terms, and one plain loop that trains every student of a teacher.

`dashkit distil` and the notebooks run this loop.  Checkpoints, several processes and progress bars are added around it
in `dashkit.experiments`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dashkit.method.arms import Objective, pick_w
from dashkit.method.guidance import Branches, branches
from dashkit.method.images import Images, minibatches
from dashkit.method.losses import distil_terms, per_sample, total
from dashkit.method.memory import samples_of
from dashkit.method.schedule import Noised, Schedule, noised
from dashkit.method.students import hint_term, with_hint
from dashkit.method.training import Learner, Step, Stepper, fit
from dashkit.method.unet import UNet


class State(NamedTuple):
    """What is drawn for one step, the same for every student."""

    batch: Noised      # images, labels, timesteps, noise
    u: Tensor          # (B,)  uniform numbers in [0, 1), from which an arm draws its scales


class Targets(NamedTuple):
    """What the teacher predicts for one batch."""

    pair: Branches     # its two branches, (B, C, H, W)
    hint: Tensor       # middle features of its conditional branch, (B, D, h, w); empty if no arm needs them


class Drawn(NamedTuple):
    """What every student gets in one step."""

    state: State
    targets: Targets


class Student(NamedTuple):
    """One student in training."""

    row: Objective              # which terms, at which weights
    learner: Learner
    parts: Mapping[str, Any]    # modules: `net`; `adapter` for hints; `tirt` for a curriculum of its own
    omega: Tensor               # (T,)  the curriculum, where there is no `tirt`


def distil(
    students: Mapping[str, Student],
    teach: Callable[[Noised], Targets],
    states: Iterable[State],
    *,
    steps: int,
    precision: Callable[[], AbstractContextManager] = nullcontext,
    stepper: Stepper | None = None,
) -> Iterator[Step]:
    """Train students in lockstep until each has done `steps` updates, yielding each step.

    Each step is one batch, one pass of the teacher, and for every student

        loss = mean over the batch of omega_t sum_k lam_k term_k

    `teach` is the teacher as a function of a batch (see `teacher_targets`).  Students compute within `precision()`, for
    example autocast.  `stepper` is passed to `fit`.
    """
    def batches() -> Iterator[Drawn]:
        for state in states:
            yield Drawn(state, teach(state.batch))

    def loss_fn(name: str, model: nn.Module, drawn: Drawn) -> Tensor:
        row, _, parts, omega = students[name]
        omega = parts["tirt"]() if "tirt" in parts else omega
        with precision():
            terms = student_terms(parts, row, drawn)
        return total(terms, row.lam, omega[drawn.state.batch.t])

    learners = {name: student.learner for name, student in students.items()}
    return fit(learners, loss_fn, batches(), steps=steps, stepper=stepper)


def draw_states(images: Images, schedule: Schedule, batch: int, *, generator: torch.Generator,
                share: slice | None = None) -> Iterator[State]:
    """Endless states of `batch` images.  With `share`, only these samples of each: one process's part of them."""
    for x0, y in minibatches(images, batch, generator=generator):
        state = State(noised(schedule, x0, y, generator=generator),
                      torch.rand(len(y), generator=generator, device=generator.device))
        yield samples_of(state, share) if share else state


def teacher_targets(teacher: UNet, batch: Noised, *, hinted: bool = False) -> Targets:
    """The teacher's branches on a batch; with `hinted`, also the middle features of its conditional branch."""
    inputs = (batch.x_t, batch.t, batch.y)
    if not hinted:
        return Targets(branches(teacher, *inputs), batch.x_t.new_empty(0))
    pair, features = with_hint(teacher, *inputs)
    return Targets(pair, features[: len(batch.t)])


def student_terms(parts: Mapping[str, Any], row: Objective, drawn: Drawn) -> dict[str, Tensor]:
    """Every loss term of one student on one batch, each (B,).  `parts` holds its `net`, and its `adapter` for hints."""
    (batch, u), (target, hint), net = drawn.state, drawn.targets, parts["net"]
    if row.student == "single_head":
        low, high = net.W_RANGE
        w = low + (high - low) * u
        return {"guided": per_sample(net.guided(batch.x_t, batch.t, batch.y, w), target.guided(w))}
    if "adapter" in parts:
        student, features = with_hint(net, batch.x_t, batch.t, batch.y)
        extra = {"hint": hint_term(parts["adapter"], features, hint)}
    else:
        student, extra = branches(net, batch.x_t, batch.t, batch.y), {}
    return distil_terms(student, target, eps=batch.eps, w=pick_w(row, u)) | extra


_seeding = threading.Lock()  # all threads share torch's own random state
Network = TypeVar("Network", bound=nn.Module)


def seeded(seed: int, make: Callable[[], Network]) -> Network:
    """Build a module with initial weights from `seed`.  The caller's random state stays as it was."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
