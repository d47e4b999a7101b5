"""A profile carried out: teacher, students in lockstep, evaluation.  Layer 4; used by the notebooks and the command."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit import curriculum, data, evaluate, runs
from dashkit.guidance import Branches, branches, drop_labels
from dashkit.metrics import flops
from dashkit.objectives import Objective, distil_terms, objective, per_sample, pick_w, total
from dashkit.profiles import Profile, resolve
from dashkit.schedule import Noised, Schedule, cosine, noised
from dashkit.train import Learner, Step, fit
from dashkit.unet import UNet, n_parameters

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path(os.environ.get("DASHKIT_RUNS") or ROOT / "data" / "runs")
CHECKPOINT_SECONDS = 60.0
_SAMPLING_SEED = 1234        # the same noise and labels for every model, so that differences are paired
_CURRICULA = {"uniform": lambda schedule, gamma: curriculum.uniform(schedule),
              "min_snr": curriculum.min_snr, "published": curriculum.published}

CPU = torch.device("cpu")
_seeding = threading.Lock()  # torch's own random state is one for all threads

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, total: int, title: str) -> Iterable[Item]:
    """A progress bar around `items`, unless the environment has DASHKIT_PROGRESS=0 (as the tests do)."""
    if os.environ.get("DASHKIT_PROGRESS") == "0":
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
    if run.device.type == "cuda":
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
    """The device called auto, cpu or cuda; auto takes CUDA where there is one.  ValueError if it is not to be had."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for, but torch sees no CUDA device; use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Teacher(NamedTuple):
    """A trained teacher: averaged weights, and the curriculum (T,) that it learned."""

    model: UNet
    omega: Tensor
    history: pd.DataFrame   # step, loss


@dataclass(frozen=True)
class Run:
    """One profile with one seed on one device: knows its data, its judge and its files; trains nothing itself."""

    profile: Profile
    seed: int = 42
    device: torch.device = CPU
    root: Path = RUNS

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be an integer in [0, {2**31}), not {self.seed!r}")
        for arm in self.profile.arms:
            objective(arm)                       # refuses an unknown arm here, before any work

    @cached_property
    def schedule(self) -> Schedule:
        return cosine(self.profile.T).to(self.device)

    @cached_property
    def images(self) -> data.Images:
        images = data.load(self.profile.dataset, cache=ROOT / "data" / "cache").to(self.device)
        net = self.profile.teacher
        if images.shape != (net.channels, net.size, net.size) or images.num_classes != net.num_classes:
            expected = (net.channels, net.size, net.size)
            raise ValueError(f"{self.profile.dataset} has images {images.shape} in {images.num_classes} classes, but "
                             f"the profile's networks expect {expected} in {net.num_classes}")
        return images

    @cached_property
    def judge(self) -> evaluate.Judge:
        return evaluate.make_judge(self.images, n=self.profile.samples, seed=0)

    @cached_property
    def base(self) -> Tensor:
        """The curriculum (T,) that the teacher's TIRT starts from."""
        return _CURRICULA[self.profile.base](self.schedule, self.profile.gamma)

    @property
    def seeds(self) -> list[int]:
        """The students' training seeds; the teacher's is `seed`."""
        return [self.seed + i for i in range(self.profile.seeds)]

    def teacher_settings(self) -> dict:
        names = ("dataset", "teacher", "T", "base", "gamma", "label_dropout", "batch", "teacher_steps", "teacher_lr",
                 "teacher_ema", "warmup", "clip")
        settings = self.profile.asdict()
        return {k: settings[k] for k in names} | {"seed": self.seed}

    def student_settings(self, arm: str, seed: int) -> dict:
        names = ("student", "student_steps", "student_lr", "student_ema")
        settings = self.profile.asdict()
        return {k: settings[k] for k in names} | {
            "teacher": self.teacher_settings(), "seed": seed, "objective": objective(arm)._asdict()}

    def folder(self, arm: str, seed: int) -> Path:
        """Where one trained network lives; another setting is another folder, so results never mix."""
        settings = self.teacher_settings() if arm == "teacher" else self.student_settings(arm, seed)
        return self.root / self.profile.name / f"{arm}-s{seed}-{runs.fingerprint(settings)}"


def start(profile: str = "auto", *, seed: int = 42, device: str = "auto", **overrides: object) -> Run:
    """Check every parameter of a notebook or a command at once and return its Run.

    `overrides` replace settings of the profile; None leaves one alone.  ValueError names what is allowed.
    """
    return Run(resolve(profile, **overrides), seed=seed, device=pick_device(device))


# ---------------------------------------------------------------------------------------------------- training


