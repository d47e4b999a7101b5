"""The project's gate: `python tests/gate.py` runs the quick stages, `… rest` the slow ones, `… all` both.

`… NAME …` runs the stages that are named; `… refresh [NN …]` renews the outputs stored in the notebooks, `… stable
[NN …]` refreshes twice and compares.  `… rest --minutes M` leaves out what does not fit into M minutes on this machine.

Each notebook is executed once, with the profile smoke.  The report, the stored outputs, the planted errors and the
students' edition are all held against that execution; `nbval` runs beside it, to see that both judge alike.  papermill
and nbval both pass vacuously in many ways; the audit and the mutation stage here are what makes them count.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import psutil
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dashkit import environment  # noqa: E402 (needs the path)
from dashkit.storage import paths  # noqa: E402

WORK = paths.BUILD / "test"
ENVIRONMENT = {
    "DASHKIT_PROFILE": "smoke", "DASHKIT_PROGRESS": "0", "DASHKIT_RUNS": str(WORK / "runs"), "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE", "JUPYTER_PLATFORM_DIRS": "1", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg",
    "DASHKIT_STRICT": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
IGNORE, COMPARABLE = "nbval-ignore-output", ("text/plain", "text/html")
SKIPPED = 77                          # browser.py's exit status where there is no browser
BROWSED = ("01", "03", "05", "06")    # `run.py browser` opens the others, too
DEFAULTS = {"profile": "smoke", "seed": 42, "device": "cpu"}          # the outputs are stored with these
FEW = {"teacher_steps": 60, "student_steps": 30, "samples": 40, "sample_steps": 5, "states": 200}
SHORTER: dict[str, dict[str, object]] = {
    "02": FEW, "04": FEW, "05": FEW, "09": FEW,
    "10": FEW | {"arms": ["dash", "cond_only", "scratch"], "seeds": 1},
    "11": {name: n for name, n in FEW.items() if name != "teacher_steps"},          # it prints how many
}
"""Settings of the notebooks that train, here and in a refresh.

How long networks learn decides nothing that is stored: nbval_all executes with all steps of the profile, and must find
the same outputs.
"""
NBVALED = ("03", "07")                # nbval executes these again in each test, and all of them in test-all
CORE = ("method", "storage", "datasets", "interop", "analysis", "experiments", "classroom/test_checks.py",
        "classroom/test_journal.py", "classroom/test_plots.py")
NBVAL = ["-m", "pytest", "-q", "--nbval", "--nbval-current-env", "-o", "addopts=-p no:cacheprovider",
         "-o", "filterwarnings=", "--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg")]
PATIENT = ["-p", "replay", "--nbval-cell-timeout=3600", "--nbval-kernel-startup-timeout=600"]      # it ends what hangs
SPARE = 25.0                          # minutes that a stage may take longer than was expected, before it is stopped


class NoTime(Exception):
    """A stage was stopped, because the time of the whole test was up."""


def call(*command: str) -> int:
    """The exit status of a command; NoTime if it has to be stopped, with all that it started."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(None if _stop is None else max(1.0, _stop - time.monotonic()))
        except subprocess.TimeoutExpired:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
            raise NoTime from None


_stop: float | None = None            # when a stage that still runs is stopped (time.monotonic)


def python(*arguments: str) -> int:
    return call(sys.executable, *arguments)


def notebooks() -> list[Path]:
    found = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        sys.exit("no notebook found")
    return found


def comparable(cell: dict) -> bool:
    """Whether nbval would compare something in this cell."""
    if cell["cell_type"] != "code" or IGNORE in cell["metadata"].get("tags", []):
        return False
    return any(o.get("text") or set(COMPARABLE) & set(o.get("data", {})) for o in cell["outputs"])


# --------------------------------------------------------------------------------------------------------- stages


def lint() -> bool:
    """Style, types of method, storage and interop, and that rooms import one way."""
    imports = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return not any([python("-m", "ruff", "check", "."), python("-m", "mypy"), python("-c", imports)])


