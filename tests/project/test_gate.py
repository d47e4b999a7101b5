"""The gate's own verdicts: what is planted in a report, an execution or a notebook is found."""

import json
import time

import gate
import nbformat
import pytest

from dashkit.classroom import notebooks
from dashkit.classroom.notebooks import SeriesError
from dashkit.publishing import series


def entry(name, *vulns):
    return {"name": name, "version": "1.0", "vulns": [{"id": i, "fix_versions": list(fixes)} for i, *fixes in vulns]}


SKIPPED = {"name": "numpy", "skip_reason": "not found"}


@pytest.mark.parametrize(("entries", "verdict", "said"), [
    ([SKIPPED], None, "0 packages audited, 1 could not be, the first numpy\nNOT CHECKED"),
    ([], None, "NOT CHECKED"),
    ([SKIPPED, entry("torch")], True, "1 packages audited, 1 could not be"),
    ([entry("Torch", ("PYSEC-1", "1.1"))], False, "FAILED  Torch 1.0: PYSEC-1, fixed in 1.1"),
    ([entry("torch", ("PYSEC-1",))], True, "known   torch 1.0: PYSEC-1, no fix yet"),
    ([entry("else", ("PYSEC-2", "2", "3"))], True, "known   else 1.0: PYSEC-2, fixed in 2, 3"),
])  # fmt: skip
def test_an_audit_of_nothing_is_no_pass_and_a_direct_vulnerability_with_a_fix_fails(entries, verdict, said, capsys):
    assert gate.judged(entries, {"torch", "numpy"}) is verdict
    assert said in capsys.readouterr().out


def test_an_audit_that_gives_no_report_is_no_pass(monkeypatch, capsys):
    monkeypatch.setattr(gate.subprocess, "run", lambda *a, **k: gate.subprocess.CompletedProcess(a, 0, "", "no net"))
    assert gate.dependencies() is None and "NOT CHECKED" in capsys.readouterr().out


def test_direct_dependencies_are_read_from_the_project():
    assert {"torch", "jupyterlab", "scikit-learn", "pytest", "torch-fidelity"} <= gate._direct()


@pytest.mark.parametrize("command", ["refresh", "stable"])
def test_outputs_are_stored_from_a_start_with_nothing_trained(command, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    monkeypatch.setattr(gate, command, lambda numbers: seen.append((numbers, gate.WORK.exists())) or True)
    (tmp_path / "work" / "runs").mkdir(parents=True)
    assert gate.main([command, "04"]) == 0 and seen == [(["04"], False)]


def test_a_misspelt_stage_is_refused_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "WORK", tmp_path)
    for arguments in (["lnt"], ["rest", "lnt"], ["lint", "refresh"]):
        with pytest.raises(SystemExit, match=r"unknown stage .*; choose from lint, unit"):
            gate.main(arguments)
    assert tmp_path.is_dir()


# ----------------------------------------------------------------------------------- one execution, held against much

PICTURE = '<img alt="a curve" src="data:image/png;base64,AAA{}=">'


def write(path, *cells, count=True):
    """A notebook of these cells: source, and output as text or as HTML."""
    made = []
    for i, (source, said) in enumerate(cells, 1):
        data = {"text/html" if said.startswith("<") else "text/plain": said}
        output = nbformat.v4.new_output("execute_result", data, execution_count=i)
        cell = nbformat.v4.new_code_cell(source, id=f"c{i}", outputs=[output] if said else [])
        made.append(cell | {"execution_count": i if count else None})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.NotebookNode(c) for c in made]), path)
    return path


def test_the_comparison_names_each_cell_that_differs_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    cells = [("a = 1", ""), ("a", "1.25"), ("show()", PICTURE.format(1))]
    stored = [write(tmp_path / "stored" / f"{n:02d}_x.ipynb", *cells) for n in range(4)]
    write(tmp_path / "done" / "00_x.ipynb", cells[0], cells[1], ("show()", PICTURE.format(2)))     # a picture's bytes
    write(tmp_path / "done" / "01_x.ipynb", cells[0], ("a", "1.26"), cells[2])
    write(tmp_path / "done" / "02_x.ipynb", *cells, count=False)                                   # never executed
    write(tmp_path / "done" / "03_x.ipynb", ("a = 2", ""), *cells[1:])                             # another notebook
    wanted = {("01_x", 1), *((name, i) for name in ("02_x", "03_x") for i in range(3))}
    assert gate.differences(stored, tmp_path / "done", show=False) == wanted


