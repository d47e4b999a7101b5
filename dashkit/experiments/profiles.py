"""Profiles: every setting of a run, read from files, and the one place that types what a person writes.

A built-in profile is a file of `profile_files`; a profile of your own is a file like those, used by its path.
Whatever is typed, in a file, a command, a notebook or Python, becomes the same setting here: `clip=1`, `clip="1.0"` and
`clip=np.float32(1)` are all the float 1.0.  A run's folders are named after its settings, so this matters.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from importlib.resources import files
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic import create_model as make_model

from dashkit.method.arms import OBJECTIVES, objective
from dashkit.method.unet import UNetConfig
from dashkit.storage.store import parse_json

BASES = ("uniform", "min_snr", "published")
"""The curricula that a teacher may start from; see `dashkit.method.curriculum`."""
PRECISIONS = ("float32", "bfloat16")
"""What networks compute in while they train and draw samples for FID; measurements are always float32."""
STORED = ("float32", "float16")
"""What finished weights are kept in: with float16 a teacher is rounded before any student learns from it."""
PACES = ("fixed", "ramped")
"""How average and warm-up begin: as set, or in step with the planned number of steps; see `experiments.pace`."""
CLASSIFIERS = ("small", "colour")
"""The classifier whose features measure samples: seconds on a CPU, or minutes and meant for photographs."""
NETWORKS = ("teacher", "student")
MAX_BYTES, MAX_ITEMS = 2**20, 1000       # of a profile's file, and of a list in it


@dataclass(frozen=True)
class Profile:
    """The settings of one run.  `resolve` makes one; a bad value is refused there with the allowed ones named."""

    name: str
    dataset: str
    teacher: UNetConfig
    student: UNetConfig
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
    sampling_sets: int = 1         # sets of labels and noise that quality is measured on, `samples` images each
    exact_bandwidth: float = 0.0   # above 0 the teacher is not trained but exact, a kernel density of this bandwidth

    def __post_init__(self) -> None:
        """Type every setting, so that `dataclasses.replace` is checked as a file is."""
        given = {name: getattr(self, name) for name in _Settings.model_fields}
        settings = _typed({k: v.asdict() if isinstance(v, UNetConfig) else v for k, v in given.items()})
        _refuse([wrong for name in NETWORKS for wrong in _mistakes(name, settings[name])])
        settings |= {name: UNetConfig(**settings[name]) for name in NETWORKS}
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        _refuse(_contradictions(self))

    def asdict(self) -> dict:
        """The settings by name, without those at a default that was added later.

        So what was made before them keeps its fingerprint.
        """
        settings = dataclasses.asdict(self)
        for name, default in (("stored", "float32"), ("classifier", "small"), ("pace", "fixed"), ("sampling_sets", 1)):
            if settings[name] == default:
                del settings[name]
        return settings


def _to_number(value: object, *, whole: bool) -> int | float:
    """A Python number from a number of any kind, or from a text; ValueError for anything else."""
    try:
        if not isinstance(value, str) and getattr(value, "ndim", None) == 0:   # numpy's and torch's numbers
            value = np.asarray(value)[()]
            value = str(value) if value.dtype.kind in "iuf" else None          # float32's 0.01 is meant as 0.01
        if isinstance(value, bool) or not isinstance(value, str | Real | Decimal):
            raise ValueError("no number")
        number = float(value) + 0.0                                            # -0.0 is 0.0
    except (TypeError, RuntimeError, OverflowError) as error:                  # a tensor on a GPU, 10**400
        raise ValueError("no number") from error
    if whole and not number.is_integer():
        raise ValueError("no integer")
    return int(number) if whole else number


def _to_list(value: object) -> list:
    """A list from any sequence or set, from a text with commas, or from one item; ValueError for anything else."""
    if isinstance(value, str):
        text = re.sub(r"^[\[({](.*)[\])}]$", r"\1", value.strip(), flags=re.DOTALL).strip().removesuffix(",")
        return [part.strip().strip("'\"") for part in text.split(",")] if text else []
    if isinstance(value, Real) or getattr(value, "ndim", None) == 0:
        return [value]
    if isinstance(value, Mapping | bytes) or getattr(value, "ndim", 1) != 1 or not isinstance(value, Iterable):
        raise ValueError("no list")
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)           # a set of texts has another order in every process
    items = list(islice(value, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise ValueError("too long")
    return items


def _to_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    return str(value.strip())                    # numpy's texts are a type of their own


def _to_arms(value: object) -> tuple[str, ...]:
    arms = [_to_text(arm) for arm in _to_list(value)]
    return tuple(OBJECTIVES if arms == ["all"] else arms)


def _known_arms(arms: tuple[str, ...]) -> tuple[str, ...]:
    for arm in arms:
        objective(arm)                           # ValueError names the arms there are
    return arms


def _short(number: float) -> str:
    return text if float(text := f"{number:g}") == number else str(number)


def _number(low: float, high: float, *, whole: bool = False) -> object:
    what = f"{'an integer' if whole else 'a number'} in [{_short(low)}, {_short(high)}]"
    return Annotated[int if whole else float, BeforeValidator(partial(_to_number, whole=whole)),
                     Field(ge=low, le=high, description=what)]


def _numbers(low: float, high: float, *, least: int = 1, whole: bool = False) -> object:
    kind = "integers" if whole else "numbers"
    what = f"a {'non-empty ' if least else ''}list of {kind} in [{_short(low)}, {_short(high)}]"
    return Annotated[tuple[_number(low, high, whole=whole), ...], BeforeValidator(_to_list),
                     Field(min_length=least, description=what)]


def _choice(names: Sequence[str]) -> object:
    return Annotated[Literal[*names], BeforeValidator(_to_text), Field(description=f"one of {', '.join(names)}")]


_TEXT = Annotated[str, BeforeValidator(_to_text), Field(description="a text")]
_ARMS = Annotated[tuple[str, ...], BeforeValidator(_to_arms), AfterValidator(_known_arms),
                  Field(min_length=1, description="a non-empty list of names of arms, or all")]
_FLAG = Annotated[bool, BeforeValidator(lambda v: v.item() if isinstance(v, np.bool_) else v),
                  Field(description="true or false")]
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _table(name: str, rules: Mapping[str, object]) -> type[BaseModel]:
    """A pydantic model of a table, in which any setting may be left out."""
    return make_model(name, __config__=_STRICT, **{k: (rule, None) for k, rule in rules.items()})


_SIZE, _STEPS = _number(1, 65_536, whole=True), _number(1, 10**8, whole=True)
_Network = _table("Network", {f.name: _SIZE for f in dataclasses.fields(UNetConfig)} | {
    "ch_mult": _numbers(1, 64, whole=True), "dropout": _number(0, 0.99),
    "attention": _numbers(1, 65_536, least=0, whole=True)})
_Settings = _table("Settings", {
    "dataset": _TEXT, "teacher": _Network, "student": _Network, "T": _number(10, 10_000, whole=True),
    "base": _choice(BASES), "gamma": _number(1e-6, 1e6), "label_dropout": _number(0, 0.9),
    "batch": _number(2, 65_536, whole=True),
    "teacher_steps": _STEPS, "teacher_lr": _number(1e-8, 1), "teacher_ema": _number(0, 0.999999),
    "student_steps": _STEPS, "student_lr": _number(1e-8, 1), "student_ema": _number(0, 0.999999),
    "warmup": _number(0, 10**6, whole=True), "clip": _number(1e-6, 1e6), "seeds": _number(1, 1000, whole=True),
    "arms": _ARMS, "w": _number(0, 20), "ws": _numbers(0, 20), "sample_steps": _number(1, 10_000, whole=True),
    "samples": _number(10, 10**6, whole=True), "states": _number(10, 10**6, whole=True),
    "precision": _choice(PRECISIONS), "stored": _choice(STORED), "classifier": _choice(CLASSIFIERS),
    "pace": _choice(PACES),
    "sampling_sets": _number(1, 100, whole=True), "exact_bandwidth": _number(0, 10)})
SETTINGS = tuple(name for name in _Settings.model_fields if name not in ("dataset", *NETWORKS))
"""What a command, a notebook or a call may change of a profile; its data and networks are fixed in its file."""


def _typed(values: Mapping[str, object], *, file: str = "") -> dict[str, object]:
    """Some settings, typed; ValueError lists every one that is unknown or bad, with what is allowed."""
    try:
        return _sorted(_Settings.model_validate(dict(values)).model_dump(exclude_unset=True))
    except ValidationError as error:
        _refuse(_problems(error, values, whole=bool(file)), file)


def _sorted(settings: dict) -> dict:
    return settings | {"ws": tuple(sorted(settings["ws"]))} if "ws" in settings else settings


def _problems(error: ValidationError, values: Mapping, *, whole: bool) -> list[str]:
    """What pydantic found, each as a sentence with the allowed values."""
    unknown: dict[str, list[str]] = {}
    bad = {}
    for one in error.errors(include_url=False):
        first, *rest = path = [part for part in one["loc"] if isinstance(part, str)]
        table = first if rest else ""
        field = (_Network if rest else _Settings).model_fields.get(path[-1])
        if one["type"] == "extra_forbidden":
            unknown.setdefault(table, []).append(".".join(k if k.isidentifier() else repr(k) for k in path))
            continue
        value = values[first][rest[0]] if rest else values[first]
        said = str(one.get("ctx", {}).get("error", ""))
        wanted = field.description or "a table of the settings of a network"
        bad[".".join(path)] = said if said.startswith("unknown arm") else (
            f"{'.'.join(path)} must be {wanted}, not {_shown(value)}")
    every = ("extends", *_Settings.model_fields) if whole else SETTINGS
    return [f"unknown setting {', '.join(names)}; choose from {', '.join(_Network.model_fields if table else every)}"
            for table, names in unknown.items()] + list(bad.values())


def _shown(value: object) -> str:
    """A value in a message: on one line, and not long; a number without quotes, however it was typed."""
    try:
        number = isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value.strip())
        text = value.strip() if number else " ".join(repr(value).split())
    except Exception:                            # an integer of many thousand digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(problems: Sequence[str], file: str = "") -> None:
    if not problems:
        return
    several = f"{len(problems)} problems: " if len(problems) > 1 else ""
    listed = [f"({i}) {p}" for i, p in enumerate(problems, 1)] if several else problems
    raise ValueError((f"{file}: " if file else "") + several + "; ".join(listed)) from None


def _contradictions(p: Profile) -> list[str]:
    """Settings that are fine alone and not together."""
    found = []
    if p.w not in p.ws:
        found.append(f"w={p.w:g} must be one of ws={p.ws}: it is a point of the w-curve")
    if len({f"{w:g}" for w in p.ws}) < len(p.ws):                   # columns of a table are named like this
        found.append(f"ws must be distinct, not {', '.join(f'{w:g}' for w in p.ws)}")
    if len(set(p.arms)) < len(p.arms):
        found.append(f"arms must be distinct, not {', '.join(p.arms)}")
    if p.sample_steps > p.T:
        found.append(f"sample_steps must be at most T={p.T}, not {p.sample_steps}")
    for name in ("size", "channels", "num_classes"):
        teacher, student = getattr(p.teacher, name), getattr(p.student, name)
        if teacher != student:
            found.append(f"student.{name} must be the teacher's {teacher}, not {student}")
    return found


def _mistakes(name: str, settings: Mapping[str, object]) -> list[str]:
    """Why a table of typed settings is no network."""
    missing = [f"{name}.{f.name} is missing" for f in dataclasses.fields(UNetConfig)
               if f.default is dataclasses.MISSING and f.name not in settings]
    try:
        _ = missing or UNetConfig(**settings)
    except ValueError as error:
        return [f"{name}: {error}"]
    return missing


_PARAMETERS = {"hours": _number(1e-6, 10_000), "minutes": _number(0, 10**6), "jobs": _number(1, 1024, whole=True),
               "fid_samples": _number(20, 10**9, whole=True)}
"""What a notebook, a command or a call takes beside the settings of a profile."""


def typed(name: str, value: object) -> object:
    """The value of a setting, or of hours, minutes, jobs or fid_samples, as its type; ValueError names what is allowed.

    >>> typed("ws", "1, 1.5, 4"), typed("batch", "1e2"), typed("gamma", 5)
    ((1.0, 1.5, 4.0), 100, 5.0)
    """
    return _one(name, value, _PARAMETERS[name]) if name in _PARAMETERS else _typed({name: value})[name]


def number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> int | float:
    """A number that is no setting, such as a seed, as an int or a float in [low, high]; else ValueError."""
    return _one(name, value, _number(low, high, whole=whole))


def truth(name: str, value: object) -> bool:
    """True or False from what may be typed for them (true, yes, on, 1); ValueError for all else.

    >>> truth("recompute", "false")
    False
    """
    return _one(name, value, _FLAG)


def _one(name: str, value: object, rule: object) -> object:
    try:
        return TypeAdapter(rule, config=_STRICT).validate_python(value)
    except ValidationError:
        wanted = next(part.description for part in rule.__metadata__ if hasattr(part, "description"))
        raise ValueError(f"{name} must be {wanted}, not {_shown(value)}") from None


def parse_settings(settings: object = None) -> dict[str, object]:
    """Settings of a profile, typed, from whatever a person may say them with; ValueError names the first mistake.

    They may come as a mapping, as JSON, or as `name=value` pairs (a list of them, or one text).  None, for all or for
    one setting, changes nothing.

    >>> parse_settings(["student_steps=10", "arms=dash,scratch"])
    {'student_steps': 10, 'arms': ('dash', 'scratch')}
    >>> parse_settings('{"clip": 1, "ws": null}')
    {'clip': 1.0}
    """
    if isinstance(settings, str) and settings.strip().startswith("{"):
        try:
            settings = parse_json(settings)
        except ValueError as error:
            raise ValueError(f"settings are no JSON ({error}); they look like {_EXAMPLE}") from None
    elif _is_none(settings):
        return {}
    if isinstance(settings, str):
        settings = settings.split()
    if isinstance(settings, Mapping):
        pairs = list(settings.items())
    elif isinstance(settings, list | tuple):
        pairs = [pair.partition("=")[::2] if isinstance(pair, str) and "=" in pair else (pair, None)
                 for pair in settings]
        for pair, (name, value) in zip(settings, pairs, strict=True):
            if value is None or not name.isidentifier():
                raise ValueError(f"a setting looks like student_steps=100, not {_shown(pair)}")
    else:
        raise ValueError(f"settings must look like {_EXAMPLE}, not {_shown(settings)}")
    for name, _ in pairs:
        if not isinstance(name, str):
            raise ValueError(f"the name of a setting must be a text, not {_shown(name)}")
        if name in ("profile", "seed", "device"):
            raise ValueError(f"{name} is not a setting of a profile; say it with --{name}, or as a parameter")
    unknown = [name for name, _ in pairs if name not in SETTINGS]
    if unknown:
        said = ", ".join(sorted(name if name.isidentifier() else repr(name) for name in unknown))
        raise ValueError(f"unknown setting {said}; choose from {', '.join(SETTINGS)}")
    return _typed({name: value for name, value in pairs if not _is_none(value)})


_EXAMPLE = '{"student_steps": 100}'


def _is_none(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in ("None", "null"))


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
        raise ValueError(f"unknown profile {_shown(profile)}; choose from auto, {', '.join(PROFILES)}, "
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
    for name, value in _typed(table, file=str(path)).items():
        found[name] = {**found.get(name, {}), **value} if name in NETWORKS else value
    return found


def _read_base(path: Path, base: object, above: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends must be the name of a profile or the path of its file, not {_shown(base)}")
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
