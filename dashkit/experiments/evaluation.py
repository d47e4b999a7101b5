"""Measure the teacher and every student, into tidy tables."""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit.datasets import sources
from dashkit.experiments.cost import counted_passes, flops
from dashkit.experiments.networks import check_current, load_curriculum
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.pruning import n_nonzero
from dashkit.experiments.run import SAMPLING_SEED, Run, Teacher
from dashkit.experiments.threads import side_by_side
from dashkit.interop.networks import Source
from dashkit.method import guidance
from dashkit.method.arms import OBJECTIVES, objective
from dashkit.method.calibration import (
    Calibration,
    GapStats,
    States,
    all_branches,
    gap_stats,
    held_out_states,
    measure_calibration,
    visited_states,
    x0_branches,
)
from dashkit.method.guidance import Branches, matched_tables
from dashkit.method.losses import distil_terms, per_sample
from dashkit.method.quality import Quality, balanced_labels, frechet_distance, measure_quality, quality_of
from dashkit.method.schedule import Noised
from dashkit.method.students import IndependentCondition, compared
from dashkit.method.unet import UNet, n_parameters
from dashkit.storage import locks, paths, provenance, store
from dashkit.storage import tables as storage_tables

RULER = 3
"""Counts the changes of what is measured: a measurement made before the last one is made again."""
BY_BETA = "corrected_by_beta"
"""What metrics at w' = 1 + (w - 1) beta are called; older tables have `corrected`, at w' = 1 + (w - 1) / slope."""


class TeacherReference(NamedTuple):
    """What every model of a run is held against: the teacher's branches on common states, and its samples' features."""

    teacher: Teacher
    states: Noised
    target: Branches
    features: dict[str, Tensor]   # by guidance, e.g. "w=1.5"
    operations: dict[tuple, int | None]     # of one pass, by `_kind` of network
    kept: Mapping[str, Path] = {}           # by arm, where features of samples stay (`measure_once`)


def evaluate_all(run: Run, teacher: Teacher, students: Mapping[tuple[str, int], nn.Module]) -> pd.DataFrame:
    """Quality, calibration and cost of the teacher and every student, as a tidy table; finished rows stay on disk."""
    paths = {(arm, seed): _evaluation_path(run, arm, seed) for arm, seed in students}
    own = _evaluation_path(run, "teacher", run.seed)
    for path in (own, *paths.values()):
        locks.remove_leftovers(path.parent)               # a process may have died between the table and its lock
    missing = [key for key, path in paths.items() if not path.is_file()]
    if missing or not own.is_file():
        for arm, seed, model in [("teacher", run.seed, teacher.model), *((*key, students[key]) for key in missing)]:
            check_current(run, arm, seed, model)
        reference = _reference(run, teacher, students.values(), _teacher_features(run, teacher))
        costs = reference.operations

        def measure_one(arm: str, seed: int, model: nn.Module) -> Iterator[None]:
            with locks.lock_folder(run.folder(arm, seed)):
                table = _evaluate(run, arm, seed, model, reference)
                storage_tables.write_table(own if arm == "teacher" else paths[arm, seed], table)
            yield

        if not own.is_file():
            costs[_kind(teacher.model)] = flops(teacher.model) if isinstance(teacher.model, nn.Module) else None
            deque(measure_one("teacher", run.seed, teacher.model), maxlen=0)
        jobs = {f"{arm} {seed}": partial(measure_one, arm, seed, students[arm, seed]) for arm, seed in missing}
        if jobs:
            side_by_side(run, jobs, at_once=len(students), ticks=len(jobs), title="evaluation")
    keys = {("teacher", run.seed): own, **paths}
    tables = [_read_evaluation(run, *key, path) for key, path in keys.items()]
    table = pd.concat([floor_rows(run), *tables], ignore_index=True)
    now = provenance.commit()
    others = sorted(set(table.commit) - {now})
    if others:
        n = table.commit.isin(others).sum()
        print(f"{n} of {len(table)} measurements were made at commit {', '.join(others)}, this is {now}; "
              f"to make all anew, delete evaluation-*.csv and features-* in {run.root / run.profile.name}/*")
    trained = _training_commits(run, list(keys))
    older = sorted(set(trained) - {now})
    if older:
        n = sum(c in older for c in trained)
        print(f"{n} of {len(trained)} networks were trained at commit {', '.join(older)}, this is {now}")
    return table


