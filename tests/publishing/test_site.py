"""The site's pages: what a reader without a kernel, without a network or without eyes would miss is seen."""

import html
import io
import json
import re
import sys
import threading

import ipywidgets as ipw
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from dashkit.classroom import explorers, plots
from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import notebook_paths
from dashkit.publishing import lessons, site, slides, states
from dashkit.storage.paths import ROOT

sys.path.append(str(ROOT / "docs"))
conf = pytest.importorskip("conf")


def draw(size, loud):
    """A figure whose picture is wider the larger `size` is; where it is loud, size changes nothing."""
    figure = plt.figure(figsize=(1 + (0 if loud else size), 1))
    figure.text(0, 0, "x")
    figure.text(1, 1, "y")
    return figure, f"size {size}, {'loud' if loud else 'still'}, <a href='09_x.ipynb#a'>b</a>"


def tiny(page=(0, 1, 2), **more):
    slider, box = explorers.number("size of it", 1, 0, 9)
    tick = ipw.Checkbox(value=False, description="loud")
    return explorers.Explorer(draw, {"size": slider, "loud": tick}, [box, tick], page={"size": page}, **more)


# ------------------------------------------------------------------------------------------------------------- states


def test_every_state_is_drawn_once_and_kept_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("DASHKIT_PROFILE", "smoke")
    page = states.write_states(tiny(play="size"), tmp_path / "x")
    assert json.loads((tmp_path / "x" / "states.json").read_text()) == page
    assert page["controls"] == [
        {"name": "size", "label": "size of it", "values": ["0", "1", "2"], "kind": "slider", "start": 1},
        {"name": "loud", "label": "loud", "values": ["no", "yes"], "kind": "tick", "start": 0}]
    assert page["texts"][2] == "size 1, still, <a href='09_x.html#a'>b</a>" and "size 2, loud" in page["texts"][5]
    assert (page["plays"], page["profile"]) == ("size", "smoke")
    assert page["pictures"] == [0, 0, 1, 0, 2, 0]                    # equal pictures are kept once
    assert len(list((tmp_path / "x").glob("*.webp"))) == 3


def test_a_picture_of_a_page_is_the_kernels_with_white_on_its_left(tmp_path):
    explorer = tiny()
    page = states.write_states(explorer, tmp_path / "x")
    explorer.controls["size"].value = 2
    kernel = Image.open(io.BytesIO(explorer.image.value)).convert("RGB")
    explorer.controls["size"].value = 0
    small = Image.open(io.BytesIO(explorer.image.value)).convert("RGB")
    pictures = [Image.open(tmp_path / "x" / f"{page['pictures'][k]}.webp").convert("RGB") for k in (4, 0)]
    assert np.array_equal(pictures[0], kernel) and pictures[1].width == kernel.width > small.width
    assert np.array_equal(np.asarray(pictures[1])[:, -small.width:], small)
    assert (np.asarray(pictures[1])[:, :-small.width] == 255).all()


@pytest.mark.parametrize(("page", "message"), [
    (range(201), "x has 402 states; give its sliders values for a page, at most 400"), ((), "x has 0 states"),
])
def test_an_explorer_with_too_many_states_or_none_is_refused(page, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        states.write_states(tiny(page), tmp_path / "x")


def test_an_explorer_with_too_many_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"the pictures of x are 0\.0 MB; a page takes 0\.0001"):
        states.write_states(tiny(), tmp_path / "x")


def test_a_notebooks_explorers_are_found_by_running_it_up_to_the_last(tmp_path, capsys, monkeypatch):
    cells = {"00-a": "import test_site\nprint('quiet')", "00-b": "def make_explorer(n):\n    return test_site.tiny(n)",
             "00-x": "n = (0, 1)\nmake_explorer(n)", "00-end": "1 / 0"}
    write(tmp_path / "00_x.ipynb", cells)
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests" / "publishing"), *sys.path])
    found = states.explorers_of(tmp_path / "00_x.ipynb")
    assert list(found) == ["00-x"] and [v for _, v in found["00-x"].grid["size"]] == [0, 1]
    assert capsys.readouterr().out == ""


