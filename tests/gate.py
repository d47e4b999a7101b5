"""The project's gate: `make test` runs every stage, `make refresh` renews the outputs stored in the notebooks.

papermill and nbval both pass vacuously in many ways; the audit and the mutation stage here are what makes them count.
"""

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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "test"
ENVIRONMENT = {
    **os.environ, "DASHKIT_PROFILE": "smoke", "DASHKIT_PROGRESS": "0", "DASHKIT_RUNS": str(WORK / "runs"),
    "JUPYTER_PLATFORM_DIRS": "1", "PYTHONWARNINGS": "ignore",
}
IGNORE, COMPARABLE = "nbval-ignore-output", ("text/plain", "text/html")
SKIPPED = 77                          # browser.py's exit status where there is no browser
BROWSED = ("01", "03", "05", "06")    # `make browser` opens the others, too
CORE = ("method", "storage", "datasets", "interop", "analysis", "experiments", "classroom/test_checks.py",
        "classroom/test_journal.py", "classroom/test_plots.py")
NBVAL = ["-m", "pytest", "-q", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=300",
         "--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "-o", "addopts=-p no:cacheprovider",
         "-o", "filterwarnings="]


def python(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, **keywords)


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
    return python("-m", "ruff", "check", ".").returncode == 0


def unit() -> bool:
    return python("-m", "pytest", "-q", "-n", "auto").returncode == 0          # one process a core, one thread each


def series() -> bool:
    """The whole smoke series with a seed that is not the default."""
    code = "import sys; from pathlib import Path; from dashkit.publishing.series import run_series; " \
           f"sys.exit(not run_series('smoke', seed=7, build=Path({str(WORK / 'series')!r})))"
    return python("-c", code).returncode == 0


def audit(paths: Sequence[Path] | None = None) -> bool:
    """The stored notebooks are such that nbval has something to compare; prints every complaint."""
    complaints = []
    for path in paths or notebooks():
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        counts = [c["execution_count"] for c in cells]
        if counts != list(range(1, len(cells) + 1)):
            complaints.append(f"{path.name}: execution counts are not 1..{len(cells)}; run make refresh")
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
    return python(*NBVAL, *map(str, notebooks())).returncode == 0


def mutation() -> bool:
    """One digit changed in one stored output of each notebook: nbval must notice every one."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        missed = list(filter(None, pool.map(_missed, notebooks())))
    print(f"{len(notebooks()) - len(missed)} of {len(notebooks())} planted errors found", *missed, sep="\n  missed: ")
    return not missed


def _missed(path: Path) -> str:
    """The notebook's name if nbval does not notice that a digit of it was changed."""
    notebook = json.loads(path.read_text())
    if not _mutate(notebook):
        return f"{path.name} (no stored digit to change)"
    mutant = path.with_name(f".mutant_{path.name}")
    try:
        mutant.write_text(json.dumps(notebook))
        run = python(*NBVAL, str(mutant), capture_output=True, text=True)
    finally:
        mutant.unlink()
    return "" if run.returncode == 1 and "1 failed" in run.stdout else path.name


def _mutate(notebook: dict) -> bool:
    """Change the last digit of the first comparable text output that has one, and drop the cells after it."""
    for i, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code" or not comparable(cell):
            continue
        for output in cell["outputs"]:
            holder, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
            text = "".join(holder.get(key, ""))
            mutated = re.sub(r"(\d)(\D*)$", lambda m: str((int(m[1]) + 1) % 10) + m[2], text, count=1)
            if mutated != text:
                holder[key] = mutated
                del notebook["cells"][i + 1 :]
                return True
    return False


def stable(numbers: Sequence[str] = ("03",)) -> bool:
    """Two refreshes in a row differ in nothing, not even in the bytes of a picture."""
    differing = [p.name for p in chosen(numbers) if len({refreshed(p), refreshed(p)}) != 1]
    print(f"{len(chosen(numbers))} notebooks refreshed twice, {len(differing)} differ", *differing, sep="\n  ")
    return not differing