def unit() -> bool:
    return python("-m", "pytest", "-q", *SIDE_BY_SIDE) == 0


def slow() -> bool:
    """The unit tests that are marked `slow`: several processes, compiling, JupyterLab, most hostile files."""
    return python("-m", "pytest", "-q", *SIDE_BY_SIDE, "-m", "slow") == 0


SIDE_BY_SIDE = ("-n", "auto", "--dist", "worksteal")       # one process a core, one thread each


# ------------------------------------------------------------------------------------------------ the one execution


def execute_all(sources: Sequence[Path], folder: Path, parameters: Mapping[str, object],
                settings: Mapping[str, Mapping[str, object]] | None = None) -> dict[str, Exception]:
    """Execute notebooks into `folder`, one a core, each once those are done whose networks it takes.

    `settings` are those of the notebooks of some numbers.  Returns the errors by notebook.
    """
    from dashkit.classroom.notebooks import NEEDS, SeriesError, execute
    from dashkit.publishing.site import run_jobs

    errors: dict[str, Exception] = {}

    def attempt(path: Path) -> None:
        try:
            execute(path, folder / path.name, parameters | own_settings(path, settings or {}))
        except SeriesError as failure:
            errors[path.stem] = failure
            print(f"  {path.stem}: FAILED", flush=True)

    there = {p.name[:2]: p.stem for p in sources}
    graph = {p.stem: {there[number] for number in {NEEDS.get(p.name[:2])} & there.keys()} for p in sources}
    run_jobs({p.stem: partial(attempt, p) for p in sources}, graph)
    return errors


def own_settings(path: Path, settings: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The parameter `settings` of one notebook, if it has settings of its own."""
    return {"settings": settings[path.name[:2]]} if path.name[:2] in settings else {}


def series() -> bool:
    """Execute every notebook, once; the report of the series is made of these executions."""
    from dashkit.publishing import series as publishing

    errors = execute_all(notebooks(), done := WORK / "executed", DEFAULTS, SHORTER)

    def take(source: Path, target: Path, parameters: Mapping[str, object], *, bar: bool = False) -> None:
        if (done / source.name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(done / source.name, target)
        if source.stem in errors:
            raise errors[source.stem]

    with mock.patch.object(publishing, "execute", take):
        good = publishing.run_series(**DEFAULTS, build=WORK / "series")
    print(*errors.values(), sep="\n")
    return good and not errors


def executed() -> Path:
    """The folder with the executed notebooks; they are executed now if no stage has done it."""
    folder = WORK / "executed"
    if not folder.is_dir():
        execute_all(notebooks(), folder, DEFAULTS, SHORTER)
    return folder


def audit(paths: Sequence[Path] | None = None) -> bool:
    """The stored notebooks are such that nbval has something to compare; prints every complaint."""
    complaints = []
    for path in paths or notebooks():
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        counts = [c["execution_count"] for c in cells]
        if counts != list(range(1, len(cells) + 1)):
            complaints.append(f"{path.name}: execution counts are not 1..{len(cells)}; "
                              f"type: {environment.task('refresh')}")
        if sum("parameters" in c["metadata"].get("tags", []) for c in cells) != 1:
            complaints.append(f"{path.name}: needs exactly one parameters cell")
        compared = sum(map(comparable, cells))
        ignored = sum(IGNORE in c["metadata"].get("tags", []) for c in cells)
        if compared < 2:
            complaints.append(f"{path.name}: only {compared} cells with outputs to compare")
        if ignored > 0.55 * len(cells):
            complaints.append(f"{path.name}: {ignored} of {len(cells)} cells are not compared")
        if any(o["output_type"] == "error" for c in cells for o in c["outputs"]):
            complaints.append(f"{path.name}: holds a stored error")
        if path.stat().st_size > 2**20:
            complaints.append(f"{path.name}: larger than 1 MiB")
    print("\n".join(complaints) or f"{len(paths or notebooks())} notebooks: counts, tags and outputs are in order")
    return not complaints


def regression() -> bool:
    """Every stored output equals the executed one, by nbval's own comparison."""
    return not differences(notebooks(), executed())


def differences(stored: Sequence[Path], folder: Path, *, show: bool = True) -> set[tuple[str, int]]:
    """The cells, as notebook and place from 0, whose outputs differ from those of the notebooks executed in `folder`.

    SystemExit if nbval compared nothing.
    """
    report = WORK / "comparison.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [sys.executable, *NBVAL, "-p", "replay", "--replay", str(folder), "--color=no", "--verdicts", str(report),
               *map(str, stored)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=not show, text=True)
    found = json.loads(report.read_text()) if report.is_file() else []
    cells = sum(c["cell_type"] == "code" for path in stored for c in json.loads(path.read_text())["cells"])
    if not found or len(found) != cells or done.returncode not in (0, 1):
        sys.exit(f"nbval compared {len(found)} of {cells} cells; its exit status is {done.returncode}")
    differing = {(name, i) for name, i, differs in found if differs}
    if bool(differing) != bool(done.returncode):
        sys.exit(f"nbval ends with {done.returncode}, but names {len(differing)} cells that differ")
    return differing


