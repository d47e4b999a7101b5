"""Intervals over training seeds, shares of a gain, and verdicts by rules that were written before the sweep.  Layer 2.

All resampling is of training seeds, jointly across arms: the arms of one seed share their randomness, so their
differences are paired.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial, isfinite
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats

from dashkit.runs import COLUMNS

MIN_SEEDS = 5
HOLDS, FAILS, OPEN = "holds", "does not hold", "not testable here"


class Interval(NamedTuple):
    """An estimate with its 95% interval over n training seeds; the ends are NaN for fewer than `MIN_SEEDS`."""

    value: float
    lo: float
    hi: float
    n: int

    def __str__(self) -> str:
        if not isfinite(self.lo):
            return f"{self.value:.2f} (n = {self.n})"
        width = self.hi - self.lo
        d = min(max(2, 1 - math.floor(math.log10(width))), 4) if width > 0 else 2      # two digits of the width
        return f"{self.value:.{d}f} [{self.lo:.{d}f}, {self.hi:.{d}f}]"


Statistic = Callable[[pd.DataFrame], pd.Series]
"""A function of the seed means of several columns, row by row."""


def bootstrap(values: pd.DataFrame, statistic: Statistic, *, draws: int = 10_000, seed: int = 0) -> Interval:
    """The expanded percentile interval (Hesterberg, 2015) of a statistic of seed means.

    values has one row a training seed and one column an arm (or a metric); `statistic` maps a table of means with these
    columns to one number a row.  The percentiles are widened so that the interval of a mean of few normal values is as
    long as Student's.  ValueError for missing values.

    >>> table = pd.DataFrame({"scratch": [3.0, 3.5, 3.1, 3.3, 3.2], "dash": [2.0, 2.4, 2.2, 2.1, 2.3]})
    >>> print(bootstrap(table, lambda m: m.scratch - m.dash))
    1.02 [0.90, 1.18]
    """
    if values.isna().any().any():
        missing = [f"{c} of seed {s}" for c in values for s in values.index[values[c].isna()]]
        raise ValueError(f"no value for {', '.join(missing[:3])}: an interval needs every arm for every seed")
    n, x = len(values), values.to_numpy(dtype=float)
    value = float(statistic(values.mean().to_frame().T).iloc[0])
    if n < MIN_SEEDS:
        return Interval(value, np.nan, np.nan, n)
    index = np.random.default_rng(seed).integers(n, size=(draws, n))
    drawn = statistic(pd.DataFrame(x[index].mean(axis=1), columns=values.columns)).to_numpy()
    tail = NormalDist().cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    lo, hi = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(lo), float(hi), n)


def shapley(value: Mapping[frozenset, float], players: Sequence[str]) -> dict[str, float]:
    """Each player's Shapley share of value(all) - value(none), from the value of every coalition.

    >>> v = {frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 5.0}
    >>> shapley(v, "ab")
    {'a': 2.0, 'b': 3.0}
    """
    n, shares = len(players), {}
    for p in players:
        others = [q for q in players if q != p]
        shares[p] = sum(
            factorial(k) * factorial(n - k - 1) / factorial(n) * (value[frozenset(s) | {p}] - value[frozenset(s)])
            for k in range(n) for s in combinations(others, k)
        )
    return shares


def checked(results: pd.DataFrame) -> pd.DataFrame:
    """A tidy results table that may be analysed: one profile, no row twice, every seed for every student.

    ValueError says what is wrong; results of several commits are allowed, and `source` says so.
    """
    if tuple(results.columns) != COLUMNS:
        raise ValueError(f"columns must be {', '.join(COLUMNS)}; found {', '.join(map(str, results.columns))}")
    profiles = sorted(results.profile.unique())
    if len(profiles) != 1:
        raise ValueError(f"results of several profiles must not be mixed: {', '.join(profiles)}")
    twice = results[results.duplicated(["arm", "seed", "metric"])]
    if len(twice):
        raise ValueError(f"{twice.iloc[0].metric} of {twice.iloc[0].arm}, seed {twice.iloc[0].seed}, is there twice")
    students = results[~results.arm.isin(["real", "teacher"])]
    seeds = set(students.seed)
    for arm, part in students.groupby("arm"):
        if set(part.seed) != seeds:
            raise ValueError(f"{arm} has no results for seed {', '.join(map(str, sorted(seeds - set(part.seed))))}")
        if part.groupby("seed").size().nunique() != 1:
            raise ValueError(f"{arm} has fewer measurements for some seeds than for others")
    return results


def source(results: pd.DataFrame) -> str:
    """The profile and commit that a table comes from, marked if there are several commits."""
    commits = sorted(results.commit.unique())
    return f"{results.profile.iloc[0]}, " + ("commit " if len(commits) == 1 else "MIXED commits ") + ", ".join(commits)


def by_seed(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric as a table: a row a training seed, a column an arm.

    The teacher, trained once, has its value in every row.  `fd@w=1.5` is the Fréchet distance over the real-vs-real
    floor, `fd@best` the smallest over constant scales.  KeyError for a metric that is not there.
    """
    if metric.startswith("fd@"):
        name = metric.removeprefix("fd@")
        wanted = results.metric.str.startswith("frechet@w=") if name == "best" else results.metric == f"frechet@{name}"
        part = results[wanted & (results.arm != "real")].groupby(["arm", "seed"], sort=False).value.min().reset_index()
        part["value"] /= results.query("arm == 'real' and metric == 'frechet'").value.item()
    else:
        part = results[(results.metric == metric) & (results.arm != "real")]
    if part.empty:
        raise KeyError(metric)
    table = part.pivot(index="seed", columns="arm", values="value")
    if "teacher" in table:
        own = table.pop("teacher").dropna().item()
        if table.shape[1]:
            table = table.dropna(how="all").assign(teacher=own)
        else:
            table["teacher"] = own
    return table


