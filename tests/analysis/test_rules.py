"""Intervals, shares and verdicts, against simulations with a known truth and against other routes."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dashkit.analysis.ledger import claim_ledger
from dashkit.analysis.rules import FAILS, HOLDS, OPEN, Bound, apply_rule, claim_rules, structural_rows
from dashkit.analysis.tables import RESULTS, by_seed, checked, published_results, source_of, write_published
from dashkit.experiments.profiles import PROFILES
from dashkit.method.arms import FACTORIAL, OBJECTIVES
from dashkit.method.statistics import Interval, bootstrap, shapley
from dashkit.storage import paths, tables


@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize("world", ["difference", "skewed", "share"])
def test_the_interval_covers_a_known_truth(n, world):
    """90 to 98% of 400 intervals, for a paired difference, for skewed numbers, and for a ratio of differences."""
    rng, hits = np.random.default_rng(n), 0
    for i in range(400):
        luck = rng.normal(size=n)
        if world == "difference":
            table = pd.DataFrame({"a": 1 + luck + 0.3 * rng.normal(size=n), "b": luck + 0.3 * rng.normal(size=n)})
            truth, statistic = 1.0, lambda m: m.a - m.b
        elif world == "skewed":
            table = pd.DataFrame({"a": rng.lognormal(0, 0.5, size=n)})
            truth, statistic = np.exp(0.125), lambda m: m.a
        else:
            table = pd.DataFrame({k: v + luck + 0.2 * rng.normal(size=n) for k, v in {"a": 3, "b": 1, "c": 0}.items()})
            truth, statistic = 2 / 3, lambda m: (m.a - m.b) / (m.a - m.c)
        found = bootstrap(table, statistic, draws=500, seed=i)
        hits += found.lo <= truth <= found.hi
    assert 0.90 <= hits / 400 <= 0.98


def test_the_interval_of_a_mean_is_about_students():
    values = np.random.default_rng(0).normal(size=12)
    found = bootstrap(pd.DataFrame({"a": values}), lambda m: m.a)
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / 12**0.5
    assert found.value == pytest.approx(values.mean())
    assert found.hi - found.lo == pytest.approx(2 * half, rel=0.1)


def test_pairing_is_kept():
    luck = np.random.default_rng(0).normal(size=8)
    found = bootstrap(pd.DataFrame({"a": luck + 1, "b": luck}), lambda m: m.a - m.b)
    assert found.lo == pytest.approx(1) and found.hi == pytest.approx(1)


def test_too_few_or_missing_seeds():
    few = bootstrap(pd.DataFrame({"a": [1.0, 2.0]}), lambda m: m.a)
    assert few.value == 1.5 and np.isnan(few.lo) and str(few) == "1.50 (n = 2)"
    assert Bound(0.0).verdict(few) == (OPEN, "needs 5 training seeds, has 2")
    with pytest.raises(ValueError, match="no value for b of seed 43"):
        bootstrap(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, np.nan]}, index=[42, 43]), lambda m: m.a)


def test_shapley_is_the_mean_over_orders():
    rng, players = np.random.default_rng(1), "UAT"
    value = {c: rng.normal() for c in FACTORIAL}
    orders = [("U", "A", "T"), ("U", "T", "A"), ("A", "U", "T"), ("A", "T", "U"), ("T", "U", "A"), ("T", "A", "U")]
    for p in players:
        gains = [value[frozenset(o[: o.index(p) + 1])] - value[frozenset(o[: o.index(p)])] for o in orders]
        assert shapley(value, players)[p] == pytest.approx(np.mean(gains))
    assert sum(shapley(value, players).values()) == pytest.approx(value[frozenset("UAT")] - value[frozenset()])


@pytest.mark.parametrize(("lo", "hi", "above", "verdict"), [
    (0.1, 0.5, True, HOLDS), (-0.1, 0.5, True, FAILS), (-0.5, -0.1, True, FAILS),
    (-0.5, -0.1, False, HOLDS), (-0.5, 0.1, False, FAILS), (0.0, 0.5, True, FAILS),
])
def test_a_claim_passes_only_with_the_end_of_its_interval(lo, hi, above, verdict):
    assert Bound(0.0, above=above).verdict(Interval((lo + hi) / 2, lo, hi, 8))[0] == verdict


# ------------------------------------------------------------------------------------------ tables that are wrong


def tidy(arms=("dash", "scratch"), seeds=(1, 2, 3, 4, 5), **values):
    end = (9, "cpu-1", "c")
    rows = [("p", "real", 1, "frechet", 2.0, *end), ("p", "teacher", 1, "frechet@w=1.5", 1.0, *end)]
    for i, arm in enumerate(arms):
        rows += [("p", arm, s, "frechet@w=1.5", 2 + i + 0.01 * s + 0.02 * (s * (i + 1) % 3), *end) for s in seeds]
    return pd.DataFrame(rows, columns=list(tables.COLUMNS)).assign(**values)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda t: t.rename(columns={"value": "val"}), "columns must be profile, arm"),
    (lambda t: pd.concat([t, t.assign(profile="q")]), "several profiles must not be mixed: p, q"),
    (lambda t: pd.concat([t, t.tail(1)]), "frechet@w=1.5 of scratch, seed 5, is there twice"),
    (lambda t: t.drop(index=t.index[-1]), "scratch has no results for seed 5"),
    (lambda t: pd.concat([t, t.tail(1).assign(metric="rho")]), "scratch has fewer measurements for some seeds"),
])
def test_a_table_that_is_not_whole_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        checked(spoil(tidy()))
    assert len(checked(tidy())) == 12


def test_several_commits_are_marked():
    assert source_of(tidy()) == "p, commit c"
    mixed = tidy()
    mixed.loc[0, "commit"] = "d"
    assert source_of(mixed) == "p, MIXED commits c, d"


def test_by_seed_divides_by_the_floor_and_repeats_the_teacher():
    table = by_seed(tidy(), "fd@w=1.5")
    assert list(table.teacher) == [0.5] * 5 and table.dash[1] == pytest.approx(2.03 / 2)
    assert by_seed(tidy(), "fd@best").equals(table)
    with pytest.raises(KeyError, match="rho"):
        by_seed(tidy(), "rho")


def test_a_rule_without_data_or_without_a_gain_is_not_testable():
    [c3, *_] = [r for r in claim_rules(FACTORIAL, w=1.5, w_max=4.0) if r.claim == "C3"]
    row = apply_rule(tidy(), c3, w_max=4.0)
    assert row["verdict"] == FAILS and row["n"] == 5 and row["ours"] == pytest.approx(1.5, rel=0.02)
    worse = tidy()
    worse.loc[1, "value"] = 99.0                          # the teacher is worse than scratch
    assert apply_rule(worse, c3, w_max=4.0)["verdict"] == OPEN
    assert apply_rule(tidy(), c3._replace(arms=("dash", "nobody")), w_max=4.0)["note"].startswith("not measured")
    assert apply_rule(tidy(seeds=(1, 2)), c3, w_max=4.0)["verdict"] == OPEN


def test_every_claim_has_a_rule_written_down():
    w = PROFILES["digits"]
    decided = {r.claim for r in claim_rules(FACTORIAL, w=w.w, w_max=max(w.ws))} | {"C1", "C8", "C13", "C15"}
    assert {f"C{i}" for i in range(1, 16)} <= decided
    one, several = structural_rows()
    assert (one["ours"], one["verdict"], several["ours"], several["verdict"]) == (1, HOLDS, 2, FAILS)


# ------------------------------------------------------------------------------------------ the committed tables


def test_published_tables_are_whole_and_have_enough_seeds():
    there = {p.parent.name for p in RESULTS.glob("*/results.csv")}
    assert "digits" in there
    for profile, seeds in {"digits": 8, "exact": 16}.items():
        if profile not in there:
            continue
        table = published_results(profile).table
        assert table[table.arm == "dash"].seed.nunique() >= seeds
        assert "MIXED" not in source_of(table)
    assert set(FACTORIAL.values()) <= set(published_results("digits").table.arm)


def test_the_ledger_is_what_the_tables_give_and_covers_every_claim():
    stored = pd.read_csv(RESULTS / "digits" / "ledger.csv").fillna("")
    fresh = claim_ledger().fillna("")
    assert {f"C{i}" for i in range(1, 16)} <= set(stored.claim)
    assert set(stored.verdict) <= {HOLDS, FAILS, OPEN}
    pd.testing.assert_frame_equal(stored, fresh, check_dtype=False, rtol=1e-6)


def test_every_row_of_the_ledger_leads_to_a_heading():
    for figure in set(claim_ledger().figure):
        name, _, anchor = figure.partition("#")
        cells = json.loads((paths.ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        text = "".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "markdown")
        heads = [re.sub(r"[^\w -]", "", head.lower()).strip() for head in re.findall(r"^#+ (.*)$", text, re.M)]
        assert anchor in [head.replace(" ", "-") for head in heads], figure


@pytest.mark.parametrize(("measure", "metric", "a", "b"), [
    ("cos of the gap, DASH - composite", "cos", "dash", "composite"),
    ("rho, gap_match - DASH", "rho", "gap_match", "dash"),
    ("without anchor - DASH, Fréchet/floor at w = 1.5", "frechet@w=1.5", "dash_no_an", "dash"),
])
def test_three_rows_of_the_ledger_by_another_route(measure, metric, a, b):
    """Student's paired interval, from the csv alone."""
    raw = pd.read_csv(RESULTS / "digits" / "results.csv")
    unit = raw.value[(raw.arm == "real") & (raw.metric == "frechet")].item() if metric.startswith("frechet") else 1.0
    part = raw[raw.metric == metric].sort_values("seed")
    x, y = (part[part.arm == arm].value.to_numpy() / unit for arm in (a, b))
    own = stats.ttest_rel(x, y).confidence_interval(0.95)
    ledger = pd.read_csv(RESULTS / "digits" / "ledger.csv")
    [row] = ledger[(ledger.measure == measure) & (ledger.profile == "digits")].to_dict("records")
    width = own.high - own.low
    assert row["ours"] == pytest.approx((x - y).mean(), abs=1e-6)
    assert abs(row["lo"] - own.low) < 0.25 * width and abs(row["hi"] - own.high) < 0.25 * width


