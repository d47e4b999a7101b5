"""Committed results: tables with their manifest, the ledger, and every number of the README.  Layer 5.

`python -m dashkit.publish` takes over the minutes of a finished digits series, measures cost, judges every claim and
fills the README.  The sweeps themselves are published by `dashkit sweep --publish`.
"""

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd
import torch

from dashkit import budget, campaign, claims, plots, recipes, runs
from dashkit.claims import Interval
from dashkit.metrics import flops, peak_memory
from dashkit.objectives import FACTORIAL
from dashkit.profiles import PROFILES
from dashkit.sample import sample
from dashkit.series import BUILD, notebook_paths
from dashkit.unet import UNet, n_parameters

RESULTS = recipes.ROOT / "data" / "results"
README, GUIDE = recipes.ROOT / "README.md", recipes.ROOT / "notebooks" / "INSTRUCTOR.md"
LEDGER = ("claim", "paper", "ours", "lo", "hi", "n", "verdict", "rule", "measure", "note", "profile", "source",
          "figure")
IN_README = ["teacher", "dash", "gap_match", "multi_w", "label_drop", "cond_only_icg", "fitnets", "composite",
             "cond_only", "single_head", "slicing", "pruning", "scratch"]
SHOWN = ["teacher", "dash", "composite", "cond_only", "scratch"]


# -------------------------------------------------------------------------------------------------------------- tables


class Results(NamedTuple):
    """A tidy table and one sentence on where it comes from."""

    table: pd.DataFrame
    source: str


def devices(table: pd.DataFrame) -> str:
    """What a table was measured on, whatever it is published on."""
    return ", ".join(sorted(table.device.unique()))


def write(table: pd.DataFrame, manifest: dict, folder: Path) -> None:
    """Write `results.csv`, values with six digits and counts with all, and `manifest.json`, which holds its SHA-256."""
    values = [f"{v:.0f}" if float(v).is_integer() and abs(v) < 2**53 else f"{v:.6g}" for v in table.value]
    content = table.assign(value=values).to_csv(index=False).encode()
    runs.write_bytes(folder / "results.csv", content)
    runs.write_json(folder / "manifest.json", manifest | {"sha256": hashlib.sha256(content).hexdigest()})