def mutation() -> bool:
    """A digit changed in each stored output that has one: the comparison must name all of these cells, and no other."""
    folder = WORK / "mutants"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    planted = {}
    for path in notebooks():
        notebook = json.loads(path.read_text())
        planted |= {(path.stem, i): path for i in mutate(notebook)}
        (folder / path.name).write_text(json.dumps(notebook))
    already = differences(notebooks(), executed(), show=False)       # told by the stage before
    found = differences(sorted(folder.glob("*.ipynb")), executed(), show=False) - (already - planted.keys())
    bare = [p.name for p in notebooks() if p not in planted.values()]
    print(f"{len(found & planted.keys())} of {len(planted)} planted errors found",
          *(f"missed: {name}, cell {i}" for name, i in sorted(planted.keys() - found)),
          *(f"nothing is planted here: {name}, cell {i}" for name, i in sorted(found - planted.keys())),
          *(f"no stored digit to change: {name}" for name in bare), sep="\n  ")
    return not bare and found == planted.keys()


def mutate(notebook: dict) -> list[int]:
    """Change the last digit of every comparable output that has one; the places of the changed code cells, from 0."""
    changed = []
    for i, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        for output in cell["outputs"] if comparable(cell) else []:
            holder, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
            text = "".join(holder.get(key, ""))
            mutated = re.sub(r"(\d)(\D*)$", lambda m: str((int(m[1]) + 1) % 10) + m[2], text, count=1)
            if mutated != text:
                holder[key] = mutated
                changed.append(i)
    return sorted(set(changed))


def nbval() -> bool:
    """nbval itself, with a kernel, on a few notebooks."""
    return python(*NBVAL, *PATIENT, *map(str, chosen(NBVALED))) == 0


def nbval_all() -> bool:
    """nbval itself on every notebook, with nothing trained before."""
    with other_runs("nbval"):
        return python(*NBVAL, *PATIENT, *map(str, notebooks())) == 0


def other_runs(name: str) -> mock._patch_dict:
    """A new folder with its own folder of runs, whatever other stages have trained."""
    shutil.rmtree(WORK / name, ignore_errors=True)
    (WORK / name).mkdir(parents=True)
    return mock.patch.dict(os.environ, DASHKIT_RUNS=str(WORK / name / "runs"))


def stable(numbers: Sequence[str] = ()) -> bool:
    """Two refreshes in a row differ in nothing, not even in the bytes of a picture.

    Without numbers: one notebook, and the execution that is there already is the first of the two.
    """
    paths = chosen(numbers or ("03",))
    first = {p: refreshed(p) if numbers else stored(executed() / p.name) for p in paths}
    differing = [p.name for p in paths if refreshed(p) != first[p]]
    print(f"{len(paths)} notebooks refreshed twice, {len(differing)} differ", *differing, sep="\n  ")
    return not differing