def test_a_comparison_of_nothing_is_no_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    with pytest.raises(SystemExit, match="nbval compared 0 of 0 cells; its exit status is 5"):
        gate.differences([write(tmp_path / "00_x.ipynb")], tmp_path, show=False)


@pytest.mark.parametrize(("found", "verdict"), [
    ({("00_x", 0), ("00_x", 2)}, True), ({("00_x", 0)}, False), ({("00_x", 0), ("00_x", 1), ("00_x", 2)}, False),
])  # fmt: skip
def test_every_planted_digit_must_be_found_and_nothing_else(found, verdict, tmp_path, monkeypatch):
    path = write(tmp_path / "00_x.ipynb", ("a", "1.25"), ("b", "none"), ("c", "c 3"))
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    monkeypatch.setattr(gate, "notebooks", lambda: [path])
    monkeypatch.setattr(gate, "executed", lambda: tmp_path)
    planted = []
    monkeypatch.setattr(gate, "differences", lambda stored, folder, show: planted.append(stored) or (
        found if stored != [path] else set()))
    assert gate.mutation() is verdict
    said = [c["outputs"][0]["data"]["text/plain"] for c in json.loads(planted[1][0].read_text())["cells"]]
    assert ["".join(s) for s in said] == ["1.26", "none", "c 4"]


def test_a_notebook_without_a_digit_to_change_is_no_pass(tmp_path, monkeypatch):
    path = write(tmp_path / "00_x.ipynb", ("a", "none"))
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    monkeypatch.setattr(gate, "notebooks", lambda: [path])
    monkeypatch.setattr(gate, "executed", lambda: tmp_path)
    monkeypatch.setattr(gate, "differences", lambda *a, **k: set())
    assert gate.mutation() is False


IMPORTS = "from dashkit.classroom import check"
OPEN, RIGHT = "def answer(c, u, w):\n    return None", "def answer(c, u, w):\n    return u + w * (c - u)"
WRONG = "def answer(c, u, w):\n    return c + w * (c - u)"


@pytest.mark.parametrize(("said", "solution", "message"), [
    ("✗ No answer yet", RIGHT, ""), ("✓ Right.", RIGHT, "student, 01_x.ipynb: the check of 01.2 says True"),
    ("✗ No answer yet", WRONG, "solution, 01_x.ipynb: the check of 01.2 says ✗ "),
    ("✗ No answer yet", "def answer(c, u, w):\n    return np.add(c, u)", "says ✗ Your function raised NameError"),
    ("✗ No answer yet", "answer = np.add", "says NameError: name 'np' is not defined"),
])  # fmt: skip
def test_an_open_exercise_that_passes_and_a_solution_that_fails_are_found(
    said, solution, message, tmp_path, monkeypatch, capsys
):
    from dashkit.classroom.exercises import EXERCISES

    path = write(tmp_path / "01_x.ipynb", (IMPORTS, ""), (f'{OPEN}\n\n\ncheck("01.2", answer)', said))
    exercise = EXERCISES["01.2"]
    monkeypatch.setitem(EXERCISES, "01.2", type(exercise)(**vars(exercise) | {"solution": solution}))
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    monkeypatch.setattr(gate, "notebooks", lambda: [path])
    monkeypatch.setattr(gate, "executed", lambda: tmp_path)
    assert gate.editions() is not bool(message) and message in capsys.readouterr().out


