"""What a campaign costs here, measured in its first seconds, and how its time is divided.

Training is timed by a few steps of the real thing, so that whatever makes it fast or slow on this device is in it:
graphs, streams, compiling.  What the published settings would take is counted, never tried.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from dashkit.experiments import fid, processes
from dashkit.experiments.cost import flops, seconds_of
from dashkit.experiments.networks import load_teacher
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run, Teacher, kept
from dashkit.experiments.training import distil, train_teacher, unfinished
from dashkit.experiments.turns import now
from dashkit.method.distillation import seeded
from dashkit.method.guidance import matched_tables
from dashkit.method.sampling import sample
from dashkit.method.unet import UNet, UNetConfig

STAGES = ("teacher", "students", "evaluation", "fid")
TRAINING = STAGES[:2]
SHARES = {"teacher": 0.45, "students": 0.25, "fid": 0.22}
"""How the time that can be chosen is divided: a student is never better than its teacher, so the teacher gets the most.
Evaluation takes what it takes."""
RESERVE = 0.03         # of the time is kept for what nobody counts
CHOSEN = 0.5           # of the time at least goes to what can be chosen: evaluation may wait for another turn, while a
                       # teacher of a few steps would be measured for nothing


class Costs(NamedTuple):
    """Seconds of the pieces that a campaign is made of."""

    teacher_start: float = 0.0      # before the first step: graphs, algorithms, compiling
    teacher_step: float = 0.0
    students_start: float = 0.0     # of one seed
    students_step: float = 0.0      # of all arms of one seed
    evaluation: float = 0.0         # of the teacher and every student
    fid_sample: float = 0.0         # of every network under every guidance
    fid_fixed: float = 0.0          # distances of all models under all guidances
    writing: float = 0.0            # of a checkpoint


class Division(NamedTuple):
    """How many steps and samples fit."""

    teacher_steps: int
    student_steps: int
    fid_samples: int


def divide(seconds: float, costs: Costs, most: Division, *, seeds: int, wanted: tuple[str, ...] = STAGES) -> Division:
    """The steps and samples that fill `seconds`, never more than `most`; at least 1, 1 and 20.

    What one stage leaves, because it needs less than its share, goes to those after it.
    """
    fixed = {"teacher": costs.teacher_start + costs.writing, "students": seeds * (costs.students_start + costs.writing),
             "evaluation": costs.evaluation, "fid": costs.fid_fixed}
    left = max(seconds * (1 - RESERVE) - sum(fixed[name] for name in wanted), CHOSEN * seconds)
    unit = {"teacher": costs.teacher_step, "students": seeds * costs.students_step, "fid": costs.fid_sample}
    limit = dict(zip(unit, most, strict=True))
    least = {"teacher": 1, "students": 1, "fid": 20}
    found = dict(limit)                                  # of a stage that is not wanted: what the profile says
    shares = {name: share for name, share in SHARES.items() if name in wanted}
    for name, share in shares.items():
        rest = sum(list(shares.values())[list(shares).index(name):])
        part = max(left, 0.0) * share / rest
        n = limit[name] if unit[name] <= 0 else min(limit[name], int(part / unit[name]))
        found[name] = max(min(least[name], limit[name]), n)
        left -= found[name] * unit[name]
    return Division(*found.values())


def expected(division: Division, costs: Costs, *, seeds: int, wanted: tuple[str, ...] = STAGES) -> dict[str, float]:
    """Seconds that each stage will take."""
    teacher, student, samples = division
    found = {
        "teacher": costs.teacher_start + teacher * costs.teacher_step + costs.writing,
        "students": seeds * (costs.students_start + student * costs.students_step + costs.writing),
        "evaluation": costs.evaluation,
        "fid": costs.fid_fixed + samples * costs.fid_sample,
    }
    return {name: found[name] for name in wanted}


# ------------------------------------------------------------------------------------------------------------ measuring


class FidOf(NamedTuple):
    """What FID is of, and how much of it is asked for."""

    extract: fid.Extractor
    reference: fid.Statistics
    sets: list[str]                  # of samples: whose, teacher's or student's
    batch: int                       # images sampled at once


def measured(run: Run, of: FidOf | None = None, wanted: tuple[str, ...] = STAGES) -> Costs:
    """Time every piece that is wanted here; takes seconds on a GPU, and longer where all is slow."""
    costs, p = Costs(), run.profile
    for stage in TRAINING:
        if stage in wanted and not (stage == "teacher" and p.exact_bandwidth):
            start, step, writing = _timed(run, stage)
            costs = costs._replace(**{f"{stage}_start": start, f"{stage}_step": step},
                                   writing=max(costs.writing, writing))
            if stage == "students" and run.first:      # images of the training before this one cost what these do
                missing = sum(bool(unfinished(run.first, p.arms, s)) for s in run.seeds) / p.seeds
                costs = costs._replace(students_start=start + missing * p.steps_before * step)
    passes = {}
    if "evaluation" in wanted or (of and "fid" in wanted):
        passes = {(name, exact): _pass(run, config, exact=exact, batch=of.batch if of else 250)
                  for name, config in (("teacher", p.teacher), ("student", p.student)) for exact in (True, False)}
    if "evaluation" in wanted:
        costs = costs._replace(evaluation=sum(
            evaluation_passes(run, arm) * (passes["teacher" if arm == "teacher" else "student", True])
            * (1 if arm == "teacher" else p.seeds / processes.size()) for arm in ("teacher", *p.arms)))
    if of and "fid" in wanted:
        images = run.images.pixels[: min(of.batch, 64 if run.device.type == "cpu" else of.batch)]
        of.extract(images[:2])
        features = seconds_of(lambda: of.extract(images), run.device) / len(images)
        known = of.reference.features.to(run.device)
        distances = seconds_of(lambda: (fid.fid(known, of.reference), fid.kid(known, of.reference)), run.device)
        each = sum(p.sample_steps * passes[whose, False] + features for whose in of.sets)
        costs = costs._replace(fid_sample=each / processes.size(),
                               fid_fixed=distances * len(of.sets) / processes.size())
    return costs


def _timed(run: Run, stage: str) -> tuple[float, float, float]:
    """What `_probe` finds of one stage of training; of a GPU not what its first start takes, which is over by then."""
    cuda = run.device.type == "cuda"
    steps = 30 if cuda else 6
    few = replace(run.profile, teacher_steps=steps + 1, student_steps=steps + 1, student_first=())

    def begun(folder: str) -> Iterator:
        short = kept(run, profile=few, root=Path(folder))
        return (train_teacher(short) if stage == "teacher"
                else distil(short, _some_teacher(run), run.profile.arms, run.seed))

    if cuda:                                     # libraries are loaded, algorithms chosen, networks compiled
        with tempfile.TemporaryDirectory() as folder:
            _probe(begun(folder), 6, run.device)
    with tempfile.TemporaryDirectory() as folder:
        return _probe(begun(folder), steps, run.device)


def faster(run: Run, wanted: tuple[str, ...] = STAGES) -> Run:
    """The run, compiled or not: whichever takes its steps of training faster here.  Both are tried, and it is said."""
    stages, both = [name for name in TRAINING if name in wanted], []
    for compiled in (False, True):
        began, one = now(), kept(run, compile=compiled)
        both.append((sum(_timed(one, name)[1] for name in stages), now() - began, one))
    (plain, *_), (step, seconds, _) = both
    chosen = min(both, key=lambda found: found[0])[2]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    print(f"a step takes {1e3 * plain:.3g} ms; compiled {1e3 * step:.3g} ms, after {seconds:.0f} s for {graphs} "
          f"graphs: training is {'compiled' if chosen.compile else 'not compiled'}")
    return chosen


def _some_teacher(run: Run) -> Teacher:
    """A teacher that has learned nothing costs as much as one that has."""
    if run.profile.exact_bandwidth:
        return load_teacher(run)
    net = seeded(0, lambda: UNet(run.profile.teacher)).to(run.device, memory_format=torch.channels_last)
    return Teacher(net.eval().requires_grad_(False), run.base, None)


def _probe(steps: Iterator, n: int, device: torch.device) -> tuple[float, float, float]:
    """Seconds before the first step, of each step, and of the checkpoint that is written when it is stopped."""
    began = half = now()
    for number, _ in enumerate(steps, 1):
        if number in (n // 2, n):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number == n // 2:
                half = now()
        if number == n:
            break
    end = now()
    steps.close()
    step = (end - half) / (n - n // 2)
    return max(0.0, end - began - n * step), step, now() - end


def _pass(run: Run, config: UNetConfig, *, exact: bool, batch: int) -> float:
    """Seconds of both branches of one image at one step of sampling, in float32 (`exact`) or as FID is sampled."""
    net = seeded(0, lambda: UNet(config)).to(run.device, memory_format=torch.channels_last)
    net = net.eval().requires_grad_(False)
    n = batch if run.device.type == "cuda" else min(batch, 32)
    y, x_T = torch.zeros(n, dtype=torch.long, device=run.device), torch.zeros((n, *run.images.shape), device=run.device)

    def draw(steps: int) -> None:
        model = run.sampler(net)
        with torch.autocast(run.device.type, enabled=False) if exact else run.autocast():
            sample(model, run.schedule, y, x_T=x_T, w=1.5, steps=steps, batch=n)

    draw(6 if run.device.type == "cuda" else 2)               # a graph is recorded at the fourth
    return seconds_of(lambda: draw(2), run.device) / (2 * n)


def evaluation_passes(run: Run, arm: str) -> float:
    """How often both branches of an image are computed to measure one network: see `evaluation`."""
    p = run.profile
    scales = sum(0.5 if w in (0, 1) else 1.0 for w in p.ws) * p.sampling_sets
    tables = len(matched_tables(p.T)) + len(p.ws)                       # with TAG at every mean that a scale has
    more = tables if arm in ("teacher", "dash") else float(p.classifier == "colour")
    corrected = 0 if arm == "teacher" else 1
    return p.samples * p.sample_steps * (scales + more + corrected) + 5 * p.states


# ----------------------------------------------------------------------------------------------------- what it would be


def operations(config: UNetConfig) -> int:
    """Operations of one pass of one image, counted on a network without weights: nothing is computed."""
    with torch.device("meta"):
        return flops(UNet(config))


def published_hours(run: Run, costs: Costs) -> float:
    """Hours that the paper's settings would take at the operations a second that this profile reaches here, students
    in lockstep; 0 if nothing was timed.

    A pass backward counts twice a pass forward; students are trained on both branches.
    """
    p, paper = run.profile, PROFILES["cifar10"]

    def lockstep(teacher: UNetConfig, student: UNetConfig) -> int:
        return 2 * operations(teacher) + len(p.arms) * 6 * operations(student)

    if costs.teacher_step:
        rate = p.batch * 3 * operations(p.teacher) / costs.teacher_step
    elif costs.students_step:
        rate = p.distil_batch * lockstep(p.teacher, p.student) / costs.students_step
    else:
        return 0.0
    work = paper.batch * (paper.teacher_steps * 3 * operations(paper.teacher)
                          + paper.student_steps * lockstep(paper.teacher, paper.student))
    return work / rate / 3600