def intervals(results: pd.DataFrame, metric: str, arms: Sequence[str] | None = None) -> pd.DataFrame:
    """A metric's mean over training seeds with its interval: columns value, lo, hi, n, a row an arm.

    The teacher has one training seed here and therefore no interval.
    """
    table = by_seed(results, metric)
    names = [a for a in (arms or results.arm.unique()) if a in table and a != "teacher"]
    return pd.DataFrame({a: bootstrap(table[[a]], lambda m, a=a: m[a])._asdict() for a in names}).T


# ------------------------------------------------------------------------------------------------------------ verdicts


class Bound(NamedTuple):
    """When a claim holds: with its interval wholly above (or below) a number."""

    at: float
    above: bool = True

    def verdict(self, found: Interval) -> tuple[str, str]:
        """The verdict and a note on it."""
        if not isfinite(found.lo):
            return OPEN, f"needs {MIN_SEEDS} training seeds, has {found.n}"
        if (found.lo > self.at) if self.above else (found.hi < self.at):
            return HOLDS, ""
        opposite = (found.hi < self.at) if self.above else (found.lo > self.at)
        return FAILS, "the whole interval is on the other side" if opposite else "the interval includes the bound"

    def __str__(self) -> str:
        return f"the {'lower' if self.above else 'upper'} end is {'above' if self.above else 'below'} {self.at:g}"


class Rule(NamedTuple):
    """One line of the ledger, before any number is known."""

    claim: str             # C1 to C15 of the paper; L for a lead of our own
    measure: str           # what `ours` is
    paper: str             # the published figure, empty for a lead
    metric: str            # of `by_seed`
    arms: tuple[str, ...]  # that the statistic needs
    statistic: Statistic
    bound: Bound
    figure: str            # where it is drawn: notebook and heading
    gain: Statistic | None = None   # a share's denominator, whose own interval must be above 0


def _minus(a: str, b: str) -> Statistic:
    return lambda m: m[a] - m[b]


def _share_of(players: str, wanted: str, table: Mapping[frozenset, str]) -> Statistic:
    def share(m: pd.DataFrame) -> pd.Series:
        values = {coalition: -m[arm] for coalition, arm in table.items()}
        return shapley(values, players)[wanted] / (values[frozenset(players)] - values[frozenset()])
    return share


