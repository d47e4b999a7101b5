"""The paper's experiment in stages that fit short turns on a GPU: plan, train, measure, FID, table.  Layer 5.

`dashkit campaign cifar10_fast --hours 0.4` measures how fast this machine is, fixes the number of steps that fit, and
works until its turn is over; the same command goes on from there.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit import budget, data, fetch, fid, guidance, recipes, runs
from dashkit.data import to_uint8
from dashkit.profiles import PROFILES
from dashkit.recipes import Run
from dashkit.sample import sample

SHARES = {"teacher": 0.45, "students": 0.25, "evaluation": 0.08, "fid": 0.22}
"""How a campaign's time is divided: a student is never better than its teacher, so the teacher gets the most."""
MAIN = ("teacher", "dash", "scratch")
PART = 1000                  # images between two looks at the clock, and two files


class Plan(NamedTuple):
    """What one campaign does in its hours; fixed at its start, so that every later turn does the same."""

    hours: float
    teacher_steps: int
    student_steps: int
    fid_samples: int         # for the main arms; the others get a fifth
    full_hours: float        # what the published settings would take here, from the speed of their networks


def plan_path(run: Run) -> Path:
    return run.root / run.profile.name / f"campaign-s{run.seed}.json"


def make_plan(run: Run, hours: float, *, fid_samples: int = 50_000) -> Plan:
    """The plan of this run: the one begun before, or a new one from rates measured now.

    Steps fill their share of the time, but are never more than the profile's; so is the number of samples, up to
    `fid_samples`.  ValueError for another number of hours than that of a campaign already begun.
    """
    if not 0 < hours <= 10_000 or fid_samples < 20:
        raise ValueError(f"hours must be in (0, 10000] and fid_samples at least 20, not {hours!r} and {fid_samples!r}")
    path = plan_path(run)
    if path.is_file():
        saved = Plan(**runs.read_json(path)["plan"])
        if saved.hours != hours:
            raise ValueError(f"a campaign of {saved.hours:g} hours was begun: go on with --hours {saved.hours:g}, "
                             f"or delete {path} to plan anew")
        return saved
    p, cost = run.profile, budget.rates(run)
    seconds = {stage: share * hours * 3600 for stage, share in SHARES.items()}
    lockstep = p.seeds * (cost.teacher_pass + len(p.arms) * cost.student_update)
    n_samples = seconds["fid"] / (p.sample_steps / p.batch) / _fid_passes(run, cost)
    plan = Plan(
        hours,
        min(p.teacher_steps, max(1, int(seconds["teacher"] / cost.teacher_update))),
        min(p.student_steps, max(1, int(seconds["students"] / lockstep))),
        min(fid_samples, max(20, int(n_samples))),
        published_hours(run),
    )
    runs.write_json(path, {"plan": plan._asdict(), "manifest": runs.manifest(
        profile=p.name, seed=run.seed, device=runs.device_name(run.device), settings=p.asdict())})
    return plan


def _fid_passes(run: Run, cost: budget.Rates) -> float:
    """Seconds of one sampling step of a batch, summed over all that FID is asked of."""
    found = 0.0
    for arm in ("teacher", *run.profile.arms):
        seeds, one = (1, cost.measured_pass) if arm == "teacher" else (run.profile.seeds, cost.student_pass)
        found += seeds * one * len(_guidances(run, arm)) * (1 if arm in MAIN else 0.2)
    return found


def planned(run: Run, plan: Plan) -> Run:
    """The run with the steps of its plan."""
    steps = {"teacher_steps": plan.teacher_steps, "student_steps": plan.student_steps}
    return replace(run, profile=replace(run.profile, **steps))


class Guidance(NamedTuple):
    """One way of sampling that FID is measured for."""

    w: float | Tensor
    recompute_eps: bool = True


