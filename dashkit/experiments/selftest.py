"""Does this device compute what a CPU computes, and how fast?  `dashkit doctor --device cuda` prints the answer.

Correctness comes first, then rates; what no time is left for is left out, and said.  Every check names its bound.
"""

import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashkit import environment
from dashkit.experiments import fid, processes
from dashkit.experiments.capture import Replayed, captured_steps
from dashkit.experiments.cost import seconds_of
from dashkit.experiments.evaluation import evaluate_all
from dashkit.experiments.networks import load_student, load_teacher
from dashkit.experiments.profiles import PROFILES, Profile, resolve
from dashkit.experiments.run import FINAL, Run
from dashkit.experiments.training import distil, train_teacher
from dashkit.method import distillation, guidance
from dashkit.method.arms import objective
from dashkit.method.calibration import gap_stats
from dashkit.method.distillation import Drawn, State, Targets, seeded
from dashkit.method.images import to_float
from dashkit.method.losses import per_sample, total
from dashkit.method.quality import Classifier, ImageReference, in_chunks
from dashkit.method.sampling import sample
from dashkit.method.schedule import Noised, cosine_schedule, noised
from dashkit.method.training import Learner, fit, plain_steps
from dashkit.method.unet import UNet, UNetConfig
from dashkit.storage import paths, provenance, store
from dashkit.storage.arithmetic import choose_arithmetic

SECONDS = 60.0
ARMS = ("dash", "composite", "cond_only", "scratch", "label_drop", "single_head", "pruning", "fitnets",
        "dash_relearned", "cond_only_icg", "slicing")
"""Arms of every kind of student, of curriculum and of loss."""
BOUNDS = {
    "losses": 1e-5, "gradient": 1e-3, "average": 1e-5, "samples": 5e-4,         # of float32, relative; samples absolute
    "losses in bfloat16": 2e-2, "eps in bfloat16": 3e-2,
    "resumed weights": 0.0, "missing measurements": 0.0,
    "losses of a graph": 1e-4, "synchronisations of a teacher's step": 0.0, "synchronisations of a lockstep": 0.0,
    "FID": 1e-6, "KID": 1e-6, "Inception": 1e-3,
}
"""How far the device may be from what is asked of it."""


class Found(NamedTuple):
    """One number of a check; it must not exceed `most`, where there is such a bound."""

    what: str
    value: float
    unit: str = ""
    most: float | None = None

    def __str__(self) -> str:
        value = f"{self.value:.3g}" if abs(self.value) < 1000 else f"{self.value:,.0f}"
        bound = "" if self.most is None else f" (at most {self.most:g})"
        return f"{self.what} {value}{' ' * bool(self.unit)}{self.unit}{bound}"


class Check(NamedTuple):
    """What came of one check."""

    name: str
    ok: bool | None          # None: it was left out
    seconds: float
    found: list[Found]
    said: str = ""           # why it failed, or was left out

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "--  "}[self.ok]
        said = "; ".join([*map(str, self.found), *([self.said] if self.said else [])])
        return f"{mark}  {self.name:44s} {self.seconds:5.1f} s  {said}"


def count_waits(messages: Iterable[str]) -> int:
    """How many of torch's warnings are of a wait; the first time it also says that the mode that warns is young."""
    return sum("called a synchronizing" in message for message in messages)


class LeftOut(Exception):
    """A check has nothing to look at here; the message says why."""


def bounded(what: str, value: float) -> Found:
    return Found(what, value, most=BOUNDS[what])


def off(x: Tensor, y: Tensor) -> float:
    """|x - y| / |y|."""
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    return ((x - y).norm() / y.norm().clamp(min=1e-30)).item()


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Algorithms that always sum in the same order, or those that come."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(on, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")              # of operations that have no such algorithm
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)


def _sets(on: bool) -> Callable[[Callable], Callable]:
    def wrap(check: Callable[["SelfTest"], list[Found]]) -> Callable[["SelfTest"], list[Found]]:
        def within(self: "SelfTest") -> list[Found]:
            with deterministic(on):
                return check(self)
        return within
    return wrap


