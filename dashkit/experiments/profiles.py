"""Profiles: every setting of a run, read from files.

A built-in profile is a file of `profile_files`; a profile of your own is a file like those, used by its path.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from dashkit.datasets.sources import DATASETS
from dashkit.experiments.settings import NETWORKS, Settings, parse_settings, refuse, shown, typed_settings
from dashkit.interop.networks import TEACHER, Source
from dashkit.method.unet import UNetConfig

UNUSED = {"teacher_steps": 1, "teacher_lr": 1e-3, "teacher_ema": 0.99, "label_dropout": 0.1}
"""What a profile need not say if its teacher is from elsewhere, and so is not trained."""
MAX_BYTES = 2**20        # of a profile's file


@dataclass(frozen=True)
class Profile:
    """The settings of one run.  `resolve` makes one; a bad value is refused there with the allowed ones named."""

    name: str
    dataset: str              # a name, or the path of a folder of pictures or of an .npz
    teacher: UNetConfig | Source
    student: UNetConfig | Source
    T: int
    base: str                 # the curriculum TIRT starts from, one of BASES
    gamma: float              # where that curriculum caps the snr
    label_dropout: float      # while the teacher trains; a student evaluates both branches instead
    batch: int
    teacher_steps: int
    teacher_lr: float
    teacher_ema: float
    student_steps: int
    student_lr: float
    student_ema: float
    warmup: int               # steps of linear warm-up, then a cosine to 1e-6
    clip: float               # gradient norm
    seeds: int                # training seeds of the students: seed, seed + 1, ...
    arms: tuple[str, ...]
    w: float                  # the fixed scale at which samples are shown and arms compared
    ws: tuple[float, ...]     # the scales of the w-curve, in ascending order
    sample_steps: int
    samples: int              # for each point of the w-curve
    states: int               # noised held-out states for the gap statistics
    precision: str = "float32"     # one of PRECISIONS
    stored: str = "float32"        # one of STORED
    classifier: str = "small"      # one of CLASSIFIERS
    pace: str = "fixed"            # one of PACES
    teacher_start: str = ""        # folder of a trained teacher, whose averaged weights this one begins with
    student_batch: int = 0         # images of a step of the students; 0 for as many as `batch`
    student_first: tuple[float, ...] = ()    # batch, steps and learning rate of a training before this one: `first`
    sampling_sets: int = 1         # sets of labels and noise that quality is measured on, `samples` images each
    exact_bandwidth: float = 0.0   # above 0 the teacher is not trained but exact, a kernel density of this bandwidth

    def __post_init__(self) -> None:
        """Type every setting, so that `dataclasses.replace` is checked as a file is."""
        given = {name: getattr(self, name) for name in Settings.model_fields}
        tables = {k: v.asdict() if isinstance(v, UNetConfig | Source) else v for k, v in given.items()}
        settings = typed_settings(tables)
        refuse([wrong for name in NETWORKS for wrong in _mistakes(name, settings[name])])
        settings |= {name: _network(settings[name])(**settings[name]) for name in NETWORKS}
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        refuse(_contradictions(self))

    def asdict(self) -> dict:
        """The settings by name, without those at a default that was added later.

        So what was made before them keeps its fingerprint.
        """
        settings = dataclasses.asdict(self) | {name: getattr(self, name).asdict() for name in NETWORKS}
        for name, default in (("stored", "float32"), ("classifier", "small"), ("pace", "fixed"), ("sampling_sets", 1),
                              ("teacher_start", ""), ("student_batch", 0), ("student_first", ())):
            if settings[name] == default:
                del settings[name]
        return settings

    @property
    def distil_batch(self) -> int:
        """Images of one step of the students."""
        return self.student_batch or self.batch

    @property
    def first(self) -> "Profile | None":
        """What students were trained with before, if they begin with averaged weights: short loans of a GPU add up."""
        if not self.student_first:
            return None
        batch, steps, lr = self.student_first
        return dataclasses.replace(self, student_batch=batch, student_steps=steps, student_lr=lr, student_first=())

    @property
    def student_images(self) -> int:
        """Images that each student sees, those of `first` included."""
        return self.distil_batch * self.student_steps + (self.first.student_images if self.first else 0)

    @property
    def steps_before(self) -> float:
        """The steps of `first`, if there was one, as so many of this training's own batch."""
        return self.student_images / self.distil_batch - self.student_steps