def rules(factorial_arms: Mapping[frozenset, str], *, w: float, w_max: float) -> list[Rule]:
    """Every rule that is decided by training seeds; w is the fixed scale, w_max the strongest."""
    fd, best, strong = f"fd@w={w:g}", "fd@best", f"frechet_teacher@w={w_max:g}"
    at_w, at_best = f"Fréchet/floor at w = {w:g}", "Fréchet/floor at its best w"
    gaps, parts, cost = "06_measuring_calibration", "07_which_part_did_the_work", "08_cost_and_rivals"
    out = [
        Rule("C2", f"DASH - teacher, {at_best}", "+3.40 FID", best, ("dash", "teacher"), _minus("dash", "teacher"),
             Bound(1.0, above=False), f"{cost}#quality"),
        Rule("C3", f"scratch / DASH, {at_best}", "20.47 / 8.87 = 2.31", best, ("scratch", "dash"),
             lambda m: m.scratch / m.dash, Bound(1.5), f"{cost}#quality", lambda m: m.scratch - m.teacher),
        Rule("C3", f"scratch - DASH, {at_w}", "20.47 - 8.87 FID", fd, ("scratch", "dash"),
             _minus("scratch", "dash"), Bound(0.0), f"{cost}#quality", lambda m: m.scratch - m.teacher),
        Rule("C4", "rho of cond-only", "0.09", "rho", ("cond_only",), lambda m: m.cond_only, Bound(0.5, above=False),
             f"{gaps}#collapse"),
        Rule("C4", "rho of cond-only, its null row set to 0", "0.09", "rho@null=0", ("cond_only",),
             lambda m: m.cond_only, Bound(0.5, above=False), f"{gaps}#collapse"),
        Rule("C4", "rho of cond-only with 10% label dropout of the student", "0.09", "rho", ("label_drop_10",),
             lambda m: m.label_drop_10, Bound(0.5, above=False), f"{gaps}#collapse"),
    ]
    for arm, rho in (("composite", "0.68"), ("multi_w", "0.75"), ("fitnets", "0.63"), ("gap_match", "0.81")):
        out += [
            Rule("C5", f"rho, {arm} - DASH", f"{rho} - 0.91", "rho", (arm, "dash"), _minus(arm, "dash"),
                 Bound(0.0, above=False), f"{gaps}#one-number-is-not-enough"),
            Rule("C5", f"R² of the gap, DASH - {arm}", "", "r2", (arm, "dash"), _minus("dash", arm), Bound(0.0),
                 f"{gaps}#one-number-is-not-enough"),
        ]
    out.append(Rule("C6", "cos of the gap, DASH - composite", "0.92 - 0.68", "cos", ("dash", "composite"),
                    _minus("dash", "composite"), Bound(0.0), f"{gaps}#one-number-is-not-enough"))
    for metric, where in ((fd, at_w), (best, at_best)):
        out += [
            Rule("C7", f"share of L_un, leave-one-out against scratch, {where}", "67% / 62%", metric,
                 ("scratch", "dash", "dash_no_un"), lambda m: (m.dash_no_un - m.dash) / (m.scratch - m.dash),
                 Bound(0.6), f"{parts}#the-shares", _minus("scratch", "dash")),
            Rule("C7", f"share of L_un, one-in, {where}", "67% / 62%", metric, ("im_base", "im_un_base", "dash"),
                 lambda m: (m.im_base - m.im_un_base) / (m.im_base - m.dash), Bound(0.6), f"{parts}#the-shares",
                 _minus("im_base", "dash")),
            Rule("C7", f"share of L_un, Shapley, {where}", "67% / 62%", metric, tuple(factorial_arms.values()),
                 _share_of("UAT", "U", factorial_arms), Bound(0.6), f"{parts}#the-shares", _minus("im_base", "dash")),
        ]
    curricula = {"dash_no_tirt": "frozen at its start", "dash_relearned": "relearned", "dash_uniform": "off"}
    for arm, other in curricula.items():
        out.append(Rule("C9", f"curriculum {other} - transferred, {at_w}", "", fd, (arm, "dash"), _minus(arm, "dash"),
                        Bound(0.0), f"{parts}#curricula"))
    out += [
        Rule("C10", "Spearman of curriculum and loss, relearned", "", "spearman", ("dash_relearned",),
             lambda m: m.dash_relearned, Bound(0.0), f"{parts}#curricula"),
        Rule("C11", f"without anchor - DASH, {at_w}", "", fd, ("dash_no_an", "dash"), _minus("dash_no_an", "dash"),
             Bound(0.0), f"{parts}#the-factorial"),
        Rule("C12", "DASH, constant - TAG at equal mean w, Fréchet", "", "guidance", ("constant", "tag"),
             _minus("constant", "tag"), Bound(0.0), f"{cost}#guidance-schedules"),
        Rule("C12", "DASH, interval - TAG at equal mean w, Fréchet", "", "guidance", ("interval", "tag"),
             _minus("interval", "tag"), Bound(0.0), f"{cost}#guidance-schedules"),
    ]
    for arm, paper in (("pruning", "18.04 - 8.87 FID"), ("slicing", ""), ("single_head", "16.78 - 8.87 FID")):
        out.append(Rule("C14", f"{arm} - DASH, {at_best}", paper, best, (arm, "dash"), _minus(arm, "dash"), Bound(0.0),
                        f"{cost}#quality"))
    out += [
        Rule("L4", "R² of the gap, multi-w: identified, so above 0", "", "r2", ("multi_w",), lambda m: m.multi_w,
             Bound(0.0), f"{gaps}#one-number-is-not-enough"),
        Rule("L6", f"Fréchet to the teacher at w = {w_max:g}: composite at w' = 1 + (w - 1)/slope, minus at w", "",
             "corrected", ("composite corrected", "composite"), _minus("composite corrected", "composite"),
             Bound(0.0, above=False), f"{gaps}#turning-the-knob-further"),
        Rule("L9", "R² of the gap, label dropout of the student only - DASH", "", "r2", ("label_drop", "dash"),
             _minus("label_drop", "dash"), Bound(-0.05), f"{cost}#cheap-rivals"),
        Rule("L9", f"cond-only - the same with independent-condition guidance, {at_w}", "", fd,
             ("cond_only", "cond_only_icg"), _minus("cond_only", "cond_only_icg"), Bound(0.0), f"{cost}#cheap-rivals"),
        Rule("L9", f"DASH - DASH begun from the sliced teacher, {at_best}", "", best, ("dash", "dash_sliced"),
             _minus("dash", "dash_sliced"), Bound(0.0), f"{cost}#cheap-rivals"),
        Rule("L11", f"Fréchet to the teacher's samples, composite / DASH at w = {w:g}", "",
             f"frechet_teacher@w={w:g}", ("composite", "dash"), lambda m: m.composite / m.dash, Bound(2.0),
             f"{gaps}#the-curve"),
        Rule("L11", f"Fréchet to the teacher's samples, cond-only / DASH at w = {w_max:g}", "", strong,
             ("cond_only", "dash"), lambda m: m.cond_only / m.dash, Bound(2.0), f"{gaps}#the-curve"),
    ]
    return out