def _reference(run: Run, teacher: Teacher, students: Iterable[nn.Module],
               features: dict[str, Tensor]) -> TeacherReference:
    states = held_out_states(run.schedule, run.images, run.profile.states, seed=SAMPLING_SEED)
    # counted here and not in threads: the counter's hooks see all of them
    costs = {kind: flops(net) for kind, net in {_kind(m): m for m in students}.items()}
    target = all_branches(compared(teacher.model, teacher.model), states)
    return TeacherReference(teacher, states, target, features, costs)


def evaluate_others(run: Run, teacher: Teacher, students: Mapping[str, nn.Module]) -> pd.DataFrame:
    """What `evaluate_all` measures, of students that were trained elsewhere, by name.

    The features of all samples stay in the folder of the runs: a second call draws only what was not drawn yet.
    """
    p, models = run.profile, {"teacher": teacher.model, **students}
    kept = {name: paths.RUNS / "measure" / f"samples-{_samples_key(run, model)}" for name, model in models.items()}
    for folder in kept.values():
        store.check_writable(folder)
    scales = [(w, k) for w in p.ws for k in range(p.sampling_sets)]
    features = {f"{_of_set(k)}w={w:g}": measure_once(run, teacher.model, w, kept["teacher"], sampling_set=k).features
                for w, k in progress_bar(scales, total=len(scales), title="the teacher's samples")}
    reference = _reference(run, teacher, models.values(), features)._replace(kept=kept)
    return pd.concat([floor_rows(run), *(_evaluate(run, name, run.seed, model, reference) for name, model in
                      progress_bar(models.items(), total=len(models), title="evaluation"))], ignore_index=True)


