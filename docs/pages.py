"""The site that reads offline: `python docs/pages.py [FOLDER]`, FOLDER with executed notebooks.

Without a folder it takes the outputs that are committed.  It fails on any warning of Sphinx, on a link to a file that
is not there, on a picture without an alternative text, and on a page that would fetch something.
"""

import html.parser
import pkgutil
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

from dashkit.classroom.notebooks import NOTEBOOKS, notebook_paths
from dashkit.storage.paths import BUILD
from dashkit.storage.store import write_bytes

ROOT = Path(__file__).resolve().parent.parent
SITE = BUILD / "site"
WIDGET = "application/vnd.jupyter.widget-view+json"     # a page has no kernel; the text beside it says so
CHAPTERS = {
    "Learn": ("notebooks/GLOSSARY.md", "docs/method.md", "docs/related.md"),
    "Results": ("docs/results.md", "docs/corrections.md", "docs/performance.md"),
    "Use": ("docs/setup.md", "docs/own.md", "docs/export.md", "data/README.md", "docs/reliability.md"),
    "Teach": ("notebooks/INSTRUCTOR.md",),
    "Develop": ("docs/design.md", "CONTRIBUTING.md", "CHANGELOG.md"),
}
"""The pages beside the notebooks, by chapter; a page of `docs` that no chapter names comes last."""
API = {
    "dashkit.method": ("schedule", "guidance", "sampling", "losses", "arms", "curriculum", "distillation",
                       "calibration"),
    "dashkit.experiments": ("profiles", "run", "training", "networks", "evaluation", "sweeps", "campaign"),
}
"""Rooms with a reference page, and their modules in reading order; the others follow by name."""


def page_names(notebooks: Sequence[Path]) -> dict[Path, str]:
    """Every page's file, and its name in the site."""
    chapters = [ROOT / name for chapter in chapters_of().values() for name in chapter]
    named = {path: path.stem.lower() for path in chapters}
    named[ROOT / "data" / "README.md"] = "data"
    return named | {NOTEBOOKS / path.name: path.stem for path in notebooks} | {ROOT / "README.md": "index"}


def chapters_of() -> dict[str, tuple[str, ...]]:
    """`CHAPTERS`, with what else is in `docs`."""
    named = {name for chapter in CHAPTERS.values() for name in chapter}
    others = sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if f"docs/{p.name}" not in named)
    return CHAPTERS | ({"More": tuple(others)} if others else {})


def sources(executed: Path, folder: Path) -> None:
    """Write what Sphinx reads: notebooks without dead widgets, the pages, the references, and the README as the first.

    ValueError for a link to a file that is not there.
    """
    notebooks = notebook_paths(folder=executed)
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(WIDGET, None)
        write_bytes(folder / path.name, nbformat.writes(notebook).encode())
    names, trees = page_names(notebooks), [_tree("Notebooks", [p.stem for p in notebooks])]
    for chapter, files in chapters_of().items():
        trees.append(_tree(chapter, [names[ROOT / name] for name in files]))
        for name in files:
            write_bytes(folder / f"{names[ROOT / name]}.md", page(ROOT / name, names, folder).encode())
    for room, first in API.items():
        write_bytes(folder / f"{room}.md", reference(room, first).encode())
    trees.append(_tree("Reference", list(API)))
    write_bytes(folder / "index.md", "\n\n".join([page(ROOT / "README.md", names, folder), *trees]).encode())


def _tree(chapter: str, names: Sequence[str]) -> str:
    return "\n".join(["```{toctree}", f":caption: {chapter}", ":maxdepth: 1", ":hidden:", "", *names, "```"])


def page(path: Path, names: Mapping[Path, str], folder: Path) -> str:
    """The text of a page; its links lead to other pages, or to copies of files in `folder`/files."""
    def link(match: re.Match) -> str:
        target, _, anchor = match[1].partition("#")
        file = (path.parent / target).resolve() if target else path
        if file in names:
            name = "" if file == path else names[file] + (".ipynb" if file.suffix == ".ipynb" else ".md")
            return f"]({name}{'#' * bool(anchor)}{anchor})"
        if not file.is_file():
            raise ValueError(f"{path.name} links to {match[1]}, and there is no such file")
        write_bytes(folder / "files" / file.name, file.read_bytes())
        return f"](files/{file.name})"
    return re.sub(r"\]\((?!\w+:)([^)\s]+)\)", link, path.read_text(encoding="utf-8"))


def reference(room: str, first: Sequence[str]) -> str:
    """A page with the documented names of every module of a room."""
    package = ROOT.joinpath(*room.split("."))
    there = sorted(module.name for module in pkgutil.iter_modules([str(package)]))
    modules = [*first, *(name for name in there if name not in first)]
    directives = [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {room}.{name}\n   :members:\n```" for name in modules]
    return "\n\n".join([f"# {room}", f"```{{eval-rst}}\n.. automodule:: {room}\n   :no-members:\n```", *directives])


class _Page(html.parser.HTMLParser):
    """What is wrong with one page: what it would fetch, and pictures without words."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        source = given.get("src") or (given.get("href") if tag == "link" else None) or ""
        if re.match(r"(https?:)?//", source) and given.get("rel") != "canonical":
            self.complaints.append(f"fetches {source}")
        if tag == "img" and not (given.get("alt") or "").strip():
            self.complaints.append(f"a picture without alternative text: {source[:60]}")


def complaints(page: str) -> list[str]:
    """What keeps a page from being read offline or without eyes."""
    parser = _Page()
    parser.feed(page)
    return parser.complaints


def main(arguments: Sequence[str]) -> int:
    executed = Path(arguments[0]) if arguments else NOTEBOOKS
    shutil.rmtree(SITE, ignore_errors=True)
    sources(executed, SITE / "source")
    if build_main(["-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs"), str(SITE / "source"),
                   str(SITE / "html")]):
        return 1
    pages = sorted((SITE / "html").glob("*.html"))
    found = [f"{p.name}: {c}" for p in pages for c in complaints(p.read_text(encoding="utf-8"))]
    print(*found, f"{len(pages)} pages, {len(found)} complaints: {SITE / 'html' / 'index.html'}", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
