"""Rules, preconditions and verdicts, against tables with a known truth and against other routes."""
import re

import numpy as np
import pandas as pd
import pytest

from dashkit.analysis.rules import (
    CONTRADICTED,
    HOLDS,
    NOT_TESTABLE,
    RANKS,
    UNDECIDED,
    Bound,
    Rule,
    apply_rule,
    claim_rules,
    exact_row,
    parts_of,
    structural_rows,
    unmet,
    with_holm,
)
from dashkit.analysis.statistics import Interval, shapley, smallest
from dashkit.method.arms import FACTORIAL, OBJECTIVES
from dashkit.storage import paths, tables

RULES = claim_rules(w=1.5, w_max=4.0)


@pytest.mark.parametrize(("lo", "hi", "bound", "verdict"), [
    (0.1, 0.5, "> 0", HOLDS), (-0.1, 0.5, "> 0", UNDECIDED), (-0.5, -0.1, "> 0", CONTRADICTED),
    (-0.5, -0.1, "< 0", HOLDS), (-0.5, 0.1, "< 0", UNDECIDED), (0.0, 0.5, "> 0", UNDECIDED),
    (0.7, 0.9, "0.6 to 1", HOLDS), (0.7, 1.1, "0.6 to 1", UNDECIDED), (0.1, 0.5, "0.6 to 1", CONTRADICTED),
    (1.1, 9.0, "0.6 to 1", NOT_TESTABLE), (-3.0, -1.0, "0.6 to 1", CONTRADICTED),
    (float("nan"), float("nan"), "> 0", UNDECIDED),
])
def test_a_verdict_needs_the_whole_interval_and_can_go_either_way(lo, hi, bound, verdict):
    assert Bound.read(bound).verdict(Interval((lo + hi) / 2, lo, hi, 8))[0] == verdict


def test_a_bound_is_read_or_refused():
    assert str(Bound.read("> -0.05")) == "the whole interval is above -0.05"
    assert str(Bound.read("< 0.23")) == "the whole interval is below 0.23"
    with pytest.raises(ValueError, match="a bound looks like '> 0'"):
        Bound.read(">= 0")


END = (9, "cpu-1", "c")


def tidy(r2=0.7, accuracy=0.99, teacher=1.0, seeds=(1, 2, 3, 4, 5), sets=1):
    """DASH at 2 and scratch at 3 times the floor, the teacher as given."""
    rows = [("p", "real", 1, "frechet", 2.0, *END), ("p", "real", 1, "accuracy", accuracy, *END)]
    for k in range(sets):
        name = (f"set{k}:" if k else "") + "frechet@w=1.5"
        rows += [("p", "teacher", 1, name, 2 * teacher, *END)]
        rows += [("p", arm, s, name, 2 * (2 + i) + 0.01 * s + 0.02 * (s * (i + 1) % 3) + 0.3 * k, *END)
                 for i, arm in enumerate(("dash", "scratch")) for s in seeds]
    rows += [("p", arm, s, "r2", r2, *END) for arm in ("dash", "scratch") for s in seeds]
    return pd.DataFrame(rows, columns=list(tables.COLUMNS))


def rule(**changes):
    return next(r for r in RULES if (r.claim, r.measure[:14]) == ("C3", "scratch - DASH"))._replace(**changes)


def test_a_rule_decides_where_its_preconditions_are_met_and_nowhere_else():
    good = apply_rule(tidy(), rule())
    assert good["verdict"] == HOLDS and good["n"] == 5 and good["ours"] == pytest.approx(1, abs=0.02)
    assert apply_rule(tidy(), rule(expression="dash - scratch"))["verdict"] == CONTRADICTED
    assert apply_rule(tidy(), rule(holds="> 1"))["verdict"] == UNDECIDED
    for table, note in ((tidy(r2=0.4), "needs r2 dash > 0.5, has 0.40"),
                        (tidy(accuracy=0.5), "needs accuracy real > 0.7, has 0.50"),
                        (tidy(teacher=9.0), "needs fd@w=1.5 scratch - teacher > 0, has -5.9")):
        row = apply_rule(table, rule())
        assert row["verdict"] == NOT_TESTABLE and row["note"].startswith(note) and row["ours"] == good["ours"]
    assert apply_rule(tidy(), rule(expression="dash - nobody"))["note"] == "not measured: fd@w=1.5 of nobody"
    assert apply_rule(tidy(), rule(needs="cos: dash > 0"))["note"] == "not measured: cos"
    few = apply_rule(tidy(seeds=(1, 2)), rule(needs=""))
    assert few["verdict"] == UNDECIDED and few["note"] == "needs 5 training seeds, has 2"
    assert unmet(tidy().assign(profile="digits"), "base: published") == (
        "needs the base curriculum published, has min_snr")


def test_sampling_sets_widen_an_interval_where_the_table_has_them():
    one, three = (apply_rule(tidy(sets=k), rule(expression="dash - teacher", needs="")) for k in (1, 3))
    assert three["ours"] == pytest.approx(one["ours"] + 0.15)
    assert three["hi"] - three["lo"] > 5 * (one["hi"] - one["lo"])


