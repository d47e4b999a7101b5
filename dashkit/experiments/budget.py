"""How long the work that is still to be done will take here, from a second of measuring."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from dashkit.experiments import processes
from dashkit.experiments.cost import seconds_of
from dashkit.experiments.evaluation import is_measured
from dashkit.experiments.networks import load_teacher
from dashkit.experiments.run import Run
from dashkit.method.arms import objective
from dashkit.method.distillation import seeded
from dashkit.method.guidance import Branches, Model, branches
from dashkit.method.losses import distil_terms, total
from dashkit.method.schedule import noised
from dashkit.method.training import Learner
from dashkit.method.unet import UNetConfig


class Budget(NamedTuple):
    """Seconds still to be spent, 0 for what is there already; good to a factor of two on a quiet machine."""

    teacher: float
    students: float
    evaluation: float

    def __str__(self) -> str:
        left = [f"{name} about {format_seconds(seconds)}" for name, seconds in self._asdict().items() if seconds]
        return "Still to do here: " + ", ".join(left) + "." if left else "Nothing left to train or to measure."


def format_seconds(seconds: float) -> str:
    """Seconds for people.

    >>> format_seconds(42), format_seconds(400), format_seconds(9000), format_seconds(10**7)
    ('42 s', '7 min', '2.5 h', '2,778 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


ENOUGH_PIXELS = 64 * 32 * 32      # of a batch, to time a CPU by
SLOW = 2.0                        # seconds of a piece that is timed once


class Rates(NamedTuple):
    """Seconds of the pieces that all work is made of, for a batch of the profile's size (in each process its share)."""

    teacher_update: float
    student_update: float
    teacher_pass: float     # both branches, no gradients, where the students train; of their batch
    student_pass: float     # the same, where students are measured
    measured_pass: float    # the teacher's, where it is measured alone


def rates(run: Run) -> Rates:
    """Time a few updates and passes, each on as many threads as it will have: students and evaluations go side by side.

    On a CPU a job that shares the cores with others counts for its share, and a batch of large pictures is timed by a
    part of it.
    """
    p, device = run.profile, run.device
    generator = torch.Generator(device).manual_seed(0)
    whole = p.batch // processes.size()
    n = min(whole, max(4, ENOUGH_PIXELS // p.teacher.size**2)) if device.type == "cpu" else whole
    shape = (n, p.teacher.channels, p.teacher.size, p.teacher.size)
    x0, y = torch.zeros(shape, device=device), torch.zeros(n, dtype=torch.long, device=device)
    batch = noised(run.schedule, x0, y, generator=generator)
    own = load_teacher(run).model if run.teacher_is_given else None
    nets = [seeded(0, c.make).to(device, memory_format=torch.channels_last)
            for c in (p.teacher if isinstance(p.teacher, UNetConfig) else run.student, run.student)]
    teaching, learning = (Learner(net, lr=1e-6, steps=2, ema=0.9) for net in nets)
    teacher, student = map(run.compiled, nets)
    own = own or teacher

    def both(model: Model) -> Branches:
        with torch.no_grad(), run.autocast():
            return branches(model, batch.x_t, batch.t, batch.y)

    target = both(own)

    def teach() -> None:
        with run.autocast():
            eps = teacher(batch.x_t, batch.t, batch.y)
        teaching.update((eps - batch.eps).square().mean(), processes.average)

    def distil() -> None:
        with run.autocast():
            pair = branches(student, batch.x_t, batch.t, batch.y)
        terms = distil_terms(pair, target, eps=batch.eps, w=1.0)
        loss = total(terms, objective("dash").lam, torch.ones(n, device=device))
        learning.update(loss, processes.average)

    def seconds(work: Callable[[], object], *, at_once: int = 1) -> float:
        cores = torch.get_num_threads()
        workers = max(1, min(cores, at_once)) if device.type == "cpu" else 1
        torch.set_num_threads(max(1, cores // workers))
        try:
            first = seconds_of(work, device)                       # it warms up; where it is slow that hardly shows
            best = first if first > SLOW else min(seconds_of(work, device) for _ in range(2))
            return best / workers * whole / n
        finally:
            torch.set_num_threads(cores)

    students = len(p.arms) * p.seeds
    more = p.distil_batch / p.batch                # images of a step of the students, for each of the teacher's
    return Rates(seconds(teach), more * seconds(distil, at_once=p.seeds), more * seconds(lambda: both(own),
                 at_once=p.seeds), seconds(lambda: both(student), at_once=students), seconds(lambda: both(own)))


def remaining(run: Run) -> Budget:
    """What a run's teacher, students and evaluation will still cost; a checkpoint half-way is not counted."""
    p = run.profile
    arms = dict.fromkeys(objective(a).reuses or a for a in p.arms)
    untrained = [(a, s) for a in arms for s in run.seeds if not run.is_trained(a, s)]
    unmeasured = [(a, s) for a in p.arms for s in run.seeds if not is_measured(run, a, s)]
    no_teacher = not run.is_trained("teacher", run.seed)
    teacher_unmeasured = not is_measured(run, "teacher", run.seed)
    if not (untrained or unmeasured or no_teacher or teacher_unmeasured):
        return Budget(0.0, 0.0, 0.0)
    cost, seeds = rates(run), len({s for _, s in untrained})
    first = [(a, s) for a, s in untrained if run.first and not run.first.is_trained(a, s)]
    # every scale is sampled once, and the strongest once more, corrected; a pass computes both branches of a batch
    passes = (len(p.ws) + 1) * p.samples * p.sample_steps / p.batch
    return Budget(
        no_teacher * p.teacher_steps * cost.teacher_update,
        p.student_steps * (seeds * cost.teacher_pass + len(untrained) * cost.student_update)
        + p.steps_before * (len({s for _, s in first}) * cost.teacher_pass + len(first) * cost.student_update),
        passes * (len(unmeasured) * cost.student_pass + teacher_unmeasured * cost.measured_pass),
    )
