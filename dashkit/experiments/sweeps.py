"""Every arm over many training seeds; and the learning rate of each arm."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from dashkit.experiments.evaluation import _evaluation_key, evaluate_all, get_results, measure, tidy
from dashkit.experiments.networks import load_student, load_teacher, say_stale
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import Run, kept
from dashkit.experiments.settings import typed
from dashkit.experiments.threads import side_by_side, spread
from dashkit.experiments.training import distil, get_students, get_teacher, unfinished
from dashkit.method.arms import objective
from dashkit.storage import tables

TEACHERS_APART = 100
"""The seeds of two teachers differ by this.  The students of a teacher have its seed and those after it."""


def of_teacher(run: Run, k: int) -> Run:
    """The run of teacher k of several: with another seed, and sampled with other labels and noise.

    What another teacher changes, and what other noise does, is then seen together: as the spread over teachers.
    """
    return kept(run, seed=run.seed + TEACHERS_APART * k, sampling_set=k)


def sweep(run: Run, *, jobs: int = 1, teachers: int = 1) -> pd.DataFrame:
    """Train and evaluate every arm and seed of the profile; stop it at any time, it goes on from there.

    With several `teachers` all is done for each (see `of_teacher`).  Only then does an interval say what another
    teacher and other sampling noise would change.  ValueError for more than `TEACHERS_APART` seeds.

    One process by default.  With `jobs` > 1 teachers, or the seeds of one teacher, are spread over as many (see
    `threads.spread`).
    """
    jobs, teachers = typed("jobs", jobs), typed("teachers", teachers)
    if teachers > 1:
        if run.profile.seeds > TEACHERS_APART:
            raise ValueError(f"with several teachers there may be at most {TEACHERS_APART} seeds, "
                             f"not {run.profile.seeds}")
        _ = run.image_reference                                  # trained once for all
        each = [of_teacher(run, k) for k in range(teachers)]
        if jobs > 1:
            spread(jobs, [partial(sweep, one) for one in each], title=f"{teachers} teachers")
        return pd.concat([sweep(one) for one in each], ignore_index=True)
    check_run(run)
    teacher = get_teacher(run)
    if jobs > 1:
        say_stale(run, {seed: unfinished(run, run.profile.arms, seed) for seed in run.seeds})
        evaluate_all(run, teacher, {})               # the teacher's own, once, before the workers read it
        spread(jobs, [partial(_one_seed, run, seed) for seed in run.seeds], title=f"{len(run.seeds)} seeds")
    students = get_students(run, teacher)
    return get_results(run, teacher, students)


def _one_seed(run: Run, seed: int) -> None:
    """One seed of a sweep: results stay on disk."""
    teacher = load_teacher(run)
    deque(distil(run, teacher, run.profile.arms, seed), maxlen=0)
    evaluate_all(run, teacher, {(arm, seed): load_student(run, arm, seed) for arm in run.profile.arms})


LR_FACTORS = (0.5, 1.0, 2.0)
"""The learning rates that every arm is tried with first, over its own; twice or half as far where the best is last."""
MOST_LR_FACTORS = 8


def tune(run: Run) -> pd.DataFrame:
    """The Fréchet distance of every arm at its best scale for several learning rates, as a tidy table; resumable.

    The rates are doubled (halved) until the best mean over the run's seeds has a worse one on either side, at most
    `MOST_LR_FACTORS` rates.  A metric is called frechet@lr=0.008.  Use a profile whose held-out images are not those of
    the results (`tuning`).
    """
    check_run(run)
    p, teacher = run.profile, get_teacher(run)
    _ = run.image_reference                                                      # trained before the threads ask for it
    if run.first:
        get_students(run.first, teacher)                                         # the same for every rate
    tried = {a: list(LR_FACTORS) for a in p.arms if not objective(a).reuses}
    found: dict[tuple[str, float, int], pd.DataFrame] = {}
    while missing := [(a, f, s) for a, fs in tried.items() for f in fs for s in run.seeds if (a, f, s) not in found]:
        variants = {f: kept(run, profile=replace(p, student_lr=p.student_lr * f)) for _, f, _ in missing}
        jobs = {f"{f:g} {s}": partial(distil, v, teacher, [a for a, g, _ in missing if g == f], s)
                for f, v in variants.items() for s in run.seeds}
        side_by_side(run, jobs, at_once=len(jobs), ticks=len(jobs) * p.student_steps, title="students")
        scores = {f"{a} {f:g} {s}": partial(_score, variants[f], a, s) for a, f, s in missing}
        side_by_side(run, scores, at_once=len(scores), ticks=len(scores), title="scores")
        found |= {(a, f, s): tables.read_table(_score_path(variants[f], a, s)) for a, f, s in missing}
        for arm, factors in tried.items():
            factors += _beyond({f: sum(found[arm, f, s].value.item() for s in run.seeds) for f in factors})
    return pd.concat(found.values(), ignore_index=True)


def _beyond(distances: Mapping[float, float]) -> list[float]:
    """The factor to try next, if the best one is the smallest or the largest so far; else nothing."""
    best = min(distances, key=distances.__getitem__)
    if len(distances) >= MOST_LR_FACTORS or min(distances) < best < max(distances):
        return []
    return [best / 2 if best == min(distances) else best * 2]


def _score_path(run: Run, arm: str, seed: int) -> Path:
    return run.folder(arm, seed) / f"tuning-{_evaluation_key(run, arm, seed)}.csv"


def _score(run: Run, arm: str, seed: int) -> Iterator[None]:
    if not (path := _score_path(run, arm, seed)).is_file():
        student = load_student(run, arm, seed)
        best = min(measure(run, student, w).frechet for w in run.profile.ws)
        row = {"metric": f"frechet@lr={run.profile.student_lr * objective(arm).lr:g}", "value": best,
               "n": run.profile.samples}
        tables.write_table(path, tidy(run, arm, seed, [row]))
    yield