def _samples_key(run: Run, model: nn.Module) -> str:
    """A digest of all that the features of a network's samples hang on, but for the guidance.

    It is of the weights, of what the network predicts on a few states (its code may have changed), of the pictures, the
    judge, the settings and the version of the kit.
    """
    p, pair = run.profile, all_branches(model, held_out_states(run.schedule, run.images, 50, seed=SAMPLING_SEED))
    weights = {f"net.{name}": value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tensors = weights | pair._asdict() | {"schedule": run.schedule.alphas_cumprod,
                                          "judge": run.image_reference.reference}
    facts = [RULER, provenance.commit(), provenance.device_name(run.device), torch.__version__, run.schedule.clip,
             p.samples, p.sample_steps, p.sampling_sets, run.sampling_set, run.images.num_classes, run.data_digest]
    return store.digest({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(facts))[:16]


def _training_commits(run: Run, keys: Sequence[tuple[str, int]]) -> list[str]:
    """The commit that each trained network's manifest names."""
    paths = dict.fromkeys(run._final(*key).with_name("manifest.json") for key in keys)
    return [str(store.read_json(path, "commit")["commit"]) for path in paths if path.is_file()]


def _read_evaluation(run: Run, arm: str, seed: int, path: Path) -> pd.DataFrame:
    table = storage_tables.read_table(path)
    found = {(row.profile, row.arm, row.seed) for row in table.itertuples()}
    if found != {(run.profile.name, arm, seed)}:
        raise ValueError(f"{path} must hold measurements of {arm}, seed {seed}, of {run.profile.name} alone; "
                         "delete it to measure again")
    return table


def _kind(model: nn.Module) -> tuple:
    return type(model), getattr(model, "config", None)


def _teacher_features(run: Run, teacher: Teacher) -> dict[str, Tensor]:
    """Features of the teacher's samples at every scale, sampled once and kept beside its weights."""
    path = run.folder("teacher", run.seed) / f"features-{_evaluation_key(run, 'teacher', run.seed)}.safetensors"
    if not path.is_file():
        scales = progress_bar(run.profile.ws, total=len(run.profile.ws), title="the teacher's samples")
        found = {f"{_of_set(k)}w={w:g}": measure(run, teacher.model, w, sampling_set=k).features
                 for w in scales for k in range(run.profile.sampling_sets)}
        store.save_tensors(path, found, {"profile": run.profile.name, "seed": run.seed})
    features = store.load_tensors(path, device=run.device).tensors
    wanted = {f"{_of_set(k)}w={w:g}": (run.profile.samples, *run.image_reference.reference.shape[1:])
              for w in run.profile.ws for k in range(run.profile.sampling_sets)}
    if {k: tuple(v.shape) for k, v in features.items() if v.is_floating_point()} != wanted:
        raise ValueError(f"{path} does not hold the features of this profile's samples; delete it to draw them again")
    return features


def results_path(run: Run) -> Path:
    """Where the tidy table of a run's profile, seed, settings and weights is kept."""
    weights = [run.weights("teacher", run.seed)] + [run.weights(a, s) for a in run.profile.arms for s in run.seeds]
    key = store.fingerprint([run.profile.asdict(), weights])
    return run.root / run.profile.name / f"results-s{run.seed}-{key}.csv"


def get_results(run: Run, teacher: Teacher, students: Mapping[tuple[str, int], nn.Module]) -> pd.DataFrame:
    """`evaluate_all`, kept in the run's results file for the other notebooks and the report.

    A file that holds the same measurements stays: `real` alone is measured anew each time, in as many threads as there
    are, and the file may be somebody else's to write.
    """
    results = evaluate_all(run, teacher, students)
    with suppress(ValueError):                           # a damaged one is written again
        kept = read_results(run)
        if kept is not None and _measured(kept) == _measured(results):
            return kept
    storage_tables.write_table(results_path(run), results)
    return results


def _measured(results: pd.DataFrame) -> str:
    return results[results.arm != "real"].sort_values(["arm", "seed", "metric"]).to_csv(index=False)


def read_results(run: Run) -> pd.DataFrame | None:
    """The table that `get_results` wrote for exactly these settings and weights, or None.

    ValueError if it is not what was measured: it was cut short or changed.
    """
    path = results_path(run)
    keys = [("teacher", run.seed), *((arm, seed) for seed in run.seeds for arm in run.profile.arms)]
    if not path.is_file() or not all(is_measured(run, *key) for key in keys):
        return None
    table = storage_tables.read_table(path)
    if _measured(table) != _measured(pd.concat([_read_evaluation(run, *k, _evaluation_path(run, *k)) for k in keys])):
        raise ValueError(f"{path} does not hold what was measured; run notebook 04 again, which writes it anew")
    return table


def _evaluation_key(run: Run, arm: str, seed: int) -> str:
    p = run.profile
    more = [p.sampling_sets, p.classifier] if (p.sampling_sets, p.classifier) != (1, "small") else []
    more += [f"set {run.sampling_set}"] if run.sampling_set else []
    if isinstance(p.teacher, Source) and isinstance(run.given.model, IndependentCondition):
        more += ["mean of classes"]                                  # once the gap of a state was that of a random one
    more += ["mixed"] if sources.is_own(p.dataset) else []           # once the held-out pictures came class by class
    return store.fingerprint(
        [RULER, p.w, p.ws, p.samples, p.sample_steps, p.states, SAMPLING_SEED, run.weights(arm, seed), *more])


def _evaluation_path(run: Run, arm: str, seed: int) -> Path:
    return run.folder(arm, seed) / f"evaluation-{_evaluation_key(run, arm, seed)}.csv"


def is_measured(run: Run, arm: str, seed: int) -> bool:
    """Whether the evaluation of one arm and seed is there, with exactly these settings."""
    return _evaluation_path(run, arm, seed).is_file()


def best_scales(run: Run, arm: str) -> list[float]:
    """The guidance scale at which the network of `run.seed` is nearest to real images; empty if it was not measured."""
    if not is_measured(run, arm, run.seed):
        return []
    found = _read_evaluation(run, arm, run.seed, _evaluation_path(run, arm, run.seed)).set_index("metric")["value"]
    return [min(run.profile.ws, key=lambda w: found[f"frechet@w={w:g}"])]


def _evaluate(run: Run, arm: str, seed: int, model: nn.Module, reference: TeacherReference) -> pd.DataFrame:
    """Everything that is measured of one model, as a tidy table."""
    own = (reference.target if arm == "teacher"
           else all_branches(compared(model, reference.teacher.model), reference.states))
    calibration = measure_calibration(own, reference.target, reference.states, T=run.profile.T)
    found = list(calibration_rows(calibration, run.profile.states))
    found += _gaps_elsewhere(run, arm, model, own, reference)
    found += _qualities(run, arm, model, calibration.gap.beta, reference)
    found += _difficulty(run, arm, seed, own, reference)
    if isinstance(model, nn.Module):
        found += _sizes(run, arm, model, reference)
    return tidy(run, arm, seed, found)


def _gaps_elsewhere(run: Run, arm: str, model: nn.Module, own: Branches, reference: TeacherReference) -> list[dict]:
    """Gap statistics with other null rows, in the space of x0, and on the states that the model's own samples visit."""
    found, n = [], run.profile.states
    if arm == "cond_only" and isinstance(model, UNet):
        # its null row never gets a gradient: whatever it starts as, it stays
        for name, net in other_null_rows(model).items():
            stats = gap_stats(all_branches(net, reference.states), reference.target)
            found += gap_rows(stats, n, f"@null={name}")
    in_x0 = [x0_branches(pair, run.schedule, reference.states) for pair in (own, reference.target)]
    found += gap_rows(gap_stats(*in_x0), n, "_x0")
    visited, teacher = _visited(run, model), reference.teacher.model
    on_path = [all_branches(compared(net, teacher), visited) for net in (model, teacher)]
    return found + list(gap_rows(gap_stats(*on_path), len(visited.t), "_visited"))


def other_null_rows(net: UNet) -> dict[str, UNet]:
    """Copies of a network with another null row: normal numbers of several scales, and the mean of its classes."""
    table = net.class_table.weight
    normal = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0)).to(table)
    rows = {"0": 0 * normal, "0.5": normal / 2, "1": normal, "2": 2 * normal, "mean": table[:-1].mean(0)}
    copies = {}
    for name, row in rows.items():
        copies[name] = copy.deepcopy(net)
        copies[name].class_table.weight[net.null_label] = row
    return copies


