"""The paper's experiment in stages that fit short turns on a GPU: plan, train, measure, FID, table.

`dashkit campaign --profile cifar10_fast --minutes 12` measures how fast this machine is, fixes the number of steps that
fit, and works until its turn is over; the same command goes on from there.  Notebook 10 does the same.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit.datasets import fetch, sources
from dashkit.experiments import budget, costing, fid, processes, training
from dashkit.experiments.costing import STAGES
from dashkit.experiments.evaluation import best_scales, evaluate_all, is_measured, tidy
from dashkit.experiments.networks import check_current, load_student, load_teacher, say_stale
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.ready import FEWEST_FID, check_run
from dashkit.experiments.run import SAMPLING_SEED, Run, kept
from dashkit.experiments.settings import number, typed
from dashkit.experiments.training import train_teacher, unfinished
from dashkit.experiments.turns import Stage, Used, now, work
from dashkit.method import guidance
from dashkit.method.images import to_float, to_uint8
from dashkit.method.quality import in_chunks
from dashkit.method.sampling import sample
from dashkit.storage import paths, provenance, store, tables

PART = 1000                  # images between two looks at the clock, and two files


def sampling_batch(run: Run) -> int:
    """How many images are sampled at once: every batch of a part has the same shape, and is one CUDA graph."""
    return PART if run.device.type == "cuda" else PART // 4


class Plan(NamedTuple):
    """What one campaign does in its hours; fixed at its start, so that every later turn does the same."""

    hours: float
    teacher_steps: int
    student_steps: int
    fid_samples: int         # of each network under each guidance: FID depends on their number
    full_hours: float        # what the published settings would take here, from the speed of their networks


def plan_path(run: Run) -> Path:
    """Where the plan for exactly these settings is kept; the run is the one before `with_plan`."""
    return run.root / run.profile.name / f"campaign-s{run.seed}-{store.fingerprint(run.profile.asdict())}.json"


def check(run: Run, *, wanted: Sequence[str] = STAGES, reference: int | None = None,
          publish: Path | None = None) -> None:
    """`ready.check_run` of a campaign: FID's weights and package must be there, unless its images are grey.

    They are not asked for where FID is none of the stages that are wanted.
    """
    colour = run.profile.teacher.channels == 3
    if publish and not colour:
        raise ValueError(f"a campaign of {run.profile.name} has no FID to publish; choose a profile with colour images")
    weights = paths.CACHE / fetch.INCEPTION if colour and "fid" in wanted else None
    check_run(run, weights=weights, reference=reference, publish=publish)


def make_plan(run: Run, hours: float, *, fid_samples: int = 50_000, wanted: Sequence[str] = STAGES,
              of: costing.FidOf | None = None, spent: float = 0.0) -> Plan:
    """The plan of this run: the one begun before, or a new one from rates measured now.

    Steps fill their share of the time, but are never more than the profile's; so is the number of samples, up to
    `fid_samples`, which come in whole parts.  Only stages that are `wanted` are planned; others are when they are.
    `spent` are seconds of the hours that are over already, and what is done here counts as well.  ValueError for other
    hours or `fid_samples` than those of a campaign already begun, and whatever `ready.check_run` says.
    """
    check(run, wanted=wanted)
    hours, fid_samples = typed("hours", hours), typed("fid_samples", fid_samples)
    path, began, p = plan_path(run), now(), run.profile
    plan, most, planned = _read_plan(run, path) if path.is_file() else (None, fid_samples, ())
    compiled = was_compiled(run)
    new = tuple(name for name in wanted if name not in planned)
    if plan and (fid_samples != most or (not new and hours != plan.hours)):
        raise ValueError(f"{path} plans {plan.hours:g} hours and at most {short(most)} samples, not {hours:g} and "
                         f"{fid_samples}: go on with the same, or delete it to plan anew")
    if not new:
        return plan
    if not plan and not {"teacher", "students"} & set(new):
        raise ValueError(f"no campaign of {p.name} is planned yet: begin with --stages teacher")
    costs = costing.measured(run, of, new)
    limits = costing.Division(p.teacher_steps, p.student_steps, fid_samples)
    seconds = hours * 3600 - spent - (now() - began)
    found = costing.divide(seconds, costs, limits, seeds=p.seeds, wanted=new)
    found = found._replace(fid_samples=_whole_parts(found.fid_samples, fid_samples))
    if plan:
        before = costing.Division(plan.teacher_steps, plan.student_steps, plan.fid_samples)
        kept = [old if name in planned else one
                for name, old, one in zip(("teacher", "students", "fid"), before, found, strict=True)]
        plan = Plan(hours, *kept, plan.full_hours)
    else:
        plan = Plan(hours, *found, costing.published_hours(run, costs))
    if processes.is_main():
        trains = set(costing.TRAINING) & set(new)
        store.write_json(path, {
            "plan": plan._asdict(), "fid_samples": fid_samples, "planned": [*planned, *new], "costs": costs._asdict(),
            "compiled": run.compile if trains else compiled,
            "expected": costing.expected(found, costs, seeds=p.seeds, wanted=new),
            "manifest": provenance.manifest(
                profile=p.name, seed=run.seed, device=provenance.device_name(run.device), processes=processes.size(),
                settings=p.asdict())})
    processes.wait()                          # all have measured, together; what the main process wrote is the plan
    return _read_plan(run, path)[0]


def _whole_parts(n: int, most: int) -> int:
    """Fewer than were asked for are so many that they come in batches of one shape."""
    size = PART if n >= PART else 1
    return n if n == most else n // size * size


def planned_hours(run: Run, wanted: Sequence[str] = STAGES) -> float | None:
    """The hours of the plan that was made before of the stages that are wanted; None if there is none."""
    path = plan_path(run)
    if not path.is_file():
        return None
    plan, _, planned = _read_plan(run, path)
    return plan.hours if set(wanted) <= set(planned) else None


def quicker(run: Run, wanted: Sequence[str] = STAGES) -> Run:
    """The run that was to be compiled, if that pays: tried before anything is planned, and kept for later turns."""
    if not run.compile or not set(costing.TRAINING) & set(wanted):
        return run
    if planned_hours(run, wanted) is None:
        return costing.faster(run, tuple(wanted))
    return kept(run, compile=was_compiled(run))


def was_compiled(run: Run) -> bool:
    """Whether the plan that was made before found compiled training faster."""
    path = plan_path(run)
    return path.is_file() and store.read_json(path).get("compiled") is True


def expected_seconds(run: Run) -> dict[str, float]:
    """What the newest planning said that each stage would take; empty if there is none."""
    path = plan_path(run)
    saved = store.read_json(path).get("expected") if path.is_file() else None
    return {k: v for k, v in saved.items() if type(v) in (int, float)} if isinstance(saved, dict) else {}


def fid_of(run: Run, extract: fid.Extractor, reference: fid.Statistics) -> costing.FidOf:
    """What FID is measured of, for the plan: the teacher and the students of `run.seed`, under each of their guidances.

    FID wants many samples of a few networks; other measures want few samples of many.
    """
    whose = ["teacher" if arm == "teacher" else "student" for arm in _of_fid(run)]
    return costing.FidOf(extract, reference, whose, sampling_batch(run))


def _of_fid(run: Run) -> list[str]:
    """The arm of each set of samples, those of a best scale that will be known by then included."""
    arms = ("teacher", *run.profile.arms)
    return [one.arm for one in _sampled(run)] + [arm for arm in arms if not best_scales(run, arm)]


def _read_plan(run: Run, path: Path) -> tuple[Plan, object, tuple[str, ...]]:
    """A plan made before, how many samples were asked for, and which stages it is of; ValueError unless it is one of
    this run."""
    saved, p = store.read_json(path, "plan", "fid_samples"), run.profile
    found = saved["plan"]
    most = {"hours": 10_000, "teacher_steps": p.teacher_steps, "student_steps": p.student_steps,
            "fid_samples": 10**9, "full_hours": 10**9}
    whole = [k for k in most if not k.endswith("hours")]
    if not isinstance(found, dict) or found.keys() != most.keys() or not all(
            type(v) is int or (type(v) is float and k not in whole) for k, v in found.items()) or not all(
            0 < v <= most[k] for k, v in found.items()):
        raise ValueError(f"{path} holds no plan of {p.name}; delete it to plan anew")
    planned = saved.get("planned", list(STAGES))
    if not isinstance(planned, list) or any(name not in STAGES for name in planned):
        raise ValueError(f"{path} holds no plan of {p.name}; delete it to plan anew")
    return Plan(**found), saved["fid_samples"], tuple(planned)


def with_plan(run: Run, plan: Plan) -> Run:
    """The run with the steps of its plan."""
    steps = {"teacher_steps": plan.teacher_steps, "student_steps": plan.student_steps}
    return kept(run, profile=replace(run.profile, **steps))


def resumed_run(run: Run) -> Run:
    """The run as its campaign trains it, if one was begun; else the run itself."""
    path = plan_path(run)
    return with_plan(run, _read_plan(run, path)[0]) if path.is_file() else run


class Guidance(NamedTuple):
    """One way of sampling that FID is measured for."""

    w: float | Tensor
    recompute_eps: bool = True


def _guidances(run: Run, arm: str) -> dict[str, Guidance]:
    """The network's own best scale, if its w-curve was measured, the fixed scale, and the paper's adaptive guidance.

    For the teacher and DASH also the fixed scale with the eps of before the clamp: notebook 01 shows what that does.
    """
    scales = [*best_scales(run, arm), run.profile.w]
    found = {f"w={w:g}": Guidance(w) for w in scales}
    found["tag"] = Guidance(guidance.tag(run.profile.T, max(run.profile.ws)))
    if arm in ("teacher", "dash"):
        found[f"w={run.profile.w:g}, eps kept"] = Guidance(run.profile.w, recompute_eps=False)
    return found


# ------------------------------------------------------------------------------------------------------------- stages


def stages(run: Run, plan: Plan, extract: fid.Extractor | None, reference: fid.Statistics | None) -> dict[str, Stage]:
    """What a campaign does, in order; `run` is the planned one."""
    p = run.profile

    def students() -> dict[tuple[str, int], nn.Module]:
        return {(a, s): load_student(run, a, s) for s in run.seeds for a in p.arms}

    def distil() -> Iterator:
        teacher = load_teacher(run)
        say_stale(run, {seed: unfinished(run, p.arms, seed) for seed in run.seeds})
        for seed in run.seeds:
            yield from training.distil(run, teacher, p.arms, seed)

    def measure() -> Iterator:
        teacher = load_teacher(run)
        with processes.main_first():
            evaluate_all(run, teacher, {})                     # the teacher's own
        for key, student in processes.own(list(students().items())):
            if not is_measured(run, *key):
                yield evaluate_all(run, teacher, {key: student})

    def measure_fid() -> Iterator:
        models = {"teacher": load_teacher(run).model} | {arm: load_student(run, arm, run.seed) for arm in p.arms}
        for sampled in processes.own(_sampled(run)):
            yield from fid_parts(run, plan, models[sampled.arm], sampled, extract, reference)

    n_models = 1 + len(p.arms) * p.seeds
    n_parts = len(_of_fid(run)) * -(-plan.fid_samples // PART)
    return {"teacher": Stage(lambda: train_teacher(run), p.teacher_steps, True),
            "students": Stage(distil, sum(training.steps_of(run, p.arms, s) for s in run.seeds), True),
            "evaluation": Stage(measure, n_models - 1, False),
            "fid": Stage(measure_fid, n_parts, False)}


class Sampled(NamedTuple):
    """Samples that FID is measured of: of which network, and under which guidance."""

    arm: str
    seed: int
    name: str      # of the guidance, a key of `_guidances`


def _sampled(run: Run) -> list[Sampled]:
    """Everything that FID is measured of: every network under its first guidance, then under its second, ..."""
    names = {arm: list(_guidances(run, arm)) for arm in ("teacher", *run.profile.arms)}
    return [Sampled(arm, run.seed, of_arm[k]) for k in range(max(map(len, names.values())))
            for arm, of_arm in names.items() if k < len(of_arm)]


def fid_path(run: Run, plan: Plan, sampled: Sampled, reference: fid.Statistics) -> Path:
    """Where the results of one model and guidance are kept; those of other weights or samples are elsewhere."""
    arm, seed, name = sampled
    w, recompute_eps = _guidances(run, arm)[name]
    key = [name, w.tolist() if isinstance(w, Tensor) else w, recompute_eps, plan.fid_samples, run.profile.sample_steps,
           run.weights(arm, seed), reference.n]           # of n images: `make_reference` always takes the same ones
    return run.folder(arm, seed) / f"fid-{store.fingerprint(key)}.csv"


def parts_path(path: Path, reference: fid.Statistics) -> Path:
    """Where features wait for the last of the samples whose results belong in `path`.

    Those of another extractor are elsewhere: the small classifier is trained in every turn, and with another number of
    threads it is another one.
    """
    return path.with_name(f"{path.stem}-{store.fingerprint(reference.mean.tolist())}")


def fid_parts(run: Run, plan: Plan, model: nn.Module, sampled: Sampled, extract: fid.Extractor,
              reference: fid.Statistics) -> Iterator[None]:
    """FID and KID of one model under one guidance, a thousand images at a time; finished parts stay on disk.

    All models get the same labels and noise.
    """
    arm, seed, name = sampled
    n, how = plan.fid_samples, _guidances(run, arm)[name]
    path = fid_path(run, plan, sampled, reference)
    if path.is_file():
        return
    check_current(run, arm, seed, model)
    parts, sampler = parts_path(path, reference), run.sampler(model)
    for start in range(0, n, PART):
        part = parts / f"{start:06d}.safetensors"
        if not part.is_file():
            size = min(PART, n - start)
            y = ((torch.arange(size) + start) % run.images.num_classes).to(run.device)
            generator = torch.Generator().manual_seed(SAMPLING_SEED + start)
            x_T = torch.randn((size, *run.images.shape), generator=generator).to(run.device)
            with run.autocast():
                x = sample(sampler, run.schedule, y, x_T=x_T, w=how.w, steps=run.profile.sample_steps,
                           recompute_eps=how.recompute_eps, batch=sampling_batch(run))
            store.save_tensors(part, {"features": extract(to_uint8(x)).float().cpu()}, {"arm": arm, "name": name})
            yield
    files = [parts / f"{start:06d}.safetensors" for start in range(0, n, PART)]
    features = torch.cat([_read_part(f, min(PART, n - i * PART), reference) for i, f in enumerate(files)])
    features = features.to(run.device)
    values = dict(zip(extract.distances, (fid.fid(features, reference), fid.kid(features, reference)), strict=True))
    found = [{"metric": f"{distance}@{name}", "value": value, "n": n} for distance, value in values.items()]
    if extract.classifier is not None:
        found.append({"metric": f"is@{name}", "value": fid.inception_score(features, extract.classifier), "n": n})
    tables.write_table(path, tidy(run, arm, seed, found))
    for folder in path.parent.glob(f"{path.stem}-*"):
        shutil.rmtree(folder)


def _read_part(path: Path, n: int, reference: fid.Statistics) -> Tensor:
    features = store.load_tensors(path).tensors.get("features", torch.empty(0))
    if features.dtype != torch.float32 or features.shape != (n, len(reference.mean)):
        raise ValueError(f"{path} does not hold the features of {n} images; delete it")
    return features


def is_evaluated(run: Run) -> bool:
    """Whether everything but FID was measured, of every network."""
    keys = [("teacher", run.seed), *((a, s) for s in run.seeds for a in run.profile.arms)]
    return all(is_measured(run, *key) for key in keys)


def table(run: Run, plan: Plan, extract: fid.Extractor, reference: fid.Statistics) -> pd.DataFrame:
    """Everything that was measured, tidy: gap statistics, Fréchet distances of the small classifier, FID and KID.

    FID that there was no time for is not in it.
    """
    teacher = load_teacher(run)
    models = {(a, s): load_student(run, a, s) for s in run.seeds for a in run.profile.arms}
    of_fid = [fid_path(run, plan, one, reference) for one in _sampled(run)]
    found = [tables.read_table(path) for path in of_fid if path.is_file()]
    floor = tidy(run, "real", run.seed, [{"metric": extract.distances[0], "value": reference.floor,
                                                   "n": reference.n // 2}])
    return pd.concat([evaluate_all(run, teacher, models), floor, *found], ignore_index=True)


def run_turn(run: Run, plan: Plan, wanted: Mapping[str, float], *, seconds: float,
             extract: fid.Extractor | None = None, reference: fid.Statistics | None = None) -> list[Used]:
    """Work through the stages that are wanted for at most `seconds`; returns what each took.  Stop it at any time.

    `wanted` says how many seconds each is expected to take, or 0.  Without `extract` and `reference` there is no FID.
    """
    there = stages(run, plan, extract, reference)
    chosen = {name: there[name]._replace(seconds=wanted[name]) for name in STAGES if name in wanted}
    return work(chosen, now() + seconds)


def keep_used(run: Run, used: Sequence[Used]) -> None:
    """Add what a turn took to the plan's file, beside what was expected; `run` is the one before `with_plan`."""
    saved = store.read_json(plan_path(run))
    before = saved.get("used", {})
    saved["used"] = before | {u.name: {
        "seconds": round(u.seconds + before.get(u.name, {}).get("seconds", 0.0), 1), "done": u.done} for u in used}
    if processes.is_main():
        store.write_json(plan_path(run), saved)


