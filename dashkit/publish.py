"""From a finished series to the committed tables, the README's picture and its numbers.  Layer 5.

`python -m dashkit.publish` copies build/series/digits into data/results/digits; `fill` writes every number of the
README from there, so that none is typed by hand.
"""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd

from dashkit import plots, recipes, runs
from dashkit.series import BUILD, notebook_paths

RESULTS = recipes.ROOT / "data" / "results" / "digits"
README = recipes.ROOT / "README.md"
SHOWN = ["teacher", "dash", "composite", "cond_only", "scratch"]


def copy_results(source: Path = BUILD / "digits", target: Path = RESULTS) -> None:
    """Keep the tidy table, the manifest and the README's picture of a series that went well."""
    series = json.loads((source / "series.json").read_text())
    if not series["ok"] or any(n["status"] != "ok" for n in series["notebooks"]):
        raise ValueError(f"{source / 'series.json'}: only a whole series without failure is published")
    results = runs.read_results(source / "results.csv")
    runs.write_table(target / "results.csv", results)
    runs.write_json(target / "series.json", series)
    plots.use_style()
    ax = plots.plot_w_curve(results, arms=SHOWN)
    ax.set_title("A calibrated student runs along its teacher's curve")
    runs.write_bytes(target / "w_curve.png", plots.png(ax.figure))


def blocks(folder: Path = RESULTS) -> dict[str, str]:
    """The README's generated parts, by name, from the committed results alone."""
    series = json.loads((folder / "series.json").read_text())
    results = runs.read_results(folder / "results.csv")
    return {
        "calibration": _calibration(results, series),
        "notebooks": _notebooks(series),
        "size": _size(results),
    }


def fill(text: str, parts: dict[str, str]) -> str:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; ValueError if a part has no place."""
    for name, body in parts.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        if not pattern.search(text):
            raise ValueError(f"README.md has no place for {name}")
        text = pattern.sub(lambda m, body=body: m[1] + body + "\n" + m[2], text)
    return text


def _calibration(results: pd.DataFrame, series: dict) -> str:
    w = series["manifest"]["settings"]["w"]
    card = recipes.calibration_table(results, w=w)
    published = pd.read_csv(recipes.ROOT / "data" / "reference" / "published.csv").set_index("arm")
    heads = ["arm", "rho", "slope", "cos", f"Fréchet / floor at w = {w:g}", "at its best w", "recognised as asked",
             "the paper's rho"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, row in card.iterrows():
        sd = "" if pd.isna(row.sd) else f" ± {row.sd:.2f}"
        paper = published.c10_rho.get(arm, float("nan"))
        cells = [arm, f"{row.rho:.2f}", f"{row.slope:.2f}", f"{row.cos:.2f}", f"{row.fd:.2f}{sd}",
                 f"{row.fd_best:.2f} (w = {row.w_best:.3g})", f"{row.accuracy:.1%}",
                 "" if pd.isna(paper) else f"{paper:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    made, n = series["manifest"], int(card.seeds.max())
    settings = made["settings"]
    facts = (
        f"Digits, {n} training seeds from {series['seed']} (mean ± sd), {settings['samples']} samples a point, "
        f"{settings['sample_steps']} DDIM steps; {made['device']}, commit {made['commit']}. The paper's rho: CIFAR-10."
    )
    return "\n".join([*lines, "", facts])


def _notebooks(series: dict) -> str:
    minutes = {n["name"]: n["seconds"] / 60 for n in series["notebooks"]}
    lines = ["| notebook | question | minutes to run |", "|---|---|---|"]
    for path in notebook_paths():
        header = nbformat.read(path, as_version=4).cells[0].source
        question = re.search(r"\*\*Question\.\*\*\s*(.*?)\n\n", header, re.S)
        title, asked = header.splitlines()[0].lstrip("# "), " ".join(question[1].split())
        lines.append(f"| [{title}](notebooks/{path.name}) | {asked} | {minutes[path.stem]:.1f} |")
    return "\n".join([*lines, "", f"Minutes: profile digits on {series['manifest']['device']}, "
                      f"{series['seconds'] / 60:.1f} in all."])


def _size(results: pd.DataFrame) -> str:
    cost = results[results.metric.isin(["parameters", "flops"])].drop_duplicates(["arm", "metric"])
    cost = cost.pivot(index="arm", columns="metric", values="value")
    teacher, student = cost.loc["teacher"], cost.loc["dash"]
    return (f"Teacher {teacher.parameters:,.0f} parameters, students {student.parameters:,.0f} "
            f"({teacher.parameters / student.parameters:.2f} times fewer, "
            f"{teacher.flops / student.flops:.2f} times fewer operations).")


def main() -> None:
    copy_results()
    README.write_text(fill(README.read_text(), blocks()))
    print(f"{RESULTS.relative_to(recipes.ROOT)} and {README.name} are up to date")


if __name__ == "__main__":
    main()