def _qualities(run: Run, arm: str, model: nn.Module, beta: float, reference: TeacherReference) -> list[dict]:
    """Quality of samples at every scale of the w-curve, at the strongest one corrected, and under schedules."""
    p, features = run.profile, reference.features
    corrected = guidance.corrected_w(max(p.ws), beta)
    guidances: dict[str, float | Tensor] = {f"w={w:g}": w for w in p.ws} | {BY_BETA: corrected}
    found = [{"metric": f"w_{BY_BETA}", "value": corrected, "n": p.states}]
    if arm in ("teacher", "dash"):
        guidances |= matched_tables(p.T)
    elif p.classifier == "colour":
        guidances["tag"] = guidance.tag(p.T)

    def quality(w: float | Tensor, drawn: Tensor | None, sampling_set: int = 0) -> Quality:
        if arm == "teacher" and drawn is not None:           # its samples were drawn already, for the others
            labels = balanced_labels(len(drawn), run.images.num_classes).to(run.device)
            return quality_of(run.image_reference, drawn, labels)
        if arm in reference.kept:
            return measure_once(run, model, w, reference.kept[arm], sampling_set=sampling_set)
        return measure(run, model, w, sampling_set=sampling_set)

    for name, w in guidances.items():
        drawn = features[f"w={max(p.ws):g}"] if name == BY_BETA else features.get(name)
        found += quality_rows(name, quality(w, drawn), drawn)
    if arm in ("teacher", "dash"):            # each at its own best strength, chosen from as many of the same means
        stretched = [guidance.with_mean(guidance.tag(p.T), w) for w in p.ws]
        possible = [table for table in stretched if table.min() >= 0 and table.max() <= guidance.W_MAX]
        found += [{"metric": f"frechet@{name}", "value": min(values), "n": p.samples} for name, values in {
            "constant_best": [row["value"] for row in found if row["metric"].startswith("frechet@w=")],
            "tag_best": [quality(table, None).frechet for table in possible],
        }.items() if values]
    for k in range(1, p.sampling_sets):                      # other labels and noise: how much of a difference is luck
        for w in p.ws:
            drawn = features[f"{_of_set(k)}w={w:g}"]
            found += [row | {"metric": _of_set(k) + row["metric"]}
                      for row in quality_rows(f"w={w:g}", quality(w, drawn, k), drawn)]
    return found


