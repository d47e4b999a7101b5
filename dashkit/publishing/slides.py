"""Slides of the lessons of the 90-minute plan, by nbconvert's exporter for reveal.js, beside the pages of the site.

`python -m dashkit.publishing.slides` builds the site if there is none.  The full text of a page is in the speaker's
notes (key S).
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from dashkit.classroom.notebooks import notebook_paths
from dashkit.publishing import lessons
from dashkit.storage import paths
from dashkit.storage.store import write_bytes

SITE = paths.BUILD / "site"
DECKS = ("00", "03", "04")
CODE = {"00-student", "03-twin", "04-total", "04-step"}       # whose code is the lesson
SHORT = 420                                       # letters of a text that leave room for a figure on its slide
TEMPLATE = paths.ROOT / "docs" / "site" / "slides.html.j2"
REVEAL = ("dist/reveal.js", "dist/reveal.css", "dist/theme/white.css", "plugin/notes/notes.js")


def deck(notebook: NotebookNode) -> NotebookNode:
    """The cells of a page as slides: headings, questions, formulas, figures and explorers; the full text as notes."""
    cells, room = [], 0                           # letters that still fit beside a figure
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            kind, shown = "slide" if re.search(r"^##? ", cell.source, re.M) else "subslide", gist(cell.source)
            cells += [nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": where}})
                      for text, where in ((shown, kind), (cell.source, "notes"))]
            room = SHORT - len(shown)
        elif cell.id in CODE or any("text/html" in o.get("data", {}) for o in cell.outputs):
            small = any("<form" in o.get("data", {}).get("text/html", "") for o in cell.outputs)
            cells.append(cell | {"metadata": {"slideshow": {"slide_type": "-" if room > 0 or small else "subslide"},
                                              "tags": [] if cell.id in CODE else ["remove-input"]}})
            room = 0
    return nbformat.from_dict(notebook | {"cells": cells})


def gist(text: str) -> str:
    """What of a text stands on a slide: headings, formulas, tables, lists; the first sentence of each paragraph, and
    every question.
    """
    parts = []
    for part in re.split(r"\n\s*\n", text):
        if part.startswith("**Prerequisites"):
            continue
        if not re.match(r"#|\||- |\d+\. |\$\$|```", part):
            lead = re.match(r"(\*\*[^*?]+\*\*\s*)?", part)[0]
            first, *others = re.split(r"(?<=[.?!])\s+|(?<=[.?!]\*\*)\s+", part[len(lead):])
            part = " ".join([lead + first, *(s for s in others if s.rstrip("*").endswith("?"))])
        parts.append(part)
    return "\n\n".join(parts)


def write(folder: Path) -> list[Path]:
    """Write the slides into `folder`/html; returns their files."""
    import sphinx_revealjs  # brings reveal.js with it

    vendored, out = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs", folder / "html"
    for name in REVEAL:
        write_bytes(out / "reveal" / name, (vendored / name).read_bytes())
    shutil.copytree(vendored / "dist" / "theme" / "fonts" / "source-sans-pro",
                    out / "reveal" / "dist" / "theme" / "fonts" / "source-sans-pro", dirs_exist_ok=True)
    exporter = SlidesExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"), reveal_url_prefix="reveal",
                              reveal_theme="white", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags={"remove-input"}), enabled=True)
    written = []
    for path in notebook_paths(DECKS, folder / "executed"):
        page = lessons.for_page(nbformat.read(path, as_version=4), path.stem, folder / "explorers")
        text, _ = exporter.from_notebook_node(deck(page), {"metadata": {"name": page.cells[0].source.splitlines()[0]}})
        written.append(out / f"slides_{path.name[:2]}.html")
        write_bytes(written[-1], text.encode())
    return written


def main(profile: str = "digits") -> int:
    """Write the slides; the site is built first if there is none, with `profile`."""
    from dashkit.publishing import site

    if not (SITE / "html" / "index.html").is_file() and site.build(profile):
        return 1
    print(*write(SITE), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
