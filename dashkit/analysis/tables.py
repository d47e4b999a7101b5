"""Tables of results: published ones, and what is read from them."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dashkit.analysis.statistics import bootstrap
from dashkit.experiments import budget
from dashkit.experiments.profiles import PROFILES, Profile
from dashkit.experiments.run import Run
from dashkit.experiments.settings import truth
from dashkit.experiments.sweeps import sweep
from dashkit.storage import paths, store, tables
from dashkit.storage.paths import ROOT
from dashkit.storage.tables import COLUMNS

RESULTS = ROOT / "data" / "results"
RULES = ROOT / "data" / "reference" / "rules.csv"
STUDY_RULES = RULES.with_name("study_rules.csv")


OF_CAMPAIGNS = "^(?:fid|kid|is|fd|kd)@"
"""Metrics that a campaign measures, of the students of one seed."""


def calibration_table(results: pd.DataFrame, *, w: float) -> pd.DataFrame:
    """One row an arm: mean over training seeds of calibration and of quality at w and at each arm's best w.

    `fd` is the Fréchet distance divided by the real-vs-real floor (1 is as good as real images drawn as the samples
    are); `sd` its spread over seeds (ddof = 1, empty for one seed).
    """
    results = with_beta(results)
    floor = results.query("arm == 'real' and metric == 'frechet'").value.mean()
    models = results[results.arm != "real"]
    wide = models.pivot_table(index=["arm", "seed"], columns="metric", values="value", sort=False)
    frechet = wide.filter(regex="^frechet@w=") / floor
    wide = wide.assign(fd=frechet[f"frechet@w={w:g}"], fd_best=frechet.min(axis=1),
                       w_best=frechet.idxmin(axis=1).str.removeprefix("frechet@w=").astype(float))
    columns = ["rho", "slope", "beta", "cos", "r2", "fd", "fd_best", "w_best"]
    by_arm = wide.groupby("arm", sort=False)
    table = by_arm[columns].mean()
    table.insert(6, "sd", by_arm.fd.std(ddof=1))
    table.insert(len(table.columns), "accuracy", by_arm[f"accuracy@w={w:g}"].mean())
    table.insert(0, "params", by_arm.parameters.first().astype("Int64"))
    table.insert(len(table.columns), "seeds", by_arm.size())
    return table


def checked(results: pd.DataFrame) -> pd.DataFrame:
    """A tidy results table that may be analysed: one profile, no row twice, every seed for every student.

    FID and KID alone may be those of one seed, or be left out where there was no time.  ValueError says what is wrong;
    results of several commits are allowed, and `source` says so.
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
        if part[~part.metric.str.contains(OF_CAMPAIGNS)].groupby("seed").size().nunique() != 1:
            raise ValueError(f"{arm} has fewer measurements for some seeds than for others")
    return results


def published_figures() -> pd.DataFrame:
    """The paper's table for CIFAR-10 and CIFAR-100, a row an arm of ours; empty where the paper gives no number."""
    return pd.read_csv(ROOT / "data" / "reference" / "published.csv").set_index("arm")


def beta_of(slope: float, r2: float) -> float:
    """The beta of gaps whose slope and R^2 are known: slope / (2 slope - R^2), since E|gS|^2 / E|gT|^2 = 2 slope - R^2.

    Floats or whole columns of them, from tables that were measured before beta was.
    """
    return slope / (2 * slope - r2)


def with_beta(results: pd.DataFrame) -> pd.DataFrame:
    """The table with beta of every gap whose slope and R^2 it holds; a table that has beta already stays as it is."""
    gaps = results[results.metric.str.contains("^(?:set[0-9]+:)?(?:slope|r2|beta)(?!@t=)")]
    name = gaps.metric.str.extract("^(set[0-9]+:)?(slope|r2|beta)(.*)$").fillna("")
    gaps = gaps.assign(before=name[0], what=name[1], after=name[2])
    values = gaps.pivot(index=["arm", "seed", "before", "after"], columns="what", values="value")
    if not {"slope", "r2"} <= set(values) or "beta" in values:
        return results
    values = beta_of(values.slope, values.r2).rename("beta").reset_index().dropna()
    found = gaps[gaps.what == "slope"].merge(values, on=["arm", "seed", "before", "after"])
    found = found.assign(metric=found.before + "beta" + found.after, value=found.beta)
    return pd.concat([results, found[list(results.columns)]], ignore_index=True)


