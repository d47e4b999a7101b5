"""A profile carried out: teacher, students in lockstep, evaluation.  Layer 4; used by the notebooks and the command."""

import copy
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from dashkit import curriculum, data, evaluate, guidance, parallel, rivals, runs
from dashkit.capture import Replayed, ReplayedModel
from dashkit.exact import ExactTeacher
from dashkit.fetch import sha256
from dashkit.guidance import W_MAX, Branches, branches, check_eval, drop_labels
from dashkit.metrics import ColourClassifier, counted_passes, flops, gap_stats, train_colour_classifier
from dashkit.objectives import Objective, distil_terms, objective, per_sample, pick_w, total
from dashkit.profiles import Profile, resolve
from dashkit.schedule import Noised, Schedule, cosine, noised
from dashkit.train import Learner, Step, batch_size, check_weights, fit, samples_of, split
from dashkit.unet import UNet, n_parameters

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(os.environ.get("DASHKIT_RUNS") or ROOT / "data" / "runs")
CACHE = ROOT / "data" / "cache"
CHECKPOINT, FINAL = "checkpoint.safetensors", "final.safetensors"
CHECKPOINT_SECONDS = 60.0
SAMPLING_SEED = 1234        # the same noise and labels for every model, so that differences are paired
_CURRICULA = {"uniform": lambda schedule, gamma: curriculum.uniform(schedule),
              "min_snr": curriculum.min_snr, "published": curriculum.published}

CPU = torch.device("cpu")
_seeding = threading.Lock()  # torch's own random state is one for all threads

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, total: int, title: str) -> Iterable[Item]:
    """A progress bar around `items`, unless the environment has DASHKIT_PROGRESS=0 (as the tests do)."""
    if os.environ.get("DASHKIT_PROGRESS") == "0" or not parallel.is_main():
        return items
    from tqdm.auto import tqdm

    return tqdm(items, total=total, desc=title, mininterval=0.5)


