"""The notebook series, executed and reported.  Layer 5.

papermill alone passes a misspelled parameter, a notebook that leaves early and a bad value; three checks here do not.
"""

import html
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from dashkit import doctor, plots, recipes, runs

NOTEBOOKS = recipes.ROOT / "notebooks"
BUILD = recipes.ROOT / "build" / "series"
KERNEL = "python3"


class SeriesError(Exception):
    """A notebook failed or broke a rule; the message names the notebook, the cell and the error."""


class Outcome(NamedTuple):
    """One line of series.json."""

    name: str
    status: str      # ok, failed, or not run
    seconds: float


def notebook_paths(only: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """The numbered notebooks in reading order, or those whose numbers are in `only`; ValueError names the numbers."""
    found = {p.name[:2]: p for p in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    unknown = [n for n in only if n not in found]
    if unknown or not found:
        raise ValueError(f"no notebook has number {', '.join(unknown) or '(none found)'}; there are {', '.join(found)}")
    return [p for n, p in found.items() if not only or n in only]


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[int]:
    """The indices of the cells that carry a tag."""
    return [i for i, c in enumerate(notebook.cells) if tag in c.metadata.get("tags", [])]


def execute(source: Path, target: Path, parameters: Mapping[str, object], *, bar: bool = False) -> None:
    """Execute one notebook with papermill into `target`, under three checks; SeriesError if one of them fails.

    1. every parameter is declared in the notebook's `parameters` cell;  2. the cell after it validates them through
    `recipes.start`;  3. every non-empty code cell was completed.  On failure the partial output is kept in `target`.
    """
    name, notebook = source.stem, nbformat.read(source, as_version=4)
    places = tagged(notebook, "parameters")
    if len(places) != 1:
        raise SeriesError(f"{name}: needs exactly one cell tagged `parameters`, has {len(places)}")
    if notebook.metadata.get("kernelspec", {}).get("name") != KERNEL:
        raise SeriesError(f"{name}: its kernel must be called {KERNEL}")
    code = [c for c in notebook.cells[places[0] + 1 :] if c.cell_type == "code"]
    if not code or "recipes.start(" not in code[0].source:
        raise SeriesError(f"{name}: the code cell after `parameters` must validate them with recipes.start(…)")
    declared = papermill.inspect_notebook(str(source))
    unknown = sorted(set(parameters) - set(declared))
    if unknown:
        raise SeriesError(f"{name}: unknown parameter {', '.join(unknown)}; it has {', '.join(declared)}")

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(str(source), str(target), dict(parameters), kernel_name=KERNEL,
                                   progress_bar=bar, cwd=str(NOTEBOOKS),
                                   extra_arguments=["--IPKernelApp.log_level=40"])
    except PapermillExecutionError as error:
        source_text = error.source
        cell = _cell(notebook, lambda c: c.source == source_text)
        raise SeriesError(f"{name}, cell {cell}: {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise SeriesError(f"{name}: the kernel died ({error}); the partial output is in {target.name}") from error
    cell = _cell(nbformat.read(target, as_version=4), _unfinished)
    if cell:
        raise SeriesError(f"{name}, cell {cell}: never completed, though the kernel reported no error")


def _cell(notebook: nbformat.NotebookNode, wanted: Callable[[nbformat.NotebookNode], bool]) -> str:
    """The first cell that is wanted, as its place from 1 and its id; empty if there is none."""
    found = ((i, c) for i, c in enumerate(notebook.cells, 1) if c.cell_type == "code" and wanted(c))
    return next((f"{i} ({c.id})" for i, c in found), "")


def _unfinished(cell: nbformat.NotebookNode) -> bool:
    return bool(cell.source.strip()) and cell.metadata.get("papermill", {}).get("status") != "completed"


def run_series(
    profile: str = "auto", *, seed: int = 42, device: str = "auto", only: Sequence[str] = (),
    settings: Mapping[str, object] | None = None, build: Path = BUILD,
) -> bool:
    """Execute the numbered notebooks in order and write the report; returns whether all went well.

    Writes build/PROFILE/NN_name.ipynb and .html, index.html, results.csv and series.json.  Stops at the first failure,
    which it prints with the notebook, the cell and the error.  ValueError for a bad parameter, before any work.
    """
    settings = dict(settings or {})
    run = recipes.start(profile, seed=seed, device=device, **settings)
    paths = notebook_paths(only)
    doctor.require(run.root, build)
    folder = build / run.profile.name
    parameters = {"profile": run.profile.name, "seed": seed, "device": device}
    if settings:
        parameters["settings"] = settings
    print(f"profile {run.profile.name}, seed {seed}, {runs.device_name(run.device)}: {len(paths)} notebooks → {folder}")

    outcomes, began, failure = [], time.monotonic(), ""
    for path in paths:
        if failure:
            outcomes.append(Outcome(path.stem, "not run", 0.0))
            continue
        start = time.monotonic()
        try:
            execute(path, folder / path.name, parameters, bar=sys.stderr.isatty())
        except SeriesError as error:
            failure = str(error)
        seconds = round(time.monotonic() - start, 1)
        outcomes.append(Outcome(path.stem, "failed" if failure else "ok", seconds))
        print(f"  {path.stem:44s} {outcomes[-1].status:7s} {seconds:7.1f} s", flush=True)

    try:
        results = recipes.read_results(run)
    except ValueError as error:                       # a damaged table or network: the report says so
        results, failure = None, failure or str(error)
    if results is not None:
        runs.write_table(folder / "results.csv", results)
    else:
        (folder / "results.csv").unlink(missing_ok=True)
    runs.write_json(folder / "series.json", {
        "profile": run.profile.name, "ok": not failure, "seconds": round(time.monotonic() - began, 1),
        "notebooks": [o._asdict() for o in outcomes], "seed": seed, "error": failure or None,
        "manifest": runs.manifest(device=runs.device_name(run.device), settings=run.profile.asdict(),
                                  peak_memory_mib=runs.peak_memory_mib(children=True)),     # of the largest kernel
    })
    _write_report(folder, run, outcomes, results, failure)
    if results is not None:
        print(f"\nCalibration, held-out states; fd = Fréchet distance / real-vs-real floor, at w = {run.profile.w:g}")
        print(recipes.calibration_table(results, w=run.profile.w).to_string(float_format="{:.3g}".format))
    print(f"\n{folder / 'index.html'}")
    if failure:
        print(f"\nFAILED  {failure}", file=sys.stderr)
    return not failure


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


def _write_report(folder: Path, run: recipes.Run, outcomes: Sequence[Outcome], results: pd.DataFrame | None,
                  failure: str) -> None:
    """index.html: the table, the notebooks with links, and every picture with its caption; one self-contained file."""
    made = runs.manifest()
    facts = f"seed {run.seed} · {runs.device_name(run.device)} · commit {made['commit']} · {made['written']}"
    lines, pictures = [], []
    for outcome in outcomes:
        path = folder / f"{outcome.name}.ipynb"
        link = html.escape(outcome.name)
        if outcome.status != "not run" and path.is_file():
            notebook = nbformat.read(path, as_version=4)
            page = path.with_suffix(".html")
            runs.write_bytes(page, HTMLExporter().from_notebook_node(notebook)[0].encode())
            link = f'<a href="{page.name}">{link}</a> (<a href="{path.name}">notebook</a>)'
            found = [f"<figure>{image}<figcaption>{alt}</figcaption></figure>" for image, alt in _pictures(notebook)]
            pictures += [f"<h2>{html.escape(_title(notebook, outcome.name))}</h2>", *found] if found else []
        lines.append(f"<tr><td>{link}</td><td>{outcome.status}</td><td>{outcome.seconds:.0f} s</td></tr>")
    table = "<p>No results yet: notebook 04 makes them.</p>"
    if results is not None:
        card = recipes.calibration_table(results, w=run.profile.w).rename_axis(index=None, columns=None)
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
    runs.write_bytes(folder / "index.html", page.encode())


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
