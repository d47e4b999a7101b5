"""The generated parts about the studies beyond the paper's: their registered rules, and a paragraph each."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dashkit.analysis.rules import study_rows
from dashkit.analysis.statistics import Interval, bootstrap
from dashkit.analysis.tables import by_seed, published_study


def paragraphs(root: Path) -> list[str]:
    """What each published study says, in one paragraph."""
    return [sentence(published_study(name, root).table) for name, sentence in SENTENCES.items()]


def rules(root: Path) -> str:
    """Every rule of every published study, with what was found."""
    parts = []
    for name in SENTENCES:
        table, source = published_study(name, root)
        parts += [f"### `{name}`", SENTENCES[name](table), _rules(study_rows(table)), f"Source: {source}."]
    return "\n\n".join(parts)


def _rules(rows: pd.DataFrame) -> str:
    lines = ["| rule | measure | ours | verdict |", "|---|---|---|---|"]
    for row in rows.itertuples():
        primary = f"**{row.claim}** {row.sentence}" if row.rank == "primary" else row.claim
        lines.append(f"| {primary} | {row.measure} | {Interval(row.ours, row.lo, row.hi, row.n)} | {row.verdict} |")
    return "\n".join(lines)


def _of(results: pd.DataFrame, metric: str, expression: str) -> Interval:
    arms = list(dict.fromkeys(re.findall(r"[a-z_]+", expression)))
    return bootstrap(by_seed(results, metric)[arms], lambda m: m.eval(expression, engine="python"))


def _null_row(results: pd.DataFrame) -> str:
    """Who must train the null row: pictures and gap, at the student's usual width."""
    def said(arm: str) -> str:
        return (f"R² {_of(results, 'r2@ch=16', arm)}, pictures {_of(results, 'fd@w=1.5@ch=16', f'{arm} - dash')} from "
                "DASH's")

    return ("**Who must train the null row?** The unconditional loss: R² "
            f"{_of(results, 'r2@ch=16', 'dash')}. One label dropped for teacher and student alike: {said('kd_drop')}. "
            f"The true noise: {said('no_un_noise')}. Labels dropped for the student alone: {said('label_drop')}. "
            f"Nobody: {said('cond_only')} (Fréchet/floor at w = 1.5).")


def _correction(results: pd.DataFrame) -> str:
    """What a correction leaves of the distance to the teacher's samples, and to real images."""
    def left(arm: str, kind: str, w: float, to: str = "frechet_teacher") -> Interval:
        tables = [by_seed(results, f"{to}@{k},w={w:g}@ch=16")[[arm]] for k in (kind, "none")]
        found = bootstrap(np.log(tables[0] / tables[1]), lambda m: m[arm])
        return Interval(*np.exp(found[:3]), found.n)

    def said(kind: str, w: float, arms: Sequence[str], to: str = "frechet_teacher") -> str:
        return ", ".join(f"{arm} {left(arm, kind, w, to)}" for arm in arms)

    one, both, three = "beta:noised", "mix_t:noised", ("cond_only", "scratch", "dash")
    return (f"**What can be mended without training?** One factor beta for the gap, fitted on a few batches, leaves of "
            f"the distance to the teacher's samples at w = 4: {said(one, 4, three)}. At w = 1.5 it takes good students "
            f"away from their teacher ({said(one, 1.5, three[1:])}) and nearer to real images "
            f"({said(one, 1.5, three[1:], 'frechet')}). No factor mends composite ({left('composite', one, 1.5)} at "
            f"w = 1.5), whose conditional branch is wrong, too. Two weights at each timestep do "
            f"({left('composite', both, 1.5)}): they bring back the scale that it was trained for.")


SENTENCES: dict[str, Callable[[pd.DataFrame], str]] = {"correction": _correction}
"""The published studies, and what is said of each."""
