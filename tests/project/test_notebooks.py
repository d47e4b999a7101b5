"""The rules that every notebook of the series keeps."""

import ast
import base64
import io
import os
import re
import subprocess
import sys

import browser
import nbformat
import numpy as np
import pytest
from PIL import Image

from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import execute, notebook_paths, tagged
from dashkit.datasets import files
from dashkit.storage import paths

PATHS = notebook_paths()
BANNED = ("import *", "sys.path", "%pip", "!pip", ".cuda()", "torch.load", "pickle", "urllib", "requests.", "%matplot")
LOADED = [pytest.param(nbformat.read(p, as_version=4), id=p.stem) for p in PATHS]
notebooks = pytest.mark.parametrize("notebook", LOADED)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def prose(notebook):
    """Markdown without formulas and code, where a number would be a claim."""
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\*\*\d\d\.\d\*\*|https?:\S+", "", text, flags=re.S)


def imported(cell):
    return [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Import | ast.ImportFrom)]


def test_numbers_are_consecutive():
    assert [p.name[:2] for p in PATHS] == [f"{i:02d}" for i in range(len(PATHS))]


@notebooks
def test_header_says_what_a_reader_needs(notebook):
    header = notebook.cells[0]
    assert header.cell_type == "markdown" and header.source.startswith("# ")
    assert all(f"**{word}" in header.source for word in ("Question", "You will be able to", "Prerequisites", "Time"))


@notebooks
def test_all_imports_are_in_the_first_code_cell(notebook):
    first, *others = code(notebook)
    assert imported(first)
    assert not any(imported(c) for c in others)


@notebooks
def test_parameters_are_plain_and_validated_at_once(notebook):
    [place] = tagged(notebook, "parameters")
    assignments = ast.parse(notebook.cells[place].source).body
    names = [a.targets[0].id for a in assignments]
    assert {"profile", "seed", "device", "settings"} <= set(names)
    for assignment in assignments:
        ast.literal_eval(assignment.value)
    following = next(c for c in notebook.cells[place + 1 :] if c.cell_type == "code")
    assert "start_run(profile, seed=seed, device=device, settings=settings)" in following.source


@notebooks
def test_nothing_banned(notebook):
    for cell in code(notebook):
        assert not [b for b in BANNED if b in cell.source]


@notebooks
def test_the_data_decide_how_many_classes_and_pixels_there_are(notebook):
    """A profile of one's own has other classes, sizes, timesteps and pictures than the digits."""
    fixed = re.compile(r"\brange\(10\)|arange\(10\b(?!.*% .*num_classes)|% 10\b|(?:1|3), 8, 8\)|@t=\d|to real digits|"
                       r"digits at its")
    assert [c.source for c in code(notebook) if fixed.search(c.source)] == []


OWN = """
extends = "smoke"
dataset = "cifar10"
w = 2.2
ws = [1.0, 2.2]
T = 400
teacher_steps = 20
student_steps = 20
samples = 30
states = 60
sample_steps = 4
arms = ["dash", "cond_only"]
teacher = { size = 16, channels = 1, num_classes = 3 }
student = { size = 16, channels = 1, num_classes = 3 }
"""


