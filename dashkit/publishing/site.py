"""The site: notebooks, guides, results and reference as pages that read offline, with explorers that need no kernel.

`python -m dashkit.publishing.site [PROFILE [SERIES]]` takes the notebooks that were executed into SERIES, which is
build/series/PROFILE if it is not given.  For others it takes the committed outputs, and executes those notebooks, with
the profile smoke, whose figures are not committed.  It fails on any warning of Sphinx, on a link to a file that is not
there, on a picture without an alternative text, and on a page that would fetch something.
"""

import html.parser
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat

from dashkit.classroom import editions
from dashkit.classroom.notebooks import NEEDS, NOTEBOOKS, execute, notebook_paths
from dashkit.classroom.plots import VERDICTS
from dashkit.publishing import lessons, slides
from dashkit.storage import paths
from dashkit.storage.memory import machine_memory
from dashkit.storage.store import write_bytes

ROOT = paths.ROOT
SITE = paths.BUILD / "site"
LOOKS = ROOT / "docs" / "site"
WIDGET = "application/vnd.jupyter.widget-view+json"     # a page has no kernel
CHAPTERS = {
    "Learn": ("notebooks/GLOSSARY.md", "docs/method.md", "docs/related.md"),
    "Results": ("docs/site/matrix.md", "docs/results.md", "docs/corrections.md", "docs/performance.md"),
    "Use": ("README.md", "docs/setup.md", "docs/own.md", "docs/export.md", "data/README.md", "docs/reliability.md"),
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
JOB_GB = 1
"""Memory of a notebook that is executed, or whose explorers are drawn; the system and its windows get twice as much."""
MATHJAX = ("tex-chtml.js", "output/chtml/*", "input/tex/*", "a11y/assistive-mml.js")
"""What pages load of MathJax, a tenth of it."""


# ------------------------------------------------------------------------------------------ notebooks, and their states


def prepare(profile: str, folder: Path, series: Path) -> None:
    """Put the executed notebooks, from `series` where they are there, and the states of their explorers into `folder`.

    What trains comes before what takes its networks; as many at a time as there are cores and memory.
    """
    jobs: dict[str, Callable[[], None]] = {}
    graph: dict[str, set[str]] = {}
    for path in notebook_paths():
        target, number, own = folder / "executed" / path.name, path.name[:2], "smoke"
        target.parent.mkdir(parents=True, exist_ok=True)
        if (series / path.name).is_file():
            own = profile
            shutil.copyfile(series / path.name, target)
        elif lessons.is_complete(nbformat.read(path, as_version=4)):
            shutil.copyfile(path, target)
        else:
            jobs[number] = lambda path=path, target=target: execute(path, target, {"profile": "smoke"})
            graph[number] = {NEEDS[number]} & jobs.keys() if number in NEEDS else set()
        if "_explorer(" in path.read_text(encoding="utf-8"):
            jobs[f"{number} explorers"] = lambda path=path, own=own: draw_states(path, folder, own)
            graph[f"{number} explorers"] = {number} if number in jobs else set()
    run_jobs(jobs, graph)


def draw_states(path: Path, folder: Path, profile: str) -> None:
    """Draw the states of a notebook's explorers, in a process of its own; CalledProcessError if it fails."""
    environment = os.environ | {"DASHKIT_PROFILE": profile, "DASHKIT_PROGRESS": "0", "MPLBACKEND": "agg",
                                "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "dashkit.publishing.states", str(path), str(folder / "explorers")],
                   check=True, env=environment)


def _workers() -> int:
    cores, memory = os.cpu_count() or 2, machine_memory()
    return cores if memory is None else max(1, min(cores, memory // (JOB_GB * 2**30) - 2))


def run_jobs(jobs: Mapping[str, Callable[[], None]], graph: Mapping[str, set[str]]) -> None:
    """Run jobs, one a core and a GiB of memory, each once those are done that it needs.

    What most others wait for comes first.  The first error ends it all.
    """
    waiting, ready, running = TopologicalSorter({name: graph.get(name, ()) for name in jobs}), [], {}
    needed = Counter(name for needs in graph.values() for name in needs)
    waiting.prepare()
    with ThreadPoolExecutor(workers := _workers()) as pool:
        while waiting.is_active():
            ready = sorted([*ready, *waiting.get_ready()], key=lambda name: (-needed[name], name))
            for name in ready[: workers - len(running)]:
                running[pool.submit(jobs[name])] = name, time.monotonic()
            ready = [name for name in ready if name not in [started for started, _ in running.values()]]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, began = running.pop(future)
                future.result()
                print(f"  {name:44s} {time.monotonic() - began:6.1f} s", flush=True)
                waiting.done(name)


# -------------------------------------------------------------------------------------------------------------- pages


def page_names(notebooks: Sequence[Path]) -> dict[Path, str]:
    """Every page's file, and its name in the site."""
    chapters = [ROOT / name for chapter in chapters_of().values() for name in chapter]
    named = {path: path.stem.lower() for path in chapters}
    named |= {ROOT / "data" / "README.md": "data", ROOT / "README.md": "about", LOOKS / "start.md": "index"}
    return named | {NOTEBOOKS / path.name: path.stem for path in notebooks}


def chapters_of() -> dict[str, tuple[str, ...]]:
    """`CHAPTERS`, with what else is in `docs`."""
    named = {name for chapter in CHAPTERS.values() for name in chapter}
    others = sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if f"docs/{p.name}" not in named)
    return CHAPTERS | ({"More": tuple(others)} if others else {})


def sources(folder: Path) -> None:
    """Write what Sphinx reads into `folder`/source: notebooks for readers without a kernel, pages, references, start.

    The notebooks to run, without outputs, go into `folder`/files.  ValueError for a link to a file that is not there.
    """
    out, notebooks = folder / "source", notebook_paths(folder=folder / "executed")
    names, trees = page_names(notebooks), [_tree("Notebooks", [p.stem for p in notebooks])]
    for path in notebooks:
        notebook = lessons.for_page(nbformat.read(path, as_version=4), path.stem, folder / "explorers")
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = linked(cell.source, NOTEBOOKS / path.name, names, out)
        write_bytes(out / path.name, nbformat.writes(notebook).encode())
        student = editions.student(nbformat.read(NOTEBOOKS / path.name, as_version=4))
        write_bytes(folder / "files" / path.name, nbformat.writes(student).encode())
    for chapter, files in chapters_of().items():
        trees.append(_tree(chapter, [names[ROOT / name] for name in files]))
        for name in files:
            write_bytes(out / f"{names[ROOT / name]}.md", page(ROOT / name, names, folder).encode())
    for room, first in API.items():
        write_bytes(out / f"{room}.md", reference(room, first).encode())
    trees.append(_tree("Reference", list(API)))
    write_bytes(out / "index.md", "\n\n".join([page(LOOKS / "start.md", names, folder), *trees]).encode())


def _tree(chapter: str, names: Sequence[str]) -> str:
    return "\n".join(["```{toctree}", f":caption: {chapter}", ":maxdepth: 1", ":hidden:", "", *names, "```"])


def page(path: Path, names: Mapping[Path, str], folder: Path) -> str:
    """The text of a page of `folder`/source.

    `![](cell:NAME)` becomes the figure or the explorer of the notebook's cell NAME, and `<!-- copy NAME of FILE -->`
    the generated part NAME of another page.
    """
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<!-- copy (\w+) of (\S+) -->", lambda m: _part(path.parent / m[2], m[1]), text)
    text = re.sub(r"!\[\]\(cell:(\S+?)\)", lambda m: lessons.picture(m[1], folder), text)
    return linked(text, path, names, folder / "source")


def _part(path: Path, name: str) -> str:
    text = path.read_text(encoding="utf-8")
    part = re.search(rf"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", text, re.S)[1]
    return re.sub(rf"(?<=\| )({'|'.join(VERDICTS)})(?= \|)",
                  lambda m: f'<span class="verdict {m[1].split()[0]}">{m[1]}</span>', part)


def linked(text: str, path: Path, names: Mapping[Path, str], out: Path) -> str:
    """A text of the file `path`; its links lead to other pages, or to copies of files in `out`/files.

    ValueError for a link to a file that is not there.
    """
    def link(match: re.Match) -> str:
        target, _, anchor = match[1].partition("#")
        file = (path.parent / target).resolve() if target else path
        if file in names:
            name = "" if file == path else names[file] + (".ipynb" if file.suffix == ".ipynb" else ".md")
            return f"]({name}{'#' * bool(anchor)}{anchor})"
        if not file.is_file():
            raise ValueError(f"{path.name} links to {match[1]}, and there is no such file")
        copy = f"{file.parent.name}-{file.stem}.txt" if file.suffix == ".md" else file.name    # it has no page
        write_bytes(out / "files" / copy, file.read_bytes())
        return f"](files/{copy})"
    return re.sub(r"\]\((?!\w+:)([^)\s]+)\)", link, text)


def reference(room: str, first: Sequence[str]) -> str:
    """A page with the documented names of every module of a room."""
    package = ROOT.joinpath(*room.split("."))
    there = sorted(module.name for module in pkgutil.iter_modules([str(package)]))
    modules = [*first, *(name for name in there if name not in first)]
    directives = [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {room}.{name}\n   :members:\n```" for name in modules]
    return "\n\n".join([f"# {room}", f"```{{eval-rst}}\n.. automodule:: {room}\n   :no-members:\n```", *directives])


# ------------------------------------------------------------------------------------------------------------- checks


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


# -------------------------------------------------------------------------------------------------------------- build


def build(profile: str = "digits", series: str | Path = "") -> int:
    """Build the site into `SITE`/html; 1 if something is wrong with it.

    `series` is the folder with the notebooks that were executed with this profile, build/series/PROFILE by default.
    """
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")           # a notebook has one core; with more threads they wait
    shutil.rmtree(SITE, ignore_errors=True)
    prepare(profile, SITE, Path(series or paths.BUILD / "series" / profile))
    code = render(SITE)
    print(f"{time.monotonic() - began:.0f} s: {SITE / 'html' / 'index.html'}")
    return code


def render(folder: Path) -> int:
    """Write the pages and the slides from what `prepare` has put into `folder`; 1 if something is wrong with them."""
    from sphinx.cmd.build import build_main

    out = folder / "html"
    for old in (folder / "source", out):
        shutil.rmtree(old, ignore_errors=True)
    sources(folder)
    if build_main(["-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs"), "-d", str(folder / "doctrees"),
                   str(folder / "source"), str(out)]):
        return 1
    shutil.copytree(folder / "explorers", out / "explorers", ignore=shutil.ignore_patterns("*.json"))
    shutil.copytree(folder / "files", out / "files", dirs_exist_ok=True)
    mathjax = out / "_static" / "mathjax"
    for path in [*out.joinpath("_static").rglob("*.map"), *filter(Path.is_file, mathjax.rglob("*"))]:
        name = path.relative_to(mathjax).as_posix() if path.is_relative_to(mathjax) else ""
        if not any(fnmatch(name, pattern) for pattern in MATHJAX):
            path.unlink(missing_ok=True)
    slides.write(folder)
    pages = sorted(out.glob("*.html"))
    found = [f"{p.name}: {c}" for p in pages for c in complaints(p.read_text(encoding="utf-8"))]
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
    print(*found, f"{len(pages)} pages, {size:.1f} MB, {len(found)} complaints", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(build(*sys.argv[1:]))
