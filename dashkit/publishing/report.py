"""The report of an executed series: one self-contained page."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd

from dashkit.analysis.tables import calibration_table
from dashkit.classroom import plots
from dashkit.classroom.page import notebook_page
from dashkit.experiments.run import Run
from dashkit.storage import provenance, store


class Outcome(NamedTuple):
    """One line of series.json."""

    name: str
    status: str      # ok, failed, not run, or left out
    seconds: float


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>DASH series: {title}</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;font-size:.9rem}}
td,th{{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}}
td:first-child,th:first-child{{text-align:left}}img{{max-width:100%}}figure{{margin:1.5rem 0}}
figcaption{{font-size:.9rem;color:#444}}.bad{{background:#fde8e8;padding:.6rem 1rem;border-left:4px solid #c00}}
.wide{{overflow-x:auto}}</style>
<h1>The DASH series: {title}</h1><p>{facts}</p>{failure}
<h2>Calibration</h2>{table}
<h2>Notebooks</h2>{notebooks}{pictures}</html>
"""


def write_report(folder: Path, run: Run, outcomes: Sequence[Outcome], results: pd.DataFrame | None,
                  failure: str) -> None:
    """index.html: the table, the notebooks with links, and every picture with its caption; one self-contained file."""
    made = provenance.manifest()
    facts = f"seed {run.seed} · {provenance.device_name(run.device)} · commit {made['commit']} · {made['written']}"
    lines, pictures = [], []
    for outcome in outcomes:
        path = folder / f"{outcome.name}.ipynb"
        link = html.escape(outcome.name)
        if outcome.status in ("ok", "failed") and path.is_file():
            notebook = nbformat.read(path, as_version=4)
            page = path.with_suffix(".html")
            store.write_bytes(page, notebook_page(notebook))
            link = f'<a href="{page.name}">{link}</a> (<a href="{path.name}">notebook</a>)'
            found = [f"<figure>{image}<figcaption>{alt}</figcaption></figure>" for image, alt in _pictures(notebook)]
            pictures += [f"<h2>{html.escape(_title(notebook, outcome.name))}</h2>", *found] if found else []
        lines.append(f"<tr><td>{link}</td><td>{outcome.status}</td><td>{outcome.seconds:.0f} s</td></tr>")
    table = "<p>No results yet: notebook 04 makes them.</p>"
    if results is not None:
        card = calibration_table(results, w=run.profile.w).rename_axis(index=None, columns=None)
        body = card.to_html(float_format="{:.3g}".format, border=0, na_rep="")
        plots.use_style()
        lead = plots.image_element(plots.plot_w_curve(results), "Fréchet distance over the floor against w, every arm")
        table = (f'<div class="wide">{body}</div><p>Means over training seeds. rho, slope, cos and r2 compare the '
                 "student's guidance gap with the teacher's (ideal 1); fd is the Fréchet distance over the "
                 f"real-vs-real floor at w = {run.profile.w:g}, sd its spread over training seeds, fd_best the best. "
                 f'<a href="results.csv">All measurements</a>.</p><figure>{lead}</figure>')
    page = _PAGE.format(
        title=html.escape(run.profile.name), facts=html.escape(facts), table=table, pictures="".join(pictures),
        failure=f'<p class="bad">Failed: {html.escape(failure)}</p>' if failure else "",
        notebooks=f"<table><tr><th>notebook</th><th>status</th><th>time</th></tr>{''.join(lines)}</table>")
    store.write_bytes(folder / "index.html", page.encode())


def _pictures(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """Every displayed figure of an executed notebook: its <img> element and its alt text, escaped."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            image = re.fullmatch(r'<img alt="([^"]*)"[^>]*>', output.get("data", {}).get("text/html", "").strip())
            if image:
                yield image[0], image[1]


def _title(notebook: nbformat.NotebookNode, default: str) -> str:
    first = notebook.cells[0].source.splitlines() if notebook.cells else []
    return first[0].lstrip("# ") if first else default
