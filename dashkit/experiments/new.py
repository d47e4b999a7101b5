"""A profile for a user's own pictures and teacher: what is there is looked at, and this machine is timed a few seconds.

The profile is a TOML file with every choice and a comment on each.  Whoever wants something else edits the file.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dashkit.datasets.files import said_of_copies
from dashkit.datasets.look import Look, check_classes, check_pictures, levels, look, proposed_size
from dashkit.datasets.sources import DATASETS
from dashkit.experiments import budget
from dashkit.experiments.profiles import Profile, resolve
from dashkit.experiments.ready import check_run, check_student
from dashkit.experiments.run import Run, pick_device
from dashkit.experiments.settings import number
from dashkit.interop import networks
from dashkit.interop.networks import TEACHER, Other
from dashkit.interop.shrink import parameters_of, shrunk, shrunk_unet
from dashkit.method.unet import UNetConfig, n_parameters
from dashkit.storage import store

ARMS = ("dash", "scratch")
OURS = "ours"
MOST_EPOCHS, FEWEST_STEPS, MOST_STEPS = 500, 300, 400_000
TEACHERS_SHARE = 0.5     # of the hours, where the teacher is trained here, too
MEASURING_SHARE = 0.25   # of the hours, at most
LR = ((2e5, 4e-3), (1e6, 2e-3), (5e6, 1e-3), (2e7, 4e-4))
"""The learning rate of a network with up to so many parameters; above the last it is 2e-4, the paper's."""


class Wish(NamedTuple):
    """What a user asks of a new profile."""

    images: str
    teacher: str | None = None               # where it is; None to train one here
    student: str | None = None               # ours, teacher (its own class), package.module:function; None to choose
    factor: float = 6.0                      # how many times fewer parameters the student has
    hours: float = 2.0                       # what training and measuring may take on this machine
    null_label: int | str | None = None      # of the teacher


class Written(NamedTuple):
    """A profile that was written, and what was found on the way, in sentences."""

    path: Path
    profile: Profile
    said: list[str]


def write_profile(path: Path | str, wish: Wish, *, device: str = "auto") -> Written:
    """Write a profile file for pictures, and for a teacher if there is one.  FileExistsError if the file is there.

    ValueError or FileNotFoundError in one sentence for pictures or networks that cannot be used.
    """
    path = Path(path).expanduser().absolute()
    if path.suffix != ".toml":
        raise ValueError(f"a profile is a .toml file, not {path.name}")
    if path.exists():
        raise FileExistsError(f"{path} is there already; delete it, or choose another name")
    factor, hours = number("factor", wish.factor, 1.05, 1000), number("hours", wish.hours, 1e-3, 10_000)
    found = look(wish.images)
    check_classes(found, wish.images)
    shapes = _shapes(found, wish, factor)
    settings = _settings(found, shapes, path.parent, Path(wish.images))
    store.check_writable(path.parent)
    try:
        store.write_bytes(path, _text(settings, {}, found).encode())
        run = Run(resolve(path), device=pick_device(device))
        check_run(run)
        check_student(run)
        times, seconds = _steps(run, found, hours)
        store.write_bytes(path, _text(settings | times, {"hours": hours}, found).encode())
        return Written(path, resolve(path), [
            *_said(found, shapes, run, times),
            f"That takes about {budget.format_seconds(seconds)} on this machine, with {times['samples']} samples for "
            f"each of {len(run.profile.ws)} scales."])
    except BaseException:
        path.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------------------------------------------------- shapes


class Shapes(NamedTuple):
    """The two networks, as the tables of a profile, and their sizes."""

    teacher: dict[str, object]
    student: dict[str, object]
    parameters: tuple[int, int]
    T: int
    note: str = ""


