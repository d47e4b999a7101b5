"""The `dashkit` command."""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from dashkit.experiments.run import Run

TOGETHER = ("train", "distil", "evaluate", "campaign")
"""Commands that several processes can share, started by `accelerate launch -m dashkit COMMAND ...`."""
EPILOG = ("A profile is a name, or the path of a .toml file of your own.  Its settings are changed with --set "
          "NAME=VALUE, e.g. --set student_steps=100 --set arms=dash,scratch")


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand a task, the same profile, seed, device and settings for all."""
    top = argparse.ArgumentParser("dashkit", description="Shrink a guided diffusion model; measure what guidance lost.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tasks = {
        "series": "execute the notebooks in order and write a report",
        "train": "train the teacher",
        "distil": "train the students in lockstep",
        "evaluate": "measure the teacher and every student; write results.csv",
        "sweep": "train and measure every arm there is over many training seeds; goes on where it was stopped",
        "tune": "compare learning rates for every arm on a validation split (profile tuning)",
        "campaign": "the paper's experiment within some hours, FID included; goes on where it was stopped",
        "export": "write the trained teacher, or the student of one arm, as a pipeline from which diffusers samples",
        "fetch": "get a data set, or the weights of FID, into the cache",
        "doctor": "check this set-up",
    }
    for name, text in tasks.items():
        command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        if name == "doctor":
            command.add_argument("--device", default="auto", help="cuda: is there a GPU that works?")
            continue
        if name == "fetch":
            command.add_argument("names", nargs="+", metavar="NAME", help="cifar10, cifar100, fashion_mnist, inception")
            continue
        command.add_argument("--profile", default="auto", help="smoke, digits (default), cifar10, … or my.toml")
        command.add_argument("--seed", default="42")
        command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
        command.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
        if name in TOGETHER:
            command.add_argument("--compile", action="store_true", help="by torch.compile; meant for a GPU")
        if name == "export":
            command.add_argument("arm", metavar="ARM", help="teacher, dash, cond_only, …")
            command.add_argument("folder", metavar="FOLDER")
        if name == "campaign":
            command.add_argument("--hours", default=0.4, help="what the whole campaign may take (0.4)")
            command.add_argument("--minutes", default=9.0, help="what this turn of it may take (9)")
            command.add_argument("--fid-samples", default=50_000, help="of the main arms (50000)")
            command.add_argument("--reference", help="real images of FID (default: the training set)")
        if name == "sweep":
            command.add_argument("--seeds", help="training seeds (default: the profile's, at least 8)")
            command.add_argument("--jobs", default=1, help="worker processes (default 1: none)")
        if name in ("sweep", "tune", "campaign"):
            command.add_argument("--publish", action="store_true", help="write the table to data/results/PROFILE")
        if name == "series":
            command.add_argument("--only", default="", help="numbers of notebooks, e.g. 02,04")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 not fit or failed, 2 refused or broken off, 130 interrupted, 143 ended by the system.
    """
    try:
        from dashkit.storage import paths
    except ValueError as error:                      # DASHKIT_HOME names no folder
        print(f"dashkit: {error}", file=sys.stderr)
        return 2
    paths.print_anything()
    options, several = parser().parse_args(arguments), int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if several and options.command not in TOGETHER:
            raise ValueError(f"{options.command} is for one process; several can share {', '.join(TOGETHER)}")
        tasks = {"series": _series, "doctor": _doctor, "sweep": _sweep, "tune": _tune,
                 "fetch": _fetch, "campaign": _campaign, "export": _export}
        quiet = os.environ.get("RANK", "0") != "0"                # of several processes only the first one speaks
        with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stdout), _ended_as_interrupted(not several):
            return tasks.get(options.command, _recipe)(options)
    except (ValueError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        print(f"dashkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\ndashkit: stopped{_outlook(options)}", file=sys.stderr)
        return 143 if error.args else 130
    finally:
        if several:
            from dashkit.experiments import processes

            processes.leave()


@contextlib.contextmanager
def _ended_as_interrupted(wanted: bool) -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does, so that what is trained is saved."""
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _outlook(options: argparse.Namespace) -> str:
    """What the same command will do after it was stopped."""
    if options.command in ("doctor", "export"):
        return ""
    if options.command == "fetch":
        return "; the same command goes on from here"
    from dashkit.experiments.training import is_begun

    run = getattr(options, "run", None)
    if run is None or not is_begun(run):
        return " before anything was saved; the same command starts from the beginning"
    return "; the same command goes on from here"


def _start(options: argparse.Namespace, **settings: object) -> "Run":
    """The run that the options describe; `settings` are defaults that --set replaces."""
    from dashkit.experiments.profiles import parse_settings
    from dashkit.experiments.run import start_run

    options.run = start_run(options.profile, seed=options.seed, device=options.device,
                                compile=getattr(options, "compile", False),
                                **settings | parse_settings(options.settings))
    return options.run


def _series(options: argparse.Namespace) -> int:
    from dashkit import doctor
    from dashkit.publishing.series import BUILD, run_series
    from dashkit.storage import paths

    doctor.require(paths.RUNS, BUILD)
    only = [n.strip() for n in options.only.split(",") if n.strip()]
    _start(options)
    ok = run_series(options.profile, seed=options.seed, device=options.device, only=only, settings=options.settings)
    return 0 if ok else 1


def _fetch(options: argparse.Namespace) -> int:
    from dashkit.datasets import fetch
    from dashkit.storage import paths

    paths.refuse_another_copy()
    for name in options.names:
        print(fetch.fetch(name, cache=paths.CACHE))
    return 0


def _export(options: argparse.Namespace) -> int:
    from pathlib import Path

    from dashkit.experiments import campaign
    from dashkit.experiments.networks import load_student, load_teacher
    from dashkit.interop import export

    run, teacher = _start(options), options.arm == "teacher"
    if not run.is_trained(options.arm, run.seed):
        run = campaign.resumed_run(run)
    model = load_teacher(run).model if teacher else load_student(run, options.arm, run.seed)
    export.write_pipeline(model, Path(options.folder), T=run.profile.T, names=run.images.names)
    print(options.folder)
    return 0


def _campaign(options: argparse.Namespace) -> int:
    from dashkit.experiments import campaign, processes

    run = _start(options)
    campaign.check(run, reference=options.reference, publish=_published(options, run))
    plan = campaign.make_plan(run, options.hours, fid_samples=options.fid_samples)
    run = options.run = campaign.with_plan(run, plan)
    print(campaign.describe(run, plan))
    extract, reference = campaign.make_reference(run, options.reference)
    if not campaign.run_stages(run, plan, minutes=options.minutes, extract=extract, reference=reference):
        print("not done yet; the same command goes on from here")
        return 0
    if not processes.is_main():
        return 0
    results = campaign.table(run, plan, extract, reference)
    print(campaign.summary(results).to_string(float_format="{:.3g}".format))
    _publish(options, run, results, plan=plan._asdict(), reference=reference.n)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from dashkit import doctor
    from dashkit.storage import paths

    findings = list(doctor.examine(paths.RUNS, paths.CACHE, paths.BUILD, device=options.device))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:8s} {finding.detail}")
    return 0 if all(f.ok for f in findings) else 1


def _sweep(options: argparse.Namespace) -> int:
    from dashkit.analysis.tables import calibration_table
    from dashkit.experiments.evaluation import results_path
    from dashkit.experiments.profiles import number
    from dashkit.experiments.ready import check_run
    from dashkit.experiments.sweeps import sweep

    profile = _start(options).profile
    arms = profile.arms if profile.exact_bandwidth else "all"
    seeds = max(profile.seeds, 8) if options.seeds is None else options.seeds
    run = _start(options, seeds=seeds, arms=arms)
    check_run(run, publish=_published(options, run))
    results = sweep(run, jobs=number("jobs", options.jobs, 1, 1024, whole=True))
    print(calibration_table(results, w=run.profile.w).to_string(float_format="{:.3g}".format))
    print(results_path(run))
    _publish(options, run, results)
    return 0


def _published(options: argparse.Namespace, run: "Run") -> "Path | None":
    """The folder that the results will be published in, if that was asked for."""
    if not options.publish:
        return None
    from dashkit.analysis.tables import RESULTS

    return RESULTS / run.profile.name


def _publish(options: argparse.Namespace, run: "Run", table: "pd.DataFrame", **facts: object) -> None:
    if options.publish:
        from dashkit.analysis.tables import devices, write_published
        from dashkit.storage import provenance

        folder = _published(options, run)
        write_published(table, provenance.manifest(settings=run.profile.asdict(), seed=run.seed,
                                           device=devices(table), **facts), folder)
        print(folder / "results.csv")


def _tune(options: argparse.Namespace) -> int:
    from dashkit.experiments.ready import check_run
    from dashkit.experiments.sweeps import tune

    if options.profile == "auto":
        options.profile = "tuning"
    run = _start(options)
    check_run(run, publish=_published(options, run))
    table = tune(run)
    print(table.pivot_table(index="arm", columns="metric", values="value", sort=False))
    _publish(options, run, table)
    return 0


def _recipe(options: argparse.Namespace) -> int:
    from dashkit.analysis.tables import calibration_table
    from dashkit.experiments import processes
    from dashkit.experiments.evaluation import get_results, results_path
    from dashkit.experiments.training import get_students, get_teacher

    run = _start(options)
    teacher = get_teacher(run)
    print(f"teacher: {run.folder('teacher', run.seed)}")
    if options.command == "train":
        return 0
    students = get_students(run, teacher)
    for arm, seed in students:
        print(f"{arm}, seed {seed}: {run.folder(arm, seed)}")
    if options.command == "evaluate" and processes.is_main():
        results = get_results(run, teacher, students)
        print(calibration_table(results, w=run.profile.w).to_string(float_format="{:.3g}".format))
        print(results_path(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