def side_by_side(
    run: "Run", jobs: Mapping[str, Callable[[], Iterable]], *, at_once: int, ticks: int, title: str
) -> None:
    """Exhaust several independent iterables under one progress bar of `ticks` items; on a CPU in threads.

    Small networks use two cores better as two jobs than as two threads of one.  `at_once` jobs, or as many as there are
    cores, share the cores evenly; give the same number whatever is left to do, and a resumed run computes what an
    undisturbed one does.  An error or an interrupt stops the others between two items, closes them, and is raised.
    """
    if run.device.type == "cuda" or parallel.size() > 1:
        for name, job in jobs.items():
            deque(progress(job(), total=ticks // len(jobs), title=f"{title}, {name}"), maxlen=0)
        return
    cores, stop, lock = torch.get_num_threads(), threading.Event(), threading.Lock()
    workers = min(cores, at_once)
    bar = iter(progress(range(ticks), total=ticks, title=title))

    def exhaust(job: Callable[[], Iterable]) -> None:
        if stop.is_set():
            return
        items = job()
        try:
            for _ in items:
                with lock:
                    next(bar, None)
                if stop.is_set():
                    break
        except BaseException:
            stop.set()
            raise
        finally:
            if hasattr(items, "close"):
                items.close()

    torch.set_num_threads(max(1, cores // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(exhaust, job) for job in jobs.values()]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stop.set()
                raise
        deque(bar, maxlen=0)                     # a resumed job has fewer items: fill the bar up
    finally:
        torch.set_num_threads(cores)


def pick_device(name: str = "auto") -> torch.device:
    """The device called auto, cpu or cuda; auto takes CUDA where there is one.  ValueError if it is not to be had.

    Where a launcher started several processes, they find each other here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {name!r}")
    parallel.join(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for, but torch sees no CUDA device; use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Teacher(NamedTuple):
    """A trained teacher: averaged weights, and the curriculum (T,) that it learned; or an exact one with the base."""

    model: UNet | ExactTeacher
    omega: Tensor
    history: pd.DataFrame   # step, loss


@dataclass(frozen=True)
class Run:
    """One profile with one seed on one device: knows its data, its judge and its files; trains nothing itself."""

    profile: Profile
    seed: int = 42
    device: torch.device = CPU
    root: Path = RUNS
    compile: bool = False    # torch.compile in training and FID's sampling: meant for a GPU, takes a while to begin

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be an integer in [0, {2**31}), not {self.seed!r}")
        parallel.own_slice(self.profile.batch)
        runs.commit()                            # what runs is this one, whatever is committed meanwhile
        for arm in self.profile.arms:            # refuses an unknown arm here, before any work
            row = objective(arm)
            if self.profile.exact_bandwidth and (row.student in ("pruned", "sliced") or "hint" in row.lam):
                raise ValueError(f"{arm} needs a teacher that is a network; that of {self.profile.name} is exact")
            if self.compile and "hint" in row.lam:
                raise ValueError(f"{arm} looks inside its networks, and cannot be compiled; leave one of the two out")

    @cached_property
    def schedule(self) -> Schedule:
        return cosine(self.profile.T).to(self.device)

    @cached_property
    def images(self) -> data.Images:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[data.Images, str]:
        """The images, and the digest of the file that they are from."""
        digest = self._digest()
        images = data.load(self.profile.dataset, cache=CACHE).to(self.device)
        if self._digest() != digest:
            raise ValueError(f"{data.source(self.profile.dataset, CACHE)} was changed while it was read; start again")
        net = self.profile.teacher
        if images.shape != (net.channels, net.size, net.size) or images.num_classes != net.num_classes:
            expected = (net.channels, net.size, net.size)
            raise ValueError(f"{self.profile.dataset} has images {images.shape} in {images.num_classes} classes, but "
                             f"the profile's networks expect {expected} in {net.num_classes}")
        return images, digest

    @property
    def data_digest(self) -> str:
        """SHA-256 of the file that the images come from; nothing for the digits, which scikit-learn ships."""
        return self._read[1] if "_read" in vars(self) else self._digest()

    def _digest(self) -> str:
        path = data.source(self.profile.dataset, CACHE)
        return _sha256(path, path.stat().st_mtime_ns, path.stat().st_size) if path and path.is_file() else ""

    @cached_property
    def judge(self) -> evaluate.Judge:
        colour = _colour_classifier(self) if self.profile.classifier == "colour" else None
        return evaluate.make_judge(self.images, n=self.profile.samples, seed=0, classifier=colour)

    @cached_property
    def base(self) -> Tensor:
        """The curriculum (T,) that the teacher's TIRT starts from."""
        return _CURRICULA[self.profile.base](self.schedule, self.profile.gamma)

    @property
    def seeds(self) -> list[int]:
        """The students' training seeds; the teacher's is `seed`."""
        return [self.seed + i for i in range(self.profile.seeds)]

    def autocast(self) -> torch.autocast:
        """The context in which networks compute in the profile's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.profile.precision == "bfloat16")

    def quick(self, net: nn.Module) -> nn.Module:
        """The same network as it is to be called, compiled at its first call if the run says so."""
        if not (self.compile and isinstance(net, nn.Module)):
            return net
        torch._dynamo.config.recompile_limit = 64         # each precision, batch size and mode is a graph of its own
        torch._dynamo.config.fail_on_recompile_limit_hit = True         # more would run uncompiled, and say nothing
        return torch.compile(net, dynamic=False)

    @property
    def captures(self) -> bool:
        """Whether training steps and sampling are replayed as CUDA graphs: on one GPU, and without dropout."""
        return (self.device.type == "cuda" and parallel.size() == 1 and self.profile.teacher.dropout == 0
                and os.environ.get("DASHKIT_CUDA_GRAPHS") != "0")

    @cached_property
    def _samplers(self) -> dict[tuple, ReplayedModel]:
        return {}

    def sampler(self, model: nn.Module) -> nn.Module | ReplayedModel:
        """A model as it is sampled: replayed where that pays, else as `quick` gives it."""
        if not self.captures or type(model) is not UNet:
            return self.quick(model)
        if model.config not in self._samplers:
            self._samplers[model.config] = ReplayedModel(model, compiled=self.compile)
        return self._samplers[model.config].load(model)

    def teacher_settings(self) -> dict:
        names = ("dataset", "teacher", "exact_bandwidth", "T", "base", "gamma", "label_dropout", "batch",
                 "teacher_steps", "teacher_lr", "teacher_ema", "warmup", "clip", "precision")
        settings = self.profile.asdict()
        own = {"data": self.data_digest} if self.data_digest else {}
        own |= {k: settings[k] for k in ("stored",) if k in settings}
        return {k: settings[k] for k in names} | own | {"seed": self.seed}

    def student_settings(self, arm: str, seed: int) -> dict:
        names = ("student", "student_steps", "student_lr", "student_ema")
        settings = self.profile.asdict()
        row = objective(arm)
        weights = objective(row.reuses) if row.reuses else row
        return {k: settings[k] for k in names} | {
            "teacher": self.teacher_settings(), "teacher_weights": self.weights("teacher", self.seed), "seed": seed,
            "objective": weights._asdict() | {"reuses": row.reuses}}

    def folder(self, arm: str, seed: int) -> Path:
        """Where one trained network lives; another setting is another folder, so results never mix."""
        settings = self.teacher_settings() if arm == "teacher" else self.student_settings(arm, seed)
        return self.root / self.profile.name / f"{arm}-s{seed}-{runs.fingerprint(settings)}"

    def _final(self, arm: str, seed: int) -> Path:
        """The file of an arm's trained weights, which may be those of another arm."""
        return self.folder(arm if arm == "teacher" else objective(arm).reuses or arm, seed) / FINAL

    def is_trained(self, arm: str, seed: int) -> bool:
        """Whether the network of one arm and seed is finished, with exactly these settings."""
        return (arm == "teacher" and bool(self.profile.exact_bandwidth)) or self._final(arm, seed).is_file()

    def weights(self, arm: str, seed: int) -> str:
        """The checksum of the trained weights: what is distilled or measured is kept under it.  Nothing if there are
        none, as of an exact teacher."""
        path = self._final(arm, seed)
        return runs.checksum(path) if path.is_file() else ""


def _colour_classifier(run: Run) -> ColourClassifier:
    """The classifier of colour images, trained once and kept beside the networks: on a CPU it takes minutes."""
    model = ColourClassifier(run.images.shape, run.images.num_classes)
    key = runs.fingerprint([run.profile.dataset, run.data_digest])
    path = run.root / run.profile.name / f"classifier-{key}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                images = run.images
                trained = train_colour_classifier(images.pixels, images.labels, num_classes=images.num_classes, seed=0)
                runs.save_tensors(path, {k: v.contiguous() for k, v in trained.state_dict().items()},
                                  {"dataset": run.profile.dataset, "commit": runs.commit()})
    weights = dict(runs.load_tensors(path).tensors)
    try:
        check_weights(model, weights)
    except ValueError as error:
        raise ValueError(f"{path} does not hold this classifier ({error}); delete it to train it again") from error
    model.load_state_dict(weights)
    return model.to(run.device, memory_format=torch.channels_last).eval().requires_grad_(False)


@lru_cache(maxsize=16)
def _sha256(path: Path, changed: int, size: int) -> str:
    return sha256(path)


def start(profile: str = "auto", *, seed: int = 42, device: str = "auto", compile: bool = False,
          **overrides: object) -> Run:
    """Check every parameter of a notebook or a command at once and return its Run.

    `overrides` replace settings of the profile; None leaves one alone.  ValueError names what is allowed.
    """
    return Run(resolve(profile, **overrides), seed=seed, device=pick_device(device), compile=compile)


# ---------------------------------------------------------------------------------------------------- training


def train_teacher(run: Run) -> Iterator[Step]:
    """Train the teacher and its TIRT curriculum jointly, yielding each step; goes on where it was stopped.

    Loss: omega_t |eps(x_t, t, y) - eps|^2 with labels dropped a sample at a time.  Yields nothing if it is finished.
    """
    p, folder = run.profile, run.folder("teacher", run.seed)
    if run.is_trained("teacher", run.seed):
        _clear(folder)
        return
    images = run.images
    model = seeded(run.seed, lambda: nn.ModuleDict({"net": UNet(p.teacher), "tirt": curriculum.TIRT(run.base.cpu())}))
    model = model.to(run.device, memory_format=torch.channels_last)
    learner = Learner(model, lr=p.teacher_lr, steps=p.teacher_steps, ema=p.teacher_ema,
                      warmup=p.warmup, clip=p.clip)
    net = run.quick(model["net"])
    generator = torch.Generator(run.device).manual_seed(run.seed)

    def batches() -> Iterator[Noised]:
        for x0, y in data.minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            batch = batch._replace(y=drop_labels(y, p.teacher.num_classes, p=p.label_dropout, generator=generator))
            yield samples_of(batch, parallel.own_slice(p.batch))

    def loss_fn(name: str, model: nn.Module, batch: Noised) -> Tensor:
        with run.autocast(), _dropout(run, learner.done):
            eps = net(batch.x_t, batch.t, batch.y)
        return (model["tirt"]()[batch.t] * per_sample(eps, batch.eps)).mean()

    yield from _resumable(run, folder, {"teacher": learner}, loss_fn, batches(), p.teacher_steps, generator,
                          {"teacher": run.teacher_settings()}, {"teacher": folder})


@contextmanager
def _dropout(run: Run, step: int) -> Iterator[None]:
    """Dropout's masks come from torch's own random state: here they depend on seed, step and process alone."""
    if run.profile.teacher.dropout == 0:
        yield
        return
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        # mixed, since a CPU's generator takes no more than 32 bits of a seed
        mixed = np.random.SeedSequence([run.seed, step, parallel.rank()]).generate_state(1)
        torch.manual_seed(int(mixed[0]))
        yield


class Drawn(NamedTuple):
    """What one lockstep step offers every arm."""

    batch: Noised      # images, timesteps, noise
    target: Branches   # the teacher's branches there, (B, C, H, W)
    hint: Tensor       # the teacher's middle features of the conditional one, (B, D, h, w); empty if no arm asks for it
    u: Tensor          # uniform numbers (B,)


def distil(run: Run, teacher: Teacher, arms: Sequence[str], seed: int) -> Iterator[Step]:
    """Train the students of one seed in lockstep, yielding each step; goes on where it was stopped.

    All arms share initial weights, batches, timesteps, noise and one teacher pass a step, so that comparisons are
    paired and an arm gets the same weights whichever others train beside it.  Finished arms are left out.
    """
    p, arms = run.profile, unfinished(run, arms, seed)
    if not arms:
        return
    check_eval(teacher.model)
    check_current(run, "teacher", run.seed, teacher.model)
    images, table = run.images, {a: objective(a) for a in arms}
    learners = {
        a: Learner(_student(run, teacher, row, seed), lr=p.student_lr * row.lr, steps=p.student_steps,
                   ema=p.student_ema, warmup=p.warmup, clip=p.clip)
        for a, row in table.items()
    }
    called = {a: {**dict(one.model.items()), "net": run.quick(one.model["net"])} for a, one in learners.items()}
    curricula = {"transferred": teacher.omega, "base": run.base, "uniform": curriculum.uniform(run.schedule)}
    generator = torch.Generator(run.device).manual_seed(seed)
    hinted = any("hint" in row.lam for row in table.values())
    look = _in_parts(run, partial(_teach, run.quick(teacher.model), hinted=hinted))
    if run.captures:
        look = Replayed(look)

    def batches() -> Iterator[Drawn]:
        for x0, y in data.minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            u = torch.rand(len(y), generator=generator, device=generator.device)
            batch, u = (samples_of(v, parallel.own_slice(p.batch)) for v in (batch, u))
            yield Drawn(batch, *look(batch), u)

    def loss_fn(arm: str, model: nn.ModuleDict, drawn: Drawn) -> Tensor:
        row = table[arm]
        omega = model["tirt"]() if "tirt" in model else curricula[row.curriculum]
        with run.autocast():
            terms = student_terms(called[arm], row, drawn)
        return total(terms, row.lam, omega[drawn.batch.t])

    settings = {a: run.student_settings(a, seed) for a in arms}
    yield from _resumable(run, _lockstep(run, arms, seed), learners, loss_fn, batches(), p.student_steps, generator,
                          settings, {a: run.folder(a, seed) for a in arms})


def _teach(teacher: nn.Module, batch: Noised, *, hinted: bool) -> tuple[Branches, Tensor]:
    """The teacher's branches on a batch, and its middle features of the conditional one (empty unless `hinted`)."""
    inputs = (batch.x_t, batch.t, batch.y)
    if not hinted:
        return branches(teacher, *inputs), batch.x_t.new_empty(0)
    target, features = rivals.with_hint(teacher, *inputs)
    return target, features[: len(batch.t)]


def _in_parts(run: Run, look: Callable[[Noised], tuple[Branches, Tensor]]) -> Callable[[Noised], tuple]:
    """`look` without gradients and in the run's precision, in two, four, … parts from when memory is short."""
    parts = 1

    def joined(batch: Noised) -> tuple[Branches, Tensor]:
        nonlocal parts
        while True:
            try:
                with torch.no_grad(), run.autocast():
                    found = [look(part) for part, _ in split(batch, parts)]
                break
            except torch.OutOfMemoryError:
                if parts >= batch_size(batch):
                    raise
                parts = min(2 * parts, batch_size(batch))
                print(f"out of memory: the teacher sees batches of {batch_size(batch)} in {parts} parts from now on")
        pairs, hints = zip(*found, strict=True)
        return Branches(*map(torch.cat, zip(*pairs, strict=True))), torch.cat(hints)
    return joined


def _lockstep(run: Run, arms: Sequence[str], seed: int) -> Path:
    """Where the checkpoint of arms trained together lives."""
    settings = {a: run.student_settings(a, seed) for a in arms}
    return run.root / run.profile.name / f"lockstep-s{seed}-{runs.fingerprint(settings)}"


def unfinished(run: Run, arms: Sequence[str], seed: int) -> list[str]:
    """The arms that `distil` has to train: those without weights, or all where a process died in the midst of them."""
    arms = list(dict.fromkeys(objective(a).reuses or a for a in arms))
    missing, folder = [a for a in arms if not run.is_trained(a, seed)], _lockstep(run, arms, seed)
    if not missing:
        _clear(folder)
        return []                                # whether or not another process still sees the checkpoint
    return arms if (folder / CHECKPOINT).is_file() else missing


def _clear(folder: Path) -> None:
    """Remove the checkpoint of a finished training, and the folder if nothing else is in it."""
    if not parallel.is_main():
        return
    runs.remove_leftovers(folder)
    if (folder / CHECKPOINT).is_file():          # a folder that may be read alone is not touched
        (folder / CHECKPOINT).unlink(missing_ok=True)
    with suppress(OSError):                      # another process may have done it, or begun again
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _student(run: Run, teacher: Teacher, row: Objective, seed: int) -> nn.ModuleDict:
    """A student at its start, as `net`, with what else it trains: its own curriculum, or an adapter for hints."""
    def make() -> nn.ModuleDict:
        parts = {"net": rivals.STUDENTS[row.student](teacher.model, run.profile.student)}
        if row.curriculum == "relearned":
            parts["tirt"] = curriculum.TIRT(run.base.cpu())
        if "hint" in row.lam:
            width, wanted = map(rivals.middle_channels, (run.profile.student, teacher.model.config))
            parts["adapter"] = nn.Conv2d(width, wanted, 1)
        return nn.ModuleDict(parts)
    return seeded(seed, make).to(run.device, memory_format=torch.channels_last)


def student_terms(model: Mapping[str, nn.Module], row: Objective, drawn: Drawn) -> dict[str, Tensor]:
    """Every loss term that the row's student, `net` with its `adapter` if it has one, gets; each (B,)."""
    batch, net = drawn.batch, model["net"]
    if row.student == "single_head":
        low, high = net.W_RANGE
        w = low + (high - low) * drawn.u
        return {"guided": per_sample(net.guided(batch.x_t, batch.t, batch.y, w), drawn.target.guided(w))}
    if "adapter" in model:
        student, features = rivals.with_hint(net, batch.x_t, batch.t, batch.y)
        extra = {"hint": rivals.hint_term(model["adapter"], features, drawn.hint)}
    else:
        student, extra = branches(net, batch.x_t, batch.t, batch.y), {}
    return distil_terms(student, drawn.target, eps=batch.eps, w=pick_w(row, drawn.u)) | extra


def _resumable(run, folder, learners, loss_fn, batches, steps, generator, settings, homes) -> Iterator[Step]:
    """`fit` with a checkpoint every minute and at each stop; writes each learner's final file at the end.

    Holds the folder meanwhile: runs.Busy if another process trains the same.  Of several that train as one, the main
    process holds and writes.
    """
    with runs.claim(folder) if parallel.is_main() else nullcontext() as token:
        yield from _claimed(run, folder, token, learners, loss_fn, batches, steps, generator, settings, homes)
    parallel.wait()
    if len(list(filter(Path.is_file, (h / FINAL for h in homes.values())))) == len(homes):
        _clear(folder)


def _claimed(run, folder, token, learners, loss_fn, batches, steps, generator, settings, homes) -> Iterator[Step]:
    path, history, fresh, began, spent = folder / CHECKPOINT, [], [], time.monotonic(), 0.0
    columns = sorted(learners)                            # of the history, in whichever order the arms were named
    if path.is_file():
        saved = runs.load_tensors(path)
        try:
            if runs.fingerprint(saved.meta["settings"]) != runs.fingerprint(settings):
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
        runs.save_tensors(path, tensors, {"settings": settings, "seconds": spent + time.monotonic() - began})

    last = began
    try:
        for step in fit(learners, loss_fn, batches, steps=steps, capture=run.captures):
            fresh.append(torch.stack([step.losses[name] for name in columns]))
            if len(fresh) == 100:
                collect()
            if parallel.is_main() and step.number < steps and time.monotonic() - last > CHECKPOINT_SECONDS:
                write()
                last = time.monotonic()
            if parallel.is_main() and step.number == steps:
                collect()
                seconds = spent + time.monotonic() - began
                for name, losses in zip(columns, torch.stack(history).T, strict=True):
                    _finish(run, homes[name], name, learners[name], losses, settings[name], seconds)
                path.unlink(missing_ok=True)
            yield step
    except GeneratorExit:                                 # the caller stopped between two steps
        if 0 < len(history) + len(fresh) < steps and parallel.is_main() and runs.holds(folder, token):
            with suppress(FloatingPointError):            # a diverged run keeps its last good checkpoint
                write()
        raise


def _finish(run: Run, home: Path, name: str, learner: Learner, losses: Tensor, settings: dict, seconds: float) -> None:
    """Write manifest, then averaged weights and losses: a folder with weights is a finished one, and stays as it is."""
    if (home / FINAL).is_file():
        return
    kind = getattr(torch, run.profile.stored)
    tensors = {"losses": losses, **{f"ema.{k}": v.to(kind) for k, v in learner.ema.state_dict().items()}}
    runs.write_json(home / "manifest.json", runs.manifest(
        profile=run.profile.name, arm=name, seed=settings["seed"], device=runs.device_name(run.device),
        seconds=round(seconds, 1), settings=settings))
    runs.save_tensors(home / FINAL, tensors, settings)


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module with initial weights from `seed`, leaving the caller's random state as it was."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


# --------------------------------------------------------------------------------------------------- trained models


def load_teacher(run: Run) -> Teacher:
    """The trained teacher; FileNotFoundError says how to train it."""
    if run.profile.exact_bandwidth:
        exact = ExactTeacher(run.schedule, run.images.x0, run.images.labels, bandwidth=run.profile.exact_bandwidth)
        return Teacher(exact, run.base, pd.DataFrame({"step": [], "loss": []}))
    saved = _load_final(run, "teacher", run.seed)
    model = nn.ModuleDict({"net": UNet(run.profile.teacher), "tirt": curriculum.TIRT(run.base.cpu())})
    _fill(run, model, "teacher", run.seed, saved, prefix="ema.")
    model["net"].loaded = run.weights("teacher", run.seed)
    losses = saved.tensors["losses"]
    history = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses.tolist()})
    return Teacher(model["net"], model["tirt"]().detach(), history)


def load_student(run: Run, arm: str, seed: int) -> nn.Module:
    """The trained student of one arm and seed, as it is sampled; FileNotFoundError says how to train it."""
    row = objective(arm)
    if row.reuses:
        net = rivals.IndependentCondition(load_student(run, row.reuses, seed)).to(run.device).eval()
    else:
        net = rivals.empty(row.student, run.profile.teacher, run.profile.student)
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


def _load_final(run: Run, arm: str, seed: int) -> runs.Saved:
    path = run.folder(arm, seed) / FINAL
    if not path.is_file():
        notebook = "02" if arm == "teacher" else "04"
        other = ", ".join(stale(run, arm, seed))
        there = f"; one that is there differs in {other}" if other else ""
        raise FileNotFoundError(f"{arm} of profile {run.profile.name}, seed {seed}, is not trained yet (no {path.name} "
                                f"in {path.parent.name}{there}): run notebook {notebook}")
    saved = runs.load_tensors(path)
    wanted = _flat(run.teacher_settings() if arm == "teacher" else run.student_settings(arm, seed))
    found = _flat(saved.meta)
    differing = [k for k in sorted(wanted | found) if wanted.get(k) != found.get(k)]
    if differing:
        raise ValueError(f"{path} is another network: its {', '.join(differing)} differ from this run's; delete it")
    losses = saved.tensors.get("losses", torch.empty(0))
    if losses.ndim != 1 or not len(losses) or not losses.is_floating_point():
        raise ValueError(f"{path} lacks the losses of its training; delete it to start afresh")
    return saved


def _fill(run: Run, model: nn.Module, arm: str, seed: int, saved: runs.Saved, *, prefix: str) -> nn.Module:
    weights = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
    try:
        check_weights(model, weights)
    except ValueError as error:
        raise ValueError(f"{run.folder(arm, seed) / FINAL} does not fit its network: {error}") from error
    model.load_state_dict(weights)
    model = model.to(run.device, memory_format=torch.channels_last)      # a fifth less time without gradients
    return model.eval().requires_grad_(False)


def get_teacher(run: Run) -> Teacher:
    """The trained teacher, trained first where need be, with a progress bar."""
    if not run.is_trained("teacher", run.seed):
        for _ in progress(train_teacher(run), total=run.profile.teacher_steps, title="teacher"):
            pass
    return load_teacher(run)


def get_students(run: Run, teacher: Teacher, arms: Sequence[str] | None = None) -> dict[tuple[str, int], nn.Module]:
    """Every student (arm, seed), trained first where need be: one lockstep run a seed, the seeds side by side."""
    arms = run.profile.arms if arms is None else tuple(arms)
    for arm in arms:
        objective(arm)
    trained = dict.fromkeys(objective(a).reuses or a for a in arms)
    missing = {s: unfinished(run, list(trained), s) for s in run.seeds}
    jobs = {f"seed {s}": partial(distil, run, teacher, m, s) for s, m in missing.items() if m}
    _say_stale(run, missing)
    if jobs:
        ticks, title = len(jobs) * run.profile.student_steps, f"{sum(map(len, missing.values()))} students"
        side_by_side(run, jobs, at_once=run.profile.seeds, ticks=ticks, title=title)
    return {(a, s): load_student(run, a, s) for s in run.seeds for a in arms}


# ------------------------------------------------------------------------------------------------------- results


class Yardstick(NamedTuple):
    """What every model of a run is held against: the teacher's branches on common states, and its samples' features."""

    states: Noised
    target: Branches
    features: dict[str, Tensor]   # by guidance, e.g. "w=1.5"


def evaluate_all(run: Run, teacher: Teacher, students: Mapping[tuple[str, int], nn.Module]) -> pd.DataFrame:
    """Quality, calibration and cost of the teacher and every student, as a tidy table; finished rows stay on disk."""
    paths = {(arm, seed): _evaluation_path(run, arm, seed) for arm, seed in students}
    own = _evaluation_path(run, "teacher", run.seed)
    for path in (own, *paths.values()):
        runs.remove_leftovers(path.parent)               # a process may have died between the table and its lock
    missing = [key for key, path in paths.items() if not path.is_file()]
    if missing or not own.is_file():
        for arm, seed, model in [("teacher", run.seed, teacher.model), *((*key, students[key]) for key in missing)]:
            check_current(run, arm, seed, model)
        states = evaluate.held_out_states(run.schedule, run.images, run.profile.states, seed=SAMPLING_SEED)
        yardstick = Yardstick(states, evaluate.all_branches(teacher.model, states), _teacher_features(run, teacher))
        # counted here and not in the threads: the counter's hooks see all of them
        costs = {kind: flops(net) for kind, net in {_kind(m): m for m in students.values()}.items()}

        def measure_one(arm: str, seed: int, model: nn.Module) -> Iterator[None]:
            with runs.claim(run.folder(arm, seed)):
                table = _evaluate(run, arm, seed, model, teacher, yardstick, costs.get(_kind(model)))
                runs.write_table(own if arm == "teacher" else paths[arm, seed], table)
            yield

        if not own.is_file():
            costs[_kind(teacher.model)] = flops(teacher.model) if isinstance(teacher.model, nn.Module) else None
            deque(measure_one("teacher", run.seed, teacher.model), maxlen=0)
        jobs = {f"{arm} {seed}": partial(measure_one, arm, seed, students[arm, seed]) for arm, seed in missing}
        if jobs:
            side_by_side(run, jobs, at_once=len(students), ticks=len(jobs), title="evaluation")
    keys = {("teacher", run.seed): own, **paths}
    tables = [_read_evaluation(run, *key, path) for key, path in keys.items()]
    table = pd.concat([_floor_rows(run), *tables], ignore_index=True)
    others = sorted(set(table.commit) - {runs.commit()})
    if others:
        n = table.commit.isin(others).sum()
        print(f"{n} of {len(table)} measurements were made at commit {', '.join(others)}, this is {runs.commit()}; "
              f"to make all anew, delete evaluation-*.csv and features-* in {run.root / run.profile.name}/*")
    trained = _training_commits(run, list(keys))
    older = sorted(set(trained) - {runs.commit()})
    if older:
        n = sum(c in older for c in trained)
        print(f"{n} of {len(trained)} networks were trained at commit {', '.join(older)}, this is {runs.commit()}")
    return table


def _training_commits(run: Run, keys: Sequence[tuple[str, int]]) -> list[str]:
    """The commit that each trained network's manifest names."""
    paths = dict.fromkeys(run._final(*key).with_name("manifest.json") for key in keys)
    return [str(runs.read_json(path, "commit")["commit"]) for path in paths if path.is_file()]


def _read_evaluation(run: Run, arm: str, seed: int, path: Path) -> pd.DataFrame:
    table = runs.read_results(path)
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
        scales = progress(run.profile.ws, total=len(run.profile.ws), title="the teacher's samples")
        found = {f"{_of_set(k)}w={w:g}": measure(run, teacher.model, w, sampling_set=k).features
                 for w in scales for k in range(run.profile.sampling_sets)}
        runs.save_tensors(path, found, {"profile": run.profile.name, "seed": run.seed})
    features = runs.load_tensors(path, device=run.device).tensors
    wanted = {f"{_of_set(k)}w={w:g}": (run.profile.samples, *run.judge.reference.shape[1:])
              for w in run.profile.ws for k in range(run.profile.sampling_sets)}
    if {k: tuple(v.shape) for k, v in features.items() if v.is_floating_point()} != wanted:
        raise ValueError(f"{path} does not hold the features of this profile's samples; delete it to draw them again")
    return features


def stale(run: Run, arm: str, seed: int) -> list[str]:
    """Which settings differ from those of the networks of this arm and seed that are there already, if any are.

    Such a network is neither used nor deleted; the caller tells the user why training starts again.
    """
    wanted = _flat(run.teacher_settings() if arm == "teacher" else run.student_settings(arm, seed))
    differing: dict[str, None] = {}
    for path in sorted((run.root / run.profile.name).glob(f"{arm}-s{seed}-*/manifest.json")):
        settings = runs.read_json(path, "settings")["settings"]
        if not isinstance(settings, dict):
            raise ValueError(f"{path} is damaged: its settings are no object; delete it")
        found = _flat(settings)
        if found == wanted:
            return []
        differing |= dict.fromkeys(k for k in sorted(wanted | found) if wanted.get(k) != found.get(k))
    return list(differing)


def _say_stale(run: Run, missing: Mapping[int, Sequence[str]]) -> None:
    """Print why arms of some seeds are trained that were trained before."""
    for arm, seed in [(arm, seed) for seed, arms in missing.items() for arm in arms if not run.is_trained(arm, seed)]:
        changed = stale(run, arm, seed)
        if changed:
            print(f"{arm}, seed {seed}: trained before with another {', '.join(changed)}; trained again")


def _flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Settings by name, those of a network as `teacher.ch`, with lists for tuples, as JSON gives them back."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def sweep(run: Run, *, jobs: int = 1) -> pd.DataFrame:
    """Train and evaluate every arm and seed of the profile; stop it at any time, it goes on from there.

    One process by default.  With `jobs` > 1 the seeds are spread over a joblib backend, the current one: processes, or
    whatever `joblib.parallel_config` names, a Dask cluster too; they share the run folder and nothing else.
    """
    teacher = get_teacher(run)
    if jobs > 1:
        from joblib import Parallel, delayed

        _say_stale(run, {seed: unfinished(run, run.profile.arms, seed) for seed in run.seeds})
        evaluate_all(run, teacher, {})               # the teacher's own, once, before the workers read it
        tasks = Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(_one_seed)(run, seed, max(1, torch.get_num_threads() // jobs)) for seed in run.seeds)
        deque(progress(tasks, total=len(run.seeds), title=f"{len(run.seeds)} seeds"), maxlen=0)
    students = get_students(run, teacher)
    return get_results(run, teacher, students)


def _one_seed(run: Run, seed: int, threads: int) -> int:
    """One seed of a sweep in a worker process: results stay on disk."""
    runs.commit()                                # what runs is this one: a Run that arrives here asked elsewhere
    os.environ["DASHKIT_PROGRESS"] = "0"
    torch.set_num_threads(threads)
    teacher = load_teacher(run)
    deque(distil(run, teacher, run.profile.arms, seed), maxlen=0)
    evaluate_all(run, teacher, {(arm, seed): load_student(run, arm, seed) for arm in run.profile.arms})
    return seed


LR_FACTORS = (0.5, 1.0, 2.0)


def tune(run: Run) -> pd.DataFrame:
    """The Fréchet distance of every arm at its best scale for several learning rates, as a tidy table; resumable.

    A metric is called frechet@lr=0.008.  Use a profile whose held-out images are not those of the results (`tuning`).
    """
    p, teacher = run.profile, get_teacher(run)
    variants = {f: replace(run, profile=replace(p, student_lr=p.student_lr * f)) for f in LR_FACTORS}
    arms = [a for a in p.arms if not objective(a).reuses]
    jobs = {f"{f:g} {i}": partial(distil, v, teacher, arms[i::2], run.seed)
            for f, v in variants.items() for i in (0, 1)}
    side_by_side(run, jobs, at_once=len(jobs), ticks=len(jobs) * p.student_steps, title="students")

    def path(f: float, arm: str) -> Path:
        variant = variants[f]
        return variant.folder(arm, run.seed) / f"tuning-{_evaluation_key(variant, arm, run.seed)}.csv"

    def score(f: float, arm: str) -> Iterator[None]:
        if not path(f, arm).is_file():
            student = load_student(variants[f], arm, run.seed)
            best = min(measure(run, student, w).frechet for w in p.ws)
            lr = p.student_lr * f * objective(arm).lr
            found = [{"metric": f"frechet@lr={lr:g}", "value": best, "n": p.samples}]
            runs.write_table(path(f, arm), tidy(run, arm, run.seed, found))
        yield

    pairs = [(f, arm) for arm in arms for f in LR_FACTORS]
    _ = run.judge                                                      # trained before the threads ask for it
    side_by_side(run, {f"{arm} {f:g}": partial(score, f, arm) for f, arm in pairs}, at_once=len(pairs),
                 ticks=len(pairs), title="scores")
    return pd.concat([runs.read_results(path(*pair)) for pair in pairs], ignore_index=True)


def results_path(run: Run) -> Path:
    """Where the tidy table of a run's profile, seed, settings and weights is kept."""
    weights = [run.weights("teacher", run.seed)] + [run.weights(a, s) for a in run.profile.arms for s in run.seeds]
    key = runs.fingerprint([run.profile.asdict(), weights])
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
    runs.write_table(results_path(run), results)
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
    table = runs.read_results(path)
    if _measured(table) != _measured(pd.concat([_read_evaluation(run, *k, _evaluation_path(run, *k)) for k in keys])):
        raise ValueError(f"{path} does not hold what was measured; run notebook 04 again, which writes it anew")
    return table


def _evaluation_key(run: Run, arm: str, seed: int) -> str:
    p = run.profile
    more = [p.sampling_sets, p.classifier] if (p.sampling_sets, p.classifier) != (1, "small") else []
    return runs.fingerprint(
        [p.w, p.ws, p.samples, p.sample_steps, p.states, SAMPLING_SEED, run.weights(arm, seed), *more])


def _evaluation_path(run: Run, arm: str, seed: int) -> Path:
    return run.folder(arm, seed) / f"evaluation-{_evaluation_key(run, arm, seed)}.csv"


def is_measured(run: Run, arm: str, seed: int) -> bool:
    """Whether the evaluation of one arm and seed is there, with exactly these settings."""
    return _evaluation_path(run, arm, seed).is_file()


def _evaluate(run: Run, arm: str, seed: int, model: nn.Module, teacher: Teacher, yardstick: Yardstick,
              operations: int | None) -> pd.DataFrame:
    p, (states, target, features) = run.profile, yardstick
    own = target if arm == "teacher" else evaluate.all_branches(model, states)
    calibration = evaluate.measure_calibration(own, target, states, T=p.T)
    found = list(evaluate.calibration_rows(calibration, p.states))

    if arm == "cond_only":                       # its null row never gets a gradient: whatever it starts as, it stays
        for name, net in other_null_rows(model).items():
            stats = gap_stats(evaluate.all_branches(net, states), target)
            found += evaluate.gap_rows(stats, p.states, f"@null={name}")
    in_x0 = [evaluate.x0_branches(pair, run.schedule, states) for pair in (own, target)]
    found += evaluate.gap_rows(gap_stats(*in_x0), p.states, "_x0")
    visited = _visited(run, model)
    on_path = [evaluate.all_branches(net, visited) for net in (model, teacher.model)]
    found += evaluate.gap_rows(gap_stats(*on_path), len(visited.t), "_visited")

    guidances: dict[str, float | Tensor] = {f"w={w:g}": w for w in p.ws}
    slope = max(calibration.gap.slope, 1e-6)
    wanted = 1 + (max(p.ws) - 1) / slope                 # what a pure error of magnitude would need
    guidances["corrected"] = min(max(wanted, 0.0), W_MAX)
    found.append({"metric": "w_corrected", "value": guidances["corrected"], "n": p.states})
    if arm in ("teacher", "dash"):
        guidances |= matched_tables(p.T)
    elif p.classifier == "colour":
        guidances["tag"] = guidance.tag(p.T)
    for name, w in guidances.items():
        reference = features[f"w={max(p.ws):g}"] if name == "corrected" else features.get(name)
        if arm == "teacher" and reference is not None:       # its samples were drawn already, for the others
            quality = evaluate.quality_of(run.judge, reference, run.images.num_classes)
        else:
            quality = measure(run, model, w)
        found += evaluate.quality_rows(name, quality, reference)
    for k in range(1, p.sampling_sets):                      # other labels and noise: how much of a difference is luck
        for w in p.ws:
            reference = features[f"{_of_set(k)}w={w:g}"]
            quality = (evaluate.quality_of(run.judge, reference, run.images.num_classes) if arm == "teacher"
                       else measure(run, model, w, sampling_set=k))
            found += [row | {"metric": _of_set(k) + row["metric"]}
                      for row in evaluate.quality_rows(f"w={w:g}", quality, reference)]

    if arm == "teacher" or objective(arm).curriculum == "relearned":
        omega = teacher.omega if arm == "teacher" else load_curriculum(run, arm, seed)
        if not torch.equal(omega, run.base):             # an exact teacher has learned nothing: there is no rank
            rank = _rank_of_difficulty(run, arm, omega, own, target, states)
            found.append({"metric": "spearman", "value": rank, "n": p.states})
    if isinstance(model, nn.Module):
        pruned = arm != "teacher" and objective(arm).student == "pruned"
        with counted_passes(model) as passes:
            measure(run, model, p.w, n=2)
        size = rivals.n_nonzero(model) if pruned else n_parameters(model)
        found += [{"metric": name, "value": value, "n": 1} for name, value in
                  {"parameters": size, "flops": operations, "passes": passes[0] // 2}.items()]
    return tidy(run, arm, seed, found)


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


def matched_tables(T: int, w_max: float = 4.0) -> dict[str, Tensor]:
    """Three guidance tables (T,) of equal mean: the published TAG, a constant, and an interval."""
    tag = guidance.tag(T, w_max)
    mean = tag.mean().item()
    flat = guidance.interval(T, 2.0)
    interval = 1 + (mean - 1) * (flat - 1) / (flat - 1).mean()
    return {"tag": tag, "constant": guidance.constant(T, mean), "interval": interval}


def _visited(run: Run, model: nn.Module) -> evaluate.States:
    p = run.profile
    y = (torch.arange(max(p.states // p.sample_steps, 1)) % run.images.num_classes).to(run.device)
    generator = torch.Generator().manual_seed(SAMPLING_SEED)
    x_T = torch.randn((len(y), *run.images.shape), generator=generator).to(run.device)
    return evaluate.visited_states(model, run.schedule, y, x_T=x_T, w=p.w, steps=p.sample_steps)


def _rank_of_difficulty(run: Run, arm: str, omega: Tensor, own: Branches, target: Branches, states: Noised) -> float:
    """Spearman's correlation of a learned curriculum with the held-out loss that it was learned on."""
    if arm == "teacher":
        losses = per_sample(own.cond, states.eps)
    else:
        lam, terms = objective(arm).lam, distil_terms(own, target, eps=states.eps, w=1.0)
        losses = sum(c * terms[k] for k, c in lam.items())
    return evaluate.rank_of_difficulty(omega, run.base, losses, states.t)


def _of_set(k: int) -> str:
    """What stands before a metric that was measured on another set of labels and noise than the first."""
    return f"set{k}:" if k else ""


def measure(
    run: Run, model: nn.Module, w: float | Tensor, *, sampling_set: int = 0, **ddim_arguments
) -> evaluate.Quality:
    """The quality of a model under one guidance, a number or a table, by the run's own protocol.

    Every model gets the same labels and noise; each `sampling_set` is another draw of them.
    """
    p = run.profile
    settings = {"n": p.samples, "steps": p.sample_steps, "seed": SAMPLING_SEED + 100_003 * sampling_set,
                "batch": 1000 if run.device.type == "cuda" else 256} | ddim_arguments
    sampled = run.sampler(model) if settings["n"] >= 100 else model         # a graph does not pay for a few
    return evaluate.measure_quality(sampled, run.schedule, run.judge, shape=run.images.shape, w=w,
                                    num_classes=run.images.num_classes, device=run.device, **settings)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, with the GPU's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _floor_rows(run: Run) -> pd.DataFrame:
    floor, n = run.judge.floor, min(run.profile.samples, len(run.images.pixels))
    return tidy(run, "real", run.seed, [
        {"metric": "frechet", "value": floor.mean().item(), "n": n},
        {"metric": "frechet_sd", "value": floor.std().item(), "n": len(floor)},
        {"metric": "accuracy", "value": run.judge.accuracy, "n": len(run.images.test_labels)},
    ])


def tidy(run: Run, arm: str, seed: int, found: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(found).assign(profile=run.profile.name, arm=arm, seed=seed,
                                       device=runs.device_name(run.device), commit=runs.commit())
    return table[list(runs.COLUMNS)]


def calibration_table(results: pd.DataFrame, *, w: float) -> pd.DataFrame:
    """One row an arm: mean over training seeds of calibration and of quality at w and at each arm's best w.

    `fd` is the Fréchet distance divided by the real-vs-real floor (1 is as good as real); `sd` its spread over seeds
    (ddof = 1, empty for one seed).
    """
    floor = results.query("arm == 'real' and metric == 'frechet'").value.mean()
    models = results[results.arm != "real"]
    wide = models.pivot_table(index=["arm", "seed"], columns="metric", values="value", sort=False)
    frechet = wide.filter(regex="^frechet@w=") / floor
    wide = wide.assign(fd=frechet[f"frechet@w={w:g}"], fd_best=frechet.min(axis=1),
                       w_best=frechet.idxmin(axis=1).str.removeprefix("frechet@w=").astype(float))
    columns = ["rho", "slope", "cos", "r2", "fd", "fd_best", "w_best"]
    by_arm = wide.groupby("arm", sort=False)
    table = by_arm[columns].mean()
    table.insert(5, "sd", by_arm.fd.std(ddof=1))
    table.insert(len(table.columns), "accuracy", by_arm[f"accuracy@w={w:g}"].mean())
    table.insert(0, "params", by_arm.parameters.first().astype("Int64"))
    table.insert(len(table.columns), "seeds", by_arm.size())
    return table
