"""Student and solution editions of the notebooks.

The committed notebooks are the one source: their exercises are open, their outputs those of a short run.  A student's
copy has no outputs, so that a prediction comes before its result.  A solved one has the exercises' own solutions, the
ones that `hint` ends in, where answers are open, and is executed.
"""

import ast
import copy
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import NOTEBOOKS, execute, notebook_paths
from dashkit.classroom.page import notebook_page
from dashkit.experiments.profiles import address
from dashkit.storage import paths, store

EDITIONS = paths.BUILD / "editions"
GUIDES = ("GLOSSARY.md", "INSTRUCTOR.md")


def exercises(notebook: NotebookNode) -> dict[str, int]:
    """The exercises of a notebook in order: the name in a cell's `check("03.1", answer)`, and that cell's index.

    ValueError if a cell checks more than one answer, or one that it does not define.
    """
    found = {}
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or "check(" not in cell.source:
            continue
        tree = ast.parse(cell.source)
        names = [n.args[0].value for n in ast.walk(tree) if isinstance(n, ast.Call)
                 and isinstance(n.func, ast.Name) and n.func.id == "check"]
        if len(names) != 1 or names[0] in found or _answer(tree) is None:
            raise ValueError(f"cell {cell.id}: one exercise a cell, with its own `answer`; it checks {names}")
        found[names[0]] = i
    return found


def _answer(tree: ast.Module) -> ast.stmt | None:
    """The statement of a cell that defines `answer`."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "answer":
            return node
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["answer"]:
            return node
    return None


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy without outputs."""
    copied = copy.deepcopy(notebook)
    for cell in copied.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copied


def solved(notebook: NotebookNode, solutions: Mapping[str, str] | None = None) -> NotebookNode:
    """A student's copy with a solution, the kit's own by default, for every open answer; KeyError if one is missing."""
    solutions = {name: e.solution for name, e in EXERCISES.items()} if solutions is None else solutions
    copied = student(notebook)
    for name, i in exercises(notebook).items():
        cell = copied.cells[i]
        place, lines = _answer(ast.parse(cell.source)), cell.source.splitlines()
        cell.source = "\n".join([*lines[: place.lineno - 1], solutions[name], *lines[place.end_lineno :]])
    return copied


def verdicts(executed: NotebookNode) -> dict[str, bool]:
    """What the check of each exercise said in an executed notebook: right or not; ValueError if it said neither."""
    said = {}
    for name, i in exercises(executed).items():
        cell = executed.cells[i]
        text = "".join(o.get("data", {}).get("text/plain", "") for o in cell.outputs)
        if text[:1] not in ("✓", "✗"):
            raise ValueError(f"cell {cell.id}: the check of {name} gave no verdict, but {text[:80]!r}")
        said[name] = text.startswith("✓")
    return said


def write(profile: str = "auto", folder: Path = EDITIONS) -> bool:
    """Write student/ and solution/, the latter executed with `profile`; whether every solution passes its check."""
    good, parameters = True, {"profile": address(profile)}
    for path in notebook_paths():
        notebook = nbformat.read(path, as_version=4)
        for edition, made in (("student", student(notebook)), ("solution", solved(notebook))):
            store.write_bytes(folder / edition / path.name, (nbformat.writes(made) + "\n").encode())
        target = folder / "solution" / path.name
        execute(target, target.with_suffix(".executed.ipynb"), parameters)
        target.with_suffix(".executed.ipynb").replace(target)
        done = nbformat.read(target, as_version=4)
        store.write_bytes(target.with_suffix(".html"), notebook_page(done))
        said = verdicts(done)
        wrong = [name for name, right in said.items() if not right]
        good &= not wrong
        print(f"  {path.stem:44s} {len(said)} exercises", *(["not solved: " + ", ".join(wrong)] if wrong else []),
              flush=True)
    for name in GUIDES:
        store.write_bytes(folder / "solution" / name, (NOTEBOOKS / name).read_bytes())
    store.write_bytes(folder / "student" / GUIDES[0], (NOTEBOOKS / GUIDES[0]).read_bytes())
    print(folder)
    return good


if __name__ == "__main__":
    paths.print_anything()
    sys.exit(not write(*sys.argv[1:]))
