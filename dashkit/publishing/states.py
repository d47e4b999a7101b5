"""Explorers for a page without a kernel: every state of an explorer, drawn once by the function that notebooks use.

`python -m dashkit.publishing.states NOTEBOOK FOLDER` writes FOLDER/CELL/states.json and its pictures for every explorer
of a notebook.  The profile is that of the environment, as in a notebook.
"""

import ast
import contextlib
import hashlib
import io
import itertools
import math
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from matplotlib import pyplot as plt
from PIL import Image

from dashkit.classroom import journal, plots
from dashkit.classroom.explorers import Explorer
from dashkit.storage import store

MOST_STATES = 400
MOST_BYTES = 4_000_000


def explorers_of(path: Path) -> dict[str, Explorer]:
    """The explorers of a notebook by the ids of their cells; its code runs here, up to the last of them.

    Nothing is displayed, and no prediction or answer of this machine's user is read.
    """
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    there = [i for i, c in enumerate(cells) if "_explorer(" in c.source]
    found, scope = {}, {"__name__": "__main__"}
    with (tempfile.TemporaryDirectory() as place, mock.patch.object(journal, "PATH", Path(place) / "work.json"),
          mock.patch.object(plots, "show"), contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(path.parent)):
        for cell in cells[: there[-1] + 1] if there else []:
            *body, last = ast.parse(cell.source).body
            shown = isinstance(last, ast.Expr)
            exec(compile(ast.Module(body if shown else [*body, last], []), cell.id, "exec"), scope)
            value = eval(compile(ast.Expression(last.value), cell.id, "eval"), scope) if shown else None
            if isinstance(value, Explorer):
                found[cell.id] = value
            plt.close("all")
    return found


def write_states(explorer: Explorer, folder: Path) -> dict[str, object]:
    """Draw every state of an explorer into `folder`; returns, and keeps as states.json, what a page needs of it.

    `texts[k]` and `pictures[k]` belong to state k, whose number counts the last control fastest; picture n is the file
    n.webp, without loss.  ValueError if there are more states or bytes than a page should have.
    """
    n = math.prod(len(values) for values in explorer.grid.values())
    if not 0 < n <= MOST_STATES:
        raise ValueError(f"{folder.name} has {n} states; give its sliders values for a page, at most {MOST_STATES}")
    drawn = [explorer.draw(**dict(zip(explorer.grid, values, strict=True)))
             for values in itertools.product(*([v for _, v in g] for g in explorer.grid.values()))]
    width = max(Image.open(io.BytesIO(png)).width for png, _ in drawn)
    files: dict[bytes, int] = {}
    pictures, size = [], 0
    for png, _ in drawn:
        data, key = as_webp(png, width), hashlib.sha256(png).digest()
        if key not in files:
            files[key], size = len(files), size + len(data)
            store.write_bytes(folder / f"{files[key]}.webp", data)
        pictures.append(files[key])
    if size > MOST_BYTES:
        raise ValueError(f"the pictures of {folder.name} are {size / 1e6:.1f} MB; a page takes {MOST_BYTES / 1e6:g}")
    page = {"controls": [control(explorer, name) for name in explorer.grid], "plays": explorer.play,
            "profile": os.environ.get("DASHKIT_PROFILE", ""), "pictures": pictures,
            "texts": [text.replace(".ipynb#", ".html#") for _, text in drawn]}
    store.write_json(folder / "states.json", page)
    return page


def control(explorer: Explorer, name: str) -> dict[str, object]:
    """What a page needs of a control: its kind, its label, the texts of its values, and the one that it begins with."""
    kinds = {"Checkbox": "tick", "Dropdown": "list"}
    values = [value for _, value in explorer.grid[name]]
    return {"name": name, "label": explorer.labels[name], "values": [text for text, _ in explorer.grid[name]],
            "kind": kinds.get(type(explorer.controls[name]).__name__, "slider"),
            "start": values.index(explorer.controls[name].value)}


def as_webp(png: bytes, width: int) -> bytes:
    """A picture without loss, filled with white on its left up to `width`: so the pictures of an explorer stay put."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    wide, buffer = Image.new("RGB", (width, picture.height), "white"), io.BytesIO()
    wide.paste(picture, (width - picture.width, 0))
    wide.save(buffer, "webp", lossless=True, quality=60)
    return buffer.getvalue()


def main(notebook: str, folder: str) -> None:
    for name, explorer in explorers_of(Path(notebook)).items():
        page = write_states(explorer, Path(folder) / name)
        print(f"  {name:30s} {len(page['texts']):4d} states, {len(set(page['pictures'])):4d} pictures")


if __name__ == "__main__":
    main(*sys.argv[1:])
