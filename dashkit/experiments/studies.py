"""Three experiments beyond the paper's: which gap loss, who trains the null row, correction after the fact.

What each is expected to show is registered in `data/reference/study_rules.csv`, before it is run.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit.experiments.correction import CORRECTIONS, Corrected, GuidedBy, equal_bins, fit_correction
from dashkit.experiments.evaluation import calibration_rows, floor_rows, measure, quality_rows, tidy
from dashkit.experiments.networks import load_student, load_teacher
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import SAMPLING_SEED, Run, Teacher, kept
from dashkit.experiments.settings import typed
from dashkit.experiments.sweeps import of_teacher
from dashkit.experiments.threads import side_by_side, spread
from dashkit.experiments.training import distil, get_students, get_teacher
from dashkit.method.arms import quadratic_name
from dashkit.method.calibration import all_branches, held_out_states, measure_calibration, visited_states
from dashkit.method.guidance import Branches
from dashkit.method.quality import balanced_labels
from dashkit.method.schedule import Noised, noised
from dashkit.method.unet import UNetConfig
from dashkit.storage import store, tables

STUDY_RULER = 2
"""Counts the changes of what a study measures."""
Ruler = Callable[[nn.Module, str, int], Iterator[dict]]
"""The rows that are measured of a network, with its arm and its training seed."""
WEAKER = 5
"""The weaker copy that may guide a student was trained for one of so many parts of its steps, with the same seed."""


@dataclass(frozen=True)
class Study:
    """Which students are trained, of how many teachers, and how each is measured."""

    arms: tuple[str, ...]
    widths: tuple[int, ...]          # of the student's first level; ch in its config
    teachers: int
    seeds: int                       # students of each teacher
    ws: tuple[float, ...]
    corrected: bool = False          # measure corrections of trained students, and not the students themselves


SCALES, KAPPAS = (0.5, 1.0, 1.5, 2.5, 4.0), (0.0, 0.1, 0.5, 1.25)
"""Of the quadratic losses in `gap_loss`: where they compare guided outputs, and how much the gap counts by itself."""
STUDIES = {
    "gap_loss": Study(tuple(quadratic_name(w, k) for w, k in product(SCALES, KAPPAS)),
                      widths=(8, 16, 24), teachers=5, seeds=1, ws=(1.0, 1.5, 4.0)),
    "null_row": Study(("cond_only", "no_un_noise", "label_drop", "kd_drop", "dash"),
                      widths=(8, 12, 16, 24), teachers=3, seeds=3, ws=(1.0, 1.5, 4.0)),
    "correction": Study(("dash", "gap_match", "multi_w", "composite", "cond_only", "kd_drop", "scratch"),
                        widths=(16,), teachers=5, seeds=1, ws=(1.5, 2.0, 4.0), corrected=True),
}
"""Five students of five teachers say more than five of one: an interval is then not for one teacher, and one noise."""


def study(run: Run, name: str, *, jobs: int = 1, **changes: object) -> pd.DataFrame:
    """Carry out a study, as a tidy table of the profile `name`; stop it at any time, it goes on from there.

    With `jobs` > 1 teachers, widths and seeds are spread over as many processes (see `threads.spread`).  `changes`
    replace fields of the study.  What was measured of the student of width 16 is called e.g. r2@ch=16.
    ValueError for another name.
    """
    if name not in STUDIES:
        raise ValueError(f"a study is one of {', '.join(STUDIES)}, not {name!r}")
    if not isinstance(run.profile.student, UNetConfig):
        raise ValueError(f"a study changes the width of this kit's own students; those of {run.profile.name} are from "
                         "elsewhere: choose a profile whose student has ch, ch_mult and blocks")
    plan = dataclasses.replace(STUDIES[name], **changes)
    w = min(plan.ws, key=lambda w: abs(w - run.profile.w))
    planned = replace(run, profile=replace(run.profile, ws=plan.ws, w=w, arms=plan.arms, seeds=plan.seeds))
    _ = planned.image_reference                    # trained once, before threads and processes ask for it
    runs = [of_teacher(planned, k) for k in range(plan.teachers)]
    for own in runs:
        check_run(own)
    if (jobs := typed("jobs", jobs)) > 1:
        spread(jobs, [partial(get_teacher, own) for own in runs], title=f"{plan.teachers} teachers")
        parts = product(runs, plan.widths, range(plan.seeds))
        spread(jobs, [partial(_of_seed, own, plan, width, own.seed + k) for own, width, k in parts],
               title="widths and seeds")
    parts = []
    for own in runs:
        parts += [floor_rows(own), *_of_teacher(own, get_teacher(own), plan)]
    return pd.concat(parts, ignore_index=True).assign(profile=name)


def _of_teacher(run: Run, teacher: Teacher, plan: Study) -> Iterator[pd.DataFrame]:
    """The tables of a teacher and of its students."""
    for width in plan.widths:
        narrow = _of_width(run, width)
        get_students(narrow, teacher)
        if plan.corrected:
            get_students(_weaker(narrow), teacher)
        keys = [("teacher", run.seed), *((a, s) for s in run.seeds for a in plan.arms)]
        if plan.corrected or width != plan.widths[0]:
            keys = keys[1:]                                          # a teacher is the same beside every width
        paths = {key: _path(narrow, *key, plan) for key in keys}
        missing = [key for key in keys if not paths[key].is_file()]
        if missing:
            ruler = _ruler(narrow, teacher, plan)
            jobs = {f"{arm} {seed}": partial(_measure, narrow, teacher, arm, seed, plan, ruler)
                    for arm, seed in missing}
            side_by_side(run, jobs, at_once=len(keys), ticks=len(jobs), title=f"students of width {width}")
        for (arm, _), path in paths.items():
            table = tables.read_table(path)
            yield table if arm == "teacher" else table.assign(metric=table.metric + f"@ch={width}")


def _of_width(run: Run, width: int) -> Run:
    return kept(run, profile=replace(run.profile, student=replace(run.profile.student, ch=width)))


def _of_seed(run: Run, plan: Study, width: int, seed: int) -> None:
    """Train and measure the students of one width and seed; what is found stays on disk."""
    narrow, teacher = _of_width(run, width), load_teacher(run)
    for one in (narrow, *([_weaker(narrow)] if plan.corrected else ())):
        deque(distil(one, teacher, plan.arms, seed), maxlen=0)
    missing = [arm for arm in plan.arms if not _path(narrow, arm, seed, plan).is_file()]
    if missing:
        ruler = _ruler(narrow, teacher, plan)
        for arm in missing:
            deque(_measure(narrow, teacher, arm, seed, plan, ruler), maxlen=0)


def _weaker(run: Run) -> Run:
    """The run whose students are weaker copies of this run's."""
    return kept(run, profile=replace(run.profile, student_steps=max(1, run.profile.student_steps // WEAKER),
                                     student_first=()))


def _path(run: Run, arm: str, seed: int, plan: Study) -> Path:
    p = run.profile
    weights = [run.weights("teacher", run.seed), run.weights(arm, seed)]
    weights += [_weaker(run).weights(arm, seed)] if plan.corrected else []
    more = [p.sampling_sets, p.classifier] if (p.sampling_sets, p.classifier) != (1, "small") else []
    key = store.fingerprint([STUDY_RULER, plan.ws, plan.corrected, p.samples, p.sample_steps, p.states,
                             run.sampling_set, *weights, *more])
    return run.folder(arm, seed) / f"study-{key}.csv"


def _ruler(run: Run, teacher: Teacher, plan: Study) -> Ruler:
    """What measures a student; what it needs of the teacher is computed once, and not for every student."""
    if plan.corrected:
        features = {w: measure(run, teacher.model, w).features for w in plan.ws}          # (n, 32) by scale
        weak = partial(load_student, _weaker(run))
        return lambda model, arm, seed: _corrections(run, teacher, model, weak(arm, seed), features)
    states = held_out_states(run.schedule, run.images, run.profile.states, seed=SAMPLING_SEED)
    branches = all_branches(teacher.model, states)
    return lambda model, arm, seed: _plain(run, model, states, branches)


def _measure(run: Run, teacher: Teacher, arm: str, seed: int, plan: Study, ruler: Ruler) -> Iterator[None]:
    model = teacher.model if arm == "teacher" else load_student(run, arm, seed)
    tables.write_table(_path(run, arm, seed, plan), tidy(run, arm, seed, list(ruler(model, arm, seed))))
    yield


def _plain(run: Run, model: nn.Module, states: Noised, of_teacher: Branches) -> Iterator[dict]:
    """The gap, both branches' errors, and pictures at each scale."""
    found = measure_calibration(all_branches(model, states), of_teacher, states, T=run.profile.T)
    yield from (row for row in calibration_rows(found, run.profile.states) if "@t=" not in row["metric"])
    for w in run.profile.ws:
        yield from quality_rows(f"w={w:g}", measure(run, model, w))


def _corrections(run: Run, teacher: Teacher, model: nn.Module, weaker: nn.Module,
                 of_teacher: Mapping[float, Tensor]) -> Iterator[dict]:
    """Pictures under every correction: fitted on noised training images, and on states that the student visits.

    Two more are guided by another network, the teacher or a weaker copy of the student.  `of_teacher` are features of
    the teacher's samples by scale.
    """
    quick = run.sampler(model)
    guided = {"teacher_u": GuidedBy(quick, run.sampler(teacher.model)),
              "weaker": GuidedBy(quick, weaker, labelled=True)}
    p, device, generator = run.profile, run.device, torch.Generator().manual_seed(SAMPLING_SEED + 1)
    i = torch.randint(len(run.images.labels), (p.states // 4,), generator=generator).to(device)
    noisy = noised(run.schedule, run.images.x0[i], run.images.labels[i],
                   generator=torch.Generator(device).manual_seed(SAMPLING_SEED + 1))
    y = balanced_labels(max(len(i) // p.sample_steps, run.images.num_classes), run.images.num_classes).to(device)
    x_T = torch.randn((len(y), *run.images.shape), generator=generator).to(device)     # not the noise that is measured
    fitted_on = {"noised": (noisy, all_branches(model, noisy), all_branches(teacher.model, noisy))}
    for w in p.ws:
        visited = visited_states(model, run.schedule, y, x_T=x_T, w=w, steps=p.sample_steps)
        fitted_on["path"] = visited, all_branches(model, visited), all_branches(teacher.model, visited)
        for kind, (where, (states, *pairs)) in product(CORRECTIONS, fitted_on.items()):
            if kind in ("none", "projected") and where == "path":
                continue                                             # these are not fitted
            fitted = fit_correction(kind, *pairs, states.t, w=w, bins=equal_bins(p.T))
            corrected = Corrected(quick, fitted).to(run.device)
            name = kind if kind in ("none", "projected") else f"{kind}:{where}"
            yield from quality_rows(f"{name},w={w:g}", measure(run, corrected, w), of_teacher[w])
        for name, by_other in guided.items():
            yield from quality_rows(f"{name},w={w:g}", measure(run, by_other, w), of_teacher[w])
