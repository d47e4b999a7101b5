"""The `dashkit` command."""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dashkit import stopping

if TYPE_CHECKING:
    import pandas as pd

    from dashkit.experiments.run import Run

TOGETHER = ("train", "distil", "evaluate", "campaign", "shrink")
"""Commands that several processes can share, started by `accelerate launch -m dashkit COMMAND ...`."""
CARRYING = ("pack", "unpack", "bring")
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
        "study": "an experiment beyond the paper's, with rules that were registered before it: gap_loss, null_row or "
                 "correction; goes on where it was stopped",
        "tune": "compare learning rates for every arm on a validation split (profile tuning)",
        "campaign": "the paper's experiment within some hours, FID included; goes on where it was stopped",
        "new": "look at pictures and a teacher of your own, and write a profile for them",
        "shrink": "train students of a profile of your own; write the first arm as a pipeline, and a report",
        "measure": "compare any student with its teacher on pictures of your own; write a report",
        "export": "write the trained teacher, or the student of one arm, as a pipeline from which diffusers samples",
        "fetch": "get a data set, or the weights of FID, into the cache",
        "doctor": "check this set-up; with --device cuda or --self-test also what it computes",
        "pack": "write data sets, and the weights of FID, as parts for a machine without a network",
        "unpack": "put parts together that pack or bring wrote",
        "bring": "write trained networks and tables as parts to carry home",
        "site": "write the pages that need no network and no Python, explorers and slides with them",
        "slides": "write the slides of the 90-minute plan, and the site if there is none",
    }
    for name, text in tasks.items():
        command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        if name == "doctor":
            command.add_argument("--device", default="auto", help="cuda: does the GPU work, and how fast is it? (60 s)")
            command.add_argument("--self-test", action="store_true", help="the same of the CPU, with small networks")
            command.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes")
            continue
        if name == "fetch":
            command.add_argument("names", nargs="+", metavar="NAME", help="cifar10, cifar100, fashion_mnist, inception")
            continue
        if name in ("site", "slides"):
            command.add_argument("--profile", default="digits", help="whose executed series the pages show (digits)")
            command.add_argument("--open", action="store_true", help="and open it in the browser")
            continue
        if name in CARRYING:
            _carrying_options(command, name)
            continue
        if name in ("measure", "new"):
            _measuring_options(command) if name == "measure" else _new_options(command)
            continue
        if name == "shrink":
            command.add_argument("profile", metavar="my.toml", help="as the command new writes it")
            command.add_argument("--out", metavar="FOLDER", help="the student and its report (my_student beside "
                                                                 "my.toml)")
        else:
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
            command.add_argument("--hours", help="what the whole campaign may take (default: this turn, or what was "
                                                 "planned before)")
            command.add_argument("--minutes", help="what this turn may take, from the start of the command to its end "
                                                   "(default: 9 of 0.4 hours)")
            command.add_argument("--stages", default="", help="some of teacher,students,evaluation,fid (default: all)")
            command.add_argument("--fid-samples", default=50_000, help="of the main arms (50000)")
            command.add_argument("--reference", help="real images of FID (default: the training set)")
        if name == "sweep":
            command.add_argument("--seeds", help="training seeds (default: the profile's, at least 8)")
            command.add_argument("--teachers", default=1, help="teachers, each with students of its own (default 1)")
        if name in ("sweep", "study"):
            command.add_argument("--jobs", default=1, help="worker processes (default 1: none)")
        if name == "study":
            command.add_argument("name", metavar="STUDY", help="gap_loss, null_row or correction")
        if name in ("sweep", "study", "tune", "campaign"):
            command.add_argument("--publish", action="store_true", help="write the table to data/results/PROFILE")
        if name == "series":
            command.add_argument("--only", default="", help="numbers of notebooks, e.g. 02,04")
    return top


_NETWORK = "a folder (of diffusers, or of this kit), or package.module:function"
_PICTURES = "a folder with one subfolder a class, or an .npz"


