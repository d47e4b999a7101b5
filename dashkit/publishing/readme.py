"""Every generated part of the README, of `docs/` and of the instructor's guide.

`python -m dashkit.publishing.readme` takes the minutes of a finished digits series, measures the cost, decides every
claim, draws the pictures and fills the pages.  The sweeps themselves are published by `dashkit sweep --publish`.
"""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pandas as pd

from dashkit.analysis.costs import cost_rows, thread_rows
from dashkit.analysis.ledger import claim_ledger
from dashkit.analysis.rules import CONTRADICTED, HOLDS
from dashkit.analysis.statistics import Interval, bootstrap
from dashkit.analysis.tables import (
    RESULTS,
    Results,
    by_seed,
    by_unit,
    calibration_table,
    published_figures,
    published_results,
)
from dashkit.classroom.notebooks import notebook_paths
from dashkit.experiments import campaign
from dashkit.experiments.profiles import PROFILES
from dashkit.method.arms import OBJECTIVES
from dashkit.publishing import gpu, model_card, pictures, study_pages
from dashkit.publishing.corrections import corrections
from dashkit.publishing.series import BUILD
from dashkit.storage import store, tables
from dashkit.storage.paths import ROOT, print_anything, require_project

README = ROOT / "README.md"
EXAMPLES = ROOT / "docs" / "examples"
PAGES = (README, ROOT / "notebooks" / "INSTRUCTOR.md", *sorted((ROOT / "docs").glob("*.md")))
IN_README = ["teacher", "dash", "gap_match", "multi_w", "kd_drop", "no_un_noise", "label_drop", "cond_only_icg",
             "fitnets", "composite", "cond_only", "single_head", "slicing", "pruning", "scratch"]
OWN = {"unet": ("UNet2DModel", "v, linear betas"), "dit": ("DiTTransformer2DModel", "the noise, scaled linear betas")}
"""The proof's teachers (`tests/tools/own_proof.py`): their class of diffusers, what they predict and their schedule."""
DATA_SETS = {"digits": "digits", "exact": "exact teacher", "cifar16": "CIFAR-10, 16x16",
             "cifar10": "the paper's networks", "any": "algebra"}


def blocks(root: Path = RESULTS) -> dict[str, str]:
    """Every generated part, by the name in its markers, from the committed results alone."""
    series = store.read_json(root / "digits" / "series.json")
    digits, verdicts = published_results("digits", root), pd.read_csv(root / "digits" / "ledger.csv")
    return {
        "claims": _claims(verdicts),
        "found": "\n".join(f"- {text}" for text in (plain_rival(digits.table), *study_pages.paragraphs(root))),
        "pictured": _pictured(published_results("cifar16", root).table),
        "minutes": minutes_table(series),
        "calibration": _calibration(digits),
        "findings": _findings(digits.table, verdicts),
        "notebooks": _notebooks(series),
        "size": _size(digits.table),
        "speed": _speed(root, series),
        "rates": _rates(tables.read_table(root / "rates" / "results.csv")),
        "photographs": _photographs(published_results("cifar16", root)),
        "rehearsal": _rehearsal(published_results("cifar10_proof", root),
                                store.read_json(root / "cifar10_proof" / "manifest.json")),
        "threads": _threads(pd.read_csv(root / "threads.csv")),
        **_own(root / "own"),
        "examples": _examples(EXAMPLES),
        **corrections(root),
        **gpu.blocks(root / "gpu"),
        "studies": study_pages.rules(root),
    }


def fill(texts: Mapping[Path, str], parts: Mapping[str, str]) -> dict[Path, str]:
    """The texts with what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` replaced by part NAME.

    ValueError if a part has no place in any text, or a place has no part or no end.
    """
    placed, out = set(), {}
    for path, text in texts.items():
        begun = re.findall(r"<!-- begin (\w+) -->", text)
        for name in begun:
            pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
            if name not in parts or not pattern.search(text):
                raise ValueError(f"{path.name}: the place {name} has no {'end' if name in parts else 'part'}")
            text = pattern.sub(lambda m, body=parts[name]: m[1] + body + "\n" + m[2], text)
        placed.update(begun)
        out[path] = text
    if missing := set(parts) - placed:
        raise ValueError(f"no page has a place for {', '.join(sorted(missing))}")
    return out


