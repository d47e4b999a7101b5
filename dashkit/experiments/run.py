"""A run: one profile with one seed on one device."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from dashkit import environment
from dashkit.datasets import sources
from dashkit.experiments import processes
from dashkit.experiments.capture import ReplayedModel, captured_steps
from dashkit.experiments.pretrained import put_in_place
from dashkit.experiments.profiles import Profile, resolve
from dashkit.experiments.reference import colour_reference
from dashkit.experiments.settings import number, parse_settings, truth
from dashkit.interop import networks as other_networks
from dashkit.interop.networks import TEACHER, Found, Other, Source
from dashkit.method import curriculum
from dashkit.method.arms import objective
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.images import Images
from dashkit.method.quality import ImageReference, make_image_reference
from dashkit.method.schedule import Schedule, cosine_schedule
from dashkit.method.training import Stepper, plain_steps
from dashkit.method.unet import UNet, UNetConfig
from dashkit.storage import paths, provenance, store
from dashkit.storage.arithmetic import choose_arithmetic

CHECKPOINT, FINAL = "checkpoint.safetensors", "final.safetensors"
SAMPLING_SEED = 1234        # the same noise and labels for every model, so that differences are paired
_CURRICULA = {"uniform": lambda schedule, gamma: curriculum.uniform(schedule),
              "min_snr": curriculum.min_snr, "published": curriculum.published}

CPU = torch.device("cpu")


def pick_device(name: str = "auto") -> torch.device:
    """The device called auto, cpu or cuda; auto takes CUDA where there is one.  ValueError if it is not to be had.

    Where a launcher started several processes, they find each other here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {name!r}")
    processes.join(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for, but torch sees no CUDA device; use 'cpu' or 'auto'")
    if name == "cpu" or not torch.cuda.is_available():
        return CPU
    choose_arithmetic()
    return torch.device("cuda")


class Teacher(NamedTuple):
    """A trained teacher: averaged weights, and the curriculum (T,) that it learned.

    An exact teacher and one from elsewhere have learned no curriculum; they come with the run's base.
    """

    model: UNet | ExactTeacher | nn.Module
    omega: Tensor
    history: pd.DataFrame   # step, loss


@dataclass(frozen=True)
class Run:
    """One profile with one seed on one device: its data, its reference images, its files.  It trains nothing."""

    profile: Profile
    seed: int = 42
    device: torch.device = CPU
    root: Path = paths.RUNS
    sampling_set: int = 0    # which draw of labels and noise models are sampled with (see `evaluation.measure`)
    compile: bool = False    # torch.compile in training and FID's sampling: meant for a GPU, takes a while to begin

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", number("seed", self.seed, 0, 2**31 - 1, whole=True))
        object.__setattr__(self, "compile", truth("compile", self.compile))
        object.__setattr__(self, "root", Path(self.root))
        for batch in (self.profile.batch, self.profile.distil_batch):
            processes.own_slice(batch)
        provenance.commit()                            # what runs is this one, whatever is committed meanwhile
        for arm in self.profile.arms:            # refuses an unknown arm here, before any work
            row = objective(arm)
            if isinstance(self.profile.student, Source) and (row.student != "new" or "hint" in row.lam):
                raise ValueError(f"{arm} needs a student of this kit, described by ch, ch_mult and blocks")
            if self.profile.exact_bandwidth and (row.student in ("pruned", "sliced") or "hint" in row.lam):
                raise ValueError(f"{arm} needs a teacher that is a network; that of {self.profile.name} is exact")
            if self.compile and "hint" in row.lam:
                raise ValueError(f"{arm} looks inside its networks, and cannot be compiled; leave one of the two out")

    @cached_property
    def schedule(self) -> Schedule:
        own = isinstance(self.profile.teacher, Source)
        schedule = self.given.diffusion.schedule if own else cosine_schedule(self.profile.T)
        clip = None if sources.is_own(self.profile.dataset) and self.images.latent else 1.0
        return Schedule(schedule.alphas_cumprod.to(self.device), clip)

    @property
    def teacher_is_given(self) -> bool:
        """Whether the teacher is not trained here: it is exact, or from elsewhere."""
        return bool(self.profile.exact_bandwidth) or isinstance(self.profile.teacher, Source)

    @cached_property
    def given(self) -> Found:
        """The teacher that the profile names; ValueError if its pictures or its number of timesteps are others."""
        source = self.profile.teacher
        wanted = other_networks.Shape(source.channels, source.size, source.num_classes)
        found = other_networks.load(source.source, null_label=source.null_label, images=wanted)
        _check_shape(source.source, found, wanted)
        if found.diffusion.schedule.T != self.profile.T:
            raise ValueError(f"the teacher's scheduler has {found.diffusion.schedule.T} timesteps, but the profile has "
                             f"T = {self.profile.T}; give it that T")
        model = found.model.to(self.device, memory_format=torch.channels_last)
        model.loaded = found.digest
        return found._replace(model=model)

    @cached_property
    def student(self) -> UNetConfig | Other:
        """What a new student is made from: `make()` builds it."""
        source = self.profile.student
        if isinstance(source, UNetConfig):
            return source
        if source.source != TEACHER:
            return other_networks.described(source, self.given.diffusion if isinstance(self.profile.teacher, Source)
                                            else other_networks.Diffusion(self.schedule, "epsilon"))
        config = getattr(self.given.model, "config", None) if isinstance(self.profile.teacher, Source) else None
        if not isinstance(config, Other):
            raise ValueError("student.source = \"teacher\" shrinks a teacher of another library; for a teacher of "
                             "this kit give the student's ch, ch_mult and blocks")
        return config.changed(source.config)

    @cached_property
    def _made(self) -> dict[str, str]:
        """What tells the student of a function from another one: it is built once for that, and folders are many."""
        return self.student.fingerprint()

    @cached_property
    def images(self) -> Images:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[Images, str]:
        """The images, and the digest of the file that they are from."""
        digest = self._digest()
        net, name = self.profile.teacher, self.profile.dataset
        images = (sources.load_own(name, size=net.size, channels=net.channels) if sources.is_own(name)
                  else sources.load_images(name, cache=paths.CACHE)).to(self.device)
        if isinstance(net, Source):
            images = images.in_order(self.given.names)
        if self._digest() != digest:
            raise ValueError(f"{sources.source_file(self.profile.dataset, paths.CACHE)} was changed while it was read; "
                             "start again")
        if images.shape != (net.channels, net.size, net.size) or images.num_classes != net.num_classes:
            expected = (net.channels, net.size, net.size)
            raise ValueError(f"{self.profile.dataset} has images {images.shape} in {images.num_classes} classes, but "
                             f"the profile's networks expect {expected} in {net.num_classes}")
        return images, digest

    @property
    def data_digest(self) -> str:
        """SHA-256 of the file that the images come from; nothing for the digits, which scikit-learn ships."""
        return self._read[1] if "_read" in vars(self) else self._digest()

    @property
    def has_sample_only(self) -> bool:
        """Whether a few images that come with the kit stand in for a data set that was not fetched."""
        path = sources.source_file(self.profile.dataset, paths.CACHE)
        return path is not None and not path.is_file() and sources.sample_file(self.profile.dataset) is not None

    def require_whole_data(self) -> None:
        """Raise FileNotFoundError if there are too few images to train or to measure on."""
        if self.has_sample_only:
            name = self.profile.dataset.removesuffix("_mirrored")
            raise FileNotFoundError(f"this needs all images of {name}, and only a sample comes with the kit; type: "
                                    + environment.kit(f"fetch {name}"))

    def _digest(self) -> str:
        if self.has_sample_only:                 # its networks were trained on the whole file
            return sources.SAMPLES[self.profile.dataset.removesuffix("_mirrored")]
        path = sources.source_file(self.profile.dataset, paths.CACHE)
        if path and path.is_dir():
            return _sha256(path, *_stamp(path))
        return _sha256(path, path.stat().st_mtime_ns, path.stat().st_size) if path and path.is_file() else ""

    @cached_property
    def image_reference(self) -> ImageReference:
        n, dataset = self.profile.samples, self.profile.dataset
        if self.profile.classifier != "colour":
            return make_image_reference(self.images, n=n, seed=0)
        key = store.fingerprint([dataset, self.data_digest, n])
        path = self.root / self.profile.name / f"reference-{key}.safetensors"
        if not path.is_file():
            self.require_whole_data()
        return colour_reference(path, self.images, n=n, device=self.device,
                                facts={"dataset": dataset, "commit": provenance.commit()})

    @cached_property
    def base(self) -> Tensor:
        """The curriculum (T,) that the teacher's TIRT starts from."""
        return _CURRICULA[self.profile.base](self.schedule, self.profile.gamma)

    @property
    def seeds(self) -> list[int]:
        """The students' training seeds; the teacher's is `seed`."""
        return [self.seed + i for i in range(self.profile.seeds)]

    @property
    def first(self) -> "Run | None":
        """The run of the training before this one, whose averaged weights students begin with, if there was one."""
        return kept(self, profile=self.profile.first) if self.profile.first else None

    def autocast(self) -> torch.autocast:
        """The context in which networks compute in the profile's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.profile.precision == "bfloat16")

    def compiled(self, net: nn.Module) -> nn.Module:
        """The same network as it is to be called, compiled at its first call if the run says so."""
        if not (self.compile and isinstance(net, nn.Module)):
            return net
        torch._dynamo.config.recompile_limit = 64         # each precision, batch size and mode is a graph of its own
        torch._dynamo.config.fail_on_recompile_limit_hit = True         # more would run uncompiled, and say nothing
        return torch.compile(net, dynamic=False)

    @property
    def captures(self) -> bool:
        """Whether training steps and sampling are replayed as CUDA graphs: on one GPU, and without dropout."""
        ours = isinstance(self.profile.teacher, UNetConfig) and isinstance(self.profile.student, UNetConfig)
        return (ours and self.device.type == "cuda" and processes.size() == 1 and self.profile.teacher.dropout == 0
                and os.environ.get("DASHKIT_CUDA_GRAPHS") != "0")

    @property
    def stepper(self) -> Stepper:
        """How `fit` takes a step: as a CUDA graph, or plainly, with gradients averaged over all processes."""
        return captured_steps if self.captures else partial(plain_steps, average=processes.average)

    @cached_property
    def _samplers(self) -> dict[tuple, ReplayedModel]:
        return {}

    def sampler(self, model: nn.Module) -> nn.Module | ReplayedModel:
        """A model as it is sampled: replayed where that pays, else as `compiled` gives it."""
        if not self.captures or type(model) is not UNet:
            return self.compiled(model)
        if model.config not in self._samplers:
            self._samplers[model.config] = ReplayedModel(model, compiled=self.compile)
        return self._samplers[model.config].load(model)

    def teacher_settings(self) -> dict:
        names = ("dataset", "teacher", "exact_bandwidth", "T", "base", "gamma", "label_dropout", "batch",
                 "teacher_steps", "teacher_lr", "teacher_ema", "warmup", "clip", "precision")
        settings = self.profile.asdict()
        own = {"data": self.data_digest} if self.data_digest else {}
        own |= {k: settings[k] for k in ("stored", "pace") if k in settings}
        if self.profile.teacher_start:                   # wherever it lies
            own["start"] = store.checksum(starting_file(self.profile.teacher_start))
        if sources.is_own(self.profile.dataset):         # wherever the pictures lie: `data` says what they are
            own["dataset"] = Path(self.profile.dataset).name
        if isinstance(self.profile.teacher, Source):     # and wherever the teacher does
            own["teacher"] = {"digest": self.given.digest}
        return {k: settings[k] for k in names} | own | {"seed": self.seed}

    def student_settings(self, arm: str, seed: int) -> dict:
        names = ("student", "student_steps", "student_lr", "student_ema")
        settings, seed = self.profile.asdict(), number("seed", seed, 0, 2**32, whole=True)
        row = objective(arm)
        weights = objective(row.reuses) if row.reuses else row
        if isinstance(self.student, Other):
            settings["student"] = {"kind": self.student.kind, "settings": self.student.settings}
            if self.student.kind not in other_networks.KINDS:          # a function: what it makes may be changed there
                settings["student"] |= self._made
        names += tuple(name for name in ("student_batch", "student_first") if name in settings)
        return {k: settings[k] for k in names} | {
            "teacher": self.teacher_settings(), "teacher_weights": self.weights("teacher", self.seed), "seed": seed,
            "objective": weights._asdict() | {"reuses": row.reuses}}

    def folder(self, arm: str, seed: int) -> Path:
        """Where one trained network lives; another setting is another folder, so results never mix."""
        settings = self.teacher_settings() if arm == "teacher" else self.student_settings(arm, seed)
        return self.root / self.profile.name / f"{arm}-s{seed}-{store.fingerprint(settings)}"

    def lockstep(self, arms: Sequence[str], seed: int) -> Path:
        """Where the checkpoint of arms that are trained together lives."""
        settings = {arm: self.student_settings(arm, seed) for arm in arms}
        return self.root / self.profile.name / f"lockstep-s{seed}-{store.fingerprint(settings)}"

    def _final(self, arm: str, seed: int) -> Path:
        """The file of an arm's trained weights, which may be those of another arm."""
        return self.folder(arm if arm == "teacher" else objective(arm).reuses or arm, seed) / FINAL

    def is_trained(self, arm: str, seed: int) -> bool:
        """Whether the network of one arm and seed is finished, with exactly these settings."""
        return (arm == "teacher" and self.teacher_is_given) or self._final(arm, seed).is_file()

    def weights(self, arm: str, seed: int) -> str:
        """The checksum of the trained weights: what is distilled or measured is kept under it.  Nothing if there are
        none, as of an exact teacher."""
        if arm == "teacher" and isinstance(self.profile.teacher, Source):
            return self.given.digest
        path = self._final(arm, seed)
        return store.checksum(path) if path.is_file() else ""


def kept(run: Run, **changes: object) -> Run:
    """The run with some fields replaced that change neither its images nor how they are judged, which stay loaded."""
    other = replace(run, **changes)
    names = ("dataset", "samples", "classifier", "T", "base", "gamma")
    if run.device == other.device and all(getattr(run.profile, n) == getattr(other.profile, n) for n in names):
        loaded = ("_read", "images", "schedule", "base", "image_reference", "_samplers")
        vars(other).update({k: v for k, v in vars(run).items() if k in loaded})
    return other


def starting_file(folder: str) -> Path:
    """The weights that a teacher begins with; FileNotFoundError if there are none."""
    path = Path(folder).expanduser() / FINAL
    if not path.is_file():
        raise FileNotFoundError(f"teacher_start: there is no trained teacher in {folder} (no {FINAL}); give the folder "
                                "of one, e.g. data/runs/cifar16/teacher-s42-…")
    return path


def _check_shape(name: str, found: Found, wanted: other_networks.Shape) -> None:
    """Raise ValueError unless a teacher takes the pictures."""
    net = found.model.config
    if (net.channels, net.size) != (wanted.channels, wanted.size):
        raise ValueError(f"{name} takes pictures of {net.channels} x {net.size} x {net.size}, not {wanted.channels} x "
                         f"{wanted.size} x {wanted.size}")
    if net.num_classes != wanted.num_classes:
        why = "labels beyond the teacher's classes" if net.num_classes < wanted.num_classes else "other classes"
        raise ValueError(f"{name} knows {net.num_classes} classes and the pictures have {wanted.num_classes}: {why}; "
                         "the folder needs one subfolder for each class of the teacher, in the teacher's order")


def _stamp(folder: Path) -> tuple[int, int]:
    """When files in a folder were last changed, and how many bytes and files there are."""
    facts = [p.stat() for p in folder.rglob("*") if p.is_file()]
    return max((f.st_mtime_ns for f in facts), default=0), sum(f.st_size for f in facts) + len(facts)


@lru_cache(maxsize=16)
def _sha256(path: Path, changed: int, size: int) -> str:
    return sources.digest_of(path)


def start_run(profile: str | os.PathLike = "auto", *, seed: int = 42, device: str = "auto", settings: object = None,
              compile: bool = False, pretrained: bool = True, **overrides: object) -> Run:
    """Check every parameter of a notebook or a command at once and return its Run.

    `profile` is a name, or the path of a file of your own.  `settings` replace some of the profile's: a mapping, JSON,
    or whatever else `settings.parse_settings` takes.  So do `overrides`, by name, and before `settings`; None leaves a
    setting alone.  ValueError names what is allowed, or another copy of the project in which this one was started.
    Networks that come with the kit are put in place first; with `pretrained=False` everything is trained here, in a
    folder of its own.
    """
    paths.refuse_another_copy()
    chosen = parse_settings(settings) | {k: v for k, v in overrides.items() if v is not None}
    pretrained = truth("pretrained", pretrained)
    root = paths.RUNS if pretrained else paths.RUNS / "anew"
    run = Run(resolve(profile, **chosen), seed=seed, device=pick_device(device), compile=compile, root=root)
    if pretrained:
        put_in_place(run.profile.name, run.root)
    return run