def read(profile: str, root: Path = RESULTS) -> Results:
    """The published table of a profile, checked; FileNotFoundError, or ValueError if it is not what was published."""
    path = root / profile / "results.csv"
    if not path.is_file():
        there = ", ".join(sorted(p.parent.name for p in root.glob("*/results.csv"))) or "none"
        raise FileNotFoundError(f"there are no published results of {profile} (published: {there})")
    manifest = runs.read_json(path.with_name("manifest.json"), "sha256")
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{path} was changed after it was written; restore it or run the sweep again")
    table = runs.read_results(path)
    try:
        claims.checked(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if table.profile.iloc[0] != profile:
        raise ValueError(f"{path} holds results of {table.profile.iloc[0]}")
    seeds = table[~table.arm.isin(["real", "teacher"])].seed.nunique()
    return Results(table, f"published results of {claims.source(table)}: {table.arm.nunique() - 2} students, "
                          f"{seeds} training seeds, on {devices(table)}")


def get(run: recipes.Run, *, recompute: bool = False) -> Results:
    """The published results of digits; or, with `recompute`, this run's own sweep, trained if need be."""
    if not recompute:
        return read("digits")
    print(budget.remaining(run))
    return Results(claims.checked(recipes.sweep(run)), f"own sweep of {run.profile.name}, seeds {run.seeds}")


# ------------------------------------------------------------------------------------------------------- cost, ledger


def cost_rows(profile: str, *, batch: int, rounds: int = 5) -> pd.DataFrame:
    """Parameters, operations, latency and peak memory of one guided pass of a profile's two networks, freshly made.

    Latency is the median over interleaved rounds on the CPU or the GPU that is there.
    """
    run = recipes.start(profile)
    p, device = run.profile, run.device
    nets = {name: recipes.seeded(0, lambda config=config: UNet(config)).to(device, memory_format=torch.channels_last)
            for name, config in (("teacher", p.teacher), ("dash", p.student))}
    x = torch.randn(batch, p.teacher.channels, p.teacher.size, p.teacher.size, device=device)
    t, y = torch.full((batch,), p.T // 2, device=device), torch.zeros(batch, dtype=torch.long, device=device)

    def work(net: UNet) -> None:
        with torch.no_grad():
            recipes.branches(net.eval(), x, t, y)
    seconds = {name: [] for name in nets}
    for i in range(rounds + 1):
        for name, net in list(nets.items())[:: 1 if i % 2 else -1]:
            taken = recipes.seconds_of(lambda net=net: work(net), device)
            if i:                                          # the first round warms up
                seconds[name].append(taken)
    found = []
    for name, net in nets.items():
        median = sorted(seconds[name])[len(seconds[name]) // 2]
        weights = sum(p.numel() * p.element_size() for p in net.parameters())
        memory = weights + peak_memory(lambda net=net: work(net), device=device)
        values = {"parameters": n_parameters(net), "flops": flops(net), "seconds": median, "memory": memory}
        found += [{"arm": name, "metric": k, "value": v, "n": rounds if k == "seconds" else 1}
                  for k, v in values.items()]
    return pd.DataFrame(found).assign(
        profile=profile, seed=0, device=runs.device_name(device), commit=runs.commit())[list(runs.COLUMNS)]


def thread_rows(profile: str = "smoke") -> pd.DataFrame:
    """How far two threads are from one: the largest differences after the same training from the same seed.

    With as many threads as before, everything is equal bit for bit; another number sums in another order.
    """
    before, found, devices = torch.get_num_threads(), [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                devices.append(runs.device_name("cpu"))
                run = recipes.Run(PROFILES[profile], root=Path(folder) / str(threads))
                net = recipes.get_students(run, recipes.get_teacher(run), ["dash"])["dash", run.seed]
                y, generator = torch.arange(20) % run.images.num_classes, torch.Generator().manual_seed(0)
                samples = sample(net, run.schedule, y, shape=run.images.shape, generator=generator, w=run.profile.w,
                                 steps=run.profile.sample_steps)
                found.append({"loss": torch.tensor(recipes.load_losses(run, "dash", run.seed)), "samples": samples,
                              "weights": torch.cat([p.flatten() for p in net.parameters()])})
        finally:
            torch.set_num_threads(before)
    one, two = found
    rows = [{"what": k, "largest_difference": float((one[k] - two[k]).abs().max()),
             "typical_size": float(one[k].abs().mean())} for k in one]
    return pd.DataFrame(rows).assign(profile=profile, seed=run.seed, teacher_steps=run.profile.teacher_steps,
                                     student_steps=run.profile.student_steps, device=" and ".join(devices),
                                     commit=runs.commit())


def cost_ratios(cost: pd.DataFrame) -> pd.Series:
    """Teacher over student: parameters, flops, seconds, memory."""
    table = cost.pivot(index="metric", columns="arm", values="value")
    return table.teacher / table.dash


def published_cost() -> pd.Series:
    """The paper's teacher over student: parameters, flops, and on a T4 seconds and memory."""
    return pd.read_csv(recipes.ROOT / "data" / "reference" / "cost.csv").set_index("metric").ratio


def ledger(root: Path = RESULTS) -> pd.DataFrame:
    """Every claim with the paper's figure, ours with its interval, and a verdict, from the committed tables alone."""
    tables = {name: read(name, root).table for name in ("digits", "exact") if (root / name / "results.csv").is_file()}
    rows = []
    for name, table in tables.items():
        p = PROFILES[name]
        for rule in claims.rules(FACTORIAL, w=p.w, w_max=max(p.ws)):
            row = claims.judge(table, rule, w_max=max(p.ws))
            if name == "digits" or not row["note"].startswith("not measured"):
                rows.append(row | {"profile": name, "source": claims.source(table)})
    cost, papers = runs.read_results(root / "cost.csv"), published_cost()
    where = "08_cost_and_rivals#size-operations-time-memory"
    for name, part in cost.groupby("profile", sort=False):
        ratio, device = cost_ratios(part), part.device.iloc[0]
        theirs = name == "cifar10"                      # the networks that the paper's figures are about
        note = "" if theirs else "not the paper's networks"
        found = [claims.exact_row("C1", "parameters, teacher / student", "35.75 M / 6.08 M = 5.9", ratio.parameters,
                                  holds=round(ratio.parameters, 1) == 5.9 if theirs else None, figure=where,
                                  rule="the count rounds to 5.9", note=note),
                 claims.exact_row("C13", "operations, teacher / student", f"{papers.flops:g}", ratio.flops,
                                  holds=abs(ratio.flops / papers.flops - 1) < 0.01 if theirs else None, figure=where,
                                  rule=f"the count is within 1% of {papers.flops:g}", note=note)]
        for metric, paper in papers[["seconds", "memory"]].items():
            found.append(claims.exact_row(
                "C13", f"{metric}, teacher / student, one guided pass", f"{paper} (T4)", ratio[metric],
                holds=None if device.startswith("cpu") else ratio[metric] > 0.9 * paper,
                rule="on a GPU: at least 90% of the paper's ratio", figure=where,
                note="measured on a CPU" if device.startswith("cpu") else device))
        rows += [row | {"profile": name, "source": f"{name}, commit {part.commit.iloc[0]}, {device}"} for row in found]
    rows += [row | {"profile": "any", "source": "linear algebra"} for row in claims.structural_rows()]
    if "digits" in tables:
        own = claims.by_seed(tables["digits"], "spearman").teacher.iloc[0]
        rows.append(claims.exact_row("C10", "Spearman of the teacher's curriculum and its loss", "", own, holds=None,
                                     rule="the lower end is above 0", figure="07_which_part_did_the_work#curricula",
                                     note="one teacher: a lead")
                    | {"profile": "digits", "source": claims.source(tables["digits"])})
    rows.append(claims.exact_row("C15", "ImageNet-64", "9.10 against 18.43 FID", float("nan"), holds=None,
                                 rule="FID-50K on ImageNet-64", figure="09_claim_ledger#the-ledger",
                                 note="needs the data and a GPU") | {"profile": "imagenet64", "source": ""})
    table = pd.DataFrame(rows)
    order = table.claim.str.extract(r"([CL])(\d+)").assign(**{"1": lambda d: d[1].astype(int)})
    table = table.assign(kind=order[0], number=order["1"]).sort_values(["kind", "number", "profile"], kind="stable")
    return table[list(LEDGER)].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------------------- README


def blocks(root: Path = RESULTS) -> dict[str, str]:
    """The README's generated parts, by name, from the committed results alone."""
    series = runs.read_json(root / "digits" / "series.json")
    digits, verdicts = read("digits", root), pd.read_csv(root / "digits" / "ledger.csv")
    return {
        "calibration": _calibration(digits),
        "findings": _findings(digits.table, verdicts),
        "notebooks": _notebooks(series),
        "size": _size(digits.table),
        "speed": _speed(root, series),
        "rehearsal": _rehearsal(read("cifar10_proof", root), runs.read_json(root / "cifar10_proof" / "manifest.json")),
        "threads": _threads(pd.read_csv(root / "threads.csv")),
    }


def fill(text: str, parts: dict[str, str]) -> str:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; ValueError if a part has no place."""
    for name, body in parts.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        if not pattern.search(text):
            raise ValueError(f"the text has no place for {name}")
        text = pattern.sub(lambda m, body=body: m[1] + body + "\n" + m[2], text)
    return text


def _calibration(results: Results) -> str:
    w = PROFILES["digits"].w
    card = recipes.calibration_table(results.table, w=w)
    published = pd.read_csv(recipes.ROOT / "data" / "reference" / "published.csv").set_index("arm")
    heads = ["arm", "rho", "slope", "cos", f"Fréchet / floor at w = {w:g}", "at its best w", "recognised as asked",
             "the paper's rho"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, row in card.loc[IN_README].iterrows():
        sd = "" if pd.isna(row.sd) else f" ± {row.sd:.2f}"
        paper = published.c10_rho.get(arm, float("nan"))
        cells = [arm, f"{row.rho:.2f}", f"{row.slope:.2f}", f"{row.cos:.2f}", f"{row.fd:.2f}{sd}",
                 f"{row.fd_best:.2f} (w = {row.w_best:.3g})", f"{row.accuracy:.1%}",
                 "" if pd.isna(paper) else f"{paper:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    n = int(results.table.query("arm == 'dash' and metric == 'frechet@w=1'").n.iloc[0])
    facts = (f"{results.source[0].upper()}{results.source[1:]}; mean ± sd over them, {n} samples a point. "
             "The paper's rho: CIFAR-10.")
    return "\n".join([*lines, "", facts])


def _findings(results: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """At most ten lines, each a number with its interval."""
    def found(text: str) -> str:
        """The first row of the digits whose measure starts so, with its interval and verdict."""
        row = verdicts[verdicts.measure.str.startswith(text) & (verdicts.profile == "digits")].iloc[0]
        return f"{Interval(row['ours'], row['lo'], row['hi'], row['n'])} ({row['claim']}: {row['verdict']})"

    def mean(arm: str, metric: str) -> Interval:
        return claims.bootstrap(claims.by_seed(results, metric)[[arm]], lambda m: m[arm])

    lines = [
        f"DASH stays near its teacher: Fréchet/floor at its best w is higher by {found('DASH - teacher')}.",
        f"The rho of a conditional-only student: {found('rho of cond-only')}; its untrained null row decides: set to "
        f"zeros, {found('rho of cond-only, its null row set to 0')}.",
        f"The composite loss has rho {mean('composite', 'rho')}, and R² {mean('composite', 'r2')}; "
        f"its cos is lower than DASH's by {found('cos of the gap, DASH - composite')}.",
        f"Several w identify the gap: multi-w has R² {mean('multi_w', 'r2')}, DASH {mean('dash', 'r2')}.",
        f"Share of the unconditional loss by Shapley: {found('share of L_un, Shapley, Fréchet/floor at w')}.",
        f"Training from scratch, Fréchet over DASH's: {found('scratch / DASH')}; digits leave little room.",
        f"Leaving out the anchor changes Fréchet/floor by {found('without anchor - DASH')}, taking the curriculum's "
        f"start for its end by {found('curriculum frozen at its start')}.",
        f"A relearned curriculum has Spearman {found('Spearman of curriculum and loss, relearned')} with the loss.",
        f"The teacher pruned to as many weights, Fréchet/floor minus DASH's: {found('pruning - DASH')}, at the "
        f"teacher's operations; a single head, at half of DASH's: {found('single_head - DASH')}.",
        f"At equal mean w, Fréchet of a constant scale minus TAG's: {found('DASH, constant - TAG')}; of an interval's: "
        f"{found('DASH, interval - TAG')}.",
    ]
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _notebooks(series: dict) -> str:
    minutes = {n["name"]: f"{n['seconds'] / 60:.1f}" for n in series["notebooks"]}
    lines = ["| notebook | question | minutes to run |", "|---|---|---|"]
    for path in notebook_paths():
        header = nbformat.read(path, as_version=4).cells[0].source
        question = re.search(r"\*\*Question\.\*\*\s*(.*?)\n\n", header, re.S)
        title, asked = header.splitlines()[0].lstrip("# "), " ".join(question[1].split())
        lines.append(f"| [{title}](notebooks/{path.name}) | {asked} | {minutes.get(path.stem, '')} |")
    made = series["manifest"]
    return "\n".join([*lines, "", f"Minutes: profile digits on {made['device']}, {series['seconds'] / 60:.1f} in all, "
                      f"commit {made['commit']}; 06 to 09 read published tables, 10 takes what it is given."])


def minutes(root: Path = RESULTS) -> dict[str, str]:
    """The generated part of the instructor's guide: what each notebook took, as far as it was measured."""
    series = runs.read_json(root / "digits" / "series.json")
    taken = {n["name"][:2]: n["seconds"] / 60 for n in series["notebooks"] if n["status"] == "ok"}
    there = [path.name[:2] for path in notebook_paths()]
    cells = [f"{taken[n]:.1f}" if n in taken else "not measured" for n in there]
    rows = [f"| {' | '.join(row)} |" for row in (["notebook", *there], ["---"] * (len(there) + 1), ["minutes", *cells])]
    made = series["manifest"]
    return {"minutes": "\n".join([*rows, "", f"Measured on {made['device']} from an empty folder of runs, "
                                  f"{series['seconds'] / 60:.1f} in all, commit {made['commit']}."])}


def _size(results: pd.DataFrame) -> str:
    cost = results[results.metric.isin(["parameters", "flops"])].drop_duplicates(["arm", "metric"])
    cost = cost.pivot(index="arm", columns="metric", values="value")
    teacher, student = cost.loc["teacher"], cost.loc["dash"]
    return (f"Teacher {teacher.parameters:,.0f} parameters, students {student.parameters:,.0f} "
            f"({teacher.parameters / student.parameters:.2f} times fewer, "
            f"{teacher.flops / student.flops:.2f} times fewer operations).")


def _speed(root: Path, series: dict) -> str:
    rows = json.loads((root / "bench" / "bench.json").read_text())
    waited = runs.read_json(root / "bench" / "waits.json")
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


def take_series(source: Path = BUILD / "digits", root: Path = RESULTS) -> None:
    """Keep the manifest and the minutes of a series that went well."""
    series = runs.read_json(source / "series.json", "ok", "notebooks", "seconds", "manifest")
    notebooks, made, numbers = series["notebooks"], series["manifest"], (int, float)
    if not (isinstance(notebooks, list) and isinstance(made, dict) and {"device", "commit"} <= made.keys() and all(
            isinstance(n, dict) and isinstance(n.get("name"), str) and isinstance(n.get("seconds"), numbers)
            for n in notebooks) and isinstance(series["seconds"], numbers)):
        raise ValueError(f"{source / 'series.json'} is no report of a series; run it again")
    if series["ok"] is not True or any(n.get("status") != "ok" for n in notebooks):
        raise ValueError(f"{source / 'series.json'}: only a whole series without failure is published")
    runs.write_json(root / "digits" / "series.json", series)


def main() -> None:
    if (BUILD / "digits" / "series.json").is_file():
        take_series()
    if not (RESULTS / "cost.csv").is_file():
        cost = [cost_rows("digits", batch=64, rounds=21), cost_rows("cifar10", batch=8)]
        runs.write_table(RESULTS / "cost.csv", pd.concat(cost, ignore_index=True))
    runs.write_table(RESULTS / "threads.csv", thread_rows())
    runs.write_table(RESULTS / "digits" / "ledger.csv", ledger())
    plots.use_style()
    ax = plots.plot_w_curve(read("digits").table, arms=SHOWN)
    ax.set_title("A calibrated student runs along its teacher's curve")
    runs.write_bytes(RESULTS / "digits" / "w_curve.png", plots.png(ax.figure))
    runs.write_bytes(README, fill(README.read_text(), blocks()).encode())
    runs.write_bytes(GUIDE, fill(GUIDE.read_text(), minutes()).encode())
    print(f"{RESULTS.relative_to(recipes.ROOT)} and {README.name} are up to date")


if __name__ == "__main__":
    main()