def read_pages() -> dict[Path, str]:
    """The pages that hold generated parts, as they are now."""
    return {path: path.read_text(encoding="utf-8") for path in PAGES}


def _claims(verdicts: pd.DataFrame) -> str:
    """The matrix of claims and data sets: the verdict of each claim's primary row, and whether it replicates."""
    primary = verdicts[verdicts["rank"] == "primary"]
    columns = [name for name in DATA_SETS if name in set(primary.profile)]
    heads = ["the paper's claim", *(DATA_SETS[c] for c in columns), "does it replicate?"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for claim, rows in primary.groupby("claim", sort=False):
        verdict = rows.set_index("profile").verdict.to_dict()
        cells = [verdict.get(column, "") for column in columns]
        lines.append(f"| {claim} · {rows.sentence.iloc[0]} | {' | '.join([*cells, replicates(verdict)])} |")
    return "\n".join(lines)


def replicates(verdict: Mapping[str, str]) -> str:
    """In words: whether what the first data set says of a claim is said by the second one, too.

    >>> replicates({"digits": "holds", "cifar16": "undecided"}), replicates({"digits": "undecided"})
    ('decided on digits alone', 'not decided anywhere')
    """
    if not {"digits", "cifar16"} & set(verdict):
        return ""
    decided = {name: verdict[name] for name in ("digits", "cifar16") if verdict.get(name) in (HOLDS, CONTRADICTED)}
    if len(decided) == 2:
        return "yes" if len(set(decided.values())) == 1 else "no: the data sets disagree"
    return f"decided on {DATA_SETS[next(iter(decided))]} alone" if decided else "not decided anywhere"


def _calibration(results: Results) -> str:
    w = PROFILES["digits"].w
    card = calibration_table(results.table, w=w)
    published = published_figures()
    heads = ["arm", "rho", "slope", "beta", "cos", f"Fréchet / floor at w = {w:g}", "at its best w",
             "recognised as asked", "the paper's rho"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, row in card.loc[IN_README].iterrows():
        sd = "" if pd.isna(row.sd) else f" ± {row.sd:.2f}"
        paper = published.c10_rho.get(arm, float("nan"))
        gap = [f"{v:.2f}" for v in row[["rho", "slope", "beta", "cos"]]]
        cells = [arm, *gap, f"{row.fd:.2f}{sd}",
                 f"{row.fd_best:.2f} (w = {row.w_best:.3g})", f"{row.accuracy:.1%}",
                 "" if pd.isna(paper) else f"{paper:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    n = int(results.table.query("arm == 'dash' and metric == 'frechet@w=1'").n.iloc[0])
    facts = (f"{results.source[0].upper()}{results.source[1:]}; mean ± sd over them, {n} samples a point. "
             "The paper's rho: CIFAR-10.")
    return "\n".join([*lines, "", facts])


def _findings(results: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """At most twelve lines, each a number with its interval."""
    def found(text: str) -> str:
        """The first row of the digits whose measure starts so, with its interval and verdict."""
        row = verdicts[verdicts.measure.str.startswith(text) & (verdicts.profile == "digits")].iloc[0]
        number = "not measured" if pd.isna(row["ours"]) else Interval(row["ours"], row["lo"], row["hi"], row["n"])
        rank = "" if row["rank"] == "primary" else f", {row['rank']} rule"
        return f"{number} ({row['claim']}{rank}: {row['verdict']})"

    def mean(arm: str, metric: str) -> Interval:
        return bootstrap(by_seed(results, metric)[[arm]], lambda m: m[arm])

    holds = verdicts[verdicts.measure.str.startswith("share of L_un against")].rule.iloc[0]
    lines = [
        "Of the deficit that training from scratch has against the teacher, DASH leaves "
        f"{found('share of scratch')}, each at its best w; its Fréchet/floor is higher than the teacher's by "
        f"{found('DASH - teacher')}. {_chosen_elsewhere(results)}",
        f"The rho of a conditional-only student: {found('rho of cond-only')}; with its untrained null row set to "
        f"zeros, {found('rho of cond-only, its null row set to 0')}.",
        f"The composite loss has rho {mean('composite', 'rho')}, and R² {mean('composite', 'r2')}; "
        f"its cos is lower than DASH's by {found('cos of the gap, DASH - composite')}.",
        f"{plain_rival(results)}",
        f"Several w identify the gap: multi-w has R² {mean('multi_w', 'r2')}, DASH {mean('dash', 'r2')}.",
        f"Share of the unconditional loss by Shapley: {found('share of L_un, Shapley, Fréchet/floor at w')}; against "
        f"a student whose null row learned from noise: {found('share of L_un against')}. The rule: {holds}. A share of "
        "1 is all of the gain.",
        f"Training from scratch, Fréchet over DASH's: {found('scratch / DASH')}; digits leave little room.",
        f"Leaving out the anchor changes Fréchet/floor by {found('without anchor - DASH')}, taking the curriculum's "
        f"start for its end by {found('curriculum frozen at its start')}.",
        f"C5 asks for rivals with a rho below 1 and farther from 1 than DASH's; the smallest margin of the four: "
        f"{found('smallest margin')}.",
        f"A relearned curriculum has Spearman {found('Spearman of curriculum and loss, relearned')} with the loss.",
        f"The teacher pruned to as many weights, Fréchet/floor minus DASH's: {found('pruning - DASH')}, at the "
        f"teacher's operations; a single head, at half of DASH's: {found('single_head - DASH')}.",
        f"At equal mean w, Fréchet of a constant scale minus TAG's: {found('DASH, constant - TAG at')}; of an "
        f"interval's: {found('DASH, interval - TAG')}.",
    ]
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _chosen_elsewhere(results: pd.DataFrame) -> str:
    """DASH minus teacher with each best scale chosen on other students than those it is measured on."""
    curves = {float(m.removeprefix("frechet@w=")): by_unit(results, m.replace("frechet", "fd"))[["dash", "teacher"]]
              for m in results.metric.unique() if m.startswith("frechet@w=")}
    table = next(iter(curves.values())) * float("nan")
    for one in table.index:
        for arm in table:
            others = {w: (curve[arm].sum() - curve.loc[one, arm]) for w, curve in curves.items()}
            table.loc[one, arm] = curves[min(others, key=others.__getitem__)].loc[one, arm]
    return ("Each best scale was chosen on the samples that are measured, which favours flat curves. Chosen on the "
            f"other students, the second difference is {bootstrap(table, lambda m: m.dash - m.teacher)}.")


def plain_rival(results: pd.DataFrame) -> str:
    """DASH beside what practitioners do: one label in ten dropped, taken on average over the drops."""
    def of(metric: str, expression: str) -> Interval:
        table = by_unit(results, metric)[["dash", "kd_drop", "scratch"]]
        return bootstrap(table, lambda m: m.eval(expression, engine="python"))

    pictures, gap = of("fd@best", "kd_drop - dash"), of("r2", "dash - kd_drop")
    rising = ", ".join(f"{of(f'fd@w={w:g}', 'kd_drop - dash')} at w = {w:g}" for w in (1.5, 4))
    return ("**The plain rival** (`kd_drop`) weighs the two branches as dropping one label in ten would: 0.9 for the "
            "conditional one and 0.1 for the unconditional one, on every image. DASH gives each the weight 1, and has "
            f"an anchor. At its best w the rival's pictures are near DASH's (Fréchet/floor, minus DASH's: {pictures}; "
            f"training from scratch: {of('fd@best', 'scratch - dash')}), and farther as w rises ({rising}). Its gap is "
            f"not DASH's: R² {of('r2', 'kd_drop')} against {of('r2', 'dash')}, a difference of {gap}.")


def _pictured(results: pd.DataFrame) -> str:
    """What the README's pictures of photographs do not show by themselves."""
    r2, ws = by_unit(results, "r2"), PROFILES["cifar16"].ws
    own, other = (bootstrap(r2[[arm]], lambda m, arm=arm: m[arm]) for arm in ("dash", "scratch"))
    apart = {w: bootstrap(by_unit(results, f"fd@w={w:g}")[["scratch", "dash"]], lambda m: m.dash - m.scratch)
             for w in ws}
    nearer = [w for w, found in apart.items() if found.lo > 0]
    where = "at every scale" if len(nearer) == len(ws) else f"at w = {', '.join(f'{w:g}' for w in nearer)}"
    said = "" if not nearer else (
        f" A student that was trained from scratch draws nearer to real photographs than DASH {where} (DASH "
        f"minus scratch, Fréchet distance over that of real photographs: {apart[nearer[0]]} at w = {nearer[0]:g}, "
        f"{apart[nearer[-1]]} at w = {nearer[-1]:g}).")
    worse = ", worse than none" if own.hi < 0 else ""
    return (f"To know beside them: R² of DASH's gap is {own}{worse} (from scratch: {other}).{said} All saw few "
            "images. Longer training gives better gaps ([a lead](docs/gpu.md#what-was-measured)). These networks come "
            "[with the kit](data/pretrained/cifar16/README.md); [more](docs/results.md#findings-on-photographs).")


def _photographs(found: Results) -> str:
    """What the students of the profile cifar16 are like, a line each, with intervals over training seeds."""
    results, p = found.table, PROFILES["cifar16"]
    strong = f"accuracy@w={max(p.ws):g}"

    def of(metric: str, expression: str) -> Interval:
        arms = list(dict.fromkeys(re.findall(r"[a-z_]+", expression)))
        return bootstrap(by_unit(results, metric)[arms], lambda m: m.eval(expression, engine="python"))

    def best(arm: str) -> str:
        """The scale of the smallest mean distance, and whether a larger one might be better still."""
        means = {w: by_unit(results, f"fd@w={w:g}")[arm].mean() for w in p.ws}
        w = min(means, key=means.__getitem__)
        return f"at w = {w:g}" + (", the largest that was measured" if w == max(p.ws) else "")

    r2, untested = of("r2", "dash"), "so the rules that ask for more than 0.5 test nothing here"
    start = "the curriculum's start (min-SNR) in place of what the teacher learned"
    lines = [
        f"R² of the gap: DASH {r2}, {untested if r2.value < 0.5 else 'enough for the rules'}; with {start} "
        f"{of('r2', 'dash_no_tirt')}, gap match {of('r2', 'gap_match')}, scratch {of('r2', 'scratch')}.",
        f"The conditional-only student: rho {of('rho', 'cond_only')}, R² {of('r2', 'cond_only')}.",
        f"Fréchet/floor at the best of {len(p.ws)} scales: teacher {by_unit(results, 'fd@best').teacher.mean():.3g} "
        f"({best('teacher')}), DASH {of('fd@best', 'dash')} ({best('dash')}), with the curriculum's start "
        f"{of('fd@best', 'dash_no_tirt')} ({best('dash_no_tirt')}), scratch {of('fd@best', 'scratch')} "
        f"({best('scratch')}); scratch minus DASH {of('fd@best', 'scratch - dash')}.",
        f"The learned curriculum in place of its start changes DASH's R² by {of('r2', 'dash - dash_no_tirt')} "
        f"and its Fréchet/floor by {of('fd@best', 'dash - dash_no_tirt')}; the anchor changes them by "
        f"{of('r2', 'dash - dash_no_an')} and {of('fd@best', 'dash - dash_no_an')}.",
        f"Recognised as asked at w = {max(p.ws):g}: DASH {of(strong, 'dash')}, `kd_drop` {of(strong, 'kd_drop')}, "
        f"no unconditional loss {of(strong, 'dash_no_un')}, the conditional branch alone {of(strong, 'cond_only')}.",
    ]
    fids = results[results.metric == f"fid@w={p.w:g}"]
    if not fids.empty:
        wide = fids.groupby("arm").agg({"value": "mean", "n": "first"}).sort_values("value")
        most = wide[wide.n == wide.n.max()]                     # FID falls with N: only one N is compared
        said = ", ".join(f"{arm} {row.value:.0f}" for arm, row in most.iterrows())
        real = results[(results.arm == "real") & (results.metric == "fid")]
        floor = "" if real.empty else f"; one half of {2 * real.n.iloc[0]:,} photographs against the other " \
                                      f"{real['value'].iloc[0]:.3g}"
        lines.append(f"FID of {most.n.iloc[0]:,} samples of 16x16 pixels at w = {p.w:g}, which is not the published "
                     f"one: {said}{floor}.")
    seen = p.student_images / 1e6
    return "\n".join([*(f"{i}. {line}" for i, line in enumerate(lines, 1)), "",
                      f"{found.source[0].upper()}{found.source[1:]}. Each student saw {seen:.2f} million images, its "
                      f"teacher {p.batch * p.teacher_steps / 1e6:.2f} million."])


def _notebooks(series: dict) -> str:
    minutes = {n["name"]: f"{n['seconds'] / 60:.1f}" for n in series["notebooks"]}
    lines = ["| notebook | question | minutes to run |", "|---|---|---|"]
    for path in notebook_paths():
        header = nbformat.read(path, as_version=4).cells[0].source
        question = re.search(r"\*\*Question\.\*\*\s*(.*?)\n\n", header, re.S)
        title, asked = header.splitlines()[0].lstrip("# "), " ".join(question[1].split())
        lines.append(f"| [{title}](notebooks/{path.name}) | {asked} | {minutes.get(path.stem, '')} |")
    made = series["manifest"]
    return "\n".join([*lines, "", f"Minutes: profile digits on {made['device']}, {series['seconds'] / 60:.1f} for "
                      f"those with a number, commit {made['commit']}; 06 to 09 and 12 read published tables, 10 takes "
                      "what it is given. 02, 04, 05, 10 and 11 are stored as the short profile smoke ran them, without "
                      "the figures that need training."])


def minutes_table(series: dict) -> str:
    """What each notebook took, as far as it was measured."""
    taken = {n["name"][:2]: n["seconds"] / 60 for n in series["notebooks"] if n["status"] == "ok"}
    there = [path.name[:2] for path in notebook_paths()]
    cells = [f"{taken[n]:.1f}" if n in taken else "not measured" for n in there]
    rows = [f"| {' | '.join(row)} |" for row in (["notebook", *there], ["---"] * (len(there) + 1), ["minutes", *cells])]
    made = series["manifest"]
    return "\n".join([*rows, "", f"Measured on {made['device']} from an empty folder of runs, "
                      f"{series['seconds'] / 60:.1f} for those with a number, commit {made['commit']}."])


def _size(results: pd.DataFrame) -> str:
    cost = results[results.metric.isin(["parameters", "flops"])].drop_duplicates(["arm", "metric"])
    cost = cost.pivot(index="arm", columns="metric", values="value")
    teacher, student = cost.loc["teacher"], cost.loc["dash"]
    return (f"Teacher {teacher.parameters:,.0f} parameters, students {student.parameters:,.0f} "
            f"({teacher.parameters / student.parameters:.2f} times fewer, "
            f"{teacher.flops / student.flops:.2f} times fewer operations).")


def _speed(root: Path, series: dict) -> str:
    rows = json.loads((root / "bench" / "bench.json").read_text(encoding="utf-8"))
    waited = store.read_json(root / "bench" / "waits.json")
    lines = ["| work | against | ours | theirs | times as fast (middle half) | aim |", "|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "reached" if row["ratio"] >= (row["target"] or 0) else "missed"
        aim = "" if row["target"] is None else f"{row['target']:g}, {verdict}"
        low, high = row["spread"]
        lines.append(f"| {row['name']} | {row['peer']} | {row['ours_s']:.3g} s | {row['peer_s']:.3g} s | "
                     f"{row['ratio']:.2f} ({low:.2f} – {high:.2f}) | {aim} |")
    waits = ", ".join(f"{name} {wait['seconds']:.1f} s" for name, wait in waited["waits"].items())
    leak, peak = waited["leak"], series["manifest"]["peak_memory_mib"]
    facts = (f"A user waits: {waits}, the whole digits series {series['seconds'] / 60:.1f} minutes with at most "
             f"{peak:,.0f} MiB in one process. From training step {leak['since']:,} to {leak['steps']:,}, memory "
             f"grows by {leak['grown_mib']:.1f} MiB. Measured on {rows[0]['device']}, commit {rows[0]['commit']}.")
    return "\n".join([*lines, "", facts])


def _rates(table: pd.DataFrame) -> str:
    """Learning rates: those of the published table beside the best of a wider search."""
    lr = table.metric.str.removeprefix("frechet@lr=").astype(float)
    mean = table.groupby(["arm", lr], sort=False).value.mean().unstack()
    heads = ["arm", "rate of the tables", "Fréchet there", "best rate", "Fréchet there", "highest rate tried",
             "Fréchet there"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    gap = pd.Series(0.0, ["own", "best"])
    for arm, row in mean.iterrows():
        rate, tried = PROFILES["digits"].student_lr * OBJECTIVES[arm].lr, row.dropna().sort_index()
        gap += {"scratch": 1, "dash": -1}.get(arm, 0) * pd.Series({"own": tried[rate], "best": tried.min()})
        lines.append(f"| {arm} | {rate:g} | {tried[rate]:.2f} | {tried.idxmin():g} | {tried.min():.2f} | "
                     f"{tried.index[-1]:g} | {tried.iloc[-1]:.3g} |")
    made = f"{', '.join(sorted(set(table.device)))}, commits {', '.join(sorted(set(table.commit)))}"
    seeds, n = table.seed.nunique(), table.n.iloc[0]
    return "\n".join([*lines, "", f"Means over {seeds} seeds, {n} samples, on the split of the profile "
                      f"`tuning`. Scratch minus DASH: {gap.own:.2f} at the rates of the tables, "
                      f"{gap.best:.2f} at each arm's best. {made}."])


def _rehearsal(results: Results, manifest: dict) -> str:
    """The campaign on real CIFAR-10 that a CPU manages in minutes."""
    card = campaign.summary(results.table).rename_axis(index=None)
    lines = ["| arm | parameters | N | FID, TAG | KID, TAG | rho |", "|---" * 6 + "|"]
    for arm, row in card.iterrows():
        values = [row["fid" if arm == "real" else "fid@tag"], row["kid@tag"], row["rho"]]
        cells = ["" if pd.isna(v) else f"{v:.3g}" for v in values]
        size = "" if pd.isna(row.parameters) else f"{row.parameters:,.0f}"
        lines.append(f"| {arm} | {size} | {row.N:.0f} | {' | '.join(cells)} |")
    steps = manifest["settings"]["sample_steps"]
    return "\n".join([*lines, "", f"{results.source[0].upper()}{results.source[1:]}; {steps} DDIM steps. "
                      "`real`: one half of the reference images against the other."])


def _threads(rows: pd.DataFrame) -> str:
    said = ", ".join(f"{r.what} by {r.largest_difference:.1g} (typical size {r.typical_size:.1g})"
                     for r in rows.itertuples())
    first = rows.iloc[0]
    return ("The same seed gives the same bytes with the same number of threads. Two threads instead of one change, "
            f"after {first.teacher_steps} and {first.student_steps} steps of profile {first.profile}, at most: {said}. "
            f"Seed {first.seed}, {first.device}, commit {first.commit}.")


def _own(root: Path) -> dict[str, str]:
    """The proof on teachers of diffusers: a table, and one sentence."""
    lines = ["| teacher | predicts | parameters, teacher and student | R² of the gap, DASH | from scratch | DASH minus "
             "scratch | adapter | export |", "|---" * 8 + "|"]
    gains, facts = [], set()
    for name in OWN:
        results, made = published_results(name, root), store.read_json(root / name / "manifest.json", "settings")
        table, settings = results.table, made["settings"]
        r2, value = by_seed(table, "r2"), table.drop_duplicates("metric").set_index("metric").value
        gain = bootstrap(r2[["dash", "scratch"]], lambda m: m.dash - m.scratch)
        arms = [bootstrap(r2[[arm]], lambda m, arm=arm: m[arm]) for arm in ("dash", "scratch")]
        kind, predicts = OWN[name]
        lines.append(f"| {kind} | {predicts} | {value.parameters:,.0f} and {value.student_parameters:,.0f} | "
                     f"{' | '.join(map(str, (*arms, gain)))} | {_below(value.adapter_difference)} | "
                     f"{_below(value.export_difference)} |")
        gains.append(f"{gain} with a `{kind}`")
        facts.add(f"{settings['student_steps']:,} steps with batches of {settings['batch']} digits, {len(r2)} seeds, "
                  f"95% intervals over them; {made['device']}, commit {made['commit']}")
    table = "\n".join([
        *lines, "", f"{'. '.join(sorted(facts))}. Differences are the largest ones. `adapter`: of a prediction, from "
        "that of diffusers' own network. `export`: of a pixel, which lies in -1 to 1, of samples that diffusers draws "
        "from the written pipeline, from our samples."])
    return {"own": table, "own_gain": (
        "R² of the guidance gap is 1 for the teacher. Against training a student from scratch, DASH adds "
        f"{' and '.join(gains)}: [proof](docs/own.md#proof-on-models-that-this-kit-did-not-make) on models that this "
        "kit did not make.")}


def _examples(folder: Path) -> str:
    """The commands of the committed reports, as they stand there, and how long they took."""
    commands, lines = [], []
    for name, what in (("shrink", "A student shrunk here"), ("measure", "A student measured")):
        page = (folder / f"{name}.html").read_text(encoding="utf-8")
        facts = {k: html.unescape(v) for k, v in re.findall(r"<tr><td>(\w+)</td><td>(.*?)</td></tr>", page)}
        commands.append(html.unescape(re.search(r"<pre>(.*?)</pre>", page, re.S)[1]))
        took = facts.get("training", facts["time"]).partition(";")[0]
        lines.append(f"- [{what}](examples/{name}.html): {took} ({facts['made'].partition(' on ')[2]}).")
    return "\n".join(["```", *commands, "```", "", *lines])


def _below(value: float) -> str:
    """A tiny difference for people."""
    return f"{value:.1g}" if value else "0"


def take_series(source: Path = BUILD / "digits", root: Path = RESULTS) -> None:
    """Keep the manifest and the minutes of a series that went well."""
    series = store.read_json(source / "series.json", "ok", "notebooks", "seconds", "manifest")
    notebooks, made, numbers = series["notebooks"], series["manifest"], (int, float)
    if not (isinstance(notebooks, list) and isinstance(made, dict) and {"device", "commit"} <= made.keys() and all(
            isinstance(n, dict) and isinstance(n.get("name"), str) and isinstance(n.get("seconds"), numbers)
            for n in notebooks) and isinstance(series["seconds"], numbers)):
        raise ValueError(f"{source / 'series.json'} is no report of a series; run it again")
    if series["ok"] is not True or any(n.get("status") != "ok" for n in notebooks):
        raise ValueError(f"{source / 'series.json'}: only a whole series without failure is published")
    store.write_json(root / "digits" / "series.json", series)


def main() -> None:
    print_anything()
    require_project()
    if (BUILD / "digits" / "series.json").is_file():
        take_series()
    if not (RESULTS / "cost.csv").is_file():
        cost = [cost_rows("digits", batch=64, rounds=21), cost_rows("cifar10", batch=8)]
        tables.write_table(RESULTS / "cost.csv", pd.concat(cost, ignore_index=True))
    tables.write_table(RESULTS / "threads.csv", thread_rows())
    tables.write_table(RESULTS / "digits" / "ledger.csv", claim_ledger())
    model_card.write("cifar16", published_results("cifar16"))
    pictures.main()
    for path, text in fill(read_pages(), blocks()).items():
        store.write_bytes(path, text.encode())
    print(f"{RESULTS.relative_to(ROOT)}, {README.name} and the pages of docs are up to date")


if __name__ == "__main__":
    main()