def source_of(results: pd.DataFrame) -> str:
    """The profile and commit that a table comes from, marked if the models are of several commits."""
    real = set(results[results.arm == "real"].commit)
    commits = sorted(set(results[results.arm != "real"].commit) or real)
    again = f", real images measured at {', '.join(sorted(real - set(commits)))}" if real - set(commits) else ""
    return (f"{results.profile.iloc[0]}, " + ("commit " if len(commits) == 1 else "MIXED commits ")
            + ", ".join(commits) + again)


def by_seed(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric as a table: a row a training seed, a column an arm.

    A teacher has its value in the row of each of its students.  Where there are several teachers the index is (teacher,
    seed): a student belongs to the teacher with the largest seed up to its own (see `sweeps.sweep`).  `fd@w=1.5` is the
    Fréchet distance over the real-vs-real floor, `fd@best` the smallest over constant scales.  KeyError for a metric
    that is not there.
    """
    if metric.startswith("fd@"):
        name = metric.removeprefix("fd@")
        wanted = results.metric.str.startswith("frechet@w=") if name == "best" else results.metric == f"frechet@{name}"
        part = results[wanted & (results.arm != "real")].groupby(["arm", "seed"], sort=False).value.min().reset_index()
        part["value"] /= results.query("arm == 'real' and metric == 'frechet'").value.mean()    # one, whoever teaches
    else:
        part = results[(results.metric == metric) & (results.arm != "real")]
    if part.empty:
        raise KeyError(metric)
    table = part.pivot(index="seed", columns="arm", values="value")
    own = table.pop("teacher").dropna() if "teacher" in table else None
    if own is not None:
        table = table.dropna(how="all") if table.shape[1] else table
        table["teacher"] = own.to_numpy()[_teachers_of(table.index, own.index)]
    teachers = results[results.arm == "teacher"].seed.unique()
    if len(teachers) > 1:
        seeds = table.index
        teachers = np.sort(teachers)
        table.index = pd.MultiIndex.from_arrays([teachers[_teachers_of(seeds, teachers)], seeds],
                                                names=["teacher", "seed"])
    return table


def _teachers_of(seeds: pd.Index, teachers: Sequence[int]) -> np.ndarray:
    """The place, among the sorted seeds of teachers, of each student's own."""
    return np.searchsorted(np.asarray(teachers), np.asarray(seeds), side="right") - 1


def by_unit(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`by_seed`, with one more level of the index, `sampling_set`, where the metric was measured on several of them
    (`set1:...`)."""
    name = metric.removeprefix("fd@")
    stored = metric if name == metric else "frechet@" + ("w=" if name == "best" else name)
    others = results.metric.str.extract("^set([0-9]+):" + re.escape(stored))[0].dropna().unique()
    if len(others) == 0:
        return by_seed(results, metric)
    first = results[~results.metric.str.startswith("set")]
    found = {0: by_seed(first, metric)}
    for k in sorted(map(int, others)):
        before = f"set{k}:"
        part = results[results.metric.str.startswith(before)]
        part = part.assign(metric=part.metric.str.removeprefix(before))
        found[k] = by_seed(pd.concat([first[first.arm == "real"], part]), metric)
    return pd.concat(found, names=["sampling_set"])


def intervals(results: pd.DataFrame, metric: str, arms: Sequence[str] | None = None) -> pd.DataFrame:
    """A metric's mean over training seeds, and over sampling sets where there are several, with its interval: columns
    value, lo, hi, n, a row an arm.

    The teacher has one training seed here and therefore no interval.
    """
    table = by_unit(results, metric)
    names = [a for a in (arms or results.arm.unique()) if a in table and a != "teacher"]
    return pd.DataFrame({a: bootstrap(table[[a]], lambda m, a=a: m[a])._asdict() for a in names}).T


class Results(NamedTuple):
    """A tidy table and one sentence on where it comes from."""

    table: pd.DataFrame
    source: str


def devices(table: pd.DataFrame) -> str:
    """What a table was measured on, whatever it is published on."""
    return ", ".join(sorted(table.device.unique()))


def write_published(table: pd.DataFrame, manifest: dict, folder: Path) -> None:
    """Write `results.csv`, values with six digits and counts with all, and `manifest.json`, which holds its SHA-256.

    It also holds the SHA-256 of the rules of the ledger: they were registered if those of the manifest's commit, from
    before the sweep, have the same.
    """
    rules = {"rules": RULES, "study_rules": STUDY_RULES}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in rules.items()}
    write_published_text(published_text(table), hashes | manifest, folder)


def published_text(table: pd.DataFrame) -> str:
    """A table as it is published: CSV, values with six digits and counts with all."""
    values = [f"{v:.0f}" if float(v).is_integer() and abs(v) < 2**53 else f"{v:.6g}" for v in table.value]
    return table.assign(value=values).to_csv(index=False, lineterminator="\n")


def write_published_text(text: str, manifest: dict, folder: Path) -> None:
    """Write `results.csv` of this text, and `manifest.json` with its SHA-256."""
    content = text.encode()
    store.write_bytes(folder / "results.csv", content)
    store.write_json(folder / "manifest.json", manifest | {"sha256": hashlib.sha256(content).hexdigest()})


def published_results(profile: str, root: Path = RESULTS) -> Results:
    """The published table of a profile, checked; FileNotFoundError, or ValueError if it is not what was published."""
    root = Path(root)
    path = root / profile / "results.csv"
    if not path.is_file():
        paths.require_project(path)
        there = ", ".join(sorted(p.parent.name for p in root.glob("*/results.csv"))) or "none"
        raise FileNotFoundError(f"there are no published results of {profile} (published: {there})")
    manifest = store.read_json(path.with_name("manifest.json"), "sha256")
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{path} was changed after it was written; restore it or run the sweep again")
    table = tables.read_table(path)
    try:
        checked(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if table.profile.iloc[0] != profile:
        raise ValueError(f"{path} holds results of {table.profile.iloc[0]}")
    students = table[~table.arm.isin(["real", "teacher"])]
    seeds, teachers = students.seed.nunique(), table[table.arm == "teacher"].seed.nunique()
    of = f" of {teachers} teachers" if teachers > 1 else ""
    widths = students.metric.str.extract(r"@ch=(\d+)$")[0].nunique()
    arms, n = students.arm.nunique(), len(students[["arm", "seed"]].drop_duplicates()) * max(widths, 1)
    in_widths = f" in {widths} widths" if widths > 1 else ""
    return Results(with_beta(table), f"published results of {source_of(table)}: {arms} arms{in_widths}, {seeds} "
                                     f"training seeds{of}, {n} students, on {devices(table)}")


def published_study(name: str, root: Path = RESULTS) -> Results:
    """The published table of a study (`experiments.studies`); errors as those of `published_results`."""
    return published_results(name, Path(root) / "studies")


def scales_of(results: pd.DataFrame, profile: Profile) -> tuple[float, float]:
    """The scale w at which arms are compared, and the strongest one, among those that `results` were measured at.

    They are those of `profile`, if all that it names were measured, and else those of the results' own profile.
    """
    measured = set(results.metric)
    for p in (profile, PROFILES.get(results.profile.iloc[0], profile)):
        if all(f"frechet_teacher@w={w:g}" in measured for w in p.ws):
            return p.w, max(p.ws)
    raise ValueError(f"these results of {results.profile.iloc[0]} were not measured at the scales of a profile")


def results_of(run: Run, *, recompute: bool = False) -> Results:
    """The published results of digits; or, with `recompute`, this run's own sweep, trained if need be."""
    if not truth("recompute", recompute):
        return published_results("digits")
    print(budget.remaining(run))
    return Results(checked(sweep(run)), f"own sweep of {run.profile.name}, seeds {run.seeds}")
