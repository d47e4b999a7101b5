"""The generated parts of `docs/corrections.md`: floors and verdicts, before and after."""

from pathlib import Path

import pandas as pd

from dashkit.analysis.statistics import Interval
from dashkit.analysis.tables import RESULTS, by_seed, published_results
from dashkit.storage import store

BEFORE = "ledger_before.csv"
"""The ledger as it was published before the rules were reworded."""


def corrections(root: Path = RESULTS) -> dict[str, str]:
    """The generated parts by name, from the committed tables alone."""
    return {"floors": _floors(root), "scales": _scales(root), "ledger": _ledger(root)}


def _floors(root: Path) -> str:
    heads = "table | floor before | now | too large by | teacher before | now | DASH before | now"
    lines = [f"| {heads} |",
             "|---" * 8 + "|"]
    for name in ("digits", "exact"):
        before = store.read_json(root / name / "manifest.json", "remeasured")["remeasured"][-1]["before"]["frechet"]
        table = published_results(name, root).table
        now = table.query("arm == 'real' and metric == 'frechet'").value.mean()
        best = by_seed(table, "fd@best").mean()
        cells = [name, f"{before:.2f}", f"{now:.2f}", f"{before / now:.2f}"]
        for arm in ("teacher", "dash"):
            cells += [f"{best[arm] * now / before:.2f}", f"{best[arm]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Teacher and DASH: Fréchet distance over the floor, each at its best w."])


def _scales(root: Path) -> str:
    table, arms = published_results("digits", root).table, ("dash", "multi_w", "scratch", "composite", "cond_only")
    values = {m: by_seed(table, m).mean() for m in ("slope", "beta")}
    lines = ["| arm | slope | beta | w' by the slope | w' by beta |", "|---" * 5 + "|"]
    for arm in arms:
        slope, beta = values["slope"][arm], values["beta"][arm]
        cells = [arm, *(f"{v:.2f}" for v in (slope, beta, 1 + 3 / slope, 1 + 3 * beta))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Digits, for w = 4; means over training seeds."])


def _ledger(root: Path) -> str:
    before, after = (pd.read_csv(root / "digits" / name) for name in (BEFORE, "ledger.csv"))
    lines = ["| claim | before: measure | ours | verdict | now: rank, measure | ours | verdict |", "|---" * 7 + "|"]
    for claim in after.claim.unique():
        for profile in ("cifar10", "digits", "any", "exact", "imagenet64"):
            old, new = (list(t[(t.claim == claim) & (t.profile == profile)].itertuples())
                        for t in (before, after))
            for i in range(max(len(old), len(new))):
                cells = [claim if profile != "exact" else f"{claim} (exact)"]
                cells += [old[i].measure, _number(old[i]), old[i].verdict] if i < len(old) else [""] * 3
                cells += [f"{new[i].rank}: {new[i].measure}", _number(new[i]), _verdict(new[i])] if i < len(new) else (
                    [""] * 3)
                lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines)


def _number(row: tuple) -> str:
    return "" if pd.isna(row.ours) else str(Interval(row.ours, row.lo, row.hi, row.n))


def _verdict(row: tuple) -> str:
    return row.verdict if pd.isna(row.note) or row.verdict == "holds" else f"{row.verdict} ({row.note})"
