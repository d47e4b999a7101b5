"""Editions are made from one source, and what is planted in them is seen."""

import nbformat
import pytest

from dashkit.classroom import editions
from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import notebook_paths

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