@dataclass
class SelfTest:
    """The checks of one device.  `profile` gives the networks that are timed: those of the paper, or small ones."""

    device: torch.device
    folder: Path
    profile: Profile
    arms: tuple[str, ...] = ARMS
    compiled: bool = False
    cpu: torch.device = field(default=torch.device("cpu"))

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def config(self) -> UNetConfig:
        return PROFILES["cifar10_proof"].student

    @cached_property
    def batch(self) -> Noised:
        """Sixteen noised images, on the CPU."""
        g = torch.Generator().manual_seed(0)
        x0 = torch.rand((16, self.config.channels, self.config.size, self.config.size), generator=g) * 2 - 1
        return noised(cosine_schedule(1000), x0, torch.arange(16) % 10, generator=g)

    def there(self, device: torch.device) -> Noised:
        return Noised(*(v.to(device) for v in self.batch))

    def net(self, config: UNetConfig, device: torch.device) -> UNet:
        return seeded(0, lambda: UNet(config)).to(device, memory_format=torch.channels_last)

    def updates(self, device: torch.device, n: int = 3, *, bf16: bool = False,
                compiled: bool = False) -> tuple[Tensor, Learner]:
        """The losses of n updates on one batch, and the learner."""
        learner, losses = Learner(self.net(self.config, device), lr=1e-4, steps=10, ema=0.9), []
        batch = self.there(device)
        called = torch.compile(learner.model, dynamic=False) if compiled else learner.model
        for _ in range(n):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                eps = called(batch.x_t, batch.t, batch.y)
            losses.append(learner.update(per_sample(eps.float(), batch.eps).mean()))
        return torch.stack(losses), learner

    def small(self, name: str, **settings: object) -> Run:
        """A run of a few steps on the digits, in a folder of its own, with a judge that has learned nothing."""
        few = {"arms": self.arms, "teacher_steps": 8, "student_steps": 4, "samples": 20, "states": 40,
               "sample_steps": 3, "ws": (1.0, 1.5), "batch": 16, "warmup": 0}
        run = Run(resolve("smoke", **few | settings), seed=1, device=self.device, root=self.folder / name)
        images = run.images
        judge = seeded(0, lambda: Classifier(images.shape, images.num_classes)).to(self.device)
        judge = judge.eval().requires_grad_(False)
        features = in_chunks(judge.features, images.test_x0)
        vars(run)["image_reference"] = ImageReference(judge, features, torch.ones(8), 0.1, 20)
        return run

    # ------------------------------------------------------------------------------------------------------ correctness

    @_sets(True)
    def three_updates(self) -> list[Found]:
        (here, one), (over, two) = self.updates(self.cpu), self.updates(self.device)
        return [bounded("losses", off(over, here)), bounded("gradient", off(two.vector.grad, one.vector.grad)),
                bounded("average", off(two.average, one.average))]

    @_sets(True)
    def samples(self) -> list[Found]:
        worst, batch = 0.0, self.batch
        for w in (1.0, 1.5, guidance.tag(1000, 2.0)):
            one, two = (sample(self.net(self.config, d).eval(), cosine_schedule(1000).to(d), batch.y.to(d),
                               x_T=batch.eps.to(d), w=w, steps=5).cpu() for d in (self.cpu, self.device))
            worst = max(worst, (one - two).abs().max().item())
        return [bounded("samples", worst)]

    @_sets(True)
    def resume(self) -> list[Found]:
        return [bounded("resumed weights", self._resumed("exact"))]

    @_sets(False)
    def resume_as_it_comes(self) -> list[Found]:
        return [Found("resumed weights", self._resumed("plain"))]

    def _resumed(self, name: str) -> float:
        """How far the weights of a teacher that was stopped twice are from those of one that was not."""
        finals = []
        for stops in ((), (3, 6)):
            run = self.small(f"{name}-{len(stops)}")
            for stop in stops:
                steps = train_teacher(run)
                for step in steps:
                    if step.number == stop:
                        break
                steps.close()
                processes.wait()                         # for the checkpoint that the main process writes
            for _ in train_teacher(run):
                pass
            finals.append(store.load_tensors(run.folder("teacher", 1) / FINAL).tensors)
        return max(off(finals[1][k], finals[0][k]) if v.is_floating_point() else 0.0 for k, v in finals[0].items())

    @_sets(False)
    def bfloat16(self) -> list[Found]:
        (one, _), (two, _) = self.updates(self.device), self.updates(self.device, bf16=True)
        model, batch = self.net(self.config, self.device).eval(), self.there(self.device)
        with torch.no_grad():
            exact = guidance.branches(model, batch.x_t, batch.t, batch.y)
            with torch.autocast(self.device.type, torch.bfloat16):
                rounded = guidance.branches(model, batch.x_t, batch.t, batch.y)
        rounded = guidance.Branches(*(v.float() for v in rounded))
        stats = gap_stats(rounded, exact)
        return [bounded("losses in bfloat16", off(two, one)), bounded("eps in bfloat16", off(rounded.cond, exact.cond)),
                Found("gap off by", 100 * off(rounded.gap, exact.gap), "%"), Found("rho", stats.rho)]

    def _every_arm(self, precision: str) -> list[Found]:
        run = self.small(precision, precision=precision)
        for _ in train_teacher(run):
            pass
        teacher = load_teacher(run)
        for _ in distil(run, teacher, run.profile.arms, 1):
            pass
        students = {(a, 1): load_student(run, a, 1) for a in run.profile.arms}
        with processes.main_first():                         # the others read what it has measured
            table = evaluate_all(run, teacher, students)
        return [Found("arms", len(students)), Found("measurements", len(table)),
                bounded("missing measurements", float(table.value.isna().sum()))]

    @_sets(False)
    def every_arm_float32(self) -> list[Found]:
        return self._every_arm("float32")

    @_sets(False)
    def every_arm_bfloat16(self) -> list[Found]:
        return self._every_arm("bfloat16")

    @_sets(True)
    def graphs(self) -> list[Found]:
        """Ten steps of five learners as one CUDA graph on several streams, and one after another."""
        if not self.cuda:
            raise LeftOut("CUDA graphs are for a GPU alone")
        losses = []
        for stepper in (plain_steps, captured_steps):
            learners = {f"learner {i}": Learner(seeded(i, lambda: UNet(self.config)).to(
                self.device, memory_format=torch.channels_last), lr=1e-3, steps=10, ema=0.9) for i in range(5)}
            batches = iter([self.there(self.device)] * 10)

            def loss_fn(name: str, model: nn.Module, batch: Noised) -> Tensor:
                return per_sample(model(batch.x_t, batch.t, batch.y), batch.eps).mean()

            steps = fit(learners, loss_fn, batches, steps=10, stepper=stepper)
            losses.append(torch.stack([torch.stack(list(step.losses.values())) for step in steps]))
        return [bounded("losses of a graph", off(losses[1], losses[0]))]

    @_sets(False)
    def synchronisations(self) -> list[Found]:
        """How often the host waits for the device in a step, between two looks at the losses."""
        if not self.cuda:
            raise LeftOut("a CPU waits for nothing")
        run = self.small("waits", teacher_steps=20, student_steps=20,
                         arms=("dash", "composite", "multi_w", "cond_only", "scratch"))
        steps = train_teacher(run)
        found = [bounded("synchronisations of a teacher's step", self._waits(steps))]
        for _ in steps:
            pass
        steps = distil(run, load_teacher(run), run.profile.arms, 1)
        found.append(bounded("synchronisations of a lockstep", self._waits(steps)))
        steps.close()
        return found

    def _waits(self, steps: Iterator, n: int = 4) -> float:
        for _ in range(6):                                   # beyond what is done once
            next(steps)
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(n):
                    next(steps)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return count_waits(str(w.message) for w in seen) / n

    def distances(self) -> list[Found]:
        """FID's and KID's algebra in float64, against the CPU at 256 features; and its time at Inception's 2048."""
        g = torch.Generator().manual_seed(0)
        features = torch.randn((900, 256), generator=g) @ torch.randn((256, 256), generator=g) / 16
        real = fid.statistics(features)
        here, over = ([f(features[:500] + 0.05, real) for f in (fid.fid, fid.kid)],
                      [f((features[:500] + 0.05).to(self.device), real) for f in (fid.fid, fid.kid)])
        found = [bounded(k, abs(b / a - 1)) for k, a, b in zip(("FID", "KID"), here, over, strict=True)]
        if self.cuda:
            wide = torch.randn((5000, 2048), device=self.device)
            moments = fid.Statistics(wide.double().mean(0), torch.cov(wide.double().T), wide, len(wide), 0.0)
            fid.fid(wide, moments)                            # the first one loads libraries
            found.append(Found("both of 5,000 images", seconds_of(
                lambda: (fid.fid(wide, moments), fid.kid(wide, moments)), self.device), "s"))
        return found

    @_sets(False)
    def inception(self) -> list[Found]:
        weights = paths.CACHE / "inception.safetensors"
        if not weights.is_file():
            raise LeftOut(f"no weights in the cache; type: {environment.kit('fetch inception')}, or unpack them")
        try:
            one, two = fid.Inception(weights, self.cpu), fid.Inception(weights, self.device)
        except ImportError as error:
            raise LeftOut(str(error)) from error
        images = torch.randint(256, (512 if self.cuda else 4, 3, 32, 32), dtype=torch.uint8,
                               generator=torch.Generator().manual_seed(0))
        found = [bounded("Inception", off(two(images[:4]), one(images[:4])))]
        if self.cuda:
            found.append(self._rate("features of images", lambda: two(images), len(images), repeat=2))
        return found

    def compiled_as_plain(self) -> list[Found]:
        if not self.compiled:
            raise LeftOut("torch.compile takes minutes to begin; ask for it with --compile")
        began = time.perf_counter()
        (one, _), (two, _) = (self.updates(self.device, bf16=True, compiled=c) for c in (False, True))
        return [bounded("losses in bfloat16", off(two, one)), Found("first call", time.perf_counter() - began, "s")]

    # ------------------------------------------------------------------------------------------------------------ rates

    def _rate(self, what: str, work: Callable[[], object], n: int, *, repeat: int = 8) -> Found:
        work()
        return Found(what, n * repeat / seconds_of(lambda: [work() for _ in range(repeat)], self.device), "a second")

    def launches(self) -> list[Found]:
        """What starting a kernel costs, from Python and from a graph; the kernel itself does next to nothing."""
        x, n = torch.zeros(16, device=self.device), 1000

        def many(x: Tensor) -> Tensor:
            for _ in range(n):
                x.add_(1.0)
            return x

        seconds = min(seconds_of(lambda: many(x), self.device) for _ in range(3))
        found = [Found("a kernel", 1e6 * seconds / n, "µs")]
        if self.cuda:
            replayed = Replayed(many)
            for _ in range(5):
                replayed(x)
            found.append(Found("a node of a graph", 1e6 * min(seconds_of(lambda: replayed(x), self.device)
                                                              for _ in range(3)) / n, "µs"))
        return found

    def machine(self) -> list[Found]:
        size, length = (8192, 2**30) if self.cuda else (256, 2**22)
        x = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        products = self._rate("bfloat16 products", lambda: x @ x, 2 * size**3)
        block = torch.empty(length, dtype=torch.uint8, device=self.device)
        other = torch.empty_like(block)
        copies = self._rate("copies", lambda: other.copy_(block), 2 * length)
        found = [products._replace(value=products.value / 1e12, unit="TFLOP/s"),
                 copies._replace(value=copies.value / 1e12, unit="TB/s")]
        if self.cuda:
            found.append(Found("memory", torch.cuda.get_device_properties(self.device).total_memory / 2**30, "GiB"))
        return found

    @_sets(False)
    def networks(self) -> list[Found]:
        """Images a second through updates and passes of the profile's networks, called one by one; then as a graph."""
        p, n = self.profile, self.profile.batch
        run = Run(p, device=self.device, root=self.folder)
        generator = torch.Generator(self.device).manual_seed(0)
        pixels = torch.randint(256, (n, p.teacher.channels, p.teacher.size, p.teacher.size), dtype=torch.uint8)
        labels, configs = (torch.arange(n) % 10).to(self.device), (p.teacher, p.student)
        batch = noised(run.schedule, to_float(pixels.to(self.device)), labels, generator=generator)
        teacher, student = (Learner(self.net(c, self.device), lr=1e-5, steps=1000, ema=0.99) for c in configs)
        frozen = [self.net(c, self.device).eval().requires_grad_(False) for c in configs]

        def loss_fn(name: str, model: nn.Module, batch: Noised) -> Tensor:
            with run.autocast():
                eps = model(batch.x_t, batch.t, batch.y)
            return per_sample(eps, batch.eps).mean()

        def both(model: nn.Module) -> guidance.Branches:
            with torch.no_grad(), run.autocast():
                return guidance.branches(model, batch.x_t, batch.t, batch.y)

        row = objective("dash")
        drawn = Drawn(State(batch, torch.rand(n, generator=generator, device=self.device)),
                      Targets(both(frozen[0]), batch.x_t.new_empty(0)))

        def learn() -> None:
            with run.autocast():
                terms = distillation.student_terms({"net": student.model}, row, drawn)
            student.update(total(terms, row.lam, run.base[batch.t]))

        repeat = 8 if self.cuda else 1
        found = [self._rate(what, work, n, repeat=repeat) for what, work in (
            ("teacher's updates", lambda: teacher.update(loss_fn("", teacher.model, batch))),
            ("student's updates", learn),
            ("teacher's passes", partial(both, frozen[0])), ("student's passes", partial(both, frozen[1])))]
        if self.cuda:
            learner = Learner(teacher.model, lr=1e-5, steps=60, ema=0.99)
            steps = fit({"teacher": learner}, loss_fn, iter(lambda: batch, None), steps=60, stepper=captured_steps)
            for _ in range(5):
                next(steps)
            found.append(self._rate("teacher's updates as a graph", lambda: next(steps), n))
            found.append(Found("most memory", torch.cuda.max_memory_allocated(self.device) / 2**30, "GiB"))
        return found


