"""The generated parts about the studies beyond the paper's: their registered rules, and a paragraph each."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dashkit.analysis.rules import study_rows
from dashkit.analysis.statistics import Interval, bootstrap
from dashkit.analysis.tables import by_seed, published_study
from dashkit.classroom.explorers import corrected


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


def _correction(results: pd.DataFrame) -> str:
    """What a correction leaves of the distance to the teacher's samples, and to real images."""
    def left(arm: str, kind: str, w: float, to: str = "frechet_teacher") -> Interval:
        found = bootstrap(corrected(results, arm, w=w, to=to)[[kind]], lambda m: m[kind])
        return Interval(*np.exp(found[:3]), found.n)

    def far(kind: str, w: float) -> Interval:
        return bootstrap(by_seed(results, f"frechet@{kind},w={w:g}@ch=16")[["composite"]], lambda m: m.composite)

    def said(kind: str, w: float, arms: Sequence[str], to: str = "frechet_teacher") -> str:
        return ", ".join(f"{arm} {left(arm, kind, w, to)}" for arm in arms)

    one, both, three = "beta:noised", "mix_t:noised", ("cond_only", "scratch", "dash")
    stuck = f"{far(both, 1.5)}) as without correction at w = 4 ({far('none', 4)}"
    return ("**What can be mended without training?** One factor beta for the gap, fitted on a few batches, leaves of "
            f"the distance to the teacher's samples at w = 4: {said(one, 4, three)}. At w = 1.5 it takes students with "
            f"a fair gap away from their teacher ({said(one, 1.5, three[1:])}) and nearer to real images "
            f"({said(one, 1.5, three[1:], 'frechet')}). No factor mends composite, whose conditional branch is wrong, "
            f"too ({left('composite', one, 1.5)} at w = 1.5). Two weights at each timestep leave "
            f"{left('composite', both, 1.5)}, but the knob is stuck: asked for w = 1.5, the samples are then as far "
            f"from real images ({stuck}), the scale of training.")


SENTENCES: dict[str, Callable[[pd.DataFrame], str]] = {"correction": _correction}
"""The published studies, and what is said of each."""
