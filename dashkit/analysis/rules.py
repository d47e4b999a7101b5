"""Rules that were written before the sweep, and the verdicts that they give."""

from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from dashkit.analysis.tables import by_seed
from dashkit.method.statistics import MIN_SEEDS, Interval, Statistic, bootstrap, shapley

HOLDS, FAILS, OPEN = "holds", "does not hold", "not testable here"


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


def claim_rules(factorial_arms: Mapping[frozenset, str], *, w: float, w_max: float) -> list[Rule]:
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


def apply_rule(results: pd.DataFrame, rule: Rule, *, w_max: float) -> dict:
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
    from dashkit.method.losses import composite_metric

    ranks = {n: torch.linalg.matrix_rank(composite_metric(torch.arange(1.0, n + 1))).item() for n in (1, 2, 4)}
    where = "03_is_the_gap_underdetermined#several-scales-from-rank-to-conditioning"
    return [
        exact_row("C8", "rank of the composite metric for one w", "cannot identify the gap", ranks[1],
                  holds=ranks[1] < 2, rule="holds for one w if the rank is below 2", figure=where),
        exact_row("C8", "rank for two scales, and for four", "cannot identify the gap", min(ranks[2], ranks[4]),
                  holds=min(ranks[2], ranks[4]) < 2, rule="holds for several w if the rank is below 2", figure=where),
    ]
