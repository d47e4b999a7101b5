"""Training that can be stopped at any moment and goes on from there."""

import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import torch
from torch import Tensor

from dashkit.experiments import processes
from dashkit.experiments.run import CHECKPOINT, FINAL, Run
from dashkit.method.training import Learner, Step, fit
from dashkit.storage import locks, provenance, store

CHECKPOINT_SECONDS = 60.0


def resumable(run, folder, learners, loss_fn, batches, steps, generator, settings, homes) -> Iterator[Step]:
    """`fit` with a checkpoint every minute and at each stop; writes each learner's final file at the end.

    Holds the folder meanwhile: locks.FolderInUse if another process trains the same.  Of several that train as one, the main
    process holds and writes.
    """
    with locks.lock_folder(folder) if processes.is_main() else nullcontext() as token:
        yield from _resumed(run, folder, token, learners, loss_fn, batches, steps, generator, settings, homes)
    processes.wait()
    if len(list(filter(Path.is_file, (h / FINAL for h in homes.values())))) == len(homes):
        clear(folder)


def _resumed(
    run, folder, token, learners, loss_fn, batches, steps, generator, settings, homes
) -> Iterator[Step]:
    path, history, fresh, began, spent = folder / CHECKPOINT, [], [], time.monotonic(), 0.0
    columns = sorted(learners)                            # of the history, in whichever order the arms were named
    if path.is_file():
        saved = store.load_tensors(path)
        try:
            if store.fingerprint(saved.meta["settings"]) != store.fingerprint(settings):
                raise ValueError("it belongs to other settings")
            for name, learner in learners.items():
                mark = f"{name}/"
                learner.load({k.removeprefix(mark): v for k, v in saved.tensors.items() if k.startswith(mark)})
            generator.set_state(saved.tensors["generator"])
            losses, spent = saved.tensors["history"], float(saved.meta["seconds"])
            if {(learner.done, len(learners)) for learner in learners.values()} != {tuple(losses.shape)}:
                raise ValueError(f"it holds losses of shape {tuple(losses.shape)}")
            if not losses.dtype == torch.float32 or len(losses) >= steps or not spent >= 0:
                raise ValueError(f"it holds {len(losses)} of {steps} steps in {losses.dtype}, {spent:g} s")
            history = list(losses)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{path} cannot be resumed ({error}); delete it to start afresh") from error

    def collect() -> None:                                # losses stay on a GPU for a while: to fetch one is to wait
        if fresh:
            history.extend(torch.stack(fresh).float().cpu())
            fresh.clear()

    def write() -> None:
        collect()
        tensors = {f"{n}/{k}": v for n, learner in learners.items() for k, v in learner.tensors().items()}
        bad = [k for k, v in tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]
        if bad:                                           # never overwrite a good checkpoint with a diverged one
            raise FloatingPointError(f"weights of {bad[0].split('/')[0]} are not finite at step {len(history)}; "
                                     "lower its lr")
        tensors |= {"generator": generator.get_state(), "history": torch.stack(history)}
        store.save_tensors(path, tensors, {"settings": settings, "seconds": spent + time.monotonic() - began})

    last = began
    try:
        for step in fit(learners, loss_fn, batches, steps=steps, average=processes.average, capture=run.captures):
            fresh.append(torch.stack([step.losses[name] for name in columns]))
            if len(fresh) == 100:
                collect()
            if processes.is_main() and step.number < steps and time.monotonic() - last > CHECKPOINT_SECONDS:
                write()
                last = time.monotonic()
            if processes.is_main() and step.number == steps:
                collect()
                seconds = spent + time.monotonic() - began
                for name, losses in zip(columns, torch.stack(history).T, strict=True):
                    _finish(run, homes[name], name, learners[name], losses, settings[name], seconds)
                path.unlink(missing_ok=True)
            yield step
    except GeneratorExit:                                 # the caller stopped between two steps
        if 0 < len(history) + len(fresh) < steps and processes.is_main() and locks.is_current(folder, token):
            with suppress(FloatingPointError):            # a diverged run keeps its last good checkpoint
                write()
        raise


def _finish(run: Run, home: Path, name: str, learner: Learner, losses: Tensor, settings: dict, seconds: float) -> None:
    """Write manifest, then averaged weights and losses: a folder with weights is a finished one, and stays as it is."""
    if (home / FINAL).is_file():
        return
    kind = getattr(torch, run.profile.stored)
    tensors = {"losses": losses, **{f"ema.{k}": v.to(kind) for k, v in learner.ema.state_dict().items()}}
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
        (folder / CHECKPOINT).unlink(missing_ok=True)
    with suppress(OSError):                      # another process may have done it, or begun again
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
