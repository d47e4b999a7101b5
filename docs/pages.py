"""The executed notebooks as a site that reads offline: `python docs/pages.py [FOLDER]`, FOLDER with executed notebooks.

Without a folder it takes the outputs that are committed.  Fails on any warning of Sphinx, on a picture without an
alternative text, and on a page that would fetch something.
"""

import html.parser
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

from dashkit.classroom.notebooks import NOTEBOOKS, notebook_paths
from dashkit.storage.paths import BUILD
from dashkit.storage.store import write_bytes

ROOT = Path(__file__).resolve().parent.parent
SITE = BUILD / "site"
GUIDES = ("GLOSSARY.md", "INSTRUCTOR.md")
WIDGET = "application/vnd.jupyter.widget-view+json"     # a page has no kernel; the text beside it says so


def sources(executed: Path, folder: Path) -> None:
    """Write what Sphinx reads: the notebooks without dead widgets, the guides, and a first page from the README."""
    for path in notebook_paths(folder=executed):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(WIDGET, None)
        write_bytes(folder / path.name, nbformat.writes(notebook).encode())
    for name in GUIDES:
        write_bytes(folder / name, (NOTEBOOKS / name).read_bytes())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lead = readme[: readme.index("## Two commands")]
    findings = re.search(r"## What they find\n.*?(?=\n## |\n<!-- begin calibration)", readme, re.S)[0]
    text = re.sub(r"\]\((?:notebooks/)?([^):]+)\)", _beside(folder), lead + findings)
    pages = [p.stem for p in notebook_paths(folder=executed)] + [Path(n).stem for n in GUIDES]
    tree = "\n".join(["```{toctree}", ":maxdepth: 1", ":hidden:", "", *pages, "```", ""])
    write_bytes(folder / "index.md", f"{text}\n\n{tree}".encode())


def _beside(folder: Path) -> object:
    """Replaces a link into the repository by one to a copy beside the page."""
    def link(match: re.Match) -> str:
        path = ROOT / match[1]
        if path.is_file():
            write_bytes(folder / "files" / path.name, path.read_bytes())
            return f"](files/{path.name})"
        return match[0]
    return link


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
