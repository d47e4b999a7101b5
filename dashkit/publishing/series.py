"""The notebook series, executed and reported."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dashkit.analysis.tables import calibration_table
from dashkit.classroom.notebooks import SeriesError, execute, notebook_paths
from dashkit.experiments import campaign
from dashkit.experiments.evaluation import read_results
from dashkit.experiments.profiles import address
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import Run, start_run
from dashkit.experiments.settings import parse_settings
from dashkit.publishing.report import Outcome, write_report
from dashkit.storage import locks, paths, provenance, store, tables

BUILD = paths.BUILD / "series"
CAMPAIGN = "10_"         # the notebook of the paper's experiment


def run_series(
    profile: str | os.PathLike = "auto", *, seed: int = 42, device: str = "auto", only: Sequence[str] = (),
    settings: object = None, build: Path = BUILD,
) -> bool:
    """Execute the numbered notebooks in order and write the report; returns whether all went well.

    `profile` and `settings` are as in `start_run`.  Writes build/PROFILE/NN_name.ipynb and .html, index.html,
    results.csv and series.json.  Stops at the first failure, which it prints with the notebook, the cell and the error.
    Leaves out a notebook that needs files which were not fetched, unless `only` names it, and says so.
    ValueError for a bad parameter, before any work.
    """
    settings = parse_settings(settings)
    run = start_run(profile, seed=seed, device=device, settings=settings)
    notebooks = notebook_paths(only)
    check_run(run)
    left_out = {path.stem: reason for path in notebooks if (reason := _not_fetched(run, path, asked=bool(only)))}
    folder = build / run.profile.name
    parameters = {"profile": address(profile), "seed": run.seed, "device": device}
    if settings:
        parameters["settings"] = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    device_name = provenance.device_name(run.device)
    print(f"profile {run.profile.name}, seed {run.seed}, {device_name}: {len(notebooks)} notebooks → {folder}")

    outcomes, began, failure = [], time.monotonic(), ""
    for path in notebooks:
        if failure or path.stem in left_out:
            outcomes.append(Outcome(path.stem, "left out" if path.stem in left_out else "not run", 0.0))
            if path.stem in left_out:
                print(f"  {path.stem:44s} left out: {left_out[path.stem]}", flush=True)
            continue
        start = time.monotonic()
        try:
            execute(path, folder / path.name, parameters, bar=sys.stderr.isatty())
        except SeriesError as error:
            failure = str(error)
        seconds = round(time.monotonic() - start, 1)
        outcomes.append(Outcome(path.stem, "failed" if failure else "ok", seconds))
        print(f"  {path.stem:44s} {outcomes[-1].status:7s} {seconds:7.1f} s", flush=True)

    try:
        results = read_results(run)
    except ValueError as error:                       # a damaged table or network: the report says so
        results, failure = None, failure or str(error)
    if results is not None:
        tables.write_table(folder / "results.csv", results)
    else:
        locks.remove(folder / "results.csv")
    kernels = provenance.peak_memory_mib(children=True)              # of the largest one
    store.write_json(folder / "series.json", {
        "profile": run.profile.name, "ok": not failure, "seconds": round(time.monotonic() - began, 1),
        "notebooks": [o._asdict() for o in outcomes], "seed": run.seed, "error": failure or None,
        "manifest": provenance.manifest(device=device_name, settings=run.profile.asdict(), peak_memory_mib=kernels),
    })
    write_report(folder, run, outcomes, results, failure)
    if results is not None:
        print(f"\nCalibration, held-out states; fd = Fréchet distance / real-vs-real floor, at w = {run.profile.w:g}")
        print(calibration_table(results, w=run.profile.w).to_string(float_format="{:.3g}".format))
    print(f"\n{folder / 'index.html'}")
    if failure:
        print(f"\nFAILED  {failure}", file=sys.stderr)
    return not failure


def _not_fetched(run: Run, path: Path, *, asked: bool) -> str:
    """Why a notebook is left out: the paper's experiment needs all images, and FID's network where they have colours.

    Empty if it is not.  What is missing is raised where the notebook was `asked` for by its number.
    """
    if not path.name.startswith(CAMPAIGN):
        return ""
    try:
        run.require_whole_data()
        campaign.check(run)
    except (FileNotFoundError, ImportError) as error:
        if asked:
            raise
        return str(error)
    return ""