def editions() -> bool:
    """The executed notebooks fail at each open exercise and nowhere else; each solution passes its cell's check."""
    import nbformat

    from dashkit.classroom import checks, journal
    from dashkit.classroom.editions import exercises, solved, verdicts

    complaints, counts = [], [0, 0]
    for path in notebooks():
        source, done = (nbformat.read(p, as_version=4) for p in (path, executed() / path.name))
        said = verdicts(done)
        with (mock.patch.object(journal, "PATH", WORK / "editions" / "work.json"),
              mock.patch.object(checks, "PATIENCE", 600.0)):          # how fast a machine is decides nothing
            solutions = tried(solved(source))
        for n in exercises(source):
            counts[0] += said.get(n) is False
            counts[1] += solutions.get(n) is True
            if said.get(n) is not False:
                complaints.append(f"student, {path.name}: the check of {n} says {said.get(n)}")
            if solutions.get(n) is not True:
                complaints.append(f"solution, {path.name}: the check of {n} says {solutions.get(n)}")
    print(*complaints, f"{counts[0]} exercises fail where they are open, {counts[1]} pass where they are solved",
          sep="\n")
    return not complaints and min(counts) > 0


def tried(notebook: Mapping) -> dict[str, object]:
    """What the checks of a solved notebook say when its exercises are tried with what its first cell imports.

    True, or the message: of the check, or of the error.
    """
    from dashkit.classroom.editions import exercises

    first = next(c for c in notebook.cells if c.cell_type == "code")
    said = {}
    for name, i in exercises(notebook).items():
        scope: dict[str, object] = {}
        exec(first.source, scope)
        check = scope["check"]
        scope["check"] = lambda exercise, answer, check=check: said.update({exercise: check(exercise, answer)})
        try:
            exec(notebook.cells[i].source, scope)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return {name: True if getattr(result, "ok", False) else str(result) for name, result in said.items()}


def solved() -> bool:
    """The solved notebooks, executed with a seed that is not the default: every check passes."""
    import nbformat

    from dashkit.classroom.editions import exercises, solved, verdicts

    with other_runs("solved"):
        for path in notebooks():
            nbformat.write(solved(nbformat.read(path, as_version=4)), WORK / "solved" / path.name)
        sources = sorted((WORK / "solved").glob("*.ipynb"))
        errors = execute_all(sources, WORK / "solved" / "executed", DEFAULTS | {"seed": 7})
    complaints = [str(error) for error in errors.values()]
    for path in sources:
        if path.stem not in errors:
            said = verdicts(nbformat.read(WORK / "solved" / "executed" / path.name, as_version=4))
            wrong = [n for n in exercises(nbformat.read(path, as_version=4)) if said.get(n) is not True]
            complaints += [f"{path.name}: the check of {n} says {said.get(n)}" for n in wrong]
    print(*complaints, f"{len(sources) - len(errors)} solved notebooks executed with seed 7", sep="\n")
    return not complaints


def site() -> bool:
    """The executed notebooks as a site: no warning, every picture has words, nothing is fetched."""
    return python("-m", "dashkit.publishing.site", "smoke", str(executed())) == 0


def pages() -> bool | None:
    """Every page of the site in a browser, from its files; None where there is no browser."""
    code = python("tests/tools/pages.py")
    return None if code == SKIPPED else code == 0


def browser() -> bool | None:
    """Every control of the notebooks with a widget, in JupyterLab; None where there is no browser."""
    code = python("tests/tools/browser.py", *BROWSED)
    return None if code == SKIPPED else code == 0


def dependencies() -> bool | None:
    """Known vulnerabilities among what is installed; None where the service that knows them cannot be asked."""
    command = (sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--local",
               "--skip-editable")
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        print(f"NOT CHECKED: pip-audit gave no report ({error})")
        return None
    return judged(report["dependencies"], _direct())


def lowest() -> bool:
    """The core on the lowest supported versions of the direct dependencies; `run.py lowest` runs every test so."""
    tests = " ".join(f"tests/{name}" for name in CORE)
    return python("run.py", "lowest", "--tests", tests) == 0