def _difficulty(run: Run, arm: str, seed: int, own: Branches, reference: TeacherReference) -> list[dict]:
    """Spearman's correlation of a learned curriculum with the held-out loss that it was learned on.

    `spearman_reducible` is that with what a student can still learn: its loss less the teacher's own distance from the
    true noise, which no student that imitates the teacher gets below.
    """
    reducible = None
    if arm == "teacher":
        omega, losses = reference.teacher.omega, per_sample(own.cond, reference.states.eps)
    elif arm in OBJECTIVES and objective(arm).curriculum == "relearned":
        omega, lam = load_curriculum(run, arm, seed), objective(arm).lam
        terms = distil_terms(own, reference.target, eps=reference.states.eps, w=1.0)
        losses = sum(c * terms[k] for k, c in lam.items())
        anchors = {"an": reference.target.cond, "an_un": reference.target.uncond}
        reducible = losses - sum(lam.get(k, 0) * per_sample(v, reference.states.eps) for k, v in anchors.items())
    else:
        return []
    if torch.equal(omega, run.base):             # an exact teacher has learned nothing: there is no rank
        return []
    named = {"spearman": losses} | ({} if reducible is None else {"spearman_reducible": reducible})
    return [{"metric": name, "value": rank_of_difficulty(omega, run.base, values, reference.states.t),
             "n": run.profile.states} for name, values in named.items()]