def _contradictions(p: Profile) -> list[str]:
    """Settings that are fine alone and not together."""
    found = []
    if p.w not in p.ws:
        found.append(f"w={p.w:g} must be one of ws={p.ws}: it is a point of the w-curve")
    if len({f"{w:g}" for w in p.ws}) < len(p.ws):                   # columns of a table are named like this
        found.append(f"ws must be distinct, not {', '.join(f'{w:g}' for w in p.ws)}")
    if len(set(p.arms)) < len(p.arms):
        found.append(f"arms must be distinct, not {', '.join(p.arms)}")
    if p.student_batch == 1:
        found.append("student_batch must be at least 2, or 0 for as many as batch")
    if len(p.student_first) not in (0, 3):
        found.append("student_first must be batch, steps and learning rate, as in [448, 1800, 0.006], or empty; "
                     f"not {list(p.student_first)}")
    elif p.student_first:
        try:
            _ = p.first
        except ValueError as error:
            found.append(f"student_first: {error}")
    if p.sample_steps > p.T:
        found.append(f"sample_steps must be at most T={p.T}, not {p.sample_steps}")
    for name in ("size", "channels", "num_classes"):
        teacher, student = getattr(p.teacher, name), getattr(p.student, name)
        if teacher != student:
            found.append(f"student.{name} must be the teacher's {teacher}, not {student}")
    return found


def _network(settings: Mapping[str, object]) -> type[UNetConfig] | type[Source]:
    """What a table of settings describes: a network of ours, or one that is elsewhere."""
    return Source if "source" in settings else UNetConfig


def _mistakes(name: str, settings: Mapping[str, object]) -> list[str]:
    """Why a table of typed settings is no network."""
    kind = _network(settings)
    fields = [f for f in dataclasses.fields(kind) if f.name != "dropout" or kind is UNetConfig]
    missing = [f"{name}.{f.name} is missing" for f in fields if f.default is dataclasses.MISSING
               and f.default_factory is dataclasses.MISSING and f.name not in settings]
    if more := sorted(settings.keys() - {f.name for f in fields}):
        beside = "beside source" if kind is Source else "without source"
        return [f"{', '.join(f'{name}.{k}' for k in more)} says nothing {beside}; leave it out"]
    if name == "teacher" and settings.get("source") == TEACHER:
        return [f"teacher.source must be a folder or package.module:function, not {TEACHER}"]
    try:
        _ = missing or kind(**settings)
    except ValueError as error:
        return [f"{name}: {error}"]
    return missing


_FILES = {path.name.removesuffix(".toml"): path
          for path in files("dashkit.experiments").joinpath("profile_files").iterdir() if path.name.endswith(".toml")}


def path_of(profile: str | os.PathLike) -> Path | None:
    """The absolute path of a profile that is a file of one's own; None for a built-in one, by name or by path.

    A relative path starts in the current folder or in the project's, since notebooks run in a folder of their own.
    ValueError for what is neither, FileNotFoundError if there is no such file.
    """
    if isinstance(profile, str) and profile in _FILES:
        return None
    text = os.fspath(profile) if isinstance(profile, str | os.PathLike) else ""
    if not isinstance(text, str) or not (text.lower().endswith(".toml") or isinstance(profile, os.PathLike)
                                         or any(mark and mark in text for mark in (os.sep, os.altsep))):
        raise ValueError(f"unknown profile {shown(profile)}; choose from auto, {', '.join(PROFILES)}, "
                         "or give the path of a .toml file")
    here = Path(text).expanduser()
    for path in (Path.cwd() / here, Path(__file__).resolve().parents[2] / here):
        if path.is_file():
            return None if _built_in(path) else path.resolve()
    raise FileNotFoundError(f"there is no profile at {Path.cwd() / here}")