def run_stages(run: Run, plan: Plan, *, minutes: float, extract: fid.Extractor, reference: fid.Statistics) -> bool:
    """Work through all stages for at most about `minutes`; returns whether all is done.  Stop it at any time."""
    seconds = 60 * typed("minutes", minutes)
    used = run_turn(run, plan, dict.fromkeys(STAGES, 0.0), seconds=seconds, extract=extract, reference=reference)
    return all(u.done for u in used)


def used_beside_expected(used: Sequence[Used], seconds: Mapping[str, float]) -> str:
    """A line a stage: what it took, beside what was planned."""
    lines = [f"{'stage':12s} {'used':>9s} {'planned':>9s}"]
    for u in used:
        planned = f"{seconds[u.name]:7.1f} s" if u.name in seconds else ""
        lines.append(f"{u.name:12s} {u.seconds:7.1f} s {planned:>9s}{'' if u.done else '  not done'}")
    return "\n".join(lines)


class SmallFeatures:
    """The run's own classifier in Inception's place, for images that Inception cannot see: uint8 images to features.

    What comes out are Fréchet and kernel distances, `fd` and `kd`, but they are not FID and KID.
    """

    distances, classifier = ("fd", "kd"), None

    def __init__(self, run: Run) -> None:
        self.features, self.device = run.image_reference.classifier.features, run.device

    def __call__(self, images: Tensor) -> Tensor:
        return in_chunks(self.features, to_float(images.to(self.device)))