def train_teacher(run: Run) -> Iterator[Step]:
    """Train the teacher and its TIRT curriculum jointly, yielding each step; goes on where it was stopped.

    Loss: omega_t |eps(x_t, t, y) - eps|^2 with labels dropped a sample at a time.  Yields nothing if it is finished.
    """
    p, folder = run.profile, run.folder("teacher", run.seed)
    if (folder / "final.safetensors").is_file():
        return
    images = run.images
    model = seeded(run.seed, lambda: nn.ModuleDict({"net": UNet(p.teacher), "tirt": curriculum.TIRT(run.base.cpu())}))
    learner = Learner(model.to(run.device), lr=p.teacher_lr, steps=p.teacher_steps, ema=p.teacher_ema,
                      warmup=p.warmup, clip=p.clip)
    generator = torch.Generator(run.device).manual_seed(run.seed)

    def batches() -> Iterator[Noised]:
        for x0, y in data.minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            yield batch._replace(y=drop_labels(y, p.teacher.num_classes, p=p.label_dropout, generator=generator))

    def loss_fn(name: str, model: nn.Module, batch: Noised) -> Tensor:
        eps = model["net"](batch.x_t, batch.t, batch.y)
        return (model["tirt"]()[batch.t] * per_sample(eps, batch.eps)).mean()

    yield from _resumable(run, folder, {"teacher": learner}, loss_fn, batches(), p.teacher_steps, generator,
                          {"teacher": run.teacher_settings()}, {"teacher": folder})


def distil(run: Run, teacher: Teacher, arms: Sequence[str], seed: int) -> Iterator[Step]:
    """Train the students of one seed in lockstep, yielding each step; goes on where it was stopped.

    All arms share initial weights, batches, timesteps, noise and one teacher pass a step, so that comparisons are
    paired and an arm gets the same weights whichever others train beside it.  Finished arms are left out.
    """
    p = run.profile
    arms = [a for a in arms if not (run.folder(a, seed) / "final.safetensors").is_file()]
    if not arms:
        return
    images, table = run.images, {a: objective(a) for a in arms}
    learners = {
        a: Learner(seeded(seed, lambda: UNet(p.student)).to(run.device), lr=p.student_lr, steps=p.student_steps,
                   ema=p.student_ema, warmup=p.warmup, clip=p.clip)
        for a in arms
    }
    curricula = {"transferred": teacher.omega, "base": run.base}
    omegas = {a: curricula[row.curriculum] for a, row in table.items()}
    generator = torch.Generator(run.device).manual_seed(seed)

    def batches() -> Iterator[tuple[Noised, Branches, Tensor]]:
        for x0, y in data.minibatches(images, p.batch, generator=generator):
            batch = noised(run.schedule, x0, y, generator=generator)
            u = torch.rand(len(y), generator=generator, device=generator.device)
            with torch.no_grad():            # closed before the yield, or it would reach into the caller
                target = branches(teacher.model, batch.x_t, batch.t, batch.y)
            yield batch, target, u

    def loss_fn(arm: str, model: nn.Module, drawn: tuple[Noised, Branches, Tensor]) -> Tensor:
        batch, target, u = drawn
        row: Objective = table[arm]
        student = branches(model, batch.x_t, batch.t, batch.y)
        terms = distil_terms(student, target, eps=batch.eps, w=pick_w(row, u))
        return total(terms, row.lam, omegas[arm][batch.t])

    settings = {a: run.student_settings(a, seed) for a in arms}
    folder = run.root / p.name / f"lockstep-s{seed}-{runs.fingerprint(settings)}"
    yield from _resumable(run, folder, learners, loss_fn, batches(), p.student_steps, generator, settings,
                          {a: run.folder(a, seed) for a in arms})


def _resumable(run, folder, learners, loss_fn, batches, steps, generator, settings, homes) -> Iterator[Step]:
    """`fit` with a checkpoint every minute and at each stop; writes each learner's final file at the end."""
    path, history, began, spent = folder / "checkpoint.safetensors", [], time.monotonic(), 0.0
    if path.is_file():
        saved = runs.load_tensors(path)
        if runs.fingerprint(saved.meta["settings"]) != runs.fingerprint(settings):
            raise ValueError(f"{path} belongs to other settings; delete it to start afresh")
        for name, learner in learners.items():
            learner.load({k.removeprefix(f"{name}/"): v for k, v in saved.tensors.items() if k.startswith(f"{name}/")})
        generator.set_state(saved.tensors["generator"])
        history, spent = list(saved.tensors["history"]), saved.meta["seconds"]

    def write() -> None:
        if not history or not bool(torch.stack(history[-1:]).isfinite().all()):
            return                                        # never overwrite a good checkpoint with a diverged one
        tensors = {f"{n}/{k}": v for n, learner in learners.items() for k, v in learner.tensors().items()}
        tensors |= {"generator": generator.get_state(), "history": torch.stack(history)}
        runs.save_tensors(path, tensors, {"settings": settings, "seconds": spent + time.monotonic() - began})

    last = began
    try:
        for step in fit(learners, loss_fn, batches, steps=steps):
            history.append(torch.stack([step.losses[name].float().cpu() for name in learners]))
            if step.number < steps and time.monotonic() - last > CHECKPOINT_SECONDS:
                write()
                last = time.monotonic()
            if step.number == steps:
                seconds = spent + time.monotonic() - began
                for i, (name, learner) in enumerate(learners.items()):
                    _finish(run, homes[name], name, learner, torch.stack(history)[:, i], settings[name], seconds)
                path.unlink(missing_ok=True)
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            yield step
    except GeneratorExit:                                 # the caller stopped between two steps
        if learners and len(history) < steps:
            write()
        raise


