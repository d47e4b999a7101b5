"""What a learner did is kept: over restarts, over two kernels at once, and next to a damaged file."""

import ast
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys

import nbformat
import pytest

from dashkit.classroom.journal import ANSWERS, PREDICTIONS, guess_label, kept, predict, update
from dashkit.classroom.notebooks import notebook_paths
from dashkit.method.schedule import cosine_schedule


def save_many(path, who, start):
    start.wait()
    for i in range(25):
        assert update(ANSWERS, f"{who}-{i}", lambda entry, i=i: {"answer": i}, path) == ""
        assert update(ANSWERS, "common", lambda entry: {"tries": entry.get("tries", 0) + 1}, path) == ""


def test_two_kernels_that_save_at_once_lose_nothing(work):
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")      # imports take seconds
    start = context.Barrier(3)
    kernels = [context.Process(target=save_many, args=(work, who, start)) for who in "ab"]
    for kernel in kernels:
        kernel.start()
    start.wait()
    for kernel in kernels:
        kernel.join()
    assert [k.exitcode for k in kernels] == [0, 0]
    assert len(kept(ANSWERS)) == 51
    assert kept(ANSWERS)["common"] == {"tries": 50}


def test_a_prediction_is_there_after_a_restart(work, capsys):
    assert predict("01.snr", 450, example=300) == 450
    again = "from dashkit.classroom import journal; print(journal.predict('01.snr', ..., example=300))"
    done = subprocess.run([sys.executable, "-c", again], env={**os.environ, "DASHKIT_RUNS": str(work.parent)},
                          capture_output=True, text=True, check=True)
    assert done.stdout == "Your prediction: 450\n450\n"


def test_the_first_prediction_stays_beside_the_latest(capsys):
    predict("01.snr", 100, example=300)
    predict("01.snr", 495, example=300)
    assert kept(PREDICTIONS) == {"01.snr": {"first": 100, "value": 495}}
    assert predict("01.snr", ..., example=300) == 495
    assert capsys.readouterr().out.splitlines() == [
        "Your prediction: 100", "Your prediction: 495 (at first: 100)", "Your prediction: 495"]


def test_without_a_prediction_the_example_is_drawn_and_nothing_is_kept(work, capsys):
    assert predict("01.snr", ..., example=300) == 300
    assert "No prediction of yours yet" in capsys.readouterr().out
    assert not work.exists()


def test_only_a_prediction_that_was_made_is_called_my_guess(work, capsys):
    predict("01.snr", ..., example=300)
    assert guess_label("01.snr") == "example"
    predict("01.snr", 0, example=300)
    assert guess_label("01.snr") == "my guess" and guess_label("01.steps") == "example"


@pytest.mark.parametrize(("value", "example", "among", "message"), [
    ("many", 300, (), "a number, such as 300, not 'many'"), (float("nan"), 0.5, (), "a number"),
    (True, 1, (), "a number"), ([1, 2], 1, (), "a number"), ("450", 300, (), "a number"),
    pytest.param(10**400, 300, (), "a number", id="huge"),
    (3, "dash", ("dash", "scratch"), "one of dash, scratch, not 3"),
    ("dish", "dash", ("dash", "scratch"), "one of dash, scratch, not 'dish'"), (3, "worse", (), "a text, not 3")])
def test_a_prediction_of_the_wrong_kind_is_refused(value, example, among, message, work):
    with pytest.raises(ValueError, match=message):
        predict("01.snr", value, example=example, among=among)
    assert not work.exists()


@pytest.mark.parametrize(("value", "bounds", "message"), [
    (2.5, {"low": -1, "high": 1}, "between -1 and 1, not 2.5"), (-3, {"low": 0}, "between 0 and inf, not -3"),
    (67, {"low": 0, "high": 1}, r"between 0 and 1 \(a share: 50% is 0\.5\), not 67"),
    (1e9, {"high": 20}, "not 1e[+]09"), (3, {"among": (0.5, 2.0)}, "one of 0.5, 2.0, not 3")])
def test_a_number_out_of_its_range_is_refused_also_where_it_was_kept_before(value, bounds, message, work, capsys):
    with pytest.raises(ValueError, match=message):
        predict("01.x", value, example=0.5, **bounds)
    assert not work.exists()
    update(PREDICTIONS, "01.x", lambda entry: {"first": value, "value": value})
    assert predict("01.x", ..., example=0.5, **bounds) == 0.5 and guess_label("01.x") == "example"
    said = capsys.readouterr().out
    assert re.search(message, said) and "as an example: 0.5. Write your own" in said
    assert predict("01.x", 0.5, example=0.5, **bounds) == 0.5 and guess_label("01.x") == "my guess"
    assert kept(PREDICTIONS)["01.x"] == {"first": value, "value": 0.5}


@pytest.mark.parametrize("value", [-2, 4.0, 1])
def test_the_ends_of_a_range_belong_to_it(value):
    assert predict("01.x", value, example=1.0, low=-2, high=4) == value


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_every_number_that_the_series_asks_for_has_a_range_with_its_example_in_it(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    calls = [node for source in cells for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "predict"]
    assert calls
    for call in calls:
        given = {k.arg: k.value for k in call.keywords}
        example = ast.literal_eval(given["example"])
        if not isinstance(example, str) and "among" not in given:
            assert {"low", "high"} <= set(given), ast.unparse(call)
            low, high = (eval(ast.unparse(given[k]), {"schedule": cosine_schedule(1000)}) for k in ("low", "high"))
            assert low <= example <= high < math.inf, ast.unparse(call)


def test_whole_numbers_stay_whole():
    assert repr(predict("01.a", 4.0, example=3)) == "4" and repr(predict("01.b", 4, example=3.0)) == "4.0"
    assert predict("01.a", 4.5, example=3) == 4.5


@pytest.mark.parametrize("content", ["{ half", "[]", '{"answers": []}', '{"answers": {"01.1": 3}}', "\xff"])
def test_a_damaged_file_is_set_aside(content, work):
    work.parent.mkdir()
    work.write_bytes(content.encode("latin-1"))
    assert kept(ANSWERS) == {}
    assert update(ANSWERS, "01.1", lambda entry: {"passed": True}) == ""
    assert kept(ANSWERS) == {"01.1": {"passed": True}}
    assert work.with_suffix(".damaged.json").read_bytes() == content.encode("latin-1")


def test_a_kept_prediction_that_no_longer_fits_gives_way_to_the_example(work):
    update(PREDICTIONS, "06.arm", lambda entry: {"value": "a former arm"})
    assert predict("06.arm", ..., example="dash", among=("dash", "scratch")) == "dash"


def test_saving_leaves_the_other_kind_alone(work):
    predict("01.snr", 1, example=3)
    update(ANSWERS, "01.1", lambda entry: {"passed": True})
    assert set(json.loads(work.read_text())) == {PREDICTIONS, ANSWERS}
    assert [p.name for p in sorted(work.parent.iterdir())] in (["work.json"], ["work.json", "work.lock"])


def test_a_file_that_nests_deeply_is_set_aside(work):
    work.parent.mkdir(parents=True, exist_ok=True)
    work.write_text('{"predictions": {"x": {"value": ' + "[" * 400 + "]" * 400 + "}}}")
    assert update(PREDICTIONS, "x", lambda entry: entry | {"value": 1.0}) == ""
    assert kept(PREDICTIONS)["x"] == {"value": 1.0}
    assert work.with_name("work.damaged.json").is_file()
