"""Rules for claims, read from `data/reference/rules.csv`, and the four verdicts that they give.

A rule says what is measured, when the claim holds, and what must be true before it can be tested here at all.
"""

import re
from collections.abc import Sequence
from functools import partial
from math import isfinite, isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from dashkit.analysis.statistics import MIN_SEEDS, Interval, Statistic, holm, smallest, smallest_p
from dashkit.analysis.tables import RULES, STUDY_RULES, by_seed, by_unit
from dashkit.experiments.profiles import PROFILES

HOLDS, CONTRADICTED, UNDECIDED, NOT_TESTABLE = "holds", "contradicted", "undecided", "not testable here"
RANKS = ("primary", "secondary", "lead")


class Bound(NamedTuple):
    """Where the whole interval of a statistic must lie for its claim to hold: between two numbers, one may be infinite.

    >>> Bound.read("> 0.6"), str(Bound.read("0.6 to 1"))
    (Bound(lo=0.6, hi=inf), 'the whole interval is in [0.6, 1]')
    """

    lo: float
    hi: float

    @classmethod
    def read(cls, text: str) -> "Bound":
        """From `> 0`, `< 0.5`, or `0.6 to 1`; the last is a share, which means nothing outside [0, 1]."""
        found = re.fullmatch(r"([<>]) (\S+)|(\S+) to 1", text)
        if not found:
            raise ValueError(f"a bound looks like '> 0', '< 0.5' or '0.6 to 1', not {text!r}")
        side, number, share = found.groups()
        if share:
            return cls(float(share), 1.0)
        return cls(float(number), np.inf) if side == ">" else cls(-np.inf, float(number))

    @property
    def is_share(self) -> bool:
        return isfinite(self.lo) and isfinite(self.hi)

    def verdict(self, found: Interval) -> tuple[str, str]:
        """The verdict on an interval, and a note on it."""
        if not isfinite(found.lo):
            return UNDECIDED, f"needs {MIN_SEEDS} training seeds, has {found.n}"
        if self.is_share and found.lo > 1:
            return NOT_TESTABLE, "no share: it lies above 1, so the reference lacks more than this part"
        if self.lo < found.lo and found.hi < self.hi:
            return HOLDS, ""
        if found.hi < self.lo or found.lo > self.hi:
            return CONTRADICTED, "the whole interval is on the other side"
        return UNDECIDED, "the interval includes the bound"

    def __str__(self) -> str:
        if self.is_share:
            return f"the whole interval is in [{self.lo:g}, {self.hi:g}]"
        side, number = ("above", self.lo) if isfinite(self.lo) else ("below", self.hi)
        return f"the whole interval is {side} {number:g}"


class Rule(NamedTuple):
    """One line of the ledger, before any number is known."""

    claim: str             # C1 to C15 of the paper; L for a lead of our own
    rank: str              # primary: it decides the claim; secondary; or lead
    sentence: str          # the claim in words
    measure: str           # what `ours` is
    paper: str             # the published figure, empty for a lead
    metric: str = ""       # of `by_seed`; or names for the expression: "name = arm metric; ..."
    expression: str = ""   # of means; with ; between: see `statistics.smallest`
    holds: str = ""        # see `Bound.read`; words, for a claim that needs no seeds
    needs: str = ""        # preconditions, with ; between: "metric: expression > number", or "base: published"
    figure: str = ""       # where it is drawn: notebook and heading


def claim_rules(*, w: float, w_max: float, path: Path = RULES) -> list[Rule]:
    """Every rule that training seeds decide; w is the fixed scale, w_max the strongest one."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return [Rule(*(cell.replace("{w}", f"{w:g}").replace("{w_max}", f"{w_max:g}") for cell in row))
            for row in table[list(Rule._fields)].itertuples(index=False)]


def parts_of(expression: str) -> list[Statistic]:
    """An expression's parts, with ; between, as functions of a table of means with a column an arm."""
    return [partial(pd.DataFrame.eval, expr=part.strip(), engine="python") for part in expression.split(";")]


def _names(expression: str) -> list[str]:
    return [n for n in dict.fromkeys(re.findall(r"[a-z_][a-z_0-9]*", expression)) if n != "abs"]


def asked_for(metric: str, expression: str) -> dict[str, tuple[str, str]]:
    """The arm and the metric of `by_unit` that each name of an expression stands for."""
    wanted = _names(expression)
    if " = " not in metric:
        return {name: (name, metric) for name in wanted}
    pairs = [part.strip().partition(" = ") for part in metric.split(";")]
    sources = {name: source.split(" ", 1) for name, _, source in pairs}
    return {name: (sources[name][0], sources[name][1]) for name in wanted}


def _columns(results: pd.DataFrame, metric: str, expression: str) -> pd.DataFrame:
    """What an expression is about: a row a training seed (or a teacher, sampling set and seed), a column a name."""
    wanted = asked_for(metric, expression)
    if set(wanted) == {"real"}:
        return results[(results.arm == "real") & (results.metric == metric)].set_index("seed")[["value"]].set_axis(
            list(wanted), axis=1)
    sources = dict.fromkeys(source for _, source in wanted.values())
    tables = {source: by_unit(results, source) for source in sources}
    if len({tuple(table.index.names) for table in tables.values()}) > 1:      # not all were measured on several sets
        tables = {source: by_seed(results, source) for source in sources}
    for arm, source in wanted.values():
        if arm not in tables[source]:
            raise KeyError(f"{source} of {arm}")
    return pd.DataFrame({name: tables[source][arm] for name, (arm, source) in wanted.items()})