def make_reference(run: Run, n: int | None = None) -> tuple[fid.Extractor, fid.Statistics]:
    """What FID is of, and the statistics of n training images of the data set, mirrored ones left out.

    Fewer than all are a random selection, always the same one.  Grey images get `SmallFeatures`.
    """
    pixels = sources.load_images(run.profile.dataset.removesuffix("_mirrored"), cache=paths.CACHE).pixels
    if n is not None:
        n = number("the number of reference images", n, FEWEST_FID, len(pixels), whole=True)
    if n is not None and n < len(pixels):    # at random: the first n of a data set stored class by class are one class
        pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:n]]
    if run.profile.teacher.channels != 3:
        extract = SmallFeatures(run)
        return extract, fid.statistics(extract(pixels))
    extract = fid.Inception(paths.CACHE / fetch.INCEPTION, run.device)
    with processes.main_first():
        return extract, fid.reference(pixels, lambda: extract, paths.CACHE)


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: parameters, gap statistics in eps and in clamped x0, and FID and KID by guidance, with N."""
    wanted = "^(?:fid|kid|is|fd|kd)(?:@|$)"
    rows = results[results.metric.isin(["parameters", "rho", "slope", "cos", "rho_x0", "cos_x0", "spearman"])
                   | results.metric.str.contains(wanted)]
    wide = rows.pivot_table(index="arm", columns="metric", values="value", sort=False)
    wide["N"] = results[results.metric.str.contains(wanted)].groupby("arm").n.first()
    return wide


def describe(run: Run, plan: Plan) -> str:
    """What the plan does, and what more time would buy."""
    p, batch = PROFILES["cifar10"], run.profile.batch
    return "\n".join([
        f"{budget.format_seconds(3600 * plan.hours)}: teacher {plan.teacher_steps:,} steps of {batch} "
        f"({plan.teacher_steps * batch / 1e6:.2f} million images), {len(run.profile.arms)} students "
        f"{plan.student_steps:,} steps of {run.profile.distil_batch}, FID from {plan.fid_samples:,} samples of each.",
        f"With more time the teacher would see more: the published settings are {p.batch * p.teacher_steps / 1e6:.0f} "
        f"million images, and with {len(run.profile.arms)} students in lockstep take about "
        f"{budget.format_seconds(3600 * plan.full_hours)} on {provenance.device_name(run.device)}.",
    ])
