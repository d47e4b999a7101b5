"""Train the teacher, and its students in lockstep."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dashkit.experiments import processes
from dashkit.experiments.checkpoints import clear, resumable
from dashkit.experiments.networks import check_current, load_student, load_teacher, say_stale
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.run import CHECKPOINT, Run, Teacher
from dashkit.experiments.threads import side_by_side
from dashkit.method import curriculum
from dashkit.method.arms import Objective, objective
from dashkit.method.capture import Replayed
from dashkit.method.distillation import Drawn, seeded, student_terms, teacher_targets
from dashkit.method.guidance import Branches, check_eval, drop_labels
from dashkit.method.images import minibatches
from dashkit.method.losses import per_sample, total
from dashkit.method.memory import batch_size, samples_of, split
from dashkit.method.schedule import Noised, noised
from dashkit.method.students import STUDENTS, middle_channels
from dashkit.method.training import Learner, Step
from dashkit.method.unet import UNet
from dashkit.storage import store


def train_teacher(run: Run) -> Iterator[Step]:
    """Train the teacher and its TIRT curriculum jointly, yielding each step; goes on where it was stopped.

    Loss: omega_t |eps(x_t, t, y) - eps|^2 with labels dropped a sample at a time.  Yields nothing if it is finished.
    """
    p, folder = run.profile, run.folder("teacher", run.seed)
    if run.is_trained("teacher", run.seed):
        clear(folder)
        return
    images = run.images
    model = seeded(run.seed, lambda: nn.ModuleDict({"net": UNet(p.teacher), "tirt": curriculum.TIRT(run.base.cpu())}))
    model = model.to(run.device, memory_format=torch.channels_last)
    learner = Learner(model, lr=p.teacher_lr, steps=p.teacher_steps, ema=p.teacher_ema,
                      warmup=p.warmup, clip=p.clip)
    net = run.compiled(model["net"])
    generator = torch.Generator(run.device).manual_seed(run.seed)

    def batches() -> Iterator[Noised]:
        for x0, y in minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            batch = batch._replace(y=drop_labels(y, p.teacher.num_classes, p=p.label_dropout, generator=generator))
            yield samples_of(batch, processes.own_slice(p.batch))

    def loss_fn(name: str, model: nn.Module, batch: Noised) -> Tensor:
        with run.autocast(), _dropout(run, learner.done):
            eps = net(batch.x_t, batch.t, batch.y)
        return (model["tirt"]()[batch.t] * per_sample(eps, batch.eps)).mean()

    yield from resumable(run, folder, {"teacher": learner}, loss_fn, batches(), p.teacher_steps, generator,
                          {"teacher": run.teacher_settings()}, {"teacher": folder})


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
    paired and an arm gets the same weights whichever others train beside it.  Finished arms are left out.
    """
    p, arms = run.profile, unfinished(run, arms, seed)
    if not arms:
        return
    check_eval(teacher.model)
    check_current(run, "teacher", run.seed, teacher.model)
    images, table = run.images, {a: objective(a) for a in arms}
    learners = {
        a: Learner(_student(run, teacher, row, seed), lr=p.student_lr * row.lr, steps=p.student_steps,
                   ema=p.student_ema, warmup=p.warmup, clip=p.clip)
        for a, row in table.items()
    }
    called = {a: {**dict(one.model.items()), "net": run.compiled(one.model["net"])} for a, one in learners.items()}
    curricula = {"transferred": teacher.omega, "base": run.base, "uniform": curriculum.uniform(run.schedule)}
    generator = torch.Generator(run.device).manual_seed(seed)
    hinted = any("hint" in row.lam for row in table.values())
    look = _in_parts(run, partial(teacher_targets, run.compiled(teacher.model), hinted=hinted))
    if run.captures:
        look = Replayed(look)

    def batches() -> Iterator[Drawn]:
        for x0, y in minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            u = torch.rand(len(y), generator=generator, device=generator.device)
            batch, u = (samples_of(v, processes.own_slice(p.batch)) for v in (batch, u))
            yield Drawn(batch, *look(batch), u)

    def loss_fn(arm: str, model: nn.ModuleDict, drawn: Drawn) -> Tensor:
        row = table[arm]
        omega = model["tirt"]() if "tirt" in model else curricula[row.curriculum]
        with run.autocast():
            terms = student_terms(called[arm], row, drawn)
        return total(terms, row.lam, omega[drawn.batch.t])

    settings = {a: run.student_settings(a, seed) for a in arms}
    yield from resumable(run, _lockstep(run, arms, seed), learners, loss_fn, batches(), p.student_steps, generator,
                          settings, {a: run.folder(a, seed) for a in arms})


def _in_parts(run: Run, look: Callable[[Noised], tuple[Branches, Tensor]]) -> Callable[[Noised], tuple]:
    """`look` without gradients and in the run's precision, in two, four, … parts from when memory is short."""
    parts = 1

    def joined(batch: Noised) -> tuple[Branches, Tensor]:
        nonlocal parts
        while True:
            try:
                with torch.no_grad(), run.autocast():
                    found = [look(part) for part, _ in split(batch, parts)]
                break
            except torch.OutOfMemoryError:
                if parts >= batch_size(batch):
                    raise
                parts = min(2 * parts, batch_size(batch))
                print(f"out of memory: the teacher sees batches of {batch_size(batch)} in {parts} parts from now on")
        pairs, hints = zip(*found, strict=True)
        return Branches(*map(torch.cat, zip(*pairs, strict=True))), torch.cat(hints)
    return joined


def _lockstep(run: Run, arms: Sequence[str], seed: int) -> Path:
    """Where the checkpoint of arms trained together lives."""
    settings = {a: run.student_settings(a, seed) for a in arms}
    return run.root / run.profile.name / f"lockstep-s{seed}-{store.fingerprint(settings)}"


def unfinished(run: Run, arms: Sequence[str], seed: int) -> list[str]:
    """The arms that `distil` has to train: those without weights, or all where a process died in the midst of them."""
    arms = list(dict.fromkeys(objective(a).reuses or a for a in arms))
    missing, folder = [a for a in arms if not run.is_trained(a, seed)], _lockstep(run, arms, seed)
    if not missing:
        clear(folder)
        return []                                # whether or not another process still sees the checkpoint
    return arms if (folder / CHECKPOINT).is_file() else missing


def _student(run: Run, teacher: Teacher, row: Objective, seed: int) -> nn.ModuleDict:
    """A student at its start, as `net`, with what else it trains: its own curriculum, or an adapter for hints."""
    def make() -> nn.ModuleDict:
        parts = {"net": STUDENTS[row.student](teacher.model, run.profile.student)}
        if row.curriculum == "relearned":
            parts["tirt"] = curriculum.TIRT(run.base.cpu())
        if "hint" in row.lam:
            width, wanted = map(middle_channels, (run.profile.student, teacher.model.config))
            parts["adapter"] = nn.Conv2d(width, wanted, 1)
        return nn.ModuleDict(parts)
    return seeded(seed, make).to(run.device, memory_format=torch.channels_last)


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
        ticks, title = len(jobs) * run.profile.student_steps, f"{sum(map(len, missing.values()))} students"
        side_by_side(run, jobs, at_once=run.profile.seeds, ticks=ticks, title=title)
    return {(a, s): load_student(run, a, s) for s in run.seeds for a in arms}