def _new_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("profile", metavar="my.toml", help="the file to write")
    command.add_argument("--images", required=True, metavar="I", help=_PICTURES)
    command.add_argument("--teacher", metavar="T", help=f"{_NETWORK} (default: train one here)")
    command.add_argument("--student", metavar="S", help="teacher (its own class, smaller; the default for a network of "
                                                        "diffusers), ours, or package.module:function")
    command.add_argument("--factor", default=6, help="how many times fewer parameters the student has (6)")
    command.add_argument("--hours", default=2, help="what training and measuring may take here (2)")
    command.add_argument("--null", metavar="NUMBER", help="what the teacher takes for no class, or random")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _measuring_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--teacher", required=True, metavar="T", help=_NETWORK)
    command.add_argument("--student", required=True, metavar="S", help=_NETWORK)
    command.add_argument("--images", required=True, metavar="I", help=_PICTURES)
    command.add_argument("--null", metavar="NUMBER", help="what the teacher takes for no class, if it does not say; or "
                                                          "random, a random class in its place")
    command.add_argument("--out", default="report.html", metavar="FILE", help="the report (report.html)")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    command.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE",
                         help="states, samples, sample_steps, w, ws, …")


def _carrying_options(command: argparse.ArgumentParser, name: str) -> None:
    if name == "pack":
        command.add_argument("names", nargs="+", metavar="NAME", help="cifar10, cifar16, inception, … (see fetch)")
    if name == "unpack":
        command.add_argument("parts", nargs="+", metavar="PART", help="all parts, or the folder that holds them")
        return
    command.add_argument("folder", metavar="OUT", help="where the parts go")
    default = 59 if name == "pack" else 15
    command.add_argument("--part-mb", default=default, help=f"size of a part in MB ({default})")
    if name == "bring":
        command.add_argument("--runs", nargs="+", default=[], metavar="FOLDER", help="below the runs (default: all)")


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
    came: list[int] = []
    try:
        together = options.command in TOGETHER or getattr(options, "self_test", False)
        if several and not together:
            raise ValueError(f"{options.command} is for one process; several can share {', '.join(TOGETHER)} and "
                             "doctor --self-test")
        tasks = {"series": _series, "doctor": _doctor, "sweep": _sweep, "study": _study, "tune": _tune,
                 "fetch": _fetch, **dict.fromkeys(CARRYING, _carry), "campaign": _campaign, "export": _export,
                 "measure": _measure, "new": _new, "shrink": _shrink, **dict.fromkeys(("site", "slides"), _site)}
        quiet = os.environ.get("RANK", "0") != "0"                # of several processes only the first one speaks
        with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stdout), _stoppable(came, alone=not several):
            return tasks.get(options.command, _recipe)(options)
    except (Exception, KeyboardInterrupt) as error:
        if came or isinstance(error, KeyboardInterrupt):          # or what a library made of it
            with stopping.answered_by(signal.SIG_IGN):
                print(f"\ndashkit: stopped{_outlook(options)}", file=sys.stderr)
            return 128 + (came or [signal.SIGINT])[0]
        if isinstance(error, ValueError | OSError | ImportError | RuntimeError | FloatingPointError):
            print(f"dashkit: {error}{_advice(error)}", file=sys.stderr)
            return 2
        raise
    finally:
        if several:
            from dashkit.experiments import processes

            processes.leave()


