"""The generated parts about the studies beyond the paper's: their registered rules, and a paragraph each."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dashkit.analysis.rules import study_rows
from dashkit.analysis.statistics import Interval, bootstrap
from dashkit.analysis.tables import by_seed, by_unit, published_results, published_study
from dashkit.classroom.explorers import corrected
from dashkit.experiments.studies import KAPPAS, SCALES, STUDIES
from dashkit.method.arms import quadratic_name


def paragraphs(root: Path) -> list[str]:
    """What each published study says, in a few sentences."""
    return [sentence(published_study(name, root).table)[0] for name, sentence in SENTENCES.items()]


def rules(root: Path) -> str:
    """Every rule of every published study, with what was found."""
    parts = []
    for name in SENTENCES:
        table, source = published_study(name, root)
        more = [PHOTOGRAPHS[name](root)] if name in PHOTOGRAPHS else []
        parts += [f"### `{name}`", " ".join(SENTENCES[name](table)), *more, _rules(study_rows(table)),
                  f"Source: {source}."]
    return "\n\n".join(parts)


def _rules(rows: pd.DataFrame) -> str:
    lines = ["| claim | measure | ours | holds if | verdict |", "|---|---|---|---|---|"]
    for row in rows.itertuples():
        primary = f"**{row.claim}** {row.sentence}" if row.rank == "primary" else row.claim
        verdict = f"{row.verdict} ({row.note})" if "Holm" in row.note else row.verdict
        lines.append(f"| {primary} | {row.measure} | {Interval(row.ours, row.lo, row.hi, row.n)} | {row.rule} | "
                     f"{verdict} |")
    return "\n".join(lines)


def _correction(results: pd.DataFrame) -> tuple[str, str]:
    """What a correction leaves of the distance to the teacher's samples, and to real images."""
    def left(arm: str, kind: str, w: float, to: str = "frechet_teacher") -> Interval:
        found = bootstrap(corrected(results, arm, w=w, to=to)[[kind]], lambda m: m[kind])
        return Interval(*np.exp(found[:3]), found.n)

    def far(kind: str, w: float) -> Interval:
        return bootstrap(by_seed(results, f"frechet@{kind},w={w:g}@ch=16")[["composite"]], lambda m: m.composite)

    def said(kind: str, w: float, arms: Sequence[str], to: str = "frechet_teacher") -> str:
        return ", ".join(f"{arm} {left(arm, kind, w, to)}" for arm in arms)

    one, both, three = "beta:noised", "mix_t:noised", ("cond_only", "scratch", "dash")
    alone, scratch, dash = (left(arm, one, 4) for arm in three)
    stuck = f"{far(both, 1.5)}) as without correction at w = 4 ({far('none', 4)}"
    return (
        "**Can a trained student be mended without training?** Multiply its gap by one factor, beta, fitted on a few "
        f"batches. At w = 4 its distance to the teacher's samples is then {alone} times what it was for a student of "
        f"the conditional branch alone, {scratch} times for one trained from scratch, and {dash} times for DASH. "
        "At w = 1.5 the same factor takes students with a fair gap away from their teacher "
        f"({said(one, 1.5, three[1:])} times).",
        f"There it takes these two nearer to real images ({said(one, 1.5, three[1:], 'frechet')}). No "
        "factor mends composite, whose conditional branch is wrong, too "
        f"({left('composite', one, 1.5)} at w = 1.5). Two weights at each timestep "
        f"leave {left('composite', both, 1.5)}, but the knob is stuck: asked for w = 1.5, the samples are then as far "
        f"from real images ({stuck}), the scale of training.")


def _null_row(results: pd.DataFrame) -> tuple[str, str]:
    """Who must train the null row: gap and pictures, at the student's usual width."""
    def of(metric: str, expression: str, width: int = 16) -> Interval:
        arms = list(dict.fromkeys(re.findall(r"[a-z_]+", expression)))
        return bootstrap(by_seed(results, f"{metric}@ch={width}")[arms], lambda m: m.eval(expression, engine="python"))

    def r2(arm: str) -> Interval:
        return of("r2", arm)

    def pictures(arm: str) -> str:
        return f"{arm} {of('fd@w=1.5', f'{arm} - dash')}"

    widths = ", ".join(f"{of('r2', 'dash - kd_drop', width)} at width {width}" for width in (8, 12, 16, 24))
    return (
        f"**Who must train the null row?** R² of the gap is {r2('dash')} with the unconditional loss. It is "
        f"{r2('kd_drop')} with the weights of one dropped label in ten, {r2('no_un_noise')} if the row learns "
        f"from the true noise, and {r2('cond_only')} if nobody trains it.",
        f"With labels dropped for the student alone (`label_drop`) it is {r2('label_drop')}. DASH's R² minus that of "
        f"`kd_drop`: {widths}. Fréchet/floor at w = 1.5, minus DASH's: "
        f"{', '.join(pictures(arm) for arm in ('kd_drop', 'no_un_noise', 'label_drop', 'cond_only'))}.")