def _shapes(found: Look, wish: Wish, factor: float) -> Shapes:
    if wish.teacher is None:
        return _trained_here(found, wish, factor)
    shape = networks.Shape(found.channels, min(found.height, found.width), found.num_classes)
    loaded = networks.load(wish.teacher, null_label=wish.null_label, images=shape)
    config, size = loaded.model.config, n_parameters(loaded.model)
    _check_pictures(found, config, wish)
    pictures = {"size": config.size, "channels": config.channels, "num_classes": config.num_classes}
    teacher = {"source": wish.teacher} | pictures
    teacher |= {"null_label": wish.null_label} if wish.null_label is not None else {}
    kind = wish.student or (TEACHER if isinstance(config, Other) and config.kind in networks.KINDS else OURS)
    if kind == TEACHER:
        if not isinstance(config, Other):
            raise ValueError(f"{wish.teacher} is a network of this kit; its smaller class is --student {OURS}")
        changes = shrunk(config, factor)
        student, small = {"source": TEACHER} | pictures | {"config": changes}, _count(config.changed(changes))
    elif kind == OURS:
        ours = shrunk_unet(_unet(config.size, config.channels, config.num_classes), size / factor)
        student, small = ours.asdict(), _count(ours)
    else:
        student = {"source": kind} | pictures
        small = _count(networks.described(networks.Source(**student), loaded.diffusion))
    return Shapes(teacher, student, (size, small), loaded.diffusion.schedule.T, loaded.diffusion.note)


def _check_pictures(found: Look, config: UNetConfig | Other, wish: Wish) -> None:
    check_pictures(found, config.size, config.channels, wish.images)
    if found.num_classes != config.num_classes:
        raise ValueError(f"{wish.teacher} knows {config.num_classes} classes and {wish.images} has "
                         f"{found.num_classes}; the folder needs one subfolder for each class of the teacher, in the "
                         "teacher's order")


def _trained_here(found: Look, wish: Wish, factor: float) -> Shapes:
    size = proposed_size(found.height, found.width)
    if found.exact and (found.height != found.width or found.height != size):
        raise ValueError(f"{wish.images} has pictures of {found.height} x {found.width}, which networks cannot halve; "
                         f"crop or reduce them to {size} x {size}")
    teacher = _unet(size, found.channels, found.num_classes)
    kind = wish.student or OURS
    if kind != OURS:
        raise ValueError(f"without --teacher the student is --student {OURS}, not {kind}")
    big = _count(teacher)
    student = shrunk_unet(teacher, big / factor)
    return Shapes(teacher.asdict(), student.asdict(), (big, _count(student)), 1000)


def _unet(size: int, channels: int, num_classes: int) -> UNetConfig:
    """A teacher of this kit for pictures of this size, as wide as a laptop trains it."""
    ch, groups = (32, 8) if size < 24 else (64, 16)
    mults = levels(size)
    attention = tuple(s for s in (size >> i for i in range(len(mults))) if s <= 16)[:1]
    return UNetConfig(size, channels, num_classes, ch=ch, ch_mult=mults, blocks=2, groups=groups, attention=attention)


def _count(config: UNetConfig | Other) -> int:
    own = isinstance(config, Other) and config.kind not in networks.KINDS       # a user's module may not know how
    return n_parameters(config.make()) if own else parameters_of(config)


# ----------------------------------------------------------------------------------------------------------- steps


def _settings(found: Look, shapes: Shapes, folder: Path, images: Path) -> dict[str, object]:
    """Every setting of the profile; numbers of steps are those of a first look, and are replaced."""
    return {
        "dataset": _beside(folder, images), "T": shapes.T, "base": "min_snr", "gamma": 5.0, "batch": 64, "warmup": 100,
        "clip": 1.0, "precision": "float32", "pace": "ramped", "teacher_steps": FEWEST_STEPS,
        "teacher_lr": _lr(shapes.parameters[0]), "teacher_ema": 0.999, "label_dropout": 0.1,
        "student_steps": FEWEST_STEPS, "student_lr": _lr(shapes.parameters[1]), "student_ema": 0.999, "seeds": 1,
        "arms": list(ARMS), "w": 1.5, "ws": [1.0, 1.5, 2.0, 4.0], "sample_steps": 50, "samples": 500, "states": 2000,
        "classifier": "small", "teacher": _relative(shapes.teacher, folder),
        "student": _relative(shapes.student, folder)}


def _lr(parameters: int) -> float:
    return next((lr for most, lr in LR if parameters <= most), 2e-4)