def test_holm_undoes_what_many_claims_find_by_luck():
    row = exact_row(Rule("C1", "primary", "", "", ""), 0.0, holds=True)
    rows = [row | {"p": p, "rank": rank} for p, rank in
            [(0.001, "primary"), (0.03, "primary"), (0.2, "primary"), (0.04, "secondary"), (np.nan, "primary")]]
    found = with_holm(rows)
    assert [r["verdict"] for r in found] == [HOLDS, UNDECIDED, UNDECIDED, HOLDS, HOLDS]
    assert [r["p"] for r in found[:4]] == pytest.approx([0.003, 0.06, 0.2, 0.04])
    assert found[1]["note"] == "holds alone, not after Holm's correction over 3 claims"


def test_the_smallest_part_of_an_expression_counts():
    means = pd.DataFrame({"a": [1.2, 0.5], "dash": [0.9, 0.9]})
    found = [part(means).tolist() for part in parts_of("1 - a; abs(1 - a) - abs(1 - dash)")]
    assert found == [pytest.approx([-0.2, 0.5]), pytest.approx([0.1, 0.4])]
    seeds = pd.concat([means[:1] + 0.01 * k for k in range(5)], ignore_index=True)
    assert smallest(seeds, parts_of("1 - a; abs(1 - a) - abs(1 - dash)")).value == pytest.approx(-0.22)


def test_the_rules_are_whole_and_name_what_there_is():
    decided = {r.claim for r in RULES} | {"C1", "C8", "C13", "C15"}
    assert {f"C{i}" for i in range(1, 16)} <= decided
    primaries = [r.claim for r in RULES if r.rank == "primary"]
    assert len(set(primaries)) == len(primaries) and {r.rank for r in RULES} == set(RANKS)
    assert len({(r.claim, r.measure) for r in RULES}) == len(RULES)
    for r in RULES:
        assert r.sentence and Bound.read(r.holds) and "{" not in "".join(r)
        names = set(re.findall(r"[a-z_][a-z_0-9]*", r.expression)) - {"abs"}
        known = {part.split(" = ")[0].strip() for part in r.metric.split(";")} if " = " in r.metric else set(OBJECTIVES)
        assert names <= known | {"teacher"}, r
    one, several = structural_rows()
    assert (one["ours"], one["verdict"], several["ours"], several["verdict"]) == (1, HOLDS, 2, CONTRADICTED)


def test_the_share_by_shapley_is_that_of_every_order():
    arms = list(FACTORIAL.values())
    means = pd.DataFrame(np.random.default_rng(0).normal(size=(3, len(arms))), columns=arms)
    [written] = [r.expression for r in RULES if "Shapley" in r.measure and "best" in r.measure]
    for i, found in parts_of(written)[0](means).items():
        value = {coalition: -means[arm][i] for coalition, arm in FACTORIAL.items()}
        assert found == pytest.approx(shapley(value, "UAT")["U"] / (value[frozenset("UAT")] - value[frozenset()]))


def test_the_papers_figures_in_the_rules_are_those_of_the_reference_table():
    published = pd.read_csv(paths.ROOT / "data" / "reference" / "published.csv", dtype=str).set_index("arm")
    quoted = {r.measure: r.paper for r in RULES if r.paper}
    fid = published[["c10_fid", "c100_fid"]].astype(float)
    remains = (fid.loc["dash"] - fid.loc["teacher"]) / (fid.loc["scratch"] - fid.loc["teacher"])
    for measure, paper in quoted.items():
        if "remains" in measure:
            assert paper == " / ".join(f"{v:.2f}" for v in remains)
        elif "removed" in measure:
            assert paper == " / ".join(f"{1 - v:.2f}" for v in remains)
        elif measure.startswith("smaller margin of"):
            arm = measure.split()[3].rstrip(":")
            assert paper == f"{published.c10_rho[arm]} - {published.c10_rho['dash']}"
        elif measure.startswith("rho of cond-only"):
            assert paper == published.c10_rho["cond_only"]
        elif re.fullmatch(r"\d+\.\d+ - \d+\.\d+ FID", paper):
            arm = measure.split(" - ")[0]
            assert paper == f"{published.c10_fid[arm]} - {published.c10_fid['dash']} FID"
        elif measure.startswith("DASH - teacher"):
            assert paper == f"{fid.c10_fid['dash'] - fid.c10_fid['teacher']:+.2f} FID"
    assert len(quoted) >= 20


@pytest.mark.parametrize("sets", [1, 3])
def test_a_rule_may_compare_what_was_measured_on_several_sampling_sets_with_what_was_not(sets):
    rule = Rule("L", "lead", "", "", "", metric="far = scratch fd@w=1.5; good = scratch r2", expression="far - good",
                holds="> 2")
    found = apply_rule(tidy(sets=sets), rule)
    assert found["ours"] == pytest.approx(tidy(sets=1).query(
        "arm == 'scratch' and metric == 'frechet@w=1.5'").value.mean() / 2 - 0.7)
    assert found["n"] == 5 and np.isfinite(found["lo"])
