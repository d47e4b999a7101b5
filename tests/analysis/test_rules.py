"""Intervals, shares and verdicts, against simulations with a known truth and against other routes."""
import re

import pandas as pd
import pytest

from dashkit.analysis.rules import FAILS, HOLDS, OPEN, Bound, apply_rule, claim_rules, structural_rows
from dashkit.experiments.profiles import PROFILES
from dashkit.method.arms import FACTORIAL
from dashkit.method.statistics import Interval
from dashkit.storage import paths, tables


@pytest.mark.parametrize(("lo", "hi", "above", "verdict"), [
    (0.1, 0.5, True, HOLDS), (-0.1, 0.5, True, FAILS), (-0.5, -0.1, True, FAILS),
    (-0.5, -0.1, False, HOLDS), (-0.5, 0.1, False, FAILS), (0.0, 0.5, True, FAILS),
])
def test_a_claim_passes_only_with_the_end_of_its_interval(lo, hi, above, verdict):
    assert Bound(0.0, above=above).verdict(Interval((lo + hi) / 2, lo, hi, 8))[0] == verdict





def tidy(arms=("dash", "scratch"), seeds=(1, 2, 3, 4, 5), **values):
    end = (9, "cpu-1", "c")
    rows = [("p", "real", 1, "frechet", 2.0, *end), ("p", "teacher", 1, "frechet@w=1.5", 1.0, *end)]
    for i, arm in enumerate(arms):
        rows += [("p", arm, s, "frechet@w=1.5", 2 + i + 0.01 * s + 0.02 * (s * (i + 1) % 3), *end) for s in seeds]
    return pd.DataFrame(rows, columns=list(tables.COLUMNS)).assign(**values)


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