def _sizes(run: Run, arm: str, model: nn.Module, reference: TeacherReference) -> list[dict]:
    """Parameters that are stored, operations of one pass, and passes of one image."""
    pruned = arm in OBJECTIVES and objective(arm).student == "pruned"
    with counted_passes(model) as passes:
        measure(run, model, run.profile.w, n=2)
    size = n_nonzero(model) if pruned else n_parameters(model)
    return [{"metric": name, "value": value, "n": 1} for name, value in
            {"parameters": size, "flops": reference.operations[_kind(model)], "passes": passes[0] // 2}.items()]


def _visited(run: Run, model: nn.Module) -> States:
    p = run.profile
    y = (torch.arange(max(p.states // p.sample_steps, 1)) % run.images.num_classes).to(run.device)
    generator = torch.Generator().manual_seed(SAMPLING_SEED)
    x_T = torch.randn((len(y), *run.images.shape), generator=generator).to(run.device)
    return visited_states(model, run.schedule, y, x_T=x_T, w=p.w, steps=p.sample_steps)


def _of_set(k: int) -> str:
    """What stands before a metric that was measured on another set of labels and noise than the first."""
    return f"set{k}:" if k else ""


def measure(run: Run, model: nn.Module, w: float | Tensor, *, n: int | None = None, sampling_set: int = 0) -> Quality:
    """The quality of a model under one guidance, a number or a table, by the run's own protocol.

    Every model of a run gets the same labels and noise; each `sampling_set` is another draw of them, and so is each of
    the run's own.  `n` replaces the profile's number of samples.
    """
    sampling_set += run.sampling_set * run.profile.sampling_sets
    y = balanced_labels(n or run.profile.samples, run.images.num_classes).to(run.device)
    generator = torch.Generator().manual_seed(SAMPLING_SEED + 100_003 * sampling_set)
    x_T = torch.randn((len(y), *run.images.shape), generator=generator).to(run.device)
    sampled = run.sampler(model) if len(y) >= 100 else model         # a graph does not pay for a few
    return measure_quality(sampled, run.schedule, run.image_reference, y=y, x_T=x_T, w=w,
                           steps=run.profile.sample_steps, batch=1000 if run.device.type == "cuda" else 256)


def measure_once(run: Run, model: nn.Module, w: float | Tensor, folder: Path, *, sampling_set: int = 0) -> Quality:
    """`measure`, whose features stay in a folder of this network alone; a damaged file is made again."""
    key = store.fingerprint([sampling_set, w.tolist() if isinstance(w, Tensor) else w])
    path, n = folder / f"features-{key}.safetensors", run.profile.samples
    with suppress(FileNotFoundError, ValueError):
        features = store.load_tensors(path, device=run.device).tensors.get("features", torch.empty(0))
        if features.shape == (n, *run.image_reference.reference.shape[1:]):
            y = balanced_labels(n, run.images.num_classes).to(run.device)
            return quality_of(run.image_reference, features, y)
    found = measure(run, model, w, sampling_set=sampling_set)
    store.save_tensors(path, {"features": found.features}, {"guidance": "table" if isinstance(w, Tensor) else w})
    return found


def floor_rows(run: Run) -> pd.DataFrame:
    """The rows of `real`: what real images get where samples are measured."""
    floor = run.image_reference.floor
    return tidy(run, "real", run.seed, [
        {"metric": "frechet", "value": floor.mean().item(), "n": run.image_reference.n},
        {"metric": "frechet_sd", "value": floor.std().item(), "n": len(floor)},
        {"metric": "accuracy", "value": run.image_reference.accuracy, "n": len(run.images.test_labels)},
    ])


def tidy(run: Run, arm: str, seed: int, found: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(found).assign(profile=run.profile.name, arm=arm, seed=seed,
                                       device=provenance.device_name(run.device), commit=provenance.commit())
    return table[list(storage_tables.COLUMNS)]


def quality_rows(name: str, quality: Quality, teacher: Tensor | None = None) -> Iterator[dict]:
    """Tidy {metric, value, n} of samples under the guidance called `name`, e.g. frechet@w=1.5.

    `teacher` (n, 32) are features of the teacher's samples, to which the distance is measured too.
    """
    yield {"metric": f"frechet@{name}", "value": quality.frechet, "n": quality.n}
    yield {"metric": f"accuracy@{name}", "value": quality.accuracy, "n": quality.n}
    if teacher is not None:
        value = frechet_distance(quality.features, teacher)
        yield {"metric": f"frechet_teacher@{name}", "value": value, "n": quality.n}


def gap_rows(stats: GapStats, n: int, suffix: str = "") -> Iterator[dict]:
    """Tidy rows of gap statistics: rho, slope, beta, cos, r2 and mse, with a suffix for where or in which space."""
    for name, value in stats._asdict().items():
        yield {"metric": f"{name}{suffix}", "value": value, "n": n}


def calibration_rows(found: Calibration, n: int) -> Iterator[dict]:
    """Tidy rows of a `Calibration`; a metric in a bin of timesteps is called NAME@t=250."""
    yield from gap_rows(found.gap, n)
    yield {"metric": "cond_error", "value": found.cond_error, "n": n}
    yield {"metric": "uncond_error", "value": found.uncond_error, "n": n}
    for t, stats in found.by_timestep.items():
        for name in ("rho", "slope", "beta", "cos"):
            yield {"metric": f"{name}@t={t}", "value": getattr(stats, name), "n": n}


def rank_of_difficulty(omega: Tensor, base: Tensor, losses: Tensor, t: Tensor, *, bins: int = 20) -> float:
    """Spearman's correlation of the learned part omega / base (T,) of a curriculum with the loss, over bins of t.

    losses (B,) and t (B,) are held-out losses and their timesteps; +1 if more loss goes with more weight.
    """
    gate, index = (omega / base).log()[t], t * bins // len(omega)
    pairs = torch.stack([torch.stack([gate[index == b].mean(), losses[index == b].mean()])
                         for b in index.unique().tolist()]).double()
    return float(pd.DataFrame(pairs.cpu().numpy()).corr(method="spearman").iloc[0, 1])
