import hashlib
import json
import re

import pandas as pd
import pytest
from scipy import stats

from dashkit.analysis.rules import CONTRADICTED, HOLDS, NOT_TESTABLE, UNDECIDED, apply_rule, claim_rules
from dashkit.analysis.statistics import bootstrap
from dashkit.analysis.tables import RESULTS, by_seed, published_results
from dashkit.storage import paths, store, tables


def test_the_ledger_is_what_the_tables_give_and_covers_every_claim(ledger):
    stored = pd.read_csv(RESULTS / "digits" / "ledger.csv").fillna("")
    fresh = ledger.fillna("")
    assert {f"C{i}" for i in range(1, 16)} <= set(stored.claim)
    assert set(stored.verdict) <= {HOLDS, CONTRADICTED, UNDECIDED, NOT_TESTABLE}
    pd.testing.assert_frame_equal(stored, fresh, check_dtype=False, rtol=1e-6)
    students = stored[(stored.profile == "exact") & (stored["rank"] != "structural")]
    assert set(students.verdict) == {NOT_TESTABLE}                # its students explain nothing of the teacher's gap


def test_every_row_of_the_ledger_leads_to_a_heading(ledger):
    for figure in set(ledger.figure):
        name, _, anchor = figure.partition("#")
        cells = json.loads((paths.ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        text = "".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "markdown")
        heads = [re.sub(r"[^\w -]", "", head.lower()).strip() for head in re.findall(r"^#+ (.*)$", text, re.M)]
        assert anchor in [head.replace(" ", "-") for head in heads], figure


@pytest.mark.parametrize(("measure", "metric", "a", "b"), [
    ("cos of the gap, DASH - composite", "cos", "dash", "composite"),
    ("R² of the gap, DASH - gap_match", "r2", "dash", "gap_match"),
    ("without anchor - DASH, Fréchet/floor at w = 1.5", "frechet@w=1.5", "dash_no_an", "dash"),
])
def test_three_rows_of_the_ledger_by_another_route(measure, metric, a, b):
    """Student's paired interval over teachers, from the csv alone."""
    raw = pd.read_csv(RESULTS / "digits" / "results.csv")
    unit = raw.value[(raw.arm == "real") & (raw.metric == "frechet")].mean() if metric.startswith("frechet") else 1.0
    part = raw[raw.metric == metric].sort_values("seed")
    teachers = sorted(raw[raw.arm == "teacher"].seed.unique(), reverse=True)
    own = part.seed.map(lambda seed: next(t for t in teachers if t <= seed))
    x, y = (part[part.arm == arm].groupby(own).value.mean().to_numpy() / unit for arm in (a, b))
    own = stats.ttest_rel(x, y).confidence_interval(0.95)
    ledger = pd.read_csv(RESULTS / "digits" / "ledger.csv")
    [row] = ledger[(ledger.measure == measure) & (ledger.profile == "digits")].to_dict("records")
    width = own.high - own.low
    assert row["ours"] == pytest.approx((x - y).mean(), abs=1e-6)
    assert abs(row["lo"] - own.low) < 0.25 * width and abs(row["hi"] - own.high) < 0.25 * width


def test_what_the_second_students_would_change_is_what_the_page_says():
    """They were left out after a look at them: docs/results.md says what they would change."""
    path = RESULTS / "digits" / "second_students.csv"
    known = store.read_json(RESULTS / "digits" / "manifest.json", "second_students")["second_students"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known
    second = tables.read_table(path)
    first = published_results("digits").table
    teachers = sorted(first[first.arm == "teacher"].seed.unique())[:3]
    assert set(second.seed) == {t + 1 for t in teachers}
    both = pd.concat([first[first.seed.isin(teachers)], second], ignore_index=True)
    found = bootstrap(by_seed(both, "fd@best")[["dash", "kd_drop"]], lambda m: m.kd_drop - m.dash)
    assert found.n == 6 and found.lo < 0 < found.hi
    [share] = [r for r in claim_rules(w=1.5, w_max=4.0) if r.claim == "C7" and r.rank == "primary"]
    assert apply_rule(both, share)["verdict"] == NOT_TESTABLE