@contextlib.contextmanager
def _stoppable(came: list[int], *, alone: bool) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM are a KeyboardInterrupt, so that what is trained is saved; `came` tells them.

    One that comes while something is imported, and nothing is trained, ends the process at once.  A process that is not
    `alone` is its launcher's to end: SIGTERM kills it.
    """
    def stop(number: int, frame: FrameType | None) -> None:
        locks = sys.modules.get("dashkit.storage.locks")
        if stopping.in_import(frame) and not (locks and locks.holds_any()):
            stopping.leave("dashkit")(number, frame)
        came.append(number)
        raise KeyboardInterrupt(number)

    with stopping.answered_by(stop):
        if not alone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        yield


def _advice(error: Exception) -> str:
    """What to type where a package is missing or broken, if the error does not say so itself."""
    if not isinstance(error, ImportError) or "type:" in str(error):
        return ""
    from dashkit import environment

    return f"; to see what is missing, type: {environment.kit('doctor')}"


def _outlook(options: argparse.Namespace) -> str:
    """What the same command will do after it was stopped."""
    if options.command in ("doctor", "export", "new"):
        return ""
    if options.command == "measure":
        return "; the same command goes on from here: samples that were drawn are not drawn again"
    if options.command == "fetch":
        return "; the same command goes on from here"
    if getattr(options, "run", None) is None:
        return "; type the same again"
    try:
        from dashkit.experiments.training import is_begun

        begun = is_begun(options.run)
    except Exception:                                # a library of which half was imported, a damaged file
        return "; type the same again"
    return "; the same command goes on from here" if begun else (
        " before anything was saved; the same command starts from the beginning")


def _start(options: argparse.Namespace, **settings: object) -> "Run":
    """The run that the options describe; `settings` are defaults that --set replaces."""
    from dashkit.experiments.run import start_run
    from dashkit.experiments.settings import parse_settings

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


def _site(options: argparse.Namespace) -> int:
    import importlib.util
    import webbrowser

    from dashkit import environment
    from dashkit.publishing import site, slides

    if missing := [name for name in ("sphinx", "myst_nb", "sphinx_revealjs") if not importlib.util.find_spec(name)]:
        raise ValueError(f"pages need {', '.join(missing)}; type: {environment.task('install site')}")
    code = site.build(options.profile) if options.command == "site" else slides.main(options.profile)
    if options.open and code == 0:
        page = "index.html" if options.command == "site" else "slides_00.html"
        webbrowser.open((site.SITE / "html" / page).as_uri())
    return code


def _carry(options: argparse.Namespace) -> int:
    from dashkit.datasets import carry
    from dashkit.experiments.settings import number
    from dashkit.storage import paths, provenance

    if options.command == "unpack":
        done = carry.unpack([Path(p) for p in options.parts], cache=paths.CACHE, runs=paths.RUNS, results=carry.RESULTS)
        print(*done.files, f"packed at commit {done.commit}", sep="\n")
        return 0
    part_mb = number("part_mb", options.part_mb, 0.01, 2000)
    if options.command == "pack":
        parts = carry.pack(options.names, Path(options.folder), cache=paths.CACHE, part_mb=part_mb)
    else:
        parts = carry.bring(Path(options.folder), runs=paths.RUNS, results=carry.RESULTS, only=options.runs,
                            part_mb=part_mb)
    for part in parts:
        print(f"{part}  {part.stat().st_size / 1e6:.1f} MB")
    if options.command == "pack":
        print(f"where there is no git, set DASHKIT_COMMIT={provenance.commit()}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from pathlib import Path

    from dashkit.experiments import campaign
    from dashkit.experiments.networks import load_student, load_teacher
    from dashkit.publishing import student_report

    run, teacher = _start(options), options.arm == "teacher"
    if not run.is_trained(options.arm, run.seed):
        run = campaign.resumed_run(run)
    model = load_teacher(run).model if teacher else load_student(run, options.arm, run.seed)
    student_report.write_student(Path(options.folder), run, model)
    print(options.folder)
    return 0


def _new(options: argparse.Namespace) -> int:
    from dashkit import environment
    from dashkit.experiments.new import Wish, write_profile

    wish = Wish(options.images, options.teacher, options.student, options.factor, options.hours, _null(options.null))
    written = write_profile(options.profile, wish, device=options.device)
    typed = environment.kit(f"shrink {environment.quoted(options.profile)}")
    print(*written.said, written.path, f"to train the students, type: {typed}", sep="\n")
    return 0


def _shrink(options: argparse.Namespace) -> int:
    from dashkit.experiments import budget, processes
    from dashkit.experiments.evaluation import get_results
    from dashkit.experiments.profiles import path_of
    from dashkit.experiments.ready import check_run, check_student
    from dashkit.experiments.training import get_students, get_teacher
    from dashkit.publishing import student_report
    from dashkit.storage import store

    run = _start(options)
    name, file = run.profile.name, path_of(options.profile)
    out = Path(options.out or (file.parent if file else Path.cwd()) / f"{name}_student")
    store.check_writable(out)
    check_student(run)
    check_run(run)
    print(budget.remaining(run))
    teacher = get_teacher(run)
    students = get_students(run, teacher)
    if not processes.is_main():
        return 0
    arm = run.profile.arms[0]
    student_report.write_student(out, run, students[arm, run.seed])       # first: measuring may fail
    results = get_results(run, teacher, students)
    models = {"teacher": teacher.model} | {a: students[a, run.seed] for a in run.profile.arms}
    student_report.write_student_report(
        out / "report.html", run, models, results, title=f"{name}: {arm} beside its teacher",
        recipe=student_report.Recipe(
            student_report.command_line("shrink", options.profile, *_settings_typed(options)),
            file.read_text(encoding="utf-8") if file else ""))
    print(f"{arm}: {out}\n{out / 'report.html'}")
    return 0


def _settings_typed(options: argparse.Namespace) -> list[str]:
    """The settings that were typed, as they are typed again; the null label and the seed, too."""
    null = ["--null", options.null] if getattr(options, "null", None) is not None else []
    seed = ["--seed", options.seed] if getattr(options, "seed", "42") != "42" else []
    return null + seed + [word for pair in options.settings for word in ("--set", pair)]


def _measure(options: argparse.Namespace) -> int:
    from dashkit.experiments import own
    from dashkit.experiments.evaluation import evaluate_others
    from dashkit.experiments.settings import parse_settings
    from dashkit.publishing import student_report
    from dashkit.storage import store

    store.check_writable(Path(options.out).absolute().parent)
    if Path(options.out).is_dir():
        raise ValueError(f"{options.out} is a folder; --out is the page to write, as {options.out}/report.html")
    run, teacher, students = own.comparison(
        options.teacher, {"student": options.student}, options.images, null_label=_null(options.null),
        device=options.device, **parse_settings(options.settings))
    results = evaluate_others(run, teacher, students)
    command = student_report.command_line("measure", "--teacher", options.teacher, "--student", options.student,
                                          "--images", options.images, *_settings_typed(options))
    student_report.write_student_report(
        Path(options.out), run, {"teacher": teacher.model, **students}, results,
        recipe=student_report.Recipe(command),
        title=f"Guidance of {Path(options.student).name} beside {Path(options.teacher).name}")
    print(Path(options.out).absolute())
    return 0


def _null(text: str | None) -> int | str | None:
    """The null label that was typed: a number, random, or nothing."""
    from dashkit.experiments.settings import number
    from dashkit.interop.networks import RANDOM

    return text if text in (None, RANDOM) else number("null", text, 0, 65_536, whole=True)


def _campaign(options: argparse.Namespace) -> int:
    from dashkit.experiments import campaign, costing, processes, turns
    from dashkit.experiments.settings import typed

    fid_samples = typed("fid_samples", options.fid_samples)
    _time_of_a_campaign(options, None)                        # refused now rather than after the images were read
    run = _start(options)
    wanted = tuple(n.strip() for n in options.stages.split(",") if n.strip()) or costing.STAGES
    unknown = [name for name in wanted if name not in costing.STAGES]
    if unknown:
        raise ValueError(f"unknown stage {', '.join(unknown)}; choose from {', '.join(costing.STAGES)}")
    campaign.check(run, wanted=wanted, reference=options.reference, publish=_published(options, run))
    minutes, hours = _time_of_a_campaign(options, campaign.planned_hours(run, wanted))
    extract = reference = of = None
    if "fid" in wanted:
        extract, reference = campaign.make_reference(run, options.reference)
        of = campaign.fid_of(run, extract, reference)
    if "evaluation" in wanted:
        _ = run.image_reference                      # the classifier is trained before anything is planned
    run = campaign.quicker(run, wanted)
    spent = turns.seconds_since_start() if options.hours is None else 0.0
    plan = campaign.make_plan(run, hours, fid_samples=fid_samples, wanted=wanted, of=of, spent=spent)
    seconds, begun, run = campaign.expected_seconds(run), run, campaign.with_plan(run, plan)
    options.run = run
    print(campaign.describe(run, plan))
    left = 60 * minutes - turns.seconds_since_start()
    asked = {name: seconds.get(name, 0.0) for name in wanted}
    used = campaign.run_turn(run, plan, asked, seconds=left, extract=extract, reference=reference)
    campaign.keep_used(begun, used)
    print(campaign.used_beside_expected(used, seconds))
    print(f"{turns.seconds_since_start() / 60:.1f} of {minutes:g} minutes are used")
    done = all(u.done for u in used)
    if not done:
        print(f"{turns.left_out(used)}; the same command goes on from here")
    enough = campaign.is_evaluated(run) if options.publish else done and set(wanted) == set(costing.STAGES)
    if not processes.is_main() or extract is None or not enough:
        return 0
    results = campaign.table(run, plan, extract, reference)
    print(campaign.summary(results).to_string(float_format="{:.3g}".format))
    _publish(options, run, results, plan=plan._asdict(), reference=reference.n, used={u.name: u.seconds for u in used})
    return 0


def _time_of_a_campaign(options: argparse.Namespace, planned: float | None) -> tuple[float, float]:
    """Minutes of this turn, and hours of the whole: what is typed, what was `planned` before, or the defaults."""
    from dashkit.experiments.settings import typed

    minutes = 9.0 if options.minutes is None else typed("minutes", options.minutes)
    if options.hours is not None:
        return minutes, typed("hours", options.hours)
    return minutes, planned or (minutes / 60 if options.minutes is not None and minutes else 0.4)


def _doctor(options: argparse.Namespace) -> int:
    from dashkit import doctor
    from dashkit.storage import paths

    if options.device == "cuda" or options.self_test:
        return _self_test(options)
    findings = list(doctor.examine(paths.RUNS, paths.CACHE, paths.BUILD, device=options.device))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:8s} {finding.detail}")
    return 0 if all(f.ok for f in findings) else 1


def _self_test(options: argparse.Namespace) -> int:
    """What a bare machine must have, and then what it computes; no Jupyter, no network and no installation."""
    from dashkit import doctor

    device = "cuda" if options.device == "cuda" else "cpu"
    findings = list(doctor.examine_bare(device=device))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:8s} {finding.detail}", flush=True)
    if not all(f.ok for f in findings):
        return 1
    from dashkit.experiments.selftest import self_test

    return 0 if self_test(device, compiled=options.compile) else 1


def _sweep(options: argparse.Namespace) -> int:
    from dashkit.analysis.tables import calibration_table
    from dashkit.experiments.evaluation import results_path
    from dashkit.experiments.ready import check_run
    from dashkit.experiments.settings import typed
    from dashkit.experiments.sweeps import sweep

    profile = _start(options).profile
    arms = profile.arms if profile.exact_bandwidth else "all"
    seeds = max(profile.seeds, 8) if options.seeds is None else options.seeds
    run = _start(options, seeds=seeds, arms=arms)
    check_run(run, publish=_published(options, run))
    results = sweep(run, jobs=options.jobs, teachers=options.teachers)
    print(calibration_table(results, w=run.profile.w).to_string(float_format="{:.3g}".format))
    if typed("teachers", options.teachers) == 1:           # else the tables of several teachers are in several files
        print(results_path(run))
    _publish(options, run, results)
    return 0


def _study(options: argparse.Namespace) -> int:
    from dashkit.analysis.rules import study_rows
    from dashkit.analysis.tables import RESULTS
    from dashkit.experiments.ready import check_run
    from dashkit.experiments.studies import study

    run, folder = _start(options), RESULTS / "studies" / options.name
    check_run(run, publish=folder if options.publish else None)
    table = study(run, options.name, jobs=options.jobs)
    print(study_rows(table)[["claim", "rank", "measure", "ours", "lo", "hi", "verdict"]].to_string(index=False))
    if options.publish:
        _write(run, table, folder, study=options.name)
    return 0


def _published(options: argparse.Namespace, run: "Run") -> "Path | None":
    """The folder that the results will be published in, if that was asked for."""
    if not options.publish:
        return None
    from dashkit.analysis.tables import RESULTS
    from dashkit.storage import paths

    paths.require_project()
    return RESULTS / run.profile.name


def _publish(options: argparse.Namespace, run: "Run", table: "pd.DataFrame", **facts: object) -> None:
    if options.publish:
        _write(run, table, _published(options, run), **facts)


def _write(run: "Run", table: "pd.DataFrame", folder: Path, **facts: object) -> None:
    from dashkit.analysis.tables import devices, write_published
    from dashkit.storage import provenance

    write_published(table, provenance.manifest(settings=run.profile.asdict(), seed=run.seed, device=devices(table),
                                               **facts), folder)
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