def _built_in(path: Path) -> bool:
    twin = _FILES.get(path.stem)
    return isinstance(twin, Path) and path.samefile(twin)


def _read(path: Path, above: tuple[str, ...] = ()) -> dict[str, object]:
    """The typed settings of a file, with those that it extends; networks are tables.  ValueError names the file."""
    try:
        if path.stat().st_size > MAX_BYTES if isinstance(path, Path) else False:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML file ({error})") from None
    found, base = {}, table.pop("extends", None)
    if base is not None:
        found = _read_base(path, base, (*above, str(path)))
    for name, value in typed_settings(table, file=str(path)).items():
        found[name] = _merged(found.get(name, {}), value) if name in NETWORKS else value
    return _from_here(path, found, table)


def _merged(base: Mapping[str, object], value: Mapping[str, object]) -> dict[str, object]:
    """A network's table over the one that it extends, of which a network from elsewhere keeps what pictures are."""
    if "source" in value and "source" not in base:
        base = {k: v for k, v in base.items() if k in ("size", "channels", "num_classes")}
    return {**base, **value}


def _from_here(path: Path, found: dict[str, object], table: Mapping[str, object]) -> dict[str, object]:
    """The settings with the paths that this file says made absolute: they start in its folder."""
    if "dataset" in table and found["dataset"] not in DATASETS:
        found["dataset"] = str((path.parent / Path(found["dataset"]).expanduser()).resolve())
    for name in NETWORKS:
        source = table.get(name, {}).get("source", TEACHER)
        if source != TEACHER and ":" not in Path(source).name:
            found[name]["source"] = str((path.parent / Path(source).expanduser()).resolve())
    return found


def _read_base(path: Path, base: object, above: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends must be the name of a profile or the path of its file, not {shown(base)}")
    if base in _FILES:
        target = _FILES[base]
    else:
        try:
            target = path_of(path.parent / base if base.lower().endswith(".toml") else base)
        except (ValueError, OSError) as error:
            raise type(error)(f"{path}: extends: {error}") from None
        target = target or _FILES[Path(base).stem]
    if str(target) in above:
        raise ValueError(f"{path}: extends {base}, which extends this file again; one of them must not")
    return _read(target, above)


def _profile(name: str, path: Path) -> Profile:
    settings = _read(path)
    if "source" in settings.get("teacher", {}):
        settings = UNUSED | settings
    missing = [f.name for f in dataclasses.fields(Profile)
               if f.default is dataclasses.MISSING and f.name not in ("name", *settings)]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; give them, or extend a profile that has them, "
                         'as with extends = "digits"')
    try:
        return Profile(name, **settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


PROFILES = {p.name: p for p in sorted((_profile(*item) for item in _FILES.items()),
                                      key=lambda p: (p.teacher_steps, p.name))}
"""The built-in profiles by name, the quickest first: `smoke` for tests and stored outputs, `digits`
the default.  Each file says what it is for."""


def address(profile: str | os.PathLike = "auto") -> str:
    """What names a profile in every folder and process: its name, or the absolute path of its file."""
    if isinstance(profile, str) and profile == "auto":
        profile = os.environ.get("DASHKIT_PROFILE") or "digits"
    path = path_of(profile)
    return str(path) if path else Path(profile).stem


def resolve(profile: str | os.PathLike = "auto", /, **overrides: object) -> Profile:
    """A profile by its name, or by the path of its file, with some settings replaced; None leaves one as it is.

    "auto" means the environment's DASHKIT_PROFILE, or digits.  ValueError names the profiles or settings there are.

    >>> resolve("digits", student_steps=10).student_steps
    10
    """
    place = address(profile)
    if place in PROFILES:
        found = PROFILES[place]
    else:
        path, name = Path(place), Path(place).stem
        if name.casefold() in ("auto", *_FILES):
            raise ValueError(f"{path}: {name} is the name of a built-in profile; rename the file")
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"{path}: a file's name becomes its profile's name; take letters, digits, - and _ alone")
        found = _profile(name, path)
    return dataclasses.replace(found, **parse_settings(overrides))