CHECKS: dict[str, Callable[[SelfTest], list[Found]]] = {
    "three updates as on the CPU, float32": SelfTest.three_updates,
    "samples as on the CPU, float32": SelfTest.samples,
    "a stopped run goes on, bit for bit": SelfTest.resume,
    "a stopped run goes on, as it comes": SelfTest.resume_as_it_comes,
    "bfloat16: loss, eps and gap": SelfTest.bfloat16,
    "a CUDA graph is what it recorded": SelfTest.graphs,
    "synchronisations of a step": SelfTest.synchronisations,
    "FID and KID in float64 as on the CPU": SelfTest.distances,
    "every arm, float32": SelfTest.every_arm_float32,
    "every arm, bfloat16": SelfTest.every_arm_bfloat16,
    "Inception as on the CPU": SelfTest.inception,
    "compiled as plain, bfloat16": SelfTest.compiled_as_plain,
    "launches": SelfTest.launches,
    "machine": SelfTest.machine,
    "images a second": SelfTest.networks,
}
"""In the order in which they are made: correctness first."""


def checks(test: SelfTest, *, seconds: float = SECONDS) -> Iterator[Check]:
    """Make the checks one after another, at most for about `seconds`; a check that raises has failed."""
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(_set_environment({"DASHKIT_PROGRESS": "0"}))
        for name, make in CHECKS.items():
            start = time.monotonic()
            if processes.agree(start - began > seconds):
                yield Check(name, None, 0.0, [], f"left out: {seconds:g} s are over")
                continue
            try:
                found, said = make(test), ""
                ok = all(f.most is None or f.value <= f.most for f in found)       # NaN is no number below a bound
            except LeftOut as reason:
                found, ok, said = [], None, f"left out: {reason}"
            except Exception as error:               # a device fails in every way there is; the next check goes on
                found, ok, said = [], False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield Check(name, ok, time.monotonic() - start, found, said)


