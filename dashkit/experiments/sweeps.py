"""Every arm over many training seeds; and the learning rate of each arm."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from dashkit.experiments.evaluation import _evaluation_key, evaluate_all, get_results, measure, tidy
from dashkit.experiments.networks import load_student, load_teacher, say_stale
from dashkit.experiments.profiles import typed
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import Run
from dashkit.experiments.threads import side_by_side
from dashkit.experiments.training import distil, get_students, get_teacher, unfinished
from dashkit.method.arms import objective
from dashkit.storage import provenance, tables


def sweep(run: Run, *, jobs: int = 1) -> pd.DataFrame:
    """Train and evaluate every arm and seed of the profile; stop it at any time, it goes on from there.

    One process by default.  With `jobs` > 1 the seeds are spread over a joblib backend, the current one: processes, or
    whatever `joblib.parallel_config` names, a Dask cluster too; they share the run folder and nothing else.
    """
    jobs = typed("jobs", jobs)
    check_run(run)
    teacher = get_teacher(run)
    if jobs > 1:
        from joblib import Parallel, delayed

        say_stale(run, {seed: unfinished(run, run.profile.arms, seed) for seed in run.seeds})
        evaluate_all(run, teacher, {})               # the teacher's own, once, before the workers read it
        tasks = Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(_one_seed)(run, seed, max(1, torch.get_num_threads() // jobs)) for seed in run.seeds)
        deque(progress_bar(tasks, total=len(run.seeds), title=f"{len(run.seeds)} seeds"), maxlen=0)
    students = get_students(run, teacher)
    return get_results(run, teacher, students)


def _one_seed(run: Run, seed: int, threads: int) -> int:
    """One seed of a sweep in a worker process: results stay on disk."""
    provenance.commit()                                # what runs is this one: a Run that arrives here asked elsewhere
    os.environ["DASHKIT_PROGRESS"] = "0"
    torch.set_num_threads(threads)
    teacher = load_teacher(run)
    deque(distil(run, teacher, run.profile.arms, seed), maxlen=0)
    evaluate_all(run, teacher, {(arm, seed): load_student(run, arm, seed) for arm in run.profile.arms})
    return seed


LR_FACTORS = (0.5, 1.0, 2.0)


def tune(run: Run) -> pd.DataFrame:
    """The Fréchet distance of every arm at its best scale for several learning rates, as a tidy table; resumable.

    A metric is called frechet@lr=0.008.  Use a profile whose held-out images are not those of the results (`tuning`).
    """
    check_run(run)
    p, teacher = run.profile, get_teacher(run)
    variants = {f: replace(run, profile=replace(p, student_lr=p.student_lr * f)) for f in LR_FACTORS}
    arms = [a for a in p.arms if not objective(a).reuses]
    jobs = {f"{f:g} {i}": partial(distil, v, teacher, arms[i::2], run.seed)
            for f, v in variants.items() for i in (0, 1)}
    side_by_side(run, jobs, at_once=len(jobs), ticks=len(jobs) * p.student_steps, title="students")

    def path(f: float, arm: str) -> Path:
        variant = variants[f]
        return variant.folder(arm, run.seed) / f"tuning-{_evaluation_key(variant, arm, run.seed)}.csv"

    def score(f: float, arm: str) -> Iterator[None]:
        if not path(f, arm).is_file():
            student = load_student(variants[f], arm, run.seed)
            best = min(measure(run, student, w).frechet for w in p.ws)
            lr = p.student_lr * f * objective(arm).lr
            found = [{"metric": f"frechet@lr={lr:g}", "value": best, "n": p.samples}]
            tables.write_table(path(f, arm), tidy(run, arm, run.seed, found))
        yield

    pairs = [(f, arm) for arm in arms for f in LR_FACTORS]
    _ = run.image_reference                                                      # trained before the threads ask for it
    side_by_side(run, {f"{arm} {f:g}": partial(score, f, arm) for f, arm in pairs}, at_once=len(pairs),
                 ticks=len(pairs), title="scores")
    return pd.concat([tables.read_table(path(*pair)) for pair in pairs], ignore_index=True)
