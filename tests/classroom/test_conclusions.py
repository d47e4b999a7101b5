"""Sentences that interpret results: said where they hold, and held against the published digits."""

import ast
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from dashkit.analysis import calibration_table, published_results
from dashkit.classroom import conclude, conclusions, plots
from dashkit.classroom.notebooks import notebook_paths
from dashkit.experiments import PROFILES


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv(conclusions.STRICT, "1")


@pytest.mark.parametrize("holds", [True, np.True_, pd.Series([1.0]).gt(0).all()])
def test_a_sentence_that_holds_is_said(holds, strict, capsys):
    conclude("A is above B.", holds, profile="digits")
    assert capsys.readouterr().out == "A is above B.\n"


def test_a_false_sentence_about_digits_is_an_error_in_the_projects_own_test(strict):
    with pytest.raises(AssertionError, match=r"false of the profile digits: A is above B\."):
        conclude("A is above B.", False, profile="digits")


@pytest.mark.parametrize(("profile", "value"), [("smoke", "1"), ("digits", "0"), ("digits", "")])
def test_elsewhere_a_reader_is_told_that_it_does_not_hold(profile, value, monkeypatch, capsys):
    monkeypatch.setenv(conclusions.STRICT, value)
    conclude("A is above B.", np.False_, profile=profile)
    assert capsys.readouterr().out == f"The profile {profile} does not show this here: A is above B.\n"


def said_about_results(notebook):
    """The cells of a notebook that speak about results with `conclude`."""
    return [c for c in notebook.cells if c.cell_type == "code" and re.search(r"^\s*conclude\(", c.source, re.M)]


def test_what_notebook_04_says_of_the_digits_is_true_of_their_published_table(strict, capsys):
    from types import SimpleNamespace

    [path] = notebook_paths(["04"])
    results, p = published_results("digits").table, PROFILES["digits"]
    results = results[results.arm.isin(["teacher", "real", *p.arms])]
    wide = plots.w_curve(results).groupby(["arm", "w"]).value.mean().unstack("w")
    errors = results[results.metric.isin(["cond_error", "uncond_error"])]
    names = {"conclude": conclude, "np": np, "results": results, "run": SimpleNamespace(profile=p), "wide": wide,
             "card": calibration_table(results, w=p.w), "zero": 0.85,
             "errors": errors.pivot_table(index="arm", columns="metric", values="value"),
             "distance": np.log(wide / wide.loc["teacher"]).abs().mean(axis=1).drop("teacher")}
    cells = said_about_results(nbformat.read(path, as_version=4))
    for cell in cells:
        source = re.sub(r"^zero = .*", "", cell.source, flags=re.M)          # measured on the notebook's own batch
        exec(source, names)
    assert len(cells) >= 4
    assert capsys.readouterr().out.count(".\n") >= 6


def test_what_notebook_02_says_of_the_digits_teacher_is_true_of_its_published_curve(strict, capsys):
    from types import SimpleNamespace

    [path] = notebook_paths(["02"])
    results, p = published_results("digits").table, PROFILES["digits"]
    real = results[results.arm == "real"].groupby("metric").value.mean()
    curve = plots.w_curve(results[results.arm.isin(["teacher", "real"])]).groupby("w").value.mean()
    names = {"conclude": conclude, "run": SimpleNamespace(profile=p), "curve": curve, "best": curve.idxmin(),
             "scatter": real.frechet_sd / real.frechet}
    [cell] = [c for c in said_about_results(nbformat.read(path, as_version=4)) if c.id == "02-sweep-said"]
    exec(cell.source, names)
    assert capsys.readouterr().out.count("\n") == 3


def test_what_notebook_05_says_of_the_digits_curriculum_is_true_of_their_published_teacher():
    spearman = published_results("digits").table.query("arm == 'teacher' and metric == 'spearman'").value
    assert len(spearman) > 0 and spearman.max() < -0.5


LEAST = {"00": 8, "01": 13, "02": 5, "03": 14, "04": 8, "05": 10, "06": 14, "07": 5, "08": 5, "09": 2, "10": 2,
         "12": 16}
"""How many sentences a notebook says with `conclude`, at least."""


@pytest.mark.parametrize("number", LEAST)
def test_sentences_are_said_with_conclude_and_name_the_profile_of_their_results(number):
    [path] = notebook_paths([number])
    cells = said_about_results(nbformat.read(path, as_version=4))
    calls = [n for c in cells for n in ast.walk(ast.parse(c.source))
             if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "conclude"]
    assert len(calls) >= LEAST[number]
    assert all({k.arg for k in call.keywords} & {"profile", None} for call in calls)
    assert all(ast.unparse(call.args[0]).strip("f'\"").endswith(".") for call in calls), "a sentence ends with a dot"
