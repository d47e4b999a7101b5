"""Notebooks, executed one at a time under checks.

papermill alone passes a misspelled parameter, a notebook that leaves early and a bad value; three checks here do
not.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from dashkit.storage import paths

NOTEBOOKS = paths.ROOT / "notebooks"
KERNEL = "python3"
NEEDS = {"04": "02", "05": "02", "09": "04", "10": "04"}
"""Whose networks a notebook takes: it is executed after that one."""


class SeriesError(Exception):
    """A notebook failed or broke a rule; the message names the notebook, the cell and the error."""


def notebook_paths(only: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """The numbered notebooks in reading order, or those whose numbers are in `only`; ValueError names the numbers."""
    found = {p.name[:2]: p for p in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    unknown = [n for n in only if n not in found]
    if not found:
        raise ValueError(f"there are no notebooks in {folder}" if paths.IS_PROJECT else paths.NOT_A_PROJECT)
    if unknown:
        raise ValueError(f"no notebook has number {', '.join(unknown)}; there are {', '.join(found)}")
    return [p for n, p in found.items() if not only or n in only]


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[int]:
    """The indices of the cells that carry a tag."""
    return [i for i, c in enumerate(notebook.cells) if tag in c.metadata.get("tags", [])]


def execute(source: Path, target: Path, parameters: Mapping[str, object], *, bar: bool = False) -> None:
    """Execute one notebook with papermill into `target`, under three checks; SeriesError if one of them fails.

    1. every parameter is declared in the notebook's `parameters` cell;  2. the cell after it validates them through
    `start_run`;  3. every non-empty code cell was completed.  On failure the partial output is kept in `target`.
    The kernel has an empty journal of its own: no learner's prediction or answer is read or changed.
    """
    name, notebook = source.stem, nbformat.read(source, as_version=4)
    places = tagged(notebook, "parameters")
    if len(places) != 1:
        raise SeriesError(f"{name}: needs exactly one cell tagged `parameters`, has {len(places)}")
    if notebook.metadata.get("kernelspec", {}).get("name") != KERNEL:
        raise SeriesError(f"{name}: its kernel must be called {KERNEL}")
    code = [c for c in notebook.cells[places[0] + 1 :] if c.cell_type == "code"]
    if not code or "start_run(" not in code[0].source:
        raise SeriesError(f"{name}: the code cell after `parameters` must validate them with start_run(…)")
    declared = papermill.inspect_notebook(str(source))
    unknown = sorted(set(parameters) - set(declared))
    if unknown:
        raise SeriesError(f"{name}: unknown parameter {', '.join(unknown)}; it has {', '.join(declared)}")

    paths.make_folder(target.parent)
    paths.hand_on()
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            journal = f"import os; os.environ['DASHKIT_WORK'] = {str(Path(place) / 'work.json')!r}; del os"
            papermill.execute_notebook(str(source), str(target), dict(parameters), kernel_name=KERNEL,
                                       progress_bar=bar, cwd=str(NOTEBOOKS), start_timeout=600,
                                       extra_arguments=["--IPKernelApp.log_level=40",
                                                        f"--IPKernelApp.exec_lines={journal}"])
    except PapermillExecutionError as error:
        source_text = error.source
        cell = find_cell(notebook, lambda c: c.source == source_text)
        raise SeriesError(f"{name}, cell {cell}: {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise SeriesError(f"{name}: the kernel died ({error}); the partial output is in {target.name}") from error
    cell = find_cell(nbformat.read(target, as_version=4), _unfinished)
    if cell:
        raise SeriesError(f"{name}, cell {cell}: never completed, though the kernel reported no error")


def find_cell(notebook: nbformat.NotebookNode, wanted: Callable[[nbformat.NotebookNode], bool]) -> str:
    """The first cell that is wanted, as its place from 1 and its id; empty if there is none."""
    found = ((i, c) for i, c in enumerate(notebook.cells, 1) if c.cell_type == "code" and wanted(c))
    return next((f"{i} ({c.id})" for i, c in found), "")


def _unfinished(cell: nbformat.NotebookNode) -> bool:
    return bool(cell.source.strip()) and cell.metadata.get("papermill", {}).get("status") != "completed"
