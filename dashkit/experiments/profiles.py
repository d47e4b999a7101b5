"""Profiles: every setting of a run, one row a setting."""

import ast
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dashkit.method.arms import ARMS
from dashkit.method.unet import UNetConfig

BASES = ("uniform", "min_snr", "published")
"""The curricula that a teacher may start from; see `dashkit.method.curriculum`."""
PRECISIONS = ("float32", "bfloat16")
"""What networks compute in while they train and draw samples for FID; measurements are always float32."""
STORED = ("float32", "float16")
"""What finished weights are kept in: with float16 a teacher is rounded before any student learns from it."""
CLASSIFIERS = ("small", "colour")
"""The classifier whose features measure samples: seconds on a CPU, or minutes and meant for photographs."""


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
    ws: tuple[float, ...]     # the scales of the w-curve
    sample_steps: int
    samples: int              # for each point of the w-curve
    states: int               # noised held-out states for the gap statistics
    precision: str = "float32"     # one of PRECISIONS
    stored: str = "float32"        # one of STORED
    classifier: str = "small"      # one of CLASSIFIERS
    sampling_sets: int = 1         # sets of labels and noise that quality is measured on, `samples` images each
    exact_bandwidth: float = 0.0   # above 0 the teacher is not trained but exact, a kernel density of this bandwidth

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            _check_number(name, getattr(self, name), low, high, whole=name in _WHOLE)
        for name, allowed in (("base", BASES), ("precision", PRECISIONS), ("stored", STORED),
                              ("classifier", CLASSIFIERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("arms", "ws"):
            value = getattr(self, name)
            if isinstance(value, str) or not hasattr(value, "__iter__") or not tuple(value):
                raise ValueError(f"{name} must be a non-empty tuple or list, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        if any(not isinstance(arm, str) for arm in self.arms):
            raise ValueError(f"arms must be names, not {self.arms!r}")
        for w in self.ws:
            _check_number("ws", w, 0, 20)
        if self.w not in self.ws:
            raise ValueError(f"w={self.w:g} must be one of ws={self.ws}: it is a point of the w-curve")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be distinct, not {', '.join(map(str, self.arms))}")
        if self.sample_steps > self.T:
            raise ValueError(f"sample_steps must be at most T={self.T}, not {self.sample_steps}")

    def asdict(self) -> dict:
        """The settings by name; those added later are left out where they say nothing, so that what was made before them
        keeps its fingerprint."""
        settings = dataclasses.asdict(self)
        for name, default in (("stored", "float32"), ("classifier", "small"), ("sampling_sets", 1)):
            if settings[name] == default:
                del settings[name]
        return settings


_RANGES = {
    "T": (10, 10_000), "gamma": (1e-6, 1e6), "label_dropout": (0, 0.9), "batch": (2, 65_536),
    "teacher_steps": (1, 10**8), "teacher_lr": (1e-8, 1), "teacher_ema": (0, 0.999999),
    "student_steps": (1, 10**8), "student_lr": (1e-8, 1), "student_ema": (0, 0.999999),
    "warmup": (0, 10**6), "clip": (1e-6, 1e6), "seeds": (1, 1000), "w": (0, 20),
    "exact_bandwidth": (0, 10), "sample_steps": (1, 10_000), "samples": (10, 10**6), "states": (10, 10**6), "sampling_sets": (1, 100),
}
_WHOLE = {"T", "batch", "teacher_steps", "student_steps", "warmup", "seeds", "sample_steps", "samples", "states",
          "sampling_sets"}


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "an integer" if whole else "a number"
        raise ValueError(f"{name} must be {what} in [{low:g}, {high:g}], not {value!r}")

_MAIN = ("dash", "dash_no_un", "composite", "cond_only", "scratch")
_COLOUR = ("dash", "dash_no_un", "dash_no_an", "dash_no_tirt", "gap_match", "multi_w", "composite", "composite_mild",
           "cond_only", "kd_drop", "no_un_noise", "scratch")
_SERIES = ("dash", "dash_no_un", "gap_match", "multi_w", "composite", "cond_only", "scratch")


def _small(ch: int, blocks: int, groups: int) -> UNetConfig:
    return UNetConfig(8, channels=1, num_classes=10, ch=ch, ch_mult=(1, 2), blocks=blocks, groups=groups, attention=(4,))


def _colour(ch: int, blocks: int, classes: int, *, channels: int = 3, dropout: float = 0.0) -> UNetConfig:
    return UNetConfig(32, channels, num_classes=classes, ch=ch, ch_mult=(1, 2, 2, 2), blocks=blocks, dropout=dropout)


def _proof(ch: int) -> UNetConfig:
    return UNetConfig(32, channels=3, num_classes=10, ch=ch, ch_mult=(1, 2, 2), blocks=1, groups=ch // 4, attention=(8,))


def _half(ch: int, blocks: int, groups: int) -> UNetConfig:
    return UNetConfig(16, channels=3, num_classes=10, ch=ch, ch_mult=(1, 2, 2), blocks=blocks, groups=groups, attention=(8,))


def _imagenet(ch: int, blocks: int) -> UNetConfig:
    return UNetConfig(64, channels=3, num_classes=1000, ch=ch, ch_mult=(1, 2, 3, 4), blocks=blocks, attention=(8, 16))


_W5 = (1.0, 1.5, 2.0, 3.0, 4.0)
_WD = (1.0, 1.25, 1.5, 2.0, 4.0)
_TABLE = {
    #                 smoke             digits            fashion_mnist                 cifar10                        cifar100                        imagenet64
    "name":          ("smoke",          "digits",         "fashion_mnist",              "cifar10",                     "cifar100",                     "imagenet64"),
    "dataset":       ("digits",         "digits",         "fashion_mnist",              "cifar10",                     "cifar100",                     "imagenet64"),
    "teacher":       (_small(16, 1, 4), _small(32, 2, 8), _colour(64, 2, 10, channels=1), _colour(128, 2, 10, dropout=.1), _colour(128, 2, 100, dropout=.1), _imagenet(128, 3)),
    "student":       (_small(8, 1, 2),  _small(16, 1, 4), _colour(32, 1, 10, channels=1), _colour(64, 1, 10),            _colour(64, 1, 100),            _imagenet(64, 2)),
    "T":             (1000,             1000,             1000,                         1000,                          1000,                           1000),
    "base":          ("min_snr",        "min_snr",        "min_snr",                    "published",                   "published",                    "published"),
    "gamma":         (5.0,              5.0,              5.0,                          5.0,                           5.0,                            5.0),
    "label_dropout": (0.1,              0.1,              0.1,                          0.1,                           0.1,                            0.1),
    "batch":         (64,               64,               128,                          64,                            64,                             64),
    "teacher_steps": (300,              1600,             20_000,                       391_000,                       391_000,                        391_000),
    "teacher_lr":    (3e-3,             2e-3,             4e-4,                         2e-4,                          2e-4,                           2e-4),
    "teacher_ema":   (0.98,             0.99,             0.999,                        0.9999,                        0.9999,                         0.9999),
    "student_steps": (120,              500,              20_000,                       234_000,                       234_000,                        234_000),
    "student_lr":    (4e-3,             8e-3,             4e-4,                         2e-4,                          2e-4,                           2e-4),
    "student_ema":   (0.95,             0.99,             0.999,                        0.9995,                        0.9995,                         0.9995),
    "warmup":        (20,               50,               500,                          0,                             0,                              0),
    "clip":          (1.0,              1.0,              1.0,                          1.0,                           1.0,                            1.0),
    "seeds":         (1,                2,                3,                            3,                             3,                              3),
    "arms":          (_SERIES,          _SERIES,          _MAIN,                        ARMS,                          ARMS,                           _MAIN),
    "w":             (1.5,              1.5,              1.5,                          1.5,                           1.5,                            1.5),
    "ws":            ((1.0, 1.5, 4.0),  _WD,              _W5,                          _W5,                           _W5,                            _W5),
    "sample_steps":  (10,               50,               50,                           50,                            50,                             50),
    "samples":       (100,              300,              10_000,                       50_000,                        50_000,                         50_000),
    "states":        (500,              2000,             5000,                         5000,                          5000,                           5000),
}  # fmt: skip
PROFILES = {name: Profile(**{k: row[i] for k, row in _TABLE.items()}) for i, name in enumerate(_TABLE["name"])}
PROFILES |= {
    "exact": dataclasses.replace(
        PROFILES["digits"], name="exact", student=_small(8, 1, 2), exact_bandwidth=0.2, student_steps=300, seeds=16,
        arms=("dash", "dash_no_un", "dash_no_an", "gap_match", "multi_w", "composite", "cond_only", "label_drop", "scratch"),
        ws=(1.0, 1.5, 4.0), samples=200, states=1000),
    "tuning": dataclasses.replace(
        PROFILES["digits"], name="tuning", dataset="digits_validation", seeds=1, arms=ARMS, ws=(1.0, 1.5, 4.0),
        samples=200),
    # half an hour of one GPU: few images are seen, so no dropout; mirrored images, Min-SNR in its eps form, a learning
    # rate as high as warm-up allows, an average over half a million images, and convolutions in bfloat16
    "cifar10_fast": dataclasses.replace(
        PROFILES["cifar10"], name="cifar10_fast", dataset="cifar10_mirrored", teacher=_colour(128, 2, 10),
        base="min_snr", batch=256, teacher_lr=8e-4, teacher_ema=0.9996, student_lr=1e-3, student_ema=0.9996, warmup=500,
        seeds=1, arms=_MAIN, ws=(1.0, 1.25, 1.5, 2.0), samples=1000, states=2000, precision="bfloat16"),
    # CIFAR-10 at 16x16: guidance matters there, and a GPU trains teacher and students in minutes
    "cifar16": dataclasses.replace(
        PROFILES["cifar10"], name="cifar16", dataset="cifar16_mirrored", teacher=_half(32, 2, 8), student=_half(16, 1, 4),
        base="min_snr", batch=512, teacher_steps=7000, teacher_lr=2e-3, teacher_ema=0.999, student_steps=1200,
        student_lr=4e-3, student_ema=0.99, warmup=100, seeds=5, arms=_COLOUR, ws=(1.0, 1.5, 2.0, 3.0, 4.0), samples=1000,
        sampling_sets=3, states=5000, precision="bfloat16", stored="float16", classifier="colour"),
    # every stage on real CIFAR-10 within minutes of a CPU; says nothing about the method
    "cifar10_proof": dataclasses.replace(
        PROFILES["cifar10"], name="cifar10_proof", teacher=_proof(32), student=_proof(16), base="min_snr", batch=32,
        teacher_lr=2e-3, teacher_ema=0.99, student_lr=3e-3, student_ema=0.99, warmup=20, seeds=1, arms=_MAIN,
        ws=(1.0, 1.5), sample_steps=10, samples=100, states=100),
}
"""`smoke` for tests and stored outputs, `digits` the default; cifar10, cifar100 and imagenet64 carry the paper's settings.
`cifar10_fast` is the campaign for half an hour of one GPU and `cifar10_proof` its rehearsal on a CPU; `exact` distils from the closed-form teacher of the digits, and `tuning` never sees the held-out digits."""


def resolve(name: str = "auto", /, **overrides: object) -> Profile:
    """The profile called `name` with some settings replaced; None leaves a setting as it is.

    "auto" means the environment's DASHKIT_PROFILE, or digits.  ValueError names the profiles or settings there are.

    >>> resolve("digits", student_steps=10).student_steps
    10
    """
    if name == "auto":
        name = os.environ.get("DASHKIT_PROFILE") or "digits"
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose from auto, {', '.join(PROFILES)}")
    profile = PROFILES[name]
    settings = [f.name for f in dataclasses.fields(Profile) if f.name not in ("name", "dataset", "teacher", "student")]
    unknown = sorted(set(overrides) - set(settings))
    if unknown:
        raise ValueError(f"unknown setting {', '.join(unknown)}; choose from {', '.join(settings)}")
    return dataclasses.replace(profile, **{k: v for k, v in overrides.items() if v is not None})


def parse_settings(pairs: Sequence[str]) -> dict[str, object]:
    """`name=value` pairs, as the command takes them, to settings: numbers, True/False, lists; all else is a string.

    >>> parse_settings(["student_steps=10", "arms=dash,scratch"])
    {'student_steps': 10, 'arms': ['dash', 'scratch']}
    """
    settings: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"a setting looks like student_steps=100, not {pair!r}")
        if name in ("profile", "seed", "device"):
            raise ValueError(f"{name} is not a setting of a profile; say it with --{name}")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            settings[name] = text.split(",") if "," in text or name == "arms" else text
    return settings