def _columns(results: pd.DataFrame, rule: Rule, w_max: float) -> pd.DataFrame:
    if rule.metric == "guidance":
        return pd.concat({g: by_seed(results, f"frechet@{g}")["dash"] for g in rule.arms}, axis=1)
    if rule.metric == "corrected":
        plain, corrected = (by_seed(results, f"frechet_teacher@{g}") for g in (f"w={w_max:g}", "corrected"))
        return pd.DataFrame({"composite corrected": corrected["composite"], "composite": plain["composite"]})
    return by_seed(results, rule.metric)


def judge(results: pd.DataFrame, rule: Rule, *, w_max: float) -> dict:
    """One row of the ledger: the rule applied to a `checked` results table."""
    row = {"claim": rule.claim, "measure": rule.measure, "paper": rule.paper, "ours": np.nan, "lo": np.nan,
           "hi": np.nan, "n": 0, "verdict": OPEN, "rule": str(rule.bound), "note": "", "figure": rule.figure}
    try:
        table = _columns(results, rule, w_max)
        table = table[[*rule.arms, *(["teacher"] if "teacher" in table and rule.gain else [])]]
    except KeyError as missing:
        return row | {"note": f"not measured: {missing}"}
    found = bootstrap(table, rule.statistic)
    verdict, note = rule.bound.verdict(found)
    if rule.gain is not None:
        row["rule"] += ", and the gain it refers to has its own interval above 0"
        gain = bootstrap(table, rule.gain)
        if not gain.lo > 0:
            verdict, note = OPEN, f"no gain to divide: {gain}"
    return row | {"ours": found.value, "lo": found.lo, "hi": found.hi, "n": found.n, "verdict": verdict, "note": note}


def exact_row(claim: str, measure: str, paper: str, value: float, *, holds: bool | None, rule: str, figure: str,
              note: str = "") -> dict:
    """One row of the ledger that needs no seeds: a count, or `holds=None` for a claim that cannot be tested here."""
    verdict = OPEN if holds is None else HOLDS if holds else FAILS
    return {"claim": claim, "measure": measure, "paper": paper, "ours": value, "lo": value, "hi": value,
            "n": 0 if holds is None else 1, "verdict": verdict, "rule": rule, "note": note, "figure": figure}


def structural_rows() -> list[dict]:
    """C8, by linear algebra: which composite losses identify both branches."""
    from dashkit.objectives import composite_metric

    ranks = {n: torch.linalg.matrix_rank(composite_metric(torch.arange(1.0, n + 1))).item() for n in (1, 2, 4)}
    where = "03_is_the_gap_underdetermined#several-scales-from-rank-to-conditioning"
    return [
        exact_row("C8", "rank of the composite metric for one w", "cannot identify the gap", ranks[1],
                  holds=ranks[1] < 2, rule="holds for one w if the rank is below 2", figure=where),
        exact_row("C8", "rank for two scales, and for four", "cannot identify the gap", min(ranks[2], ranks[4]),
                  holds=min(ranks[2], ranks[4]) < 2, rule="holds for several w if the rank is below 2", figure=where),
    ]
