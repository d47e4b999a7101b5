"""Editions are made from one source, and what is planted in them is seen."""

import json

import nbformat
import pytest

from dashkit.classroom import editions
from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import execute, notebook_paths
from dashkit.storage import paths

CHECK = 'check("01.2", answer)'
OPEN = 'def answer(x):\n    return None          # your code here\n\n\ncheck("01.2", answer)'


def notebook(*cells, text="✗ No answer yet"):
    made = [nbformat.v4.new_code_cell(c, id=f"c{i}") for i, c in enumerate(cells)]
    for i, cell in enumerate(made, 1):
        cell.execution_count = i
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=i)]
    return nbformat.v4.new_notebook(cells=made)


def test_a_student_gets_no_outputs_and_the_source_keeps_its_own():
    source = notebook("1 + 1", OPEN)
    made = editions.student(source)
    assert [(c.outputs, c.execution_count) for c in made.cells] == [([], None)] * 2
    assert [c.source for c in made.cells] == ["1 + 1", OPEN]
    assert all(c.outputs for c in source.cells)


@pytest.mark.parametrize(("cell", "solution", "wanted"), [
    (OPEN, "def answer(x):\n    y = x\n    return y", f"def answer(x):\n    y = x\n    return y\n\n\n{CHECK}"),
    ('answer = None\ncheck("01.2", answer)', "answer = 3", 'answer = 3\ncheck("01.2", answer)'),
    ('a = 1\nanswer = (\n    ...\n)\ncheck("01.2", answer)', "answer = a", 'a = 1\nanswer = a\ncheck("01.2", answer)'),
])  # fmt: skip
def test_a_solution_takes_the_place_of_the_open_answer_alone(cell, solution, wanted):
    made = editions.solved(notebook("1 + 1", cell), {"01.2": solution})
    assert [c.source for c in made.cells] == ["1 + 1", wanted]


def test_an_exercise_without_solution_is_an_error():
    with pytest.raises(KeyError, match=r"01\.2"):
        editions.solved(notebook(OPEN), {})


@pytest.mark.parametrize("cells", [
    [CHECK], [OPEN, OPEN], [OPEN + '\ncheck("01.3", answer)'], ['solution = 1\ncheck("01.2", solution)'],
])  # fmt: skip
def test_an_exercise_cell_defines_and_checks_one_answer(cells):
    with pytest.raises(ValueError, match="one exercise a cell"):
        editions.exercises(notebook(*cells))


@pytest.mark.parametrize(("text", "wanted"), [("✗ No", {"01.2": False}), ("✓ Right.", {"01.2": True})])
def test_verdicts_are_read_from_the_output_of_the_check(text, wanted):
    assert editions.verdicts(notebook(OPEN, text=text)) == wanted


def test_a_check_without_verdict_is_an_error():
    with pytest.raises(ValueError, match=r"c0: the check of 01\.2 gave no verdict, but '42'"):
        editions.verdicts(notebook(OPEN, text="42"))


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda p: p.stem)
def test_every_exercise_of_the_series_is_open_in_the_source_and_has_a_solution_in_python(path):
    source = nbformat.read(path, as_version=4)
    names = editions.exercises(source)
    assert not any(editions.verdicts(source).values())
    assert all(name.startswith(path.name[:2]) for name in names)
    for name, i in names.items():
        cell = editions.solved(source).cells[i]
        compile(cell.source, cell.id, "exec")
        assert EXERCISES[name].solution in cell.source


WORK = """from dashkit.classroom import check, my_progress, predict  # start_run(profile)
print(my_progress(), guess := predict("01.snr", ..., example=300))
predict("01.clip", 0.25, example=0.9)
"""


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A notebook that predicts and checks, as the one of the series, and a learner's work on the same two things."""
    made = notebook('profile = "smoke"', WORK, OPEN.replace("x", "c, u, w"))
    made.cells[0].metadata["tags"] = ["parameters"]
    made.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "x"}
    nbformat.write(made, tmp_path / "01_x.ipynb")
    monkeypatch.setattr(editions, "notebook_paths", lambda: [tmp_path / "01_x.ipynb"])
    learner = tmp_path / "runs" / "work.json"
    learner.parent.mkdir()
    learner.write_text(json.dumps({"predictions": {"01.snr": {"first": 7, "value": 8}}, "answers": {"01.2": {
        "passed": False, "answer": "mine", "tries": 3}}}, indent=3))
    monkeypatch.setenv("DASHKIT_RUNS", str(learner.parent))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    return tmp_path, learner


def test_what_the_kit_executes_neither_reads_nor_changes_the_work_of_a_learner(lesson):
    folder, learner = lesson
    before = learner.read_bytes()
    execute(folder / "01_x.ipynb", folder / "done.ipynb", {})
    assert editions.write("smoke", folder / "editions")
    assert learner.read_bytes() == before and [p.name for p in learner.parent.iterdir()] == ["work.json"]
    said = "".join(o.get("text", "") for o in nbformat.read(folder / "done.ipynb", as_version=4).cells[1].outputs)
    assert "0 of 4 exercises passed, 0 predictions made" in said and "as an example: 300" in said
    solution = nbformat.read(folder / "editions" / "solution" / "01_x.ipynb", as_version=4)
    assert editions.verdicts(solution) == {"01.2": True}
