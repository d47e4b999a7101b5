"""Settings: the one place that types what a person writes.

Whatever is typed, in a file, a command, a notebook or Python, becomes the same setting here: `clip=1`, `clip="1.0"` and
`clip=np.float32(1)` are all the float 1.0.  A run's folders are named after its settings, so this matters.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic import create_model as make_model

from dashkit.interop.networks import RANDOM
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
MAX_ITEMS = 1000          # of a list


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


def _to_null(value: object) -> int | str:
    return RANDOM if value == RANDOM else _to_number(value, whole=True)


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
_FOLDER = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, Path) else v),
                    Field(description="the path of a folder, or nothing")]
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
    "attention": _numbers(1, 65_536, least=0, whole=True), "source": _TEXT,
    "null_label": Annotated[int | str, BeforeValidator(_to_null), Field(description=f"an integer, or {RANDOM}")],
    "config": Annotated[dict, Field(description="a table of the config of the network's class")]})
Settings = _table("Settings", {
    "dataset": _TEXT, "teacher": _Network, "student": _Network, "T": _number(10, 10_000, whole=True),
    "base": _choice(BASES), "gamma": _number(1e-6, 1e6), "label_dropout": _number(0, 0.9),
    "batch": _number(2, 65_536, whole=True),
    "teacher_steps": _STEPS, "teacher_lr": _number(1e-8, 1), "teacher_ema": _number(0, 0.999999),
    "student_steps": _STEPS, "student_lr": _number(1e-8, 1), "student_ema": _number(0, 0.999999),
    "warmup": _number(0, 10**6, whole=True), "clip": _number(1e-6, 1e6), "seeds": _number(1, 1000, whole=True),
    "arms": _ARMS, "w": _number(0, 20), "ws": _numbers(0, 20), "sample_steps": _number(1, 10_000, whole=True),
    "samples": _number(10, 10**6, whole=True), "states": _number(10, 10**6, whole=True),
    "precision": _choice(PRECISIONS), "stored": _choice(STORED), "classifier": _choice(CLASSIFIERS),
    "pace": _choice(PACES), "teacher_start": _FOLDER,
    "student_batch": _number(0, 65_536, whole=True), "student_first": _numbers(0, 10**8, least=0),
    "sampling_sets": _number(1, 100, whole=True), "exact_bandwidth": _number(0, 10)})
SETTINGS = tuple(name for name in Settings.model_fields if name not in ("dataset", *NETWORKS))
"""What a command, a notebook or a call may change of a profile; its data and networks are fixed in its file."""


def typed_settings(values: Mapping[str, object], *, file: str = "") -> dict[str, object]:
    """Some settings, typed; ValueError lists every one that is unknown or bad, with what is allowed."""
    try:
        return _sorted(Settings.model_validate(dict(values)).model_dump(exclude_unset=True))
    except ValidationError as error:
        refuse(_problems(error, values, whole=bool(file)), file)


def _sorted(settings: dict) -> dict:
    return settings | {"ws": tuple(sorted(settings["ws"]))} if "ws" in settings else settings


def _problems(error: ValidationError, values: Mapping, *, whole: bool) -> list[str]:
    """What pydantic found, each as a sentence with the allowed values."""
    unknown: dict[str, list[str]] = {}
    bad = {}
    for one in error.errors(include_url=False):
        first, *rest = path = [part for part in one["loc"] if isinstance(part, str)]
        table = first if rest else ""
        field = (_Network if rest else Settings).model_fields.get(path[-1])
        if one["type"] == "extra_forbidden":
            unknown.setdefault(table, []).append(".".join(k if k.isidentifier() else repr(k) for k in path))
            continue
        value = values[first][rest[0]] if rest else values[first]
        said = str(one.get("ctx", {}).get("error", ""))
        wanted = field.description or "a table of the settings of a network"
        bad[".".join(path)] = said if said.startswith("unknown arm") else (
            f"{'.'.join(path)} must be {wanted}, not {shown(value)}")
    every = ("extends", *Settings.model_fields) if whole else SETTINGS
    return [f"unknown setting {', '.join(names)}; choose from {', '.join(_Network.model_fields if table else every)}"
            for table, names in unknown.items()] + list(bad.values())


def shown(value: object) -> str:
    """A value in a message: on one line, and not long; a number without quotes, however it was typed."""
    try:
        number = isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value.strip())
        text = value.strip() if number else " ".join(repr(value).split())
    except Exception:                            # an integer of many thousand digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def refuse(problems: Sequence[str], file: str = "") -> None:
    if not problems:
        return
    several = f"{len(problems)} problems: " if len(problems) > 1 else ""
    listed = [f"({i}) {p}" for i, p in enumerate(problems, 1)] if several else problems
    raise ValueError((f"{file}: " if file else "") + several + "; ".join(listed)) from None


_PARAMETERS = {"hours": _number(1e-6, 10_000), "minutes": _number(0, 10**6), "jobs": _number(1, 1024, whole=True),
               "teachers": _number(1, 100, whole=True), "fid_samples": _number(20, 10**9, whole=True)}
"""What a notebook, a command or a call takes beside the settings of a profile."""


def typed(name: str, value: object) -> object:
    """The value of a setting, or of one of `_PARAMETERS`, as its type; ValueError names what is allowed.

    >>> typed("ws", "1, 1.5, 4"), typed("batch", "1e2"), typed("gamma", 5)
    ((1.0, 1.5, 4.0), 100, 5.0)
    """
    return _one(name, value, _PARAMETERS[name]) if name in _PARAMETERS else typed_settings({name: value})[name]


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
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}") from None


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
                raise ValueError(f"a setting looks like student_steps=100, not {shown(pair)}")
    else:
        raise ValueError(f"settings must look like {_EXAMPLE}, not {shown(settings)}")
    for name, _ in pairs:
        if not isinstance(name, str):
            raise ValueError(f"the name of a setting must be a text, not {shown(name)}")
        if name in ("profile", "seed", "device"):
            raise ValueError(f"{name} is not a setting of a profile; say it with --{name}, or as a parameter")
    unknown = [name for name, _ in pairs if name not in SETTINGS]
    if unknown:
        said = ", ".join(sorted(name if name.isidentifier() else repr(name) for name in unknown))
        raise ValueError(f"unknown setting {said}; choose from {', '.join(SETTINGS)}")
    return typed_settings({name: value for name, value in pairs if not _is_none(value)})


_EXAMPLE = '{"student_steps": 100}'


def _is_none(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in ("None", "null"))