def _direct() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    return {Requirement(line).name.lower() for line in everything}


def judged(entries: Sequence[dict], direct: set[str]) -> bool | None:
    """The verdict on pip-audit's entries, printed; false for a vulnerability in a direct dependency that has a fix.

    pip-audit itself ends well when it could look up nothing at all, so what it looked up is counted here.
    """
    skipped = [e["name"] for e in entries if "vulns" not in e]
    audited = [e for e in entries if "vulns" in e]
    first = f", the first {skipped[0]}" if skipped else ""
    print(f"{len(audited)} packages audited, {len(skipped)} could not be{first}")
    if not audited:
        print("NOT CHECKED: the service of known vulnerabilities is out of reach from here")
        return None
    bad = False
    for entry in audited:
        for vuln in entry["vulns"]:
            ours = entry["name"].lower() in direct and bool(vuln["fix_versions"])
            bad |= ours
            fix = f"fixed in {', '.join(vuln['fix_versions'])}" if vuln["fix_versions"] else "no fix yet"
            print(f"{'FAILED ' if ours else 'known  '} {entry['name']} {entry['version']}: {vuln['id']}, {fix}")
    return not bad


QUICK: dict[str, Callable[[], bool | None]] = {
    "lint": lint, "unit": unit, "series": series, "audit": audit, "regression": regression, "mutation": mutation,
    "editions": editions, "stable": stable, "nbval": nbval,
}
REST: dict[str, Callable[[], bool | None]] = {       # the most telling first: a slow machine may not reach the last
    "slow": slow, "solved": solved, "browser": browser, "nbval_all": nbval_all, "site": site, "pages": pages,
    "dependencies": dependencies, "lowest": lowest,
}
STAGES = QUICK | REST
SECONDS = {                           # about what the stages take on a quiet machine with two cores; for proportions
    "lint": 20, "unit": 200, "series": 145, "regression": 4, "mutation": 6, "editions": 5, "stable": 11, "nbval": 25,
    "slow": 240, "solved": 145, "browser": 180, "nbval_all": 230, "site": 240, "pages": 300, "dependencies": 20,
    "lowest": 300,
}

# -------------------------------------------------------------------------------------------------------- refresh


def refresh(numbers: Sequence[str]) -> None:
    """Execute notebooks and store the outputs that are regression-tested; two refreshes in a row differ in nothing."""
    from dashkit.storage.store import write_bytes

    for path in chosen(numbers):
        write_bytes(path, refreshed(path))
        print("refreshed", path.name)


def chosen(numbers: Sequence[str]) -> list[Path]:
    """The notebooks of these numbers, or all."""
    return [p for p in notebooks() if not numbers or p.name[:2] in numbers]


def refreshed(path: Path) -> bytes:
    """A notebook as a refresh would store it."""
    from dashkit.classroom.notebooks import execute

    with tempfile.TemporaryDirectory() as folder:
        execute(path, Path(folder) / path.name, DEFAULTS | own_settings(path, SHORTER))
        return stored(Path(folder) / path.name)


def stored(executed: Path) -> bytes:
    """What a refresh stores of an executed notebook."""
    import nbformat

    done = nbformat.read(executed, as_version=4)
    done.cells = [c for c in done.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    return (nbformat.writes(stripped(done), version=4) + "\n").encode()


def stripped(notebook: dict) -> dict:
    """A notebook without anything that changes from run to run or is not compared."""
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"], "language_info": {"name": "python"}}
    count = 0
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"] = count
        kept = [] if IGNORE in (tags or []) else [o for o in cell["outputs"] if o.get("name") != "stderr"]
        for first, second in itertools.pairwise(kept):
            if first["output_type"] == second["output_type"] == "stream":     # how often a kernel flushes is chance
                first["text"], second["text"] = "", first["text"] + second["text"]
        for output in kept:
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)    # a dead model's number
            if "metadata" in output:
                output["metadata"] = {}
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
        cell["outputs"] = [o for o in kept if o.get("text") != ""]
    return notebook


