"""Trained networks, loaded from their files."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit.experiments.run import CHECKPOINT, FINAL, Run, Teacher, starting_file
from dashkit.experiments.students import empty
from dashkit.interop.networks import Source
from dashkit.method import curriculum
from dashkit.method.arms import objective
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.students import IndependentCondition
from dashkit.method.unet import UNet
from dashkit.storage import store


def load_teacher(run: Run) -> Teacher:
    """The trained teacher; FileNotFoundError says how to train it."""
    if run.profile.exact_bandwidth:
        exact = ExactTeacher(run.schedule, run.images.x0, run.images.labels, bandwidth=run.profile.exact_bandwidth)
        return Teacher(exact, run.base, pd.DataFrame({"step": [], "loss": []}))
    if isinstance(run.profile.teacher, Source):
        return Teacher(run.given.model, run.base, pd.DataFrame({"step": [], "loss": []}))
    saved = _load_final(run, "teacher", run.seed)
    model = nn.ModuleDict({"net": UNet(run.profile.teacher), "tirt": curriculum.TIRT(run.base.cpu())})
    _fill(run, model, "teacher", run.seed, saved, prefix="ema.")
    model["net"].loaded = run.weights("teacher", run.seed)
    losses = saved.tensors["losses"]
    history = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses.tolist()})
    return Teacher(model["net"], model["tirt"]().detach(), history)


def begin(run: Run, model: nn.ModuleDict) -> None:
    """Give a new teacher and its TIRT the weights of the profile's `teacher_start`, if it has one.

    These are averaged weights; optimiser, warm-up and average begin anew.  ValueError if they are of another network.
    """
    if run.profile.teacher_start:
        path = starting_file(run.profile.teacher_start)
        try:
            _take_average(model, store.load_tensors(path))
        except ValueError as error:
            raise ValueError(f"teacher_start: {path} is of another network than this profile's teacher: {error}"
                             ) from error


def begin_student(run: Run, model: nn.ModuleDict, arm: str, seed: int) -> None:
    """Give a new student the averaged weights of its training in `run.first`, if the profile has one."""
    if run.first:
        _take_average(model, _load_final(run.first, arm, seed))


def _take_average(model: nn.ModuleDict, saved: store.Saved) -> None:
    weights = {k.removeprefix("ema."): v.float() for k, v in saved.tensors.items() if k.startswith("ema.")}
    store.check_weights(model.state_dict(), weights)
    model.load_state_dict(weights)


def load_student(run: Run, arm: str, seed: int) -> nn.Module:
    """The trained student of one arm and seed, as it is sampled; FileNotFoundError says how to train it."""
    row = objective(arm)
    if row.reuses:
        net = IndependentCondition(load_student(run, row.reuses, seed)).to(run.device).eval()
    else:
        net = empty(row.student, run.profile.teacher, run.student)
        net = _fill(run, net, arm, seed, _load_final(run, arm, seed), prefix="ema.net.")
    net.loaded = run.weights(arm, seed)
    return net


def check_current(run: Run, arm: str, seed: int, model: nn.Module) -> None:
    """Raise ValueError if a loaded network is not the one on disk any more, under whose name its results would be."""
    there = run.weights(arm, seed)
    if there and getattr(model, "loaded", there) != there:
        raise ValueError(f"{arm}, seed {seed}, was replaced on disk since it was loaded; load it again")


def load_curriculum(run: Run, arm: str, seed: int) -> Tensor:
    """The curriculum (T,) that a student with `relearned` learned by itself."""
    tirt = curriculum.TIRT(run.base.cpu())
    return _fill(run, tirt, arm, seed, _load_final(run, arm, seed), prefix="ema.tirt.")().detach()


def load_losses(run: Run, arm: str, seed: int) -> list[float]:
    """The training loss of every step of one trained network."""
    return _load_final(run, arm, seed).tensors["losses"].tolist()


def _load_final(run: Run, arm: str, seed: int) -> store.Saved:
    path = run.folder(arm, seed) / FINAL
    if not path.is_file():
        notebook = "02" if arm == "teacher" else "04"
        other = ", ".join(stale(run, arm, seed))
        there = f"; one that is there differs in {other}" if other else ""
        raise FileNotFoundError(f"{arm} of profile {run.profile.name}, seed {seed}, is not trained yet (no {path.name} "
                                f"in {path.parent.name}{there}): run notebook {notebook}")
    saved = store.load_tensors(path)
    wanted = flat(run.teacher_settings() if arm == "teacher" else run.student_settings(arm, seed))
    found = flat(saved.meta)
    differing = [k for k in sorted(wanted | found) if wanted.get(k) != found.get(k)]
    if differing:
        raise ValueError(f"{path} is another network: it differs from this run's in {', '.join(differing)}; delete it")
    losses = saved.tensors.get("losses", torch.empty(0))
    if losses.ndim != 1 or not len(losses) or not losses.is_floating_point():
        raise ValueError(f"{path} lacks the losses of its training; delete it to start afresh")
    return saved


def _fill(run: Run, model: nn.Module, arm: str, seed: int, saved: store.Saved, *, prefix: str) -> nn.Module:
    weights = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
    try:
        store.check_weights(model.state_dict(), weights)
    except ValueError as error:
        raise ValueError(f"{run.folder(arm, seed) / FINAL} does not fit its network: {error}") from error
    model.load_state_dict(weights)
    model = model.to(run.device, memory_format=torch.channels_last)      # a fifth less time without gradients
    return model.eval().requires_grad_(False)


def stale(run: Run, arm: str, seed: int) -> list[str]:
    """Which settings differ from those of the networks of this arm and seed that are there already, if any are.

    Of several networks it is the nearest, which differs least.  Such a network is neither used nor deleted; the caller
    tells the user why training starts again.
    """
    wanted = flat(run.teacher_settings() if arm == "teacher" else run.student_settings(arm, seed))
    nearest, first = None, run.first.folder(arm, seed) if run.first and arm != "teacher" else None
    for path in sorted((run.root / run.profile.name).glob(f"{arm}-s{seed}-*/manifest.json")):
        if path.parent == first:                         # not another training, but the beginning of this one
            continue
        settings = store.read_json(path, "settings")["settings"]
        if not isinstance(settings, dict):
            raise ValueError(f"{path} is damaged: its settings are no object; delete it")
        found = flat(settings)
        differing = [k for k in sorted(wanted | found) if wanted.get(k) != found.get(k)]
        nearest = differing if nearest is None or len(differing) < len(nearest) else nearest
    return nearest or []


def say_stale(run: Run, missing: Mapping[int, Sequence[str]]) -> None:
    """Print why networks of some seeds, the teacher or arms, are trained that were trained before."""
    for seed, arms in missing.items():
        folder = run.folder("teacher", seed) if "teacher" in arms else run.lockstep(arms, seed)
        if (folder / CHECKPOINT).is_file():              # it only goes on
            continue
        why: dict[str, list[str]] = {}
        for arm in arms:
            if run.is_trained(arm, seed):
                continue
            if (run.folder(arm, seed) / "manifest.json").is_file():
                print(f"{arm}, seed {seed}: trained before, but {FINAL} is missing in {run.folder(arm, seed)}; "
                      "trained again")
            elif changed := stale(run, arm, seed):
                why.setdefault(", ".join(changed), []).append(arm)
        for changed, same in why.items():
            who = ", ".join(same) if len(same) < 4 else f"{len(same)} students"
            print(f"{who}, seed {seed}: trained before with another {changed}; trained again")


def flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Settings by name, those of a network as `teacher.ch`, with lists for tuples, as JSON gives them back."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found