@pytest.mark.slow
def test_the_lessons_take_a_profile_with_other_classes_sizes_and_scales(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels, held_out = (rng.integers(0, 256, (n, 1, 16, 16), dtype=np.uint8) for n in (120, 60))
    images = files.from_arrays(pixels, np.arange(120) % 3, held_out, np.arange(60) % 3, names=["emu", "fox", "yak"])
    files.save_images(images, tmp_path / "data" / "cache" / "cifar10.npz")
    (tmp_path / "own.toml").write_text(OWN)
    monkeypatch.setenv("DASHKIT_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    for path in PATHS:
        execute(path, tmp_path / path.name, {"profile": str(tmp_path / "own.toml"), "device": "cpu"})
    shown = (tmp_path / PATHS[2].name).read_text(encoding="utf-8")
    assert all(name in shown for name in images.names)


@notebooks
def test_cells_are_short(notebook):
    # an import that the formatter wraps counts as one line
    lines = {c.id: re.sub(r"^from \S+ import \(.*?^\)", "from x import y", c.source, flags=re.S | re.M).splitlines()
             for c in code(notebook)}
    long = [name for name, source in lines.items() if len(source) > 18]
    assert not long


@notebooks
def test_prose_states_no_measured_number(notebook):
    assert re.findall(r"\d+\.\d+|\d+ ?%", prose(notebook)) == []


@notebooks
def test_each_widget_follows_a_static_figure(notebook):
    cells = code(notebook)
    widgets = [i for i, c in enumerate(cells) if re.search(r"\w+\.\w+_explorer\(", c.source)]
    assert len(widgets) <= 3
    assert all("plots.show(" in cells[i - 1].source for i in widgets)


@notebooks
def test_cell_ids_are_readable(notebook):
    assert all(re.fullmatch(r"\d\d-[a-z0-9-]+", c.id) for c in notebook.cells)
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("number", ["00", "01", "03", "04", "05", "06", "07", "09", "11"])
def test_explorer_lessons_have_a_widget(number):
    [path] = notebook_paths([number])
    assert re.search(r"\w+\.\w+_explorer\(", path.read_text())


@notebooks
def test_a_stored_figure_with_a_guess_says_where_another_would_stand(notebook):
    for cell in code(notebook):
        stored = "".join(o.get("data", {}).get("text/html", "") for o in cell.outputs)
        if "plot_guess(" in cell.source and stored:
            [picture] = re.findall('base64,([^"]*)"', stored)
            assert "Guess" in Image.open(io.BytesIO(base64.b64decode(picture))).text, cell.id


def test_the_browser_opens_each_notebook_with_a_widget():
    wanted = [p.name[:2] for p in PATHS if "_explorer(" in p.read_text() or "ipywidgets" in p.read_text()]
    assert [p.name[:2] for p in browser.with_widgets(())] == wanted and "03" in wanted


@notebooks
def test_each_exercise_is_checked_in_its_notebook(notebook):
    number = notebook.cells[0].id[:2]
    source = "\n".join(c.source for c in notebook.cells)
    checked = re.findall(r"check\(\"(\d\d\.\d)\", answer\)", source)
    assert sorted(checked) == sorted(name for name in EXERCISES if name[:2] == number)
    assert all(f"**{name}**" in source for name in checked)


@notebooks
def test_predictions_are_open_and_drawn_beside_the_result(notebook):
    number, later, made = notebook.cells[0].id[:2], code(notebook), []
    while later:
        cell = later.pop(0)
        for variable, name, value in re.findall(r"^(\w+) = predict\(\"([^\"]*)\", (.*?), example=", cell.source, re.M):
            made.append(name)
            assert re.fullmatch(number + r"\.[a-z]+", name) and value == "...", "dots: what is stored predicts nothing"
            again = next((i for i, c in enumerate(later) if re.search(rf"^{variable} = ", c.source, re.M)), len(later))
            drawn = [c for c in later[:again] if re.search(rf"\b{variable}\b", c.source)]
            assert drawn and ("plots.show(" in drawn[-1].source or "print(" in drawn[-1].source)
    assert len(set(made)) == len(made) >= 1


@notebooks
def test_a_prediction_that_was_not_made_is_drawn_as_an_example(notebook):
    source = "\n".join(c.source for c in code(notebook))
    assert "my guess" not in source and "your guess" not in source
    for name in re.findall(r"= predict\(\"([^\"]*)\"", source):
        drawn = re.search(rf"(guess_label\(|plot_guess\([^,]+, )['\"]{name}['\"]", source)
        assert drawn or name == "04.rho", name                                # 04.rho stands beside 04.arm


WORDS, LINES = 110, 12          # a minute, of English and of Python, for a reader whose first language it is not


def minutes_for(notebook):
    """Minutes to read a notebook, look at its figures, and try its predictions and exercises."""
    source, text = code(notebook), " ".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    lines = sum(len(c.source.splitlines()) for c in source if not imported(c))
    figures = sum(c.source.count("plots.show(") for c in source)
    made = sum(len(re.findall(r"= predict\(|^check\(", c.source, re.M)) for c in source)
    exercises = sum(c.source.count("check(\"") for c in source)
    return len(text.split()) / WORDS + lines / LINES + figures + 2 * made + 5 * exercises


@notebooks
def test_the_minutes_of_the_header_are_honest(notebook):
    said = re.search(r"\*\*Time\.\*\*.*?(\d+) minutes\s+to\s+read\s+and\s+try", notebook.cells[0].source, re.S)
    assert said, "a header says: About 30 minutes to read and try"
    assert 0.75 < int(said[1]) / minutes_for(notebook) < 1.6


PATH = {"00": 10, "03": 10, "04": 6, "12": 4}
"""The 30-minute path: notebooks, and the minutes that their headers give it."""


def test_the_path_of_thirty_minutes_is_marked_and_takes_no_longer():
    marked = {}
    for notebook in (nbformat.read(p, as_version=4) for p in PATHS):
        cells, number = notebook.cells, notebook.cells[0].id[:2]
        parts = [c for c in cells[1:] if c.cell_type == "markdown" and re.search(r"^▶", c.source, re.M)]
        if parts and number in PATH:
            figures = sum("plots.show(" in cells[cells.index(c) + k].source for c in parts for k in (1, 2)
                          if cells.index(c) + k < len(cells))
            marked[number] = sum(len(c.source.split()) for c in parts) / WORDS + 0.3 * figures
            assert "30-minute path" in cells[0].source
        else:
            assert not parts
    assert set(marked) == set(PATH)
    assert sum(PATH.values()) == 30 and sum(marked.values()) < 30
    assert all(marked[n] < 1.25 * PATH[n] for n in PATH), marked


GUIDE = (paths.ROOT / "notebooks" / "INSTRUCTOR.md").read_text(encoding="utf-8")
OWN_LOSS = ("09", "A loss of your own")     # its header gives it half an hour, which is mostly thinking


def plan(title):
    """The rows of a plan in the instructor's guide: minutes, what is read and run, what happens."""
    [part] = re.findall(rf"^## {title}\n(.*?)(?=^## )", GUIDE, re.M | re.S)
    return [(int(m), *cells) for m, *cells in re.findall(r"^\| (\d+) \|(.*?)\|(.*?)\|$", part, re.M)]


def sections(number):
    """The cells of a notebook by the heading of their section, in order."""
    [path], found = notebook_paths([number]), {}
    for cell in nbformat.read(path, as_version=4).cells:
        heading = re.search(r"^## (.*)", cell.source, re.M) if cell.cell_type == "markdown" else None
        name = heading[1] if heading else next(reversed(found), "")
        found.setdefault(name, []).append(cell)
    return found


def minutes_of(named, happens=""):
    """Minutes for "03: *One sample* to *All classes*, *Explore*; 12: *Predict*", and for exercises that are named."""
    total = 0.0
    for number, ranges in re.findall(r"(\d\d): ([^;]+)", named):
        parts, read = sections(number), []
        for first, last in re.findall(r"\*([^*]+)\*(?: to \*([^*]+)\*)?", ranges):
            names = [name for start in (first, last or first) for name in parts if name.startswith(start)]
            assert len(names) == 2, f"no section, or several, of {number} begin with {first} and {last}"
            places = [list(parts).index(name) for name in names]
            assert places[0] <= places[1]
            read += list(parts)[places[0] : places[1] + 1]
        assert read and len({*read}) == len(read)
        for name in read:
            cells = [c for c in parts[name] if not (tried := re.search(r'check\("(\d\d\.\d)', c.source))
                     or tried[1] in happens]
            total += 30 if (number, name) == OWN_LOSS else minutes_for(nbformat.from_dict({"cells": cells}))
    return total


def test_minutes_of_sections_are_those_of_what_is_in_them():
    whole = {number: [*sections(number)] for number in ("02", "08")}
    for number, names in whole.items():
        named = f"{number}: *{names[1]}* to *{names[-1]}*"
        exercises = " ".join(name for name in EXERCISES if name[:2] == number)
        [notebook] = [n for n in (nbformat.read(p, as_version=4) for p in PATHS) if n.cells[0].id[:2] == number]
        header = nbformat.from_dict({"cells": sections(number)[""]})
        assert minutes_of(named, exercises) == pytest.approx(minutes_for(notebook) - minutes_for(header))
        assert minutes_of(named) == pytest.approx(minutes_of(named, exercises) - 7 * len(exercises.split()), abs=2)
    with pytest.raises(AssertionError, match="no section"):
        minutes_of("02: *No such section*")


@pytest.mark.parametrize(("title", "minutes"), [("90 minutes", 90), ("Half a day", 235)])
def test_a_plan_takes_no_longer_than_its_minutes(title, minutes):
    rows = plan(title)
    assert sum(given for given, *_ in rows) == minutes and len(rows) >= 5
    assert f"{OWN_LOSS[0]}:" in GUIDE and "half an hour more for a loss" in sections(OWN_LOSS[0])[""][0].source
    for given, named, happens in rows:
        assert named.strip() or "break" in happens
        assert minutes_of(named, happens) <= given, (named, minutes_of(named, happens))
        numbers = {name[:2] for name in re.findall(r"\b\d\d\.\d\b", happens)}
        assert numbers <= {*re.findall(r"(\d\d):", named)}, "an exercise of a notebook that the row does not read"


def test_the_path_with_its_predictions_takes_what_the_guide_says():
    made = total = 0
    for number in PATH:
        cells = [c for part in sections(number).values() for c in part]
        parts = [i for i, c in enumerate(cells) if i and c.cell_type == "markdown" and re.search("^▶", c.source, re.M)]
        total += sum(len(cells[i].source.split()) for i in parts) / WORDS
        made += sum(len(re.findall(r"= predict\(", cells[i + 1].source)) for i in parts if i + 1 < len(cells))
    [said] = re.findall(r"types in the predictions of\s+these parts needs (\d+) minutes", GUIDE)
    assert made and sum(PATH.values()) + 2 * made <= int(said) < 1.25 * (total + 2 * made)


def test_the_guide_gives_the_path_of_thirty_minutes_the_minutes_of_the_headers():
    words = {"four": 4, "six": 6, "ten": 10}
    said = dict(re.findall(rf"\b(\d\d) \(({'|'.join(words)})(?: minutes)?\)", GUIDE))
    assert {number: words[word] for number, word in said.items()} == PATH
    for number, minutes in PATH.items():
        assert any(word in sections(number)[""][0].source for word, n in words.items() if n == minutes)


def test_the_first_notebook_explains_a_broken_set_up_before_it_needs_it(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms')")
    first = next(c.source for c in nbformat.read(PATHS[0], as_version=4).cells if c.cell_type == "code")
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, cwd=PATHS[0].parent,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(paths.ROOT)])})
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and re.match("- torch: .*Fix: .*(install --fresh|torchvision)", last)