def _plain(found: Found) -> dict:
    """For JSON, which has neither infinity nor NaN."""
    return found._asdict() | {"value": found.value if math.isfinite(found.value) else str(found.value)}


def _set_environment(values: dict[str, str]) -> Callable[[], None]:
    """Set variables; returns what puts the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)

    def back() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return back


@contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder for the runs of the checks, the same for all processes; it goes at the end."""
    if processes.size() == 1:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder = paths.RUNS / "selftest"
    for begins in (True, False):
        processes.wait()
        if processes.is_main():
            shutil.rmtree(folder, ignore_errors=True)
        processes.wait()
        if begins:
            yield folder


def self_test(device: str = "cuda", *, seconds: float = SECONDS, compiled: bool = False,
              arms: tuple[str, ...] = ARMS, path: Path | None = None) -> bool:
    """Print a line a check, write them all as JSON to `path`, and return whether none failed.

    On a GPU the networks that are timed are those of the profile cifar10_fast; elsewhere they are small.  Several
    processes make the checks together, each on its own device.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")         # else products differ from run to run
    where = torch.device(device)
    profile = PROFILES["cifar10_fast"]
    if where.type == "cuda":
        choose_arithmetic()
    else:
        proof = PROFILES["cifar10_proof"]
        profile = replace(profile, teacher=proof.student, student=proof.student, batch=4)
    path = path or paths.RUNS / f"selftest-{provenance.device_name(where)}.json"
    processes.join(device)
    with _folder() as folder:
        made = []
        for check in checks(SelfTest(where, folder, profile, arms, compiled), seconds=seconds):
            print(check, flush=True)
            made.append(check)
    table = [c._asdict() | {"found": [_plain(f) for f in c.found]} for c in made]
    if processes.is_main():
        store.write_json(path, {"checks": table, "manifest": provenance.manifest(
            device=provenance.device_name(where), processes=processes.size(), networks=profile.name,
            seconds=round(sum(c.seconds for c in made), 1))})
    failed = [c.name for c in made if c.ok is False]
    print(f"{len(failed)} of {len(made)} checks failed{': ' * bool(failed)}{'; '.join(failed)}; "
          f"{sum(c.seconds for c in made):.0f} s; {path}")
    return not failed
