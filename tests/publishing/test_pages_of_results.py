"""What the generated parts say must hang on the tables, and on the whole of them."""

import json

import numpy as np
import pandas as pd
import pytest

from dashkit.analysis.tables import Results, published_results
from dashkit.experiments.profiles import PROFILES, resolve
from dashkit.method.arms import OBJECTIVES
from dashkit.publishing import readme, study_pages
from dashkit.storage import paths, tables

END = (300, "cpu-1", "c")


def curves(dash, teacher):
    """A table of Fréchet distances by scale, with a list of values a seed (or teacher), and a floor of 1."""
    rows = [("p", "real", 1, "frechet", 1.0, *END)]
    rows += [("p", arm, seed, f"frechet@w={w:g}", value, *END) for arm, found in (("dash", dash), ("teacher", teacher))
             for w, values in found.items() for seed, value in enumerate(values, 1)]
    return pd.DataFrame(rows, columns=list(tables.COLUMNS))


def test_a_scale_that_was_chosen_on_the_other_students_does_not_gain_from_luck():
    dash = {1: [2.0, 2.0, 2.0, 2.0, 2.0], 2: [2.5] * 5}
    lucky = {1: [1.0, 2.1, 1.0, 2.0, 1.5], 2: [2.0, 1.0, 2.0, 1.0, 1.6]}     # the better is 1; what others choose is 2
    said = readme._chosen_elsewhere(curves(dash, lucky))
    found = float(said.split("difference is ")[1].split(" ")[0])
    best = 2.0 - np.minimum(lucky[1], lucky[2]).mean()
    assert found < best - 0.3 and found == pytest.approx(2.0 - np.mean([2.0, 2.1, 2.0, 2.0, 1.6]), abs=0.01)
    flat = {1: [1.0] * 5, 2: [1.5] * 5}                                       # nothing to choose: the same either way
    assert "difference is 1" in readme._chosen_elsewhere(curves(dash, flat))


@pytest.mark.parametrize("part", [readme._pictured, lambda t: readme._photographs(Results(t, "a table"))])
def test_what_is_said_of_photographs_counts_every_sampling_set(part):
    table = published_results("cifar16").table
    other = table.metric.str.startswith("set1:frechet@")
    assert other.any() and part(table) != part(table.assign(value=table.value.where(~other, 2 * table.value)))


@pytest.mark.parametrize("part", study_pages.PHOTOGRAPHS.values())
def test_the_pages_of_studies_hold_what_photographs_say(part):
    assert "Source: published results of cifar16" in part(readme.RESULTS)


def test_a_best_scale_at_the_end_of_the_grid_is_said():
    table, strong = published_results("cifar16").table, PROFILES["cifar16"].ws[-1]
    at_end = table.metric.str.endswith(f"frechet@w={strong:g}") & (table.arm != "real")
    for factor, count in ((1e-3, 4), (1e3, 0)):
        said = readme._photographs(Results(table.assign(value=table.value.where(~at_end, factor * table.value)), "a"))
        assert said.count("the largest that was measured") == count


def test_an_arm_of_ones_own_is_added_as_notebook_04_shows(monkeypatch):
    path = next((paths.ROOT / "notebooks").glob("04_*.ipynb"))
    cells = {c["id"]: "".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]}
    monkeypatch.setitem(OBJECTIVES, "mine", None)                             # and put back afterwards
    exec(cells["04-end-text"].split("```python\n")[1].split("```")[0], space := {})
    assert resolve("digits", **space["settings"]).arms == (*PROFILES["digits"].arms, "mine")
