"""Gap statistics of the networks that come with the kit, without drawing a single sample.

`python -m dashkit.publishing.gaps cifar16` writes `data/results/cifar16/results.csv`; it needs the whole data set.
"""

import sys

import pandas as pd

from dashkit.analysis.tables import RESULTS, devices, write_published
from dashkit.experiments import load_student, load_teacher, start_run
from dashkit.experiments.evaluation import calibration_rows, gap_rows, tidy
from dashkit.experiments.run import SAMPLING_SEED, Run
from dashkit.method.calibration import (
    all_branches,
    gap_stats,
    held_out_states,
    measure_calibration,
    x0_branches,
)
from dashkit.method.unet import n_parameters
from dashkit.storage import paths, provenance


def gap_table(run: Run) -> pd.DataFrame:
    """Calibration of the teacher and of each student of the run's seed on held-out images, tidy."""
    teacher = load_teacher(run).model
    states = held_out_states(run.schedule, run.images, run.profile.states, seed=SAMPLING_SEED)
    target = all_branches(teacher, states)
    found = []
    for arm in ("teacher", *run.profile.arms):
        model = teacher if arm == "teacher" else load_student(run, arm, run.seed)
        own = target if arm == "teacher" else all_branches(model, states)
        rows = [*calibration_rows(measure_calibration(own, target, states, T=run.profile.T), len(states.t))]
        in_x0 = [x0_branches(pair, run.schedule, states) for pair in (own, target)]
        rows += gap_rows(gap_stats(*in_x0), len(states.t), "_x0")
        rows.append({"metric": "parameters", "value": n_parameters(model), "n": 1})
        found.append(tidy(run, arm, run.seed, rows))
    return pd.concat(found, ignore_index=True)


def main(profile: str) -> None:
    """Measure and publish."""
    paths.require_project()
    run = start_run(profile, device="cpu")
    run.require_whole_data()
    table = gap_table(run)
    write_published(table, provenance.manifest(settings=run.profile.asdict(), seed=run.seed, device=devices(table)),
                    RESULTS / profile)
    print(table.pivot_table(index="arm", columns="metric", values="value", sort=False)[["rho", "slope", "cos", "r2"]])


if __name__ == "__main__":
    main(sys.argv[1])