def _finish(run: Run, home: Path, name: str, learner: Learner, losses: Tensor, settings: dict, seconds: float) -> None:
    """Write manifest, then averaged weights and losses: a folder with weights is a finished one."""
    tensors = {"losses": losses, **{f"ema.{k}": v for k, v in learner.ema.state_dict().items()}}
    runs.write_json(home / "manifest.json", runs.manifest(
        profile=run.profile.name, arm=name, seed=settings["seed"], device=runs.device_name(run.device),
        seconds=round(seconds, 1), settings=settings))
    runs.save_tensors(home / "final.safetensors", tensors, settings)


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module with initial weights from `seed`, leaving the caller's random state as it was."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


# --------------------------------------------------------------------------------------------------- trained models


def load_teacher(run: Run) -> Teacher:
    """The trained teacher; FileNotFoundError says how to train it."""
    saved = _load_final(run, "teacher", run.seed)
    model = nn.ModuleDict({"net": UNet(run.profile.teacher), "tirt": curriculum.TIRT(run.base.cpu())})
    _fill(model, saved, run.device)
    losses = saved.tensors["losses"]
    history = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses.tolist()})
    return Teacher(model["net"], model["tirt"]().detach(), history)


def load_student(run: Run, arm: str, seed: int) -> UNet:
    """The trained student of one arm and seed; FileNotFoundError says how to train it."""
    objective(arm)
    return _fill(UNet(run.profile.student), _load_final(run, arm, seed), run.device)


def load_losses(run: Run, arm: str, seed: int) -> list[float]:
    """The training loss of every step of one trained network."""
    return _load_final(run, arm, seed).tensors["losses"].tolist()


def _load_final(run: Run, arm: str, seed: int) -> runs.Saved:
    path = run.folder(arm, seed) / "final.safetensors"
    if not path.is_file():
        notebook = "02" if arm == "teacher" else "04"
        raise FileNotFoundError(f"{arm} of profile {run.profile.name}, seed {seed}, is not trained yet (no {path.name} "
                                f"in {path.parent.name}): run notebook {notebook}")
    return runs.load_tensors(path)


def _fill(model: nn.Module, saved: runs.Saved, device: torch.device) -> nn.Module:
    try:
        model.load_state_dict({k.removeprefix("ema."): v for k, v in saved.tensors.items() if k.startswith("ema.")})
    except RuntimeError as error:
        raise ValueError(f"a checkpoint does not fit its network: {error}") from error
    return model.to(device).eval().requires_grad_(False)


def get_teacher(run: Run) -> Teacher:
    """The trained teacher, trained first where need be, with a progress bar."""
    if not (run.folder("teacher", run.seed) / "final.safetensors").is_file():
        for _ in progress(train_teacher(run), total=run.profile.teacher_steps, title="teacher"):
            pass
    return load_teacher(run)


def get_students(run: Run, teacher: Teacher, arms: Sequence[str] | None = None) -> dict[tuple[str, int], UNet]:
    """Every student (arm, seed), trained first where need be: one lockstep run a seed, the seeds side by side."""
    arms = run.profile.arms if arms is None else tuple(arms)
    for arm in arms:
        objective(arm)
    missing = {s: [a for a in arms if not (run.folder(a, s) / "final.safetensors").is_file()] for s in run.seeds}
    jobs = {f"seed {s}": partial(distil, run, teacher, m, s) for s, m in missing.items() if m}
    if jobs:
        ticks, title = len(jobs) * run.profile.student_steps, f"{sum(map(len, missing.values()))} students"
        side_by_side(run, jobs, at_once=run.profile.seeds, ticks=ticks, title=title)
    return {(a, s): load_student(run, a, s) for s in run.seeds for a in arms}


# ------------------------------------------------------------------------------------------------------- results


