"""Training that can be stopped at any moment and goes on from there."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from dashkit.experiments import processes
from dashkit.experiments.run import CHECKPOINT, FINAL, Run
from dashkit.method.training import Learner, Step
from dashkit.storage import locks, provenance, store

CHECKPOINT_SECONDS = 60.0     # between two checkpoints at least, and
CHECKPOINT_SHARE = 0.02       # of a GPU's time at most is spent on them: half a gigabyte takes seconds


@dataclass(frozen=True)
class TrainingJob:
    """Networks that train together: what their checkpoint holds, and where it lives."""

    run: Run
    folder: Path                       # of the checkpoint; held against other processes while the job trains
    learners: dict[str, Learner]
    generator: torch.Generator         # every random number of the training; its state goes on, too
    steps: int
    settings: dict[str, dict]          # of each learner: they decide where its finished network lives

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def columns(self) -> list[str]:
        """The learners' names in the order of the history, in whichever order the arms were named."""
        return sorted(self.learners)

    def home(self, name: str) -> Path:
        """Where a learner's finished network lives."""
        return self.run.folder(name, self.settings[name]["seed"])


def resumable(job: TrainingJob, loop: Iterator[Step]) -> Iterator[Step]:
    """Run `loop`, which trains the job's learners and is not started yet, from where it was stopped.

    Writes a checkpoint about every minute (see CHECKPOINT_SHARE) and at each stop or interrupt, and each learner's
    final file at the end.  Holds the folder meanwhile: FolderInUse if another process trains the same.  Of several that
    train as one, the main process holds and writes.
    """
    with locks.lock_folder(job.folder) if processes.is_main() else nullcontext() as token:
        yield from _resumed(job, loop, token)
    processes.wait()
    if all((job.home(name) / FINAL).is_file() for name in job.learners):
        clear(job.folder)


def _resumed(job: TrainingJob, loop: Iterator[Step], token: object) -> Iterator[Step]:
    began = last = time.monotonic()
    between = CHECKPOINT_SECONDS
    main, (history, spent) = processes.is_main(), _restore(job) if job.checkpoint.is_file() else (_History(), 0.0)
    state = job.generator.get_state()                     # as it was after the last whole step
    try:
        while True:
            with whole_step():
                step = next(loop, None)
                if step is None:
                    return
                history.add(torch.stack([step.losses[name] for name in job.columns]))
                state, now = job.generator.get_state(), time.monotonic()
                if main and step.number < job.steps and now - last > between:
                    _save(job, history, state, spent + now - began)
                    last = time.monotonic()
                    between = _pause(job.run.device, last - now)
                if main and step.number == job.steps:
                    for name, losses in zip(job.columns, history.table().T, strict=True):
                        _finish(job, name, losses, spent + now - began)
                    locks.remove(job.checkpoint)
            yield step
    except (GeneratorExit, KeyboardInterrupt):            # the caller stopped, or somebody interrupted a step
        done = len(history)
        whole = all(learner.done == learner.averaged == done for learner in job.learners.values())
        if 0 < done < job.steps and whole and main and locks.is_current(job.folder, token):
            with suppress(FloatingPointError):            # a diverged run keeps its last good checkpoint
                _save(job, history, state, spent + time.monotonic() - began)
        raise