def test_every_arm_has_the_learning_rate_that_tuning_chose():
    table = tables.read_table(RESULTS / "tuning" / "results.csv")
    untuned = {"composite_mild", "composite_an", "kd_drop", "no_un_noise"}          # added after that table was made
    assert set(table.arm) == {a for a, row in OBJECTIVES.items() if not row.reuses} - untuned
    for arm, part in table.groupby("arm"):
        chosen = float(part.metric[part.value.idxmin()].removeprefix("frechet@lr="))
        assert PROFILES["digits"].student_lr * OBJECTIVES[arm].lr == pytest.approx(chosen)


def test_counts_are_published_in_full_and_measurements_with_six_digits(tmp_path):
    table = tidy().assign(profile="digits")
    table["value"] = [1003137.0, 1234.56789, -0.000123456789, *table.value[3:]]
    write_published(table, {}, tmp_path / "digits")
    assert published_results("digits", tmp_path).table.value[:3].tolist() == [1003137, 1234.57, -0.000123457]


def test_a_changed_table_is_refused(tmp_path):
    write_published(tidy().assign(profile="digits"), {"device": "cpu-1"}, tmp_path / "digits")
    assert published_results("digits", tmp_path).source.startswith("published results of digits, commit c: 2 students")
    path = tmp_path / "digits" / "results.csv"
    path.write_text(path.read_text().replace("2.03", "1.03"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        published_results("digits", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no published results of exact \(published: digits\)"):
        published_results("exact", tmp_path)


def test_the_papers_figures_in_the_rules_are_those_of_the_reference_table():
    published = pd.read_csv(paths.ROOT / "data" / "reference" / "published.csv", dtype=str).set_index("arm")
    column = {"C3": "c10_fid", "C14": "c10_fid", "C4": "c10_rho", "C5": "c10_rho"}
    seen = 0
    for rule in claim_rules(FACTORIAL, w=1.5, w_max=4.0):
        if rule.claim in column and rule.paper:
            arms = ["cond_only"] if rule.claim == "C4" else rule.arms
            quoted = re.findall(r"\d+\.\d+", rule.paper)[:len(arms)]
            assert quoted == published.loc[list(arms), column[rule.claim]].tolist()
            seen += 1
        if rule.claim == "C2":
            dash, teacher = published.c10_fid.loc[["dash", "teacher"]].astype(float)
            assert rule.paper == f"{dash - teacher:+.2f} FID"
    assert seen >= 8
