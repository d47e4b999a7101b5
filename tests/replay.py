"""nbval without a kernel: `pytest -p replay --nbval --replay FOLDER`, FOLDER with notebooks executed before.

`--verdicts FILE` keeps, as JSON, which cells differ: a list of notebook, place of the cell from 0, and whether it does.
nbval collects the cells, cleans the outputs and compares them, as always.  Only its kernel is replaced, by one that
answers each cell with the outputs that the execution left.  So one execution serves several comparisons.  Without
`--replay` nbval executes, and is only more patient.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbval import plugin


class Replay:
    """What nbval asks of a kernel, answered from a notebook that was executed; ValueError if it is another notebook."""

    def __init__(self, stored: nbformat.NotebookNode, executed: Path) -> None:
        cells = own_code(nbformat.read(executed, as_version=4))
        if [c.source for c in cells] != [c.source for c in own_code(stored)]:
            raise ValueError(f"{executed} is no execution of this notebook: its cells are others")
        self._cells, self._messages = iter(cells), iter(())

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        """Take the next cell; RuntimeError if the execution never finished it."""
        cell = next(self._cells)
        if source.strip() and cell.execution_count is None:
            raise RuntimeError(f"cell {cell.id} was never executed")
        self._messages = messages(cell)
        return cell.id

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        return next(self._messages)

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """Every reply is there already."""

    def await_idle(self, parent_id: str, timeout: float) -> None:
        """It is always idle."""

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        """There is no process."""


def own_code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook without the one that papermill puts in."""
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    return [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]


def messages(cell: nbformat.NotebookNode) -> Iterator[dict]:
    """What a kernel would send on iopub while it executes a cell with these outputs."""
    for output in cell.outputs:
        content = {key: value for key, value in output.items() if key != "output_type"}
        yield {"msg_type": output.output_type, "content": content, "parent_header": {"msg_id": cell.id}}
    yield {"msg_type": "status", "content": {"execution_state": "idle"}, "parent_header": {"msg_id": cell.id}}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--replay", type=Path, metavar="FOLDER", help="compare with the notebooks executed in FOLDER")
    parser.addoption("--verdicts", type=Path, metavar="FILE", help="write which cells differ")


def pytest_configure(config: pytest.Config) -> None:
    patient = property(lambda cell: 3600, lambda cell, seconds: None)
    plugin.IPyNbCell.output_timeout = patient           # of 5 s a slow machine takes more
    folder = config.getoption("replay")
    if folder is None:
        return

    def setup(file: plugin.IPyNbFile) -> None:
        file.kernel = Replay(file.nb, folder / file.path.name)
        file.setup_sanitize_files()

    plugin.IPyNbFile.setup = setup


_differs: dict[tuple[str, int], bool] = {}


def pytest_runtest_makereport(item: plugin.IPyNbCell, call: pytest.CallInfo) -> None:
    key = item.path.stem, item.cell_num
    _differs[key] = _differs.get(key, False) or call.excinfo is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("verdicts"):
        path.write_text(json.dumps([[*key, differs] for key, differs in _differs.items()]))