def test_notebooks_are_executed_once_those_are_done_whose_networks_they_take(tmp_path, monkeypatch, capsys):
    events, given = [], {}

    def execute(source, target, parameters):
        given[source.name[:2]] = parameters
        events.append(("begins", source.name[:2]))
        time.sleep(0.05)
        events.append(("ends", source.name[:2]))
        if source.name[:2] == "05":
            raise SeriesError("05: planted")

    monkeypatch.setattr(notebooks, "execute", execute)
    paths = [tmp_path / f"{n}_x.ipynb" for n in ("00", "02", "04", "05", "09")]
    errors = gate.execute_all(paths, tmp_path, {"seed": 1}, {"04": {"samples": 2}})
    assert list(errors) == ["05_x"] and len(events) == 2 * len(paths)
    for later, earlier in (("04", "02"), ("05", "02"), ("09", "04")):
        assert events.index(("ends", earlier)) < events.index(("begins", later))
    assert given.pop("04") == {"seed": 1, "settings": {"samples": 2}} and all(p == {"seed": 1} for p in given.values())
    assert "05_x" in (said := capsys.readouterr().out) and said.count("FAILED") == 1


def test_a_notebook_that_fails_fails_the_series_and_its_report(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "00_x.ipynb", ("1", "1"))

    def fail(sources, folder, parameters, settings):
        write(folder / "00_x.ipynb", ("1", "1"))
        return {"00_x": SeriesError("00_x, cell 1: never completed")}

    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    monkeypatch.setattr(gate, "notebooks", lambda: [path])
    monkeypatch.setattr(series, "notebook_paths", lambda only=(): [path])
    monkeypatch.setattr(gate, "execute_all", fail)
    assert gate.series() is False
    assert json.loads((tmp_path / "work" / "series" / "smoke" / "series.json").read_text())["ok"] is False
    monkeypatch.setattr(gate, "execute_all", lambda *a: fail(*a) and {})
    assert gate.series() is True


# --------------------------------------------------------------------------------------------------------- the stages


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Stages that are made up, and the times that are expected of them."""
    def no_time():
        raise gate.NoTime

    made = {"good": lambda: True, "bad": lambda: False, "left": lambda: None, "stopped": no_time, "long": lambda: True}
    monkeypatch.setattr(gate, "WORK", tmp_path)
    monkeypatch.setattr(gate, "STAGES", made)
    monkeypatch.setattr(gate, "SECONDS", {"good": 10.0, "long": 100.0})
    return tmp_path / "stages.json"


def test_the_times_of_the_stages_are_kept_and_one_failure_fails(stages, capsys):
    assert gate.run(["good", "left", "stopped"], None) == 0
    assert gate.run(["bad", "good"], None) == 1
    took = json.loads(stages.read_text())
    assert {name: t["verdict"] for name, t in took.items()} == {
        "good": "ok", "left": "SKIPPED", "stopped": "SKIPPED", "bad": "FAILED"}
    assert all(set(t) == {"verdict", "seconds", "cpu_seconds"} for t in took.values())
    said = capsys.readouterr().out
    assert "1 passed, 0 failed, 2 skipped left stopped" in said and "1 passed, 1 failed, 0 skipped bad" in said


def test_what_does_not_fit_is_skipped_by_the_speed_that_was_measured(stages, capsys):
    stages.write_text(json.dumps({"good": {"verdict": "ok", "seconds": 30.0, "cpu_seconds": 1.0}}))
    assert gate.run(["long"], 4.0) == 0                                  # it takes 300 s where `good` takes 30
    said = capsys.readouterr().out
    assert "=== long: SKIPPED, no time left: it takes about 300 s on this machine, and 240 s are left" in said
    assert gate.run(["long"], 6.0) == 0 and json.loads(stages.read_text())["long"]["verdict"] == "ok"
    assert gate.run(["long"], -1.0) == 0 and "and 0 s are left" in capsys.readouterr().out


def test_a_stage_that_runs_over_is_stopped_with_what_it_started(monkeypatch):
    code = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    before = set(gate.psutil.Process().children(recursive=True))         # what other tests have left running
    monkeypatch.setattr(gate, "_stop", time.monotonic() + 2)
    with pytest.raises(gate.NoTime):
        gate.python("-c", code)
    assert not set(gate.psutil.Process().children(recursive=True)) - before
