"""Sphinx settings of `make site`; everything a page needs lies beside it, so that the site reads offline."""

import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "The DASH series"
extensions = ["myst_nb", "sphinx-mathjax-offline", "sphinx.ext.autodoc"]
language = "en"
html_theme = "sphinx_book_theme"
html_title = project
html_copy_source = False
exclude_patterns = ["files"]               # what pages link to, and is no page
html_show_copyright = False
html_theme_options = {"show_navbar_depth": 1, "use_download_button": False, "use_fullscreen_button": False,
                      "navbar_persistent": []}
html_static_path = ["site/static"]
html_css_files = ["pages.css"]
html_js_files = [("pages.js", {"defer": "defer"})]
html_use_index = html_domain_indices = False      # the search finds every name
html_show_search_summary = False          # it would fetch the pages that were found
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
toc_object_entries = False


def plain(lines: list[str], fields: list[str]) -> list[str]:
    """A docstring of this project as reStructuredText: text, code in backticks, indented formulas, doctests, fields."""
    out = []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        rows = [row for row in paragraph.splitlines() if row.strip()]
        if rows and all(row.startswith(" ") for row in rows):
            out += ["::", "", *rows, ""]
        elif paragraph.startswith(">>>"):
            out += [*rows, ""]
        else:
            parts = re.split(r"(`+[^`]*`+)", paragraph)        # every second one is code
            out += ["".join(f"``{part.strip('`')}``" if k % 2 else re.sub(r"([\\*|_])", r"\\\1", part)
                            for k, part in enumerate(parts)), ""]
    return out + (["::", "", *(f"    {row}" for row in fields), ""] if fields else [])


def fields_of(what: object) -> list[str]:
    """The lines of a class's source that declare its fields, with the comments that give their shapes."""
    try:
        body = inspect.getsource(what) if inspect.isclass(what) else ""
    except (OSError, TypeError):           # a class that a function made, or that is written in C
        return []
    return [line.strip() for line in body.splitlines() if re.match(r"    [a-zA-Z]\w*: [^(]", line)]


def _process(app: object, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    lines[:] = "\n".join(plain(lines, fields_of(found) if what == "class" else [])).splitlines()


def _skip(app: object, what: str, name: str, found: object, skip: bool, options: object) -> bool | None:
    """Fields of a NamedTuple stand in its own text."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app: object) -> None:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-skip-member", _skip)