def unmet(results: pd.DataFrame, needs: str) -> str:
    """The first precondition that fails, with what was found; empty if all are met.  KeyError if one was not measured.
    """
    for need in filter(None, (part.strip() for part in needs.split(";"))):
        metric, _, condition = need.partition(": ")
        if metric == "base":
            base = PROFILES[results.profile.iloc[0]].base if results.profile.iloc[0] in PROFILES else "unknown"
            if base != condition:
                return f"needs the base curriculum {condition}, has {base}"
            continue
        expression, bound = re.fullmatch(r"(.*) ([<>] \S+)", condition).groups()
        table = _columns(results, metric, expression)
        found = smallest(table, parts_of(expression))
        if table.nunique().max() == 1 or not isfinite(found.lo):
            found = found._replace(lo=found.value, hi=found.value)
        if Bound.read(bound).verdict(found)[0] != HOLDS:
            has = f"{found.value:.2f}" if found.lo == found.hi else str(found)
            return f"needs {metric} {expression} {bound}, has {has}"
    return ""


def apply_rule(results: pd.DataFrame, rule: Rule) -> dict:
    """One row of the ledger: the rule applied to a `checked` results table."""
    row = _row(rule, ours=np.nan, n=0) | {"rule": str(Bound.read(rule.holds))}
    try:
        table = _columns(results, rule.metric, rule.expression)
        if table.isna().any().any():
            raise KeyError(", ".join(table.columns[table.isna().any()]))
        missing = unmet(results, rule.needs)
    except KeyError as error:
        return row | {"note": f"not measured: {error.args[0]}"}
    parts, bound = parts_of(rule.expression), Bound.read(rule.holds)
    found = smallest(table, parts)
    row |= {"ours": found.value, "lo": found.lo, "hi": found.hi, "n": found.n}
    if missing:
        return row | {"note": missing}
    verdict, note = bound.verdict(found)
    p = max(smallest_p(table, parts, at=at) for at in bound if isfinite(at))
    return row | {"p": p, "verdict": verdict, "note": note}


def study_rows(results: pd.DataFrame) -> pd.DataFrame:
    """The ledger of a study: its registered rules applied to its table, Holm's correction over their primary rows.

    Rules of other studies are left out: those whose arms this one does not have.
    """
    rows = [apply_rule(results, rule) for rule in claim_rules(w=1.5, w_max=4.0, path=STUDY_RULES)]
    return pd.DataFrame(with_holm([row for row in rows if not row["note"].startswith("not measured")]))


def with_holm(rows: Sequence[dict]) -> list[dict]:
    """Ledger rows of one profile with Holm's correction over the primaries: a verdict that does not survive it is
    undecided."""
    tested = [r for r in rows if r["rank"] == "primary" and not isnan(r["p"])]
    adjusted = dict(zip((id(r) for r in tested), holm([r["p"] for r in tested]), strict=True))
    return [r | {"p": adjusted[id(r)]} | ({"verdict": UNDECIDED, "note": f"{r['verdict']} alone, not after Holm's "
            f"correction over {len(tested)} claims"} if adjusted[id(r)] > 0.05 and r["verdict"] in
            (HOLDS, CONTRADICTED) else {}) if id(r) in adjusted else r for r in rows]


def _row(rule: Rule, *, ours: float, n: int) -> dict:
    """A row of the ledger before its verdict."""
    return {"claim": rule.claim, "rank": rule.rank, "sentence": rule.sentence, "measure": rule.measure,
            "paper": rule.paper, "ours": ours, "lo": ours, "hi": ours, "n": n, "p": np.nan, "verdict": NOT_TESTABLE,
            "rule": rule.holds, "needs": rule.needs, "note": "", "figure": rule.figure}


def exact_row(rule: Rule, value: float, *, holds: bool | None, note: str = "") -> dict:
    """One row of the ledger that needs no seeds: a count, or `holds=None` for a claim that cannot be tested here."""
    if holds is None:
        return _row(rule, ours=value, n=0) | {"note": note}
    return _row(rule, ours=value, n=1) | {"verdict": HOLDS if holds else CONTRADICTED, "note": note}


def structural_rows() -> list[dict]:
    """C8, by linear algebra: which composite losses identify both branches."""
    from dashkit.method.losses import composite_metric

    ranks = {n: torch.linalg.matrix_rank(composite_metric(torch.arange(1.0, n + 1))).item() for n in (1, 2, 4)}
    several = min(ranks[2], ranks[4])
    where = "03_is_the_gap_underdetermined#several-scales-from-rank-to-conditioning"
    return [
        exact_row(Rule("C8", "primary", "A composite loss at one scale cannot identify the gap",
                       "rank of the composite metric for one w", "cannot identify the gap",
                       holds="holds for one w if the rank is below 2", figure=where), ranks[1], holds=ranks[1] < 2),
        exact_row(Rule("C8", "secondary", "A composite loss at several scales cannot identify the gap",
                       "rank for two scales, and for four", "cannot identify the gap",
                       holds="holds for several w if the rank is below 2", figure=where), several, holds=several < 2),
    ]