# ------------------------------------------------------------------------------------------------------------ the run


class Took(NamedTuple):
    """One line of build/test/stages.json."""

    verdict: str              # ok, FAILED or SKIPPED
    seconds: float
    cpu_seconds: float        # of all processes


def cpu_seconds() -> float:
    """Of this process and, where the system tells, of all that it has waited for."""
    return sum(os.times()[:4])


def slowness(took: Mapping[str, Mapping[str, object]]) -> float:
    """How many times slower than the machine of SECONDS this one is, from the stages that it has done; at least 1."""
    known = [name for name in took if name in SECONDS and took[name]["verdict"] != "SKIPPED"]
    wanted = sum(SECONDS[name] for name in known)
    return max(1.0, sum(took[name]["seconds"] for name in known) / wanted) if wanted else 1.0


def run(names: Sequence[str], minutes: float | None) -> int:
    """Run stages and keep what they took; 1 if one failed.  What does not fit into `minutes` is skipped, and said."""
    global _stop
    path = WORK / "stages.json"
    took = json.loads(path.read_text()) if path.is_file() else {}
    end = None if minutes is None else time.monotonic() + 60 * minutes
    _stop = None if end is None else end + 60 * SPARE
    verdicts = {}
    for name in names:
        needed, left = SECONDS.get(name, 0.0) * slowness(took), end and end - time.monotonic()
        if left is not None and left < needed:
            print(f"\n=== {name}: SKIPPED, no time left: it takes about {needed:.0f} s on this machine, and "
                  f"{max(0.0, left):.0f} s are left", flush=True)
            took[name] = Took("SKIPPED", 0.0, 0.0)._asdict()
            verdicts[name] = None
            continue
        print(f"\n=== {name}", flush=True)
        began, used = time.monotonic(), cpu_seconds()
        try:
            verdicts[name] = STAGES[name]()
        except NoTime:
            print("stopped: the time of the whole test is up")
            verdicts[name] = None
        word = {True: "ok", False: "FAILED", None: "SKIPPED"}[verdicts[name]]
        took[name] = Took(word, round(time.monotonic() - began, 1), round(cpu_seconds() - used, 1))._asdict()
        print(f"=== {name}: {word} in {took[name]['seconds']:.0f} s", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(took, indent=1) + "\n")
    print(f"\n{'stage':14s} verdict   seconds  CPU seconds")
    for name in verdicts:
        print(f"{name:14s} {took[name]['verdict']:8s} {took[name]['seconds']:8.0f} {took[name]['cpu_seconds']:12.0f}")
    passed, failed, skipped = ([n for n, ok in verdicts.items() if ok is kind] for kind in (True, False, None))
    seconds, used = (sum(took[n][key] for n in verdicts) for key in ("seconds", "cpu_seconds"))
    print(f"{'together':14s} {'':8s} {seconds:8.0f} {used:12.0f}")
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped", *failed, *skipped, flush=True)
    return 1 if failed else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="STAGE",
                        help=f"{', '.join(STAGES)}; or rest, all; or refresh or stable and notebooks' numbers")
    parser.add_argument("--minutes", type=float, help="skip what does not fit into this time")
    options = parser.parse_args(arguments)
    first, *others = options.what or ["quick"]
    groups = {"quick": QUICK, "rest": REST, "all": STAGES}
    alone = first in (*groups, "refresh", "stable")
    unknown = [name for name in (others if first in groups else [] if alone else options.what) if name not in STAGES]
    if unknown:
        sys.exit(f"unknown stage {', '.join(unknown)}; choose from {', '.join(STAGES)}, or rest, all, refresh")
    if first != "rest":                             # which goes on from the quick stages
        shutil.rmtree(WORK, ignore_errors=True)     # what was trained before would be spoken of in the stored outputs
    os.environ.update(ENVIRONMENT)
    if first == "refresh":
        refresh(others)
        return 0
    if first == "stable":
        return 0 if stable(others or [p.name[:2] for p in notebooks()]) else 1
    return run(list(groups.get(first, options.what)), options.minutes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