def editions() -> bool:
    """Students' notebooks fail at each exercise and nowhere else; the solved ones, executed here, pass every check."""
    import nbformat

    from dashkit.classroom.editions import exercises, solved, student, verdicts
    from dashkit.classroom.notebooks import execute

    runs = WORK / "editions" / "runs"               # work saved there is not seen by the other stages
    if (WORK / "runs").is_dir():
        shutil.copytree(WORK / "runs", runs, ignore=shutil.ignore_patterns("work*.json"))
    os.environ.update(ENVIRONMENT | {"DASHKIT_RUNS": str(runs)})
    complaints, counts = [], {"student": 0, "solution": 0}
    for path in notebooks():
        source = nbformat.read(path, as_version=4)
        for edition, made in (("student", student(source)), ("solution", solved(source))):
            target = WORK / "editions" / edition / path.name
            done = WORK / "series" / "smoke" / path.name          # the series has executed the student's cells already
            if edition == "solution" or not done.is_file():
                done = target.with_suffix(".done.ipynb")
                target.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(made, target)
                execute(target, done, {})
            said = verdicts(nbformat.read(done, as_version=4))
            wrong = [n for n in exercises(source) if said.get(n) is not (edition == "solution")]
            counts[edition] += len(said) - len(wrong)
            complaints += [f"{edition}, {path.name}: the check of {n} says {said.get(n)}" for n in wrong]
    print(*complaints, f"{counts['student']} exercises fail where they are open, {counts['solution']} pass where they "
          f"are solved; nothing else fails in {len(notebooks())} notebooks of each edition", sep="\n")
    return not complaints


def site() -> bool:
    """The committed outputs as a site: no warning, every picture has words, nothing is fetched."""
    return python("docs/pages.py").returncode == 0


def browser() -> bool | None:
    """Every control of the notebooks with a widget, in JupyterLab; None where there is no browser."""
    code = python("tests/tools/browser.py", *BROWSED).returncode
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
    """The core on the lowest supported versions of the direct dependencies; `make lowest` runs every test so."""
    tests = " ".join(f"tests/{name}" for name in CORE)
    return subprocess.run(["make", "--no-print-directory", "lowest", f"TESTS={tests}"], cwd=ROOT).returncode == 0


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


STAGES: dict[str, Callable[[], bool | None]] = {
    "lint": lint, "unit": unit, "series": series, "audit": audit, "regression": regression, "mutation": mutation,
    "stable": stable, "editions": editions, "site": site, "browser": browser, "dependencies": dependencies,
    "lowest": lowest,
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
    os.environ.update(ENVIRONMENT)
    import nbformat

    from dashkit.classroom.notebooks import execute

    with tempfile.TemporaryDirectory() as folder:
        execute(path, Path(folder) / path.name, {})
        done = nbformat.read(Path(folder) / path.name, as_version=4)
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


def main(arguments: Sequence[str]) -> int:
    unknown = [a for a in arguments if a not in STAGES]
    if unknown and arguments[0] not in ("refresh", "stable"):
        sys.exit(f"unknown stage {', '.join(unknown)}; choose from {', '.join(STAGES)}, or refresh")
    shutil.rmtree(WORK, ignore_errors=True)         # what was trained before would be spoken of in the stored outputs
    if arguments and arguments[0] == "refresh":
        refresh(arguments[1:])
        return 0
    if arguments and arguments[0] == "stable":
        return 0 if stable(arguments[1:]) else 1
    verdicts = {}
    for name in arguments or STAGES:
        print(f"\n=== {name}", flush=True)
        began = time.monotonic()
        verdicts[name] = STAGES[name]()
        word = {True: "ok", False: "FAILED", None: "SKIPPED"}[verdicts[name]]
        print(f"=== {name}: {word} in {time.monotonic() - began:.0f} s", flush=True)
    passed, failed, skipped = ([n for n, ok in verdicts.items() if ok is kind] for kind in (True, False, None))
    print(f"\n{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped", *skipped, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