def evaluate_all(run: Run, teacher: Teacher, students: dict[tuple[str, int], UNet]) -> pd.DataFrame:
    """Quality, calibration and cost of the teacher and every student, as a tidy table; finished rows stay on disk."""
    jobs: list[tuple[str, int, UNet]] = [("teacher", run.seed, teacher.model)]
    jobs += [(arm, seed, model) for (arm, seed), model in students.items()]
    paths = [run.folder(arm, seed) / f"evaluation-{_evaluation_key(run)}.csv" for arm, seed, _ in jobs]
    floor = _floor_rows(run)
    if not all(p.is_file() for p in paths):
        states = evaluate.held_out_states(run.schedule, run.images, run.profile.states, seed=_SAMPLING_SEED)
        target = evaluate.all_branches(teacher.model, states)

        costs = {net.config: flops(net) for _, _, net in jobs}   # counted here: its hooks see every thread

        def measure_one(path: Path, arm: str, seed: int, model: UNet) -> Iterator[None]:
            runs.write_table(path, _evaluate(run, arm, seed, model, target, states, costs[model.config]))
            yield

        missing = {f"{job[0]} {job[1]}": partial(measure_one, p, *job)
                   for p, job in zip(paths, jobs, strict=True) if not p.is_file()}
        side_by_side(run, missing, at_once=len(jobs), ticks=len(missing), title="evaluation")
    return pd.concat([floor, *map(runs.read_results, paths)], ignore_index=True)


def results_path(run: Run) -> Path:
    """Where the tidy table of a run's profile, seed and settings is kept."""
    return run.root / run.profile.name / f"results-s{run.seed}-{runs.fingerprint(run.profile.asdict())}.csv"


def get_results(run: Run, teacher: Teacher, students: dict[tuple[str, int], UNet]) -> pd.DataFrame:
    """`evaluate_all`, kept in the run's results file for the other notebooks and the report."""
    results = evaluate_all(run, teacher, students)
    runs.write_table(results_path(run), results)
    return results


def read_results(run: Run) -> pd.DataFrame | None:
    """The table that `get_results` wrote for exactly these settings, or None."""
    path = results_path(run)
    return runs.read_results(path) if path.is_file() else None


def _evaluation_key(run: Run) -> str:
    p = run.profile
    return runs.fingerprint([p.ws, p.samples, p.sample_steps, p.states, _SAMPLING_SEED])


def _evaluate(
    run: Run, arm: str, seed: int, model: UNet, target: Branches, states: Noised, operations: int
) -> pd.DataFrame:
    p = run.profile
    quality = [measure(run, model, w) for w in p.ws]
    calibration = evaluate.measure_calibration(model, target, states, T=p.T)
    found = list(evaluate.rows(quality=quality, calibration=calibration, n_states=p.states))
    found += [{"metric": "parameters", "value": n_parameters(model), "n": 1},
              {"metric": "flops", "value": operations, "n": 1}]
    return _tidy(run, arm, seed, found)


def measure(run: Run, model: UNet, w: float | Tensor, **ddim_arguments) -> evaluate.Quality:
    """The quality of a model at one scale, by the run's own protocol."""
    p = run.profile
    settings = {"n": p.samples, "steps": p.sample_steps, "seed": _SAMPLING_SEED} | ddim_arguments
    return evaluate.measure_quality(model, run.schedule, run.judge, shape=run.images.shape, w=w,
                                    num_classes=run.images.num_classes, device=run.device, **settings)


def _floor_rows(run: Run) -> pd.DataFrame:
    floor, n = run.judge.floor, min(run.profile.samples, len(run.images.pixels))
    return _tidy(run, "real", run.seed, [
        {"metric": "frechet", "value": floor.mean().item(), "n": n},
        {"metric": "frechet_sd", "value": floor.std().item(), "n": len(floor)},
        {"metric": "accuracy", "value": run.judge.accuracy, "n": len(run.images.test_labels)},
    ])


def _tidy(run: Run, arm: str, seed: int, found: list[dict]) -> pd.DataFrame:
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
    frechet = wide.filter(regex="^frechet@") / floor
    wide = wide.assign(fd=frechet[f"frechet@w={w:g}"], fd_best=frechet.min(axis=1),
                       w_best=frechet.idxmin(axis=1).str.removeprefix("frechet@w=").astype(float))
    columns = ["rho", "slope", "cos", "r2", "fd", "fd_best", "w_best"]
    by_arm = wide.groupby("arm", sort=False)
    table = by_arm[columns].mean()
    table.insert(5, "sd", by_arm.fd.std(ddof=1))
    table.insert(len(table.columns), "accuracy", by_arm[f"accuracy@w={w:g}"].mean())
    table.insert(0, "params", by_arm.parameters.first().astype(int))
    table.insert(len(table.columns), "seeds", by_arm.size())
    return table
