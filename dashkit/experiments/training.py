"""Train the teacher, and its students in lockstep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dashkit.experiments import processes
from dashkit.experiments.capture import Replayed
from dashkit.experiments.checkpoints import TrainingJob, clear, resumable
from dashkit.experiments.networks import begin, begin_student, check_current, load_student, load_teacher, say_stale
from dashkit.experiments.pace import paced
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import CHECKPOINT, FINAL, Run, Teacher
from dashkit.experiments.students import new_student
from dashkit.experiments.threads import side_by_side
from dashkit.method import curriculum, distillation
from dashkit.method.arms import objective
from dashkit.method.distillation import Student, Targets, draw_states, seeded, teacher_targets
from dashkit.method.guidance import check_eval, drop_labels
from dashkit.method.images import minibatches
from dashkit.method.losses import per_sample
from dashkit.method.memory import Parts, samples_of
from dashkit.method.schedule import Noised, noised
from dashkit.method.training import Step, fit
from dashkit.method.unet import UNet


def train_teacher(run: Run) -> Iterator[Step]:
    """Train the teacher and its TIRT curriculum jointly, yielding each step; goes on where it was stopped.

    Loss: omega_t |eps(x_t, t, y) - eps|^2 with labels dropped a sample at a time.  Yields nothing if it is finished.
    Says why, if one that was trained before cannot be used.  Raises what `check_run` does before it yields anything.
    """
    if not run.is_trained("teacher", run.seed):     # now, and not after the progress bar has begun
        run.require_whole_data()
        check_run(run)
        if run.profile.teacher_start:
            begin(run, new_teacher(run))                   # weights of another network are refused now
        say_stale(run, {run.seed: ["teacher"]})
    return _train_teacher(run)


def new_teacher(run: Run) -> nn.ModuleDict:
    """A teacher that has learned nothing, and its TIRT curriculum."""
    return seeded(run.seed, lambda: nn.ModuleDict({"net": UNet(run.profile.teacher),
                                                   "tirt": curriculum.TIRT(run.base.cpu())}))


def _train_teacher(run: Run) -> Iterator[Step]:
    p, folder = run.profile, run.folder("teacher", run.seed)
    if run.is_trained("teacher", run.seed):
        clear(folder)
        return
    images = run.images
    model = new_teacher(run)
    begin(run, model)
    model = model.to(run.device, memory_format=torch.channels_last)
    learner = paced(p, model, lr=p.teacher_lr, steps=p.teacher_steps, ema=p.teacher_ema)
    net = run.compiled(model["net"])
    generator = torch.Generator(run.device).manual_seed(_later(run.seed, bool(p.teacher_start)))

    def batches() -> Iterator[Noised]:
        for x0, y in minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            batch = batch._replace(y=drop_labels(y, p.teacher.num_classes, p=p.label_dropout, generator=generator))
            yield samples_of(batch, processes.own_slice(p.batch))

    def loss_fn(name: str, model: nn.Module, batch: Noised) -> Tensor:
        with run.autocast(), _dropout(run, learner.done):
            eps = net(batch.x_t, batch.t, batch.y)
        return (model["tirt"]()[batch.t] * per_sample(eps, batch.eps)).mean()

    settings = {"teacher": run.teacher_settings()}
    job = TrainingJob(run, folder, {"teacher": learner}, generator, p.teacher_steps, settings)
    yield from resumable(job, fit(job.learners, loss_fn, batches(), steps=job.steps, stepper=run.stepper))


def is_begun(run: Run) -> bool:
    """Whether anything is on disk that the same run goes on from: a network of these settings, finished or not."""
    keys = [("teacher", run.seed), *((arm, seed) for seed in run.seeds for arm in run.profile.arms)]
    folders = [run.folder(*key) for key in keys] + list((run.root / run.profile.name).glob("lockstep-*"))
    return any((folder / name).is_file() for folder in folders for name in (FINAL, CHECKPOINT))


@contextmanager
def _dropout(run: Run, step: int) -> Iterator[None]:
    """Dropout's masks come from torch's own random state: here they depend on seed, step and process alone."""
    if run.profile.teacher.dropout == 0:
        yield
        return
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        # mixed, since a CPU's generator takes no more than 32 bits of a seed
        mixed = np.random.SeedSequence([run.seed, step, processes.rank()]).generate_state(1)
        torch.manual_seed(int(mixed[0]))
        yield


def distil(run: Run, teacher: Teacher, arms: Sequence[str], seed: int) -> Iterator[Step]:
    """Train the students of one seed in lockstep, yielding each step; goes on where it was stopped.

    All arms share initial weights, batches, timesteps, noise and one teacher pass a step, so that comparisons are
    paired and an arm gets the same weights whichever others train beside it.  Finished arms are left out.  Where the
    profile has a `first` training, that comes first.
    """
    p, arms = run.profile, unfinished(run, arms, seed)
    if not arms:
        return
    run.require_whole_data()
    check_run(run)
    check_eval(teacher.model)
    check_current(run, "teacher", run.seed, teacher.model)
    if run.first:
        yield from distil(run.first, teacher, arms, seed)
    generator = torch.Generator(run.device).manual_seed(_later(seed, bool(run.first)))
    students = {a: _student(run, teacher, a, seed) for a in arms}
    share = processes.own_slice(p.distil_batch)
    states = draw_states(run.images, run.schedule, p.distil_batch, generator=generator, share=share)
    hinted, in_parts = any("hint" in s.row.lam for s in students.values()), Parts()
    network = run.compiled(teacher.model)

    def teach(batch: Noised) -> Targets:
        with torch.no_grad(), run.autocast():
            return in_parts.map(batch, partial(teacher_targets, network, hinted=hinted),
                                said="the teacher sees batches of {n} in {parts} parts from now on")

    job = TrainingJob(run, run.lockstep(arms, seed), {a: s.learner for a, s in students.items()}, generator,
                      p.student_steps, {a: run.student_settings(a, seed) for a in arms})
    yield from resumable(job, distillation.distil(
        students, Replayed(teach) if run.captures else teach, states, steps=job.steps, precision=run.autocast,
        stepper=run.stepper))


def _later(seed: int, goes_on: bool) -> int:
    """The seed of batches and noise: another one for a training that goes on, which is to see other noise."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]) if goes_on else seed