@contextmanager
def whole_step() -> Iterator[None]:
    """Let an interrupt (Ctrl-C, or SIGTERM if it is handled) wait for the end of the block; a second one does not.

    Weights, their average and the losses belong together: a step is done whole or not at all.  Threads get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    before = {s: handler for s, handler in before.items() if callable(handler)}

    def wait(one: int, frame: FrameType | None) -> None:
        if came:
            before[one](one, frame)
        came.append((one, frame))

    for one in before:
        signal.signal(one, wait)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if came:
            before[came[0][0]](*came[0])


def _pause(device: torch.device, seconds: float) -> float:
    """Seconds to the next checkpoint, after one that took `seconds` to write."""
    return max(CHECKPOINT_SECONDS, seconds / CHECKPOINT_SHARE) if device.type == "cuda" else CHECKPOINT_SECONDS


class _History:
    """The losses (steps, learners).  They stay on a GPU for a hundred steps: to fetch one is to wait."""

    def __init__(self, rows: Tensor | None = None) -> None:
        self._kept, self._fresh = [] if rows is None else list(rows), []

    def __len__(self) -> int:
        return len(self._kept) + len(self._fresh)

    def add(self, row: Tensor) -> None:
        self._fresh.append(row)
        if len(self._fresh) == 100:
            self._fetch()

    def _fetch(self) -> None:
        if self._fresh:
            self._kept.extend(torch.stack(self._fresh).float().cpu())
            self._fresh.clear()

    def table(self) -> Tensor:
        """All of them, on the CPU."""
        self._fetch()
        return torch.stack(self._kept)


def _restore(job: TrainingJob) -> tuple[_History, float]:
    """Take the job's checkpoint over; returns its losses and seconds.  ValueError if it is damaged or another job's."""
    saved = store.load_tensors(job.checkpoint)
    try:
        if store.fingerprint(saved.meta["settings"]) != store.fingerprint(job.settings):
            raise ValueError("it belongs to other settings")
        for name, learner in job.learners.items():
            mark = f"{name}/"
            load_learner(learner, {k.removeprefix(mark): v for k, v in saved.tensors.items() if k.startswith(mark)})
        job.generator.set_state(saved.tensors["generator"])
        losses, spent = saved.tensors["history"], float(saved.meta["seconds"])
        if {(learner.done, len(job.learners)) for learner in job.learners.values()} != {tuple(losses.shape)}:
            raise ValueError(f"it holds losses of shape {tuple(losses.shape)}")
        if not losses.dtype == torch.float32 or len(losses) >= job.steps or not spent >= 0:
            raise ValueError(f"it holds {len(losses)} of {job.steps} steps in {losses.dtype}, {spent:g} s")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{job.checkpoint} cannot be resumed ({error}); delete it to start afresh") from error
    return _History(losses), spent


def load_learner(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """`Learner.load` for tensors from a file; ValueError, and nothing is changed, if they are not this learner's."""
    wanted = learner.tensors()
    try:
        for prefix in ("model.", "ema."):
            store.check_weights(*(_part(t, prefix) for t in (wanted, tensors)))
        slot, vector = _part(tensors, "adam."), (torch.float32, learner.vector.shape)
        if {k: (v.dtype, v.shape) for k, v in slot.items()} != {
                "step": (torch.float32, ()), "exp_avg": vector, "exp_avg_sq": vector}:
            raise ValueError("the optimiser's state is of another shape or type")
        done, averaged, moved = (int(v) for v in (tensors["done"], tensors["averaged"], slot["step"]))
        if not done == averaged == moved > 0:
            raise ValueError(f"{done} updates, but {averaged} of the average and {moved} of the optimiser")
        if bool((slot["exp_avg_sq"] < 0).any()):
            raise ValueError("the optimiser's mean squares are negative")
    except (RuntimeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"the checkpoint does not fit this model: {error}") from error
    learner.load(tensors)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _save(job: TrainingJob, history: _History, state: Tensor, seconds: float) -> None:
    """Write the checkpoint, with the generator's `state`.

    FloatingPointError rather than overwrite a good one with weights that are not finite.
    """
    losses = history.table()
    tensors = {f"{n}/{k}": v for n, learner in job.learners.items() for k, v in learner.tensors().items()}
    floats = [k for k, v in tensors.items() if v.is_floating_point()]
    finite = _all_finite([tensors[k] for k in floats])
    bad = [k for k, ok in zip(floats, finite, strict=True) if not ok]
    if bad:
        raise FloatingPointError(f"weights of {bad[0].split('/')[0]} are not finite at step {len(losses)}; "
                                 "lower its lr")
    tensors |= {"generator": state, "history": losses}
    store.save_tensors(job.checkpoint, tensors, {"settings": job.settings, "seconds": seconds})


def _all_finite(tensors: list[Tensor]) -> list[bool]:
    """Which tensors hold numbers alone; a GPU is waited for once, not once a tensor."""
    if not tensors:
        return []
    device = next((v.device for v in tensors if v.is_cuda), tensors[0].device)
    return torch.stack([v.isfinite().all().to(device) for v in tensors]).tolist()


def _finish(job: TrainingJob, name: str, losses: Tensor, seconds: float) -> None:
    """Write manifest, then averaged weights and losses: a folder with weights is a finished one, and stays as it is."""
    home, settings, run = job.home(name), job.settings[name], job.run
    if (home / FINAL).is_file():
        return
    kind = getattr(torch, run.profile.stored)
    tensors = {"losses": losses, **{f"ema.{k}": v.to(kind) for k, v in job.learners[name].ema.state_dict().items()}}
    store.write_json(home / "manifest.json", provenance.manifest(
        profile=run.profile.name, arm=name, seed=settings["seed"], device=provenance.device_name(run.device),
        seconds=round(seconds, 1), settings=settings))
    store.save_tensors(home / FINAL, tensors, settings)


def clear(folder: Path) -> None:
    """Remove the checkpoint of a finished training, and the folder if nothing else is in it."""
    if not processes.is_main():
        return
    locks.remove_leftovers(folder)
    if (folder / CHECKPOINT).is_file():          # a folder that may be read alone is not touched
        locks.remove(folder / CHECKPOINT)
    with suppress(OSError):                      # another process may have done it, or begun again
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