def _null_row_of_photographs(root: Path) -> str:
    """The same kinds of student on photographs, in the one width that was trained there."""
    table, source = published_results("cifar16", root)
    gap, pictures = by_unit(table, "r2"), by_unit(table, "fd@w=1.5")

    def r2(arm: str) -> Interval:
        return bootstrap(gap[[arm]], lambda m: m[arm])

    def farther(arm: str) -> Interval:
        return bootstrap(pictures[[arm, "dash"]], lambda m: m[arm] - m.dash)

    others = "; ".join(f"{arm} {r2(arm)}, {farther(arm)}" for arm in ("kd_drop", "no_un_noise", "cond_only"))
    return (f"On photographs of 16x16 pixels, with one width and one teacher, DASH's R² is {r2('dash')}. R² of the "
            f"others, and their Fréchet/floor at w = 1.5 minus DASH's: {others}. These students saw few images. "
            f"Source: {source}.")


def _correction_of_photographs(root: Path) -> str:
    """What one factor does to students on photographs, at the strongest scale."""
    table, source = published_results("cifar16", root)
    corrected_, plain = (np.log(by_unit(table, f"frechet_teacher@{at}")) for at in ("corrected_by_beta", "w=4"))

    def left(arm: str) -> Interval:
        found = bootstrap((corrected_ - plain)[[arm]], lambda m: m[arm])
        return Interval(*np.exp(found[:3]), found.n)

    arms = ("dash", "gap_match", "multi_w", "kd_drop", "scratch", "composite", "cond_only")
    return ("On photographs of 16x16 pixels one factor, fitted on noised images, does this to the distance to the "
            f"teacher's samples at w = 4: {', '.join(f'{arm} {left(arm)} times' for arm in arms)}. The factor has the "
            f"smallest squared error. It need not give the nearest samples. Source: {source}.")


def _gap_loss(results: pd.DataFrame) -> tuple[str, str]:
    """What the weight of the gap does to the gap, and what the scale of the loss does to the pictures."""
    scales, kappas, widths = SCALES, KAPPAS, STUDIES["gap_loss"].widths

    def mean(metric: str, names: Sequence[str], width: int = 16) -> Interval:
        return bootstrap(by_seed(results, f"{metric}@ch={width}")[list(names)], lambda m: m.mean(axis=1))

    def of_kappa(kappa: float, metric: str = "r2") -> Interval:
        return mean(metric, [quadratic_name(scale, kappa) for scale in scales])

    def of_scale(scale: float, metric: str) -> Interval:
        return mean(metric, [quadratic_name(scale, kappa) for kappa in kappas])

    def gained(width: int) -> Interval:
        last, first = ([quadratic_name(scale, kappa) for scale in scales] for kappa in (kappas[-1], kappas[0]))
        return bootstrap(by_seed(results, f"r2@ch={width}")[last + first],
                         lambda m: m[last].mean(axis=1) - m[first].mean(axis=1))

    def pictures(w: float) -> str:
        return ", ".join(f"{of_scale(scale, f'fd@w={w:g}')} after a loss at {scale:g}" for scale in scales)

    def between(kappas: Sequence[float]) -> str:
        def found(width: int) -> Interval:
            near, at = ([quadratic_name(scale, k) for k in kappas] for scale in (1.0, 1.5))
            table = by_seed(results, f"fd@w=1.5@ch={width}")[near + at]
            return bootstrap(table, lambda m: m[near].mean(axis=1) - m[at].mean(axis=1))
        return ", ".join(f"{found(width)} at width {width}" for width in widths)

    along = ", ".join(f"{mean('r2', [quadratic_name(scale, kappas[-1])]).value:.2f} at {scale:g}" for scale in scales)
    alone, with_gap = (quadratic_name(1.5, kappa) for kappa in (kappas[0], kappas[-1]))
    worse = bootstrap(by_seed(results, "fd@w=1.5@ch=16")[[alone, with_gap]], lambda m: m[alone] - m[with_gap])
    return (
        "**Which loss of the two branches?** Every quadratic one is set by two numbers: the scale at which it compares "
        "guided outputs, and kappa, the weight of the gap by itself. R² of the gap, mean over five scales: "
        f"{', '.join(f'{of_kappa(kappa)} at kappa {kappa:g}' for kappa in kappas)}. The scale counts, too: at kappa "
        f"{kappas[-1]:g} R² is {along}. Pictures need not show the gap. After a "
        f"loss at scale 1.5, R² is {mean('r2', [alone])} at kappa 0 and {mean('r2', [with_gap])} at 1.25; "
        f"Fréchet/floor at w = 1.5 differs by {worse}.",
        f"What kappa 1.25 gains over 0: {', '.join(f'{gained(width)} at width {width}' for width in widths)}. "
        f"Fréchet/floor at w = 1.5, mean over kappa: {pictures(1.5)}; at w = 4: {pictures(4)}. "
        "Most of that comes from kappa 0. With kappa above 0 a loss at 1 is about as good at w = 1.5 as one at 1.5; "
        f"Fréchet/floor after the first, minus that after the second: {between(kappas[1:])}.")


SENTENCES: dict[str, Callable[[pd.DataFrame], tuple[str, str]]] = {
    "gap_loss": _gap_loss, "null_row": _null_row, "correction": _correction}
"""The published studies, and what is said of each: in the README, and besides on the page of results."""
PHOTOGRAPHS: dict[str, Callable[[Path], str]] = {
    "null_row": _null_row_of_photographs, "correction": _correction_of_photographs}
"""What photographs of the profile cifar16 say on a study's question, by the name of the study."""