def _guidances(run: Run, arm: str) -> dict[str, Guidance]:
    """The paper's timestep-adaptive guidance, and the fixed scale.

    For the teacher and DASH also the fixed scale with the eps of before the clamp: notebook 01 shows what that does.
    """
    found = {"tag": Guidance(guidance.tag(run.profile.T, max(run.profile.ws))),
             f"w={run.profile.w:g}": Guidance(run.profile.w)}
    if arm in ("teacher", "dash"):
        found[f"w={run.profile.w:g}, eps kept"] = Guidance(run.profile.w, recompute_eps=False)
    return found


# ------------------------------------------------------------------------------------------------------------- stages


def stages(run: Run, plan: Plan, extract: fid.Extractor, reference: fid.Statistics) -> dict[str, tuple[Callable, int]]:
    """Each stage's items, made when its turn comes, and how many there are at most; `run` is the planned one."""
    p = run.profile

    def students() -> dict[tuple[str, int], nn.Module]:
        return {(a, s): recipes.load_student(run, a, s) for s in run.seeds for a in p.arms}

    def distil() -> Iterator:
        teacher = recipes.load_teacher(run)
        for seed in run.seeds:
            yield from recipes.distil(run, teacher, p.arms, seed)

    def measure() -> Iterator:
        teacher = recipes.load_teacher(run)
        for key, student in students().items():
            if not recipes.is_measured(run, *key):
                yield recipes.evaluate_all(run, teacher, {key: student})

    def judge() -> Iterator:
        yield from fid_parts(run, plan, recipes.load_teacher(run).model, "teacher", run.seed, extract, reference)
        for (arm, seed), student in students().items():
            yield from fid_parts(run, plan, student, arm, seed, extract, reference)

    n_models = 1 + len(p.arms) * p.seeds
    return {"teacher": (lambda: recipes.train_teacher(run), p.teacher_steps),
            "students": (distil, p.student_steps * p.seeds),
            "evaluation": (measure, n_models - 1),
            "fid": (judge, sum(len(_guidances(run, a)) * -(-_n(plan, a) // PART) * (1 if a == "teacher" else p.seeds)
                               for a in ("teacher", *p.arms)))}


def _n(plan: Plan, arm: str) -> int:
    return plan.fid_samples if arm in MAIN else max(20, plan.fid_samples // 5)


def fid_path(run: Run, plan: Plan, arm: str, seed: int, name: str) -> Path:
    key = runs.fingerprint([name, _n(plan, arm), run.profile.sample_steps])
    return run.folder(arm, seed) / f"fid-{key}.csv"


def fid_parts(run: Run, plan: Plan, model: nn.Module, arm: str, seed: int, extract: fid.Extractor,
              reference: fid.Statistics) -> Iterator[None]:
    """FID and KID of one model under each of its guidances, a thousand images at a time; finished parts stay on disk.

    All models get the same labels and noise.
    """
    n = _n(plan, arm)
    for name, how in _guidances(run, arm).items():
        path = fid_path(run, plan, arm, seed, name)
        if path.is_file():
            continue
        parts = path.with_suffix("")
        for start in range(0, n, PART):
            part = parts / f"{start:06d}.safetensors"
            if not part.is_file():
                size = min(PART, n - start)
                y = ((torch.arange(size) + start) % run.images.num_classes).to(run.device)
                generator = torch.Generator().manual_seed(recipes.SAMPLING_SEED + start)
                x_T = torch.randn((size, *run.images.shape), generator=generator).to(run.device)
                x = sample(model, run.schedule, y, x_T=x_T, w=how.w, steps=run.profile.sample_steps,
                           recompute_eps=how.recompute_eps)
                runs.save_tensors(part, {"features": extract(to_uint8(x)).float().cpu()}, {"arm": arm, "name": name})
                yield
        files = sorted(parts.glob("*.safetensors"))
        features = torch.cat([runs.load_tensors(f).tensors["features"] for f in files])
        found = [{"metric": f"fid@{name}", "value": fid.fid(features, reference), "n": n},
                 {"metric": f"kid@{name}", "value": fid.kid(features, reference), "n": n}]
        runs.write_table(path, recipes.tidy(run, arm, seed, found))
        for file in files:
            file.unlink()
        parts.rmdir()


def table(run: Run, plan: Plan, reference: fid.Statistics) -> pd.DataFrame:
    """Everything that was measured, tidy: gap statistics, Fréchet distances of the small classifier, FID and KID."""
    teacher = recipes.load_teacher(run)
    models = {(a, s): recipes.load_student(run, a, s) for s in run.seeds for a in run.profile.arms}
    keys = [("teacher", run.seed), *models]
    found = [runs.read_results(fid_path(run, plan, a, s, name)) for a, s in keys for name in _guidances(run, a)]
    floor = recipes.tidy(run, "real", run.seed, [{"metric": "fid", "value": reference.floor, "n": reference.n // 2}])
    return pd.concat([recipes.evaluate_all(run, teacher, models), floor, *found], ignore_index=True)


def carry_out(run: Run, plan: Plan, *, minutes: float, extract: fid.Extractor, reference: fid.Statistics) -> bool:
    """Work through the stages for at most about `minutes`; returns whether all is done.  Stop it at any time."""
    deadline = time.monotonic() + 60 * minutes
    for name, (make, ticks) in stages(run, plan, extract, reference).items():
        with closing(make()) as items:
            for _ in recipes.progress(items, total=ticks, title=name):
                if time.monotonic() > deadline:
                    return False
    return True


def judge(run: Run, n: int | None = None) -> tuple[fid.Extractor, fid.Statistics]:
    """The features that FID is of, and the statistics of n training images of the data set, mirrored ones left out."""
    cache = recipes.ROOT / "data" / "cache"
    name = run.profile.dataset.removesuffix("_mirrored")
    pixels = data.load(name, cache=cache).pixels
    if n is not None and not 4 <= n <= len(pixels):
        raise ValueError(f"the reference must be 4 to {len(pixels)} images, not {n!r}")
    extract = fid.extractor(cache / fetch.INCEPTION, run.device)
    return extract, fid.reference(pixels[:n], lambda: extract, cache)


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: parameters, gap statistics in eps and in clamped x0, and FID and KID by guidance, with N."""
    rows = results[results.metric.isin(["parameters", "rho", "slope", "cos", "rho_x0", "cos_x0", "spearman", "fid"])
                   | results.metric.str.startswith(("fid@", "kid@"))]
    wide = rows.pivot_table(index="arm", columns="metric", values="value", sort=False)
    wide["N of FID"] = results[results.metric.str.startswith("fid")].groupby("arm").n.first()
    return wide


def published_hours(run: Run) -> float:
    """Hours that the paper's settings would take on this device, students in lockstep, by their networks' speed."""
    p = PROFILES["cifar10"]
    batch = p.batch if run.device.type == "cuda" else 8
    cost = budget.rates(replace(run, profile=replace(p, batch=batch, seeds=1)))
    lockstep = cost.teacher_pass + len(run.profile.arms) * cost.student_update
    return p.batch / batch * (p.teacher_steps * cost.teacher_update + p.student_steps * lockstep) / 3600


def told(run: Run, plan: Plan) -> str:
    """What the plan does, and what more time would buy."""
    p, batch = PROFILES["cifar10"], run.profile.batch
    return "\n".join([
        f"{plan.hours:g} hours: teacher {plan.teacher_steps:,} steps of {batch} "
        f"({plan.teacher_steps * batch / 1e6:.2f} million images), {len(run.profile.arms)} students "
        f"{plan.student_steps:,} steps, FID from {plan.fid_samples:,} samples of {', '.join(MAIN)}, of others a fifth.",
        f"With more time the teacher would see more: the published settings are {p.batch * p.teacher_steps / 1e6:.0f} "
        f"million images, and with {len(run.profile.arms)} students in lockstep take about "
        f"{budget.spoken(3600 * plan.full_hours)} on {runs.device_name(run.device)}.",
    ])