def _student(run: Run, teacher: Teacher, arm: str, seed: int) -> Student:
    """A student at its start, on the run's device, with its optimiser and curriculum."""
    p, row = run.profile, objective(arm)
    model = new_student(row, teacher.model, run.student, base=run.base, seed=seed)
    begin_student(run, model, arm, seed)
    model = model.to(run.device, memory_format=torch.channels_last)
    learner = paced(p, model, lr=p.student_lr * row.lr, steps=p.student_steps, ema=p.student_ema)
    curricula = {"transferred": teacher.omega, "base": run.base, "uniform": curriculum.uniform(run.schedule)}
    parts = {**dict(model.items()), "net": run.compiled(model["net"])}
    return Student(row, learner, parts, curricula.get(row.curriculum, run.base))


def unfinished(run: Run, arms: Sequence[str], seed: int) -> list[str]:
    """The arms that `distil` has to train: those without weights, or all where a process died in the midst of them."""
    arms = list(dict.fromkeys(objective(a).reuses or a for a in arms))
    missing, folder = [a for a in arms if not run.is_trained(a, seed)], run.lockstep(arms, seed)
    if not missing:
        clear(folder)
        return []                                # whether or not another process still sees the checkpoint
    return arms if (folder / CHECKPOINT).is_file() else missing


def steps_of(run: Run, arms: Sequence[str], seed: int) -> int:
    """How many steps `distil` takes for these arms of one seed, those of a `first` training included."""
    if not (missing := unfinished(run, arms, seed)):
        return 0
    return run.profile.student_steps + (steps_of(run.first, missing, seed) if run.first else 0)


def get_teacher(run: Run) -> Teacher:
    """The trained teacher, trained first where need be, with a progress bar."""
    if not run.is_trained("teacher", run.seed):
        for _ in progress_bar(train_teacher(run), total=run.profile.teacher_steps, title="teacher"):
            pass
    return load_teacher(run)


def get_students(run: Run, teacher: Teacher, arms: Sequence[str] | None = None) -> dict[tuple[str, int], nn.Module]:
    """Every student (arm, seed), trained first where need be: one lockstep run a seed, the seeds side by side."""
    arms = run.profile.arms if arms is None else tuple(arms)
    for arm in arms:
        objective(arm)
    trained = dict.fromkeys(objective(a).reuses or a for a in arms)
    missing = {s: unfinished(run, list(trained), s) for s in run.seeds}
    jobs = {f"seed {s}": partial(distil, run, teacher, m, s) for s, m in missing.items() if m}
    say_stale(run, missing)
    if jobs:
        ticks = sum(steps_of(run, m, s) for s, m in missing.items())
        side_by_side(run, jobs, at_once=run.profile.seeds, ticks=ticks,
                     title=f"{sum(map(len, missing.values()))} students")
    return {(a, s): load_student(run, a, s) for s in run.seeds for a in arms}