def _relative(network: Mapping[str, object], folder: Path) -> dict[str, object]:
    source = str(network.get("source", ""))
    there = source and source != TEACHER and Path(source).expanduser().is_dir()
    return dict(network) | ({"source": _beside(folder, Path(source))} if there else {})


def _beside(folder: Path, path: Path) -> str:
    """A path as it is written into a file of `folder`: relative if it lies below, and never like a data set's name."""
    path = path.expanduser().absolute()
    if not path.is_relative_to(folder):
        return path.as_posix()
    text = path.relative_to(folder).as_posix()
    return f"./{text}" if text in DATASETS or "/" not in text else text


def _steps(run: Run, found: Look, hours: float) -> tuple[dict[str, object], float]:
    """How many steps, and how many samples to measure, fit into the hours; and the seconds that they will take."""
    p, seconds = run.profile, 3600 * hours
    cost = budget.rates(run)
    # every scale is sampled once, and the strongest once more; both arms and the teacher
    per_sample = (len(p.ws) + 1) * p.sample_steps / p.batch * (len(p.arms) * cost.student_pass + cost.measured_pass)
    samples = next((n for n in (500, 300, 200, 100) if n * per_sample <= MEASURING_SHARE * seconds), 50)
    left = max(seconds - samples * per_sample, 0.5 * seconds)
    most = min(MOST_STEPS, max(2000, MOST_EPOCHS * sum(found.counts) // p.batch))
    student = cost.teacher_pass + len(p.arms) * cost.student_update

    def steps(share: float, each: float) -> int:
        return _round(min(most, max(FEWEST_STEPS, int(share * left / each))))
    share = 0.0 if run.teacher_is_given else TEACHERS_SHARE
    times = {"samples": samples, "student_steps": steps(1 - share, student)}
    times |= {"teacher_steps": steps(share, cost.teacher_update)} if share else {}
    taken = samples * per_sample + times["student_steps"] * student
    return times, taken + times.get("teacher_steps", 0) * cost.teacher_update


def _round(n: int) -> int:
    """Two digits are enough."""
    digits = max(len(str(n)) - 2, 0)
    return n // 10**digits * 10**digits


# ------------------------------------------------------------------------------------------------------------ text


_TEXT = """\
# A profile for {images}: {count:,} {things} in {classes} classes.
# Every line may be changed; docs/own.md says what may stand here.

dataset = {dataset}
T = {T}                       # timesteps of the noise schedule
base = {base}               # weights of the timesteps: uniform, min_snr or published
gamma = {gamma}                    # where those weights cap the signal-to-noise ratio

batch = {batch}                     # pictures of one step
warmup = {warmup}                   # steps in which the learning rate rises; then it falls
clip = {clip}                     # the largest norm of a gradient
precision = {precision}          # or "bfloat16", on a GPU
pace = {pace}                # average and warm-up fit the number of steps
{teacher_training}
student_steps = {student_steps}            # {why}
student_lr = {student_lr}            # learning rate
student_ema = {student_ema}            # decay of the average of the weights
seeds = {seeds}                      # students of so many training seeds; five or more give intervals
arms = {arms}      # losses to compare, trained side by side; `dashkit.method.ARMS` lists all

w = {w}                        # the guidance scale at which samples are compared
ws = {ws}     # every guidance scale that is measured
sample_steps = {sample_steps}              # of the sampler
samples = {samples}                  # for each scale
states = {states}                  # noised held-out pictures on which the guidance gap is measured
classifier = {classifier}           # whose features compare samples: small (quick), or colour (minutes, photographs)

[teacher]                      # {teacher_said}
{teacher}
[student]                      # {student_said}
{student}"""
_TEACHER_TRAINING = """
teacher_steps = {teacher_steps}            # {why}
teacher_lr = {teacher_lr}
teacher_ema = {teacher_ema}
label_dropout = {label_dropout}            # share of labels that are hidden, so that the teacher learns "no class"
"""


def _text(settings: Mapping[str, object], facts: Mapping[str, object], found: Look) -> str:
    values = {k: _value(v) for k, v in settings.items() if k not in ("teacher", "student")}
    given, own = "source" in settings["teacher"], settings["student"].get("source")
    values["why"] = f"as many as fit into {facts['hours']:g} hours here" if facts else "a first guess"
    training = _TEACHER_TRAINING.format(**values)
    said = {TEACHER: "the teacher's own class, with a smaller config", None: "a UNet of this kit"}
    return _aligned(_TEXT.format(
        **values, images=Path(str(settings["dataset"])).name, count=sum(found.counts), classes=found.num_classes,
        things="latents" if found.latent else "pictures",
        teacher_training="" if given else training, teacher=_table("teacher", settings["teacher"]),
        student=_table("student", settings["student"]), student_said=said.get(own, "a module of your own"),
        teacher_said="from elsewhere, as it is" if given else "a UNet of this kit, trained here"))


def _aligned(text: str) -> str:
    """The comments of settings begin in one column."""
    comment = re.compile(r'^([^#\s](?:"(?:[^"\\]|\\.)*"|[^#"])*?) +# ')          # a # within quotes begins none
    lines = [comment.sub(lambda m: f"{m[1]:<30} # ", line) for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _table(name: str, network: Mapping[str, object]) -> str:
    lines = [f"{k} = {_value(v)}\n" for k, v in network.items() if not isinstance(v, Mapping)]
    inner = {k: v for k, v in network.items() if isinstance(v, Mapping) and v}
    for key, table in inner.items():
        lines += [f"\n[{name}.{key}]\n"] + [f"{k} = {_value(v)}\n" for k, v in table.items() if v is not None]
    return "".join(lines)


def _value(value: object) -> str:
    """A value as TOML: JSON writes texts, numbers and lists of them alike."""
    if isinstance(value, float):
        return f"{value:g}" if "." in f"{value:g}" or "e" in f"{value:g}" else f"{value:.1f}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _pairs(run: Run, most: int = 12) -> str:
    """Which class is taken for which row of the teacher, and which row for "no class"."""
    rows, names = run.given.rows, [run.images.class_name(k) for k in range(run.images.num_classes)]
    pairs = [f"{row} {name}" for row, name in zip(rows, names, strict=False)]
    shown = pairs if len(pairs) <= most else [*pairs[: most - 1], "…", pairs[-1]]
    null = "a random class" if rows[-1] in rows[:-1] else str(rows[-1])
    return f"{', '.join(shown)}; {null} for no class"


def _said(found: Look, shapes: Shapes, run: Run, times: Mapping[str, object]) -> list[str]:
    """What was found and chosen, for whoever typed the command."""
    net, things = run.profile.teacher, "latents" if found.latent else "pictures"
    cut = "" if found.exact or (found.height, found.width) == (net.size, net.size) else (
        f", cut square and taken as {net.size} x {net.size}")
    said = [f"{sum(found.counts):,} {things} in {found.num_classes} classes, {min(found.counts):,} to "
            f"{max(found.counts):,} a class, the smallest of {found.height} x {found.width} pixels{cut}."]
    if found.grey and not found.exact and found.grey < sum(found.counts):
        said.append(f"{found.grey:,} of them are grey, so all are taken as grey; convert them to keep colour.")
    if copies := said_of_copies(run.images):
        said.append(f"{copies}.")
    big, small = shapes.parameters
    whole = "from elsewhere" if run.teacher_is_given else "to be trained here"
    said.append(f"The teacher ({whole}) has {big:,} parameters, the student {small:,}: {big / small:.1f} times fewer.")
    if run.teacher_is_given:
        said.append(f"The teacher's rows and their {'classes' if found.exact else 'folders'}: {_pairs(run)}.")
    if shapes.note:
        said.append(f"The teacher's schedule: {shapes.note}.")
    if min(found.counts) < 20:
        said.append(f"The smallest class has {min(found.counts)}: too few to learn from, and enough to try the "
                    "commands.")
    steps = f"{times['teacher_steps']:,} steps of the teacher and " if "teacher_steps" in times else ""
    said.append(f"Planned: {steps}{times['student_steps']:,} steps of the students ({', '.join(run.profile.arms)}).")
    return said