# -------------------------------------------------------------------------------------------------------------- pages


def write(path, cells, outputs=()):
    """A notebook of cells (id: code); `outputs` are HTML by cell."""
    made = [nbformat.v4.new_code_cell(code, id=name, execution_count=1, outputs=[
        nbformat.v4.new_output("display_data", {"text/html": dict(outputs)[name], "text/plain": "alt"})
    ] if name in dict(outputs) else []) for name, code in cells.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return nbformat.read(path, as_version=4)


def shown(notebook, name):
    [cell] = [c for c in notebook.cells if c.id == name]
    return "".join("".join(o.get("data", {}).get("text/html", "")) for o in cell.outputs)


def guessed():
    ax = plots.plot_curves({"a": [1, 2]})
    plots.plot_guess(ax, "01.clip", 1.5, x=0.5)
    return plots.image_element(ax, 'half < "full"')


def test_predictions_are_asked_for_and_told_again_where_no_figure_draws_them(tmp_path):
    cells = {"01-ask": 'mine = predict("01.clip", ..., example=0.9)', "01-draw": "plots.show(f(mine), 'x')",
             "01-say": "print(mine)", "01-word": 'w = predict("01.w", ..., example="a", among=("a", "b<"))',
             "01-two": 'names = ("c", "d")\nv = predict("01.v", ..., example="c", among=names)',
             "01-of": 'n = predict("01.n", ..., example=1.0, among=(0.25, 1.0, 3))'}
    page = lessons.for_page(write(tmp_path / "01_x.ipynb", cells, {"01-draw": guessed()}), "01_x", tmp_path)
    assert 'data-name="01.clip"' in shown(page, "01-ask") and 'type="number" step="any"' in shown(page, "01-ask")
    assert "<option>b&lt;</option>" in shown(page, "01-word") and "<option>d</option>" in shown(page, "01-two")
    assert re.findall("<option>([^<]+)<", shown(page, "01-of")) == ["0.25", "1", "3"]
    known = json.loads(html.unescape(re.search("data-guess='([^']*)'", shown(page, "01-draw"))[1]))
    assert known["name"] == "01.clip" and len(known["values"]) == 41
    assert "recalled" not in shown(page, "01-draw") and 'class="recalled" data-name="01.clip"' in shown(page, "01-say")


def options(page, name):
    return re.findall("<option>([^<]+)<", shown(page, name))


def test_what_a_prediction_may_be_is_found_in_the_cells_before_it_and_in_the_profile(tmp_path):
    cells = {"01-parameters": 'profile = "auto"\nsettings = {}', "01-run": "run = start_run(profile)",
             "01-names": 'said = {"x": "1", "y": "2"}\nkinds = sorted(said)',
             "01-list": 'a = predict("01.a", ..., example="p", among=["p", "q<"])',
             "01-earlier": 'b = predict("01.b", ..., example="x", among=kinds)',
             "01-call": 'c = predict("01.c", ..., example="2", among=said.values())',
             "01-arms": 'd = predict("01.d", ..., example="dash", among=run.profile.arms)',
             "01-again": 'kinds = (0.5, 2)\ne = predict("01.e", ..., example=2.0, among=kinds)'}
    made = write(tmp_path / "01_x.ipynb", cells)
    injected = nbformat.v4.new_code_cell('profile = "smoke"\nsettings = {"arms": ["scratch", "dash"]}',
                                         metadata={"tags": ["injected-parameters"]})
    made.cells.insert(1, injected)
    page = lessons.for_page(made, "01_x", tmp_path)
    assert [options(page, f"01-{n}") for n in ("list", "earlier", "call", "arms", "again")] == [
        ["p", "q&lt;"], ["x", "y"], ["1", "2"], ["scratch", "dash"], ["0.5", "2"]]


@pytest.mark.parametrize("before", ["", "table = trained(run)\n", "table = table\n", "table = (1, 2)\ntable = []\n"])
def test_a_prediction_whose_choice_only_a_kernel_knows_is_refused(before, tmp_path):
    made = write(tmp_path / "01_x.ipynb", {"01-a": f'{before}a = predict("01.a", ..., example="p", among=table.rows)'})
    with pytest.raises(ValueError, match=r"01\.a is one of table\.rows, which a page cannot know; write a list"):
        lessons.for_page(made, "01_x", tmp_path)


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_every_prediction_of_the_series_with_a_choice_has_it_on_its_page(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    page = lessons.for_page(notebook, path.stem, tmp_path)
    for cell in notebook.cells:
        wanted = cell.source.count("among=") if cell.cell_type == "code" else 0
        assert not wanted or shown(page, cell.id).count("<select") == wanted, cell.id
        assert not wanted or len(options(page, cell.id)) >= 2 * wanted


def test_an_exercise_has_its_hints_one_inside_the_other_and_then_the_solution(tmp_path):
    cells = {"03-ex": 'answer = None\ncheck("03.1", answer)', "03-hint": 'hint("03.1")'}
    page = lessons.for_page(write(tmp_path / "03_x.ipynb", cells), "03_x", tmp_path)
    text, task = shown(page, "03-ex"), EXERCISES["03.1"]
    places = [text.index(html.escape(part)) for part in (task.task, *task.hints, task.solution)]
    assert places == sorted(places) and text.count("<details>") == 4
    assert re.findall("<summary>(.*?)</summary>", text) == ["First hint", "Next hint", "Next hint", "Solution"]
    assert 'href="files/03_x.ipynb"' in text and page.cells[1].metadata.tags == ["remove-cell"]


def test_dead_widgets_leave_and_explorers_come(tmp_path):
    kept = states.write_states(tiny(play="size"), tmp_path / "00-x")
    notebook = write(tmp_path / "00_x.ipynb", {"00-x": "tiny_explorer()", "00-w": "w"}, {"00-w": "<b>see</b>"})
    notebook.metadata.widgets = {"state": {}}
    notebook.cells[1].outputs[0].data["application/vnd.jupyter.widget-view+json"] = {"model_id": "x"}
    page = lessons.for_page(notebook, "00_x", tmp_path)
    assert "widget" not in nbformat.writes(page) and "<b>see</b>" in shown(page, "00-w")
    text = shown(page, "00-x")
    assert 'src="explorers/00-x/1.webp"' in text and 'alt="Figure with size of it: 1, loud: no"' in text
    data = json.loads(re.search(r'json">(.*?)</script>', text, re.S)[1])
    assert data["texts"] == kept["texts"] and data["folder"] == "explorers/00-x" and "</a>" not in text.split("json")[1]
    assert text.count("<label") == 2 and text.count("<button") == 1


def test_a_list_can_be_played_as_a_slider_can(tmp_path):
    w = explorers.choice("scale", ["1", "2"])
    states.write_states(explorers.Explorer(lambda w: (plt.figure(figsize=(1, 1)), w), {"w": w}, [w], play="w"),
                        tmp_path / "00-x")
    text = lessons.explorer(tmp_path / "00-x")
    assert text.count('class="play"') == 1 and '<option value="0" selected>1</option>' in text


@pytest.mark.parametrize(("page", "wanted"), [
    ('<p>fine</p><img src="a.png" alt="a curve"><a href="https://arxiv.org">paper</a>', []),
    ('<script src="https://cdn.example/x.js"></script>', ["fetches https://cdn.example/x.js"]),
    ('<link rel="stylesheet" href="//cdn.example/x.css">', ["fetches //cdn.example/x.css"]),
    ('<img src="a.png">', ["a picture without alternative text: a.png"]),
    ('<img src="http://example.org/a.png" alt=" ">',
     ["fetches http://example.org/a.png", "a picture without alternative text: http://example.org/a.png"]),
])  # fmt: skip
def test_pages_that_fetch_or_show_without_words(page, wanted):
    assert site.complaints(page) == wanted


@pytest.fixture
def folder(tmp_path):
    """What `site.prepare` leaves, cut short: stored notebooks, and one explorer for every place that has one."""
    for path in notebook_paths():
        (tmp_path / "executed").mkdir(exist_ok=True)
        (tmp_path / "executed" / path.name).write_bytes(path.read_bytes())
    for name in ("00-photos-explorer", "07-explorer", "09-ledger-explorer"):
        states.write_states(tiny(), tmp_path / "explorers" / name)
    return tmp_path


def test_sources_hold_every_page_and_lead_from_one_to_the_other(folder):
    site.sources(folder)
    index = (folder / "source" / "index.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert (folder / "source" / path.name).is_file() and f"\n{path.stem}\n" in index
    assert all(f"\n{name}\n" in index for name in ("00_start_here", "instructor", "glossary", "data", "changelog",
                                                    "contributing", "dashkit.method", "dashkit.experiments"))
    assert "](00_start_here.ipynb)" in index and "](data.md)" in index and "](matrix.md)" in index
    assert index.count("```{raw} html") == 5 and index.count("<img ") == 5           # the story
    about = (folder / "source" / "about.md").read_text()
    assert "](performance.md#on-gpus)" in about
    pictures = re.findall(r"!\[[^\]]+\]\((files/[^)]+)\)", about)
    assert pictures and all((folder / "source" / picture).is_file() for picture in pictures)
    assert "](glossary.md)" in (folder / "source" / "04_dash_step_by_step.ipynb").read_text()
    student = nbformat.read(folder / "files" / "03_is_the_gap_underdetermined.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in student.cells)
    matrix = (folder / "source" / "matrix.md").read_text()
    claims = (ROOT / "README.md").read_text().partition("<!-- begin claims -->")[2].partition("<!-- end")[0]
    verdicts = [cell for cell in re.split(r" *\| *", claims) if cell in plots.VERDICTS]
    assert re.findall(r'<span class="verdict \w+">(.*?)</span>', matrix) == verdicts and len(verdicts) > 10


def test_a_link_to_a_file_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "a.md").write_text("see [b](b.md) and [the paper](https://arxiv.org)")
    with pytest.raises(ValueError, match=r"a\.md links to b\.md, and there is no such file"):
        site.page(tmp_path / "a.md", {}, tmp_path)


def test_a_figure_that_a_page_wants_and_a_notebook_has_not_is_refused(folder):
    with pytest.raises(ValueError, match=r"the cell 03-header of 03_is_the_gap_underdetermined\.ipynb shows no figure"):
        lessons.picture("03-header", folder)


def test_references_hold_every_module_the_lesson_first():
    text = site.reference("dashkit.method", ("schedule", "guidance"))
    found = re.findall(r"automodule:: dashkit\.method\.(\w+)", text)
    assert found[:2] == ["schedule", "guidance"]
    assert set(found) == {p.stem for p in (ROOT / "dashkit" / "method").glob("*.py")} - {"__init__"}


def test_docstrings_become_restructured_text():
    said = conf.plain(["One |x|^2 of `a_b` and *c*_d.", "", "    y = 2", "", ">>> 1", "1"], ["x: Tensor   # (B,)"])
    assert said == [r"One \|x\|^2 of ``a_b`` and \*c\*\_d.", "", "::", "", "    y = 2", "", ">>> 1", "1", "", "::", "",
                    "    x: Tensor   # (B,)", ""]


# ------------------------------------------------------------------------------------------------- notebooks and jobs


def test_notebooks_come_from_the_series_or_as_stored_or_are_executed(tmp_path, monkeypatch):
    done, executed = [], []
    (tmp_path / "series").mkdir()
    numbers = [p.name[:2] for p in notebook_paths()]
    [third] = notebook_paths(["03"])
    (tmp_path / "series" / third.name).write_text("{}")
    monkeypatch.setattr(site, "run_jobs", lambda jobs, graph: (done.append(graph), [job() for job in jobs.values()]))
    monkeypatch.setattr(site, "execute", lambda path, target, parameters: executed.append((path.name[:2], parameters)))
    monkeypatch.setattr(site, "draw_states", lambda path, folder, profile: executed.append((path.name[:2], profile)))
    site.prepare("digits", tmp_path / "site", tmp_path / "series")
    assert (tmp_path / "site" / "executed" / third.name).read_text() == "{}"
    assert ("03", "digits") in executed and ("00", "smoke") in executed and ("04", {"profile": "smoke"}) in executed
    assert done[0]["04"] == {"02"} and done[0]["04 explorers"] == {"04"} and done[0]["03 explorers"] == set()
    stored = {p.name[:2] for p in (tmp_path / "site" / "executed").glob("*.ipynb")}
    run = {name for name, given in executed if isinstance(given, dict)}
    assert stored | run == set(numbers) and "06" in stored and not stored & run


def test_jobs_wait_for_what_they_need_and_the_first_error_ends_them(monkeypatch):
    order = []
    jobs = {name: lambda name=name: order.append(name) for name in "abc"}
    site.run_jobs(jobs, {"a": {"b"}, "b": {"c"}, "c": set()})
    assert order == ["c", "b", "a"]
    monkeypatch.setattr(site.os, "cpu_count", lambda: 1)
    order.clear()
    jobs = {name: lambda name=name: order.append(name) for name in ("00 explorers", "04", "02", "04 explorers")}
    site.run_jobs(jobs, {"00 explorers": set(), "02": set(), "04": {"02"}, "04 explorers": {"04"}})
    assert order == ["02", "04", "00 explorers", "04 explorers"]       # what others wait for comes first
    with pytest.raises(ZeroDivisionError):
        site.run_jobs({"a": lambda: 1 / 0, "b": lambda: order.append("b")}, {"a": set(), "b": {"a"}})
    assert len(order) == 4


@pytest.mark.parametrize(("gib", "cores", "workers"), [
    (3.8, 8, 1), (7.6, 8, 5), (31, 8, 8), (31, None, 2), (0.9, 4, 1), (None, 12, 12)])
def test_no_more_jobs_run_at_once_than_memory_is_there_for(monkeypatch, gib, cores, workers):
    monkeypatch.setattr(site.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(site, "machine_memory", lambda: gib and int(gib * 2**30))
    lock, running, most = threading.Lock(), [0], [0]
    met = threading.Barrier(workers)                    # as many as may run at once, do

    def job():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        met.wait(20)
        with lock:
            running[0] -= 1

    site.run_jobs({str(i): job for i in range(3 * workers)}, {})
    assert most[0] == workers


# ------------------------------------------------------------------------------------------------------------- slides


@pytest.mark.parametrize(("text", "wanted"), [
    ("## A head\n\nOne. Two three. Really so? Four.", "## A head\n\nOne. Really so?"),
    ("**Question.** It is small. What is lost, and **how much?** Read on.",
     "**Question.** It is small. What is lost, and **how much?**"),
    ("**Prerequisites.** Some Python.", ""), ("- a. b\n- c", "- a. b\n- c"), ("$$a. b$$", "$$a. b$$"),
    ("| a | b |\n|---|---|\n| 1. 2 | x |", "| a | b |\n|---|---|\n| 1. 2 | x |"),
])  # fmt: skip
def test_a_slide_has_the_gist_of_a_text(text, wanted):
    assert slides.gist(text) == wanted


def test_a_deck_begins_a_slide_at_each_heading_and_keeps_the_text_as_notes():
    text, figure = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    output = [nbformat.v4.new_output("display_data", {"text/html": "<img>"})]
    made = slides.deck(nbformat.v4.new_notebook(cells=[
        text("## A\n\nOne. Two.", id="a"), figure("x", id="b", outputs=output), figure("y", id="c", outputs=output),
        figure("z = 1", id="d"), text("Short.", id="e"), figure("class A: ...", id="00-student")]))
    assert [c.metadata.slideshow.slide_type for c in made.cells] == [
        "slide", "notes", "-", "subslide", "subslide", "notes", "-"]
    assert made.cells[0].source == "## A\n\nOne." and made.cells[1].source == "## A\n\nOne. Two."
    assert made.cells[2].metadata.tags == ["remove-input"] and made.cells[-1].metadata.tags == []
