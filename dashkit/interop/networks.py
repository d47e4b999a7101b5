"""Networks that this kit did not make, as `model(x_t, t, y) -> eps`: of diffusers, or any module of a user's.

`load` opens a folder or calls a function.  What it returns is called, trained and measured like a network of this kit:
labels are 0 .. num_classes - 1, the null label is num_classes, and the prediction is the noise.  diffusers is needed
for its own networks alone.
"""

import copy
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dashkit import environment
from dashkit.interop import export
from dashkit.interop.schedules import PREDICTIONS, Diffusion, read_scheduler, scheduler_config, to_eps
from dashkit.method.schedule import Schedule, cosine_schedule, expand
from dashkit.method.students import IndependentCondition
from dashkit.method.unet import UNet, UNetConfig
from dashkit.storage import store

KINDS = ("UNet2DModel", "DiTTransformer2DModel")
TEACHER, RANDOM = "teacher", "random"
WEIGHTS = export.WEIGHTS
MOST_LEFT = 0.5          # of a picture's power at the last timestep; usual schedules leave less than a hundredth
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_AVERAGED = re.compile(r"(?<![^._-])(?<!non[._-])(?<!no[._-])ema(?![^._-])", re.IGNORECASE)      # unet_ema, ema.pt
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}     # before 0.18


@dataclass(frozen=True)
class Source:
    """A network that a profile names instead of describing it.

    `source` is a folder, `package.module:function`, or, for a student, "teacher": the teacher's own class, with
    `config` over the teacher's.  `null_label` is the number that the network itself takes for "no class", or "random".
    """

    size: int
    channels: int
    num_classes: int
    source: str
    null_label: int | str | None = None
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dropout: float = 0.0

    def asdict(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "dropout" and v not in (None, {})}


@dataclass(frozen=True)
class Other:
    """The shape of a network of another library, and how to make a new one: what a `UNetConfig` is for ours."""

    size: int
    channels: int
    num_classes: int
    kind: str                                    # one of KINDS, or package.module:function
    settings: str                                # the config of that class, as JSON
    rows: tuple[int, ...]                        # what the network takes for each label; the last is for the null label
    diffusion: Diffusion = field(compare=False, repr=False)
    dropout: float = 0.0

    def make(self) -> "EpsModel":
        """A new network, with the initial weights of its own class."""
        return EpsModel(_built(self.kind, json.loads(self.settings)), self)

    def fingerprint(self) -> dict[str, str]:
        """What a function decides beside its class: the parameters, the prediction, the labels, the schedule, its code.

        Code shows in what it computes, here with weights that are always the same.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = self.make().net
        shapes = [[k, list(v.shape)] for k, v in net.state_dict().items()]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, p in sorted(net.named_parameters()):      # as a scaled layer's, or about 1 as a norm's: none is zero
                drawn = torch.randn(p.shape, generator=generator)
                p.copy_(drawn * (len(p) / p.numel()) ** 0.5 if p.ndim > 1 else 1 + 0.1 * drawn)
        said = [shapes, self.diffusion.prediction, self.rows, self.diffusion.schedule.alphas_cumprod.tolist(),
                _answers(net, self)]
        return {"function": store.fingerprint(said)}

    def changed(self, changes: Mapping[str, Any]) -> "Other":
        """The same with some of the config replaced; ValueError for a name that this class does not have."""
        settings = json.loads(self.settings)
        unknown = sorted(changes.keys() - settings.keys())
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)} in the config of {self.kind}; choose from "
                             f"{', '.join(k for k in settings if not k.startswith('_'))}")
        rows = self.rows
        if rows[-1] in rows[:-1]:                # a teacher without a null row: the student gets one
            changes = {**changes, "num_class_embeds": settings["num_class_embeds"] + 1}
            rows = (*rows[:-1], settings["num_class_embeds"])
        text = json.dumps(settings | dict(changes), sort_keys=True)
        return Other(self.size, self.channels, self.num_classes, self.kind, text, rows, self.diffusion)


class EpsModel(nn.Module):
    """A network of another library as eps(x_t, t, y): x_t (B, C, H, W), t (B,), y (B,) in 0 .. num_classes.

    The network's labels and predictions are its own; a learned variance (twice the channels) is left out.
    """

    rows: Tensor                # what the network takes for each label
    alphas_cumprod: Tensor
    config: Other

    def __init__(self, net: nn.Module, config: Other) -> None:
        super().__init__()
        self.net, self.config, self.null_label = net, config, config.num_classes
        self.prediction = config.diffusion.prediction
        self.register_buffer("rows", torch.tensor(config.rows), persistent=False)
        self.register_buffer("alphas_cumprod", config.diffusion.schedule.alphas_cumprod.cpu(), persistent=False)
        for module in net.modules():             # diffusers' DiT would drop labels by itself while a student trains
            if type(module).__name__ == "LabelEmbedding":
                setattr(module, "dropout_prob", 0.0)  # noqa: B010 (no type knows of it)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        rows = self.rows[y]
        out = self.net(x_t, t, rows)
        out = out if isinstance(out, Tensor) else out.sample         # as networks of diffusers give it
        abar = expand(self.alphas_cumprod[t], x_t)
        return to_eps(out[:, : x_t.shape[1]].float(), x_t, (abar.sqrt(), (1 - abar).sqrt()), self.prediction)


class Found(NamedTuple):
    """A network from elsewhere, ready to be called."""

    model: Any                  # model(x_t, t, y) -> eps in eval mode, without gradients; `config`, `null_label`
    diffusion: Diffusion        # its schedule, and what it predicts
    digest: str                 # of all that decides what it computes
    names: tuple[str, ...]      # of its classes; () if it does not say
    says_null: bool = True      # whether it says itself, or was told, which label is "no class"; else that was guessed

    @property
    def rows(self) -> tuple[int, ...]:
        """What the network itself takes for each label, the null label last; one of the others for a random class."""
        config = self.model.config
        return config.rows if isinstance(config, Other) else tuple(range(config.num_classes + 1))


def load(source: str | os.PathLike, *, null_label: int | str | None = None, images: "Shape | None" = None,
         diffusion: Diffusion | None = None) -> Found:
    """The network in a folder, or that a function returns, as model(x_t, t, y) -> eps.

    A folder is one of: a diffusers pipeline, or its network alone, of a class of `KINDS`; what `dashkit export` wrote;
    a trained network among this kit's runs.  A function `package.module:function` returns a module, or a pipeline of
    diffusers; see `_from_function`.  `images` is what the pictures are, where the config leaves something open.
    `diffusion` is taken for a module that has no schedule.  ValueError or FileNotFoundError in one sentence.
    """
    text = os.fspath(source)
    if _names_function(text):
        found = _from_function(text, null_label, images, diffusion)
    else:
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}; a network is a folder, or package.module:function")
        if (folder / "final.safetensors").is_file():
            found = _of_this_kit(folder)
        else:
            found = _of_diffusers(folder, null_label, images, diffusion)
    _check_table(found.diffusion.schedule, text)
    model = found.model.eval().requires_grad_(False)
    _probe(model, found.diffusion.schedule.T, text)
    return found._replace(model=model)


def described(source: Source, diffusion: Diffusion) -> Other:
    """A student that a function makes, anew at each call; `diffusion` is the teacher's, where it says nothing else."""
    if not _names_function(source.source):
        raise ValueError(f"a student's source must be teacher or package.module:function, not {source.source}; what it "
                         "is trained from starts anew")
    shape = Shape(source.channels, source.size, source.num_classes)
    found = load(source.source, null_label=source.null_label, images=shape, diffusion=diffusion)
    config = found.model.config
    if not isinstance(found.model, EpsModel) or config.num_classes != source.num_classes:
        raise ValueError(f"the module of {source.source} must have {source.num_classes} classes and a null label")
    return Other(config.size, config.channels, config.num_classes, source.source, config.settings, config.rows,
                 found.diffusion)


def write(model: nn.Module, folder: Path | str, *, schedule: Schedule, names: Sequence[str] = (),
          scheduler: Mapping[str, Any] | None = None) -> bool:
    """Write a student as a pipeline folder of diffusers; False for a module of a user's: only its weights go there.

    `schedule` is what it was trained with, `scheduler` the config that the schedule was read from, if it was.
    ValueError for a network that cannot be written, or if what was written cannot be opened again.
    """
    folder = Path(folder)
    if isinstance(model, UNet):
        export.write(model, folder / export.NETWORK)
        config = scheduler_config(schedule, "epsilon", scheduler)
        export.write_around(folder, config, range(model.config.num_classes + 1), names=names)
        load(folder)
        return True
    if not isinstance(model, EpsModel):
        raise ValueError(f"a {type(model).__name__} cannot be written as a pipeline")
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.net.state_dict().items()}
    kind, cfg = type(model.net).__name__, model.config
    if kind not in KINDS:
        store.write_bytes(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
        store.write_json(folder / "dashkit.json", {"module": cfg.kind, "rows": cfg.rows})
        return False
    store.write_bytes(folder / export.NETWORK / WEIGHTS, save(weights, metadata={"format": "pt"}))
    settings = json.loads(cfg.settings) | {"_class_name": kind, "sample_size": cfg.size}
    store.write_json(folder / export.NETWORK / export.CONFIG, settings)
    config = scheduler_config(schedule, model.prediction, scheduler)
    export.write_around(folder, config, cfg.rows, names=names, kind=kind)
    _open_again(folder, kind, cfg)
    return True


def _open_again(folder: Path, kind: str, config: Other) -> None:
    """Raise ValueError unless this kit reads the pipeline in a folder, and diffusers draws a picture from it."""
    from dashkit.interop.pipeline import GuidedPipeline

    diffusers, index = _diffusers(), store.read_json(folder / export.INDEX)
    try:
        with torch.random.fork_rng(devices=[]):
            rows = load(folder).model.config.num_classes, index["null_label"]
            net = getattr(diffusers, kind).from_pretrained(folder / export.NETWORK, local_files_only=True,
                                                           low_cpu_mem_usage=False)
            scheduler = diffusers.DDIMScheduler.from_config(store.read_json(folder / export.SCHEDULER))
            pipe = GuidedPipeline(net.eval(), scheduler, index["id2label"], index["null_label"])
            pipe.set_progress_bar_config(disable=True)
            drawn = pipe(config.rows[0], num_inference_steps=1, output_type="pt").images
    except Exception as error:                   # a config that nobody has tried fails in any way
        raise ValueError(f"{folder} was written, and cannot be opened again ({type(error).__name__}: "
                         f"{' '.join(str(error).split())[:200]})") from error
    if rows != (config.num_classes, config.rows[-1]) or drawn.shape != (1, config.channels, config.size, config.size):
        raise ValueError(f"{folder} was written, and is another network when it is opened again")


class Shape(NamedTuple):
    """What the pictures are."""

    channels: int
    size: int
    num_classes: int


def _names_function(text: str) -> bool:
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


# ------------------------------------------------------------------------------------------------------ of this kit


def _of_this_kit(folder: Path) -> Found:
    """A finished network among the runs: its settings are in its file."""
    path = folder / "final.safetensors"
    saved = store.load_tensors(path)
    try:
        teacher = saved.meta.get("teacher", {})
        if isinstance(teacher.get("teacher"), dict) and "digest" in teacher["teacher"]:
            raise ValueError("its schedule is that of a teacher from elsewhere; give the folder that shrink or export "
                             "wrote")
        config = UNetConfig(**saved.meta.get("student", teacher))
        T = int(saved.meta["T"] if "T" in saved.meta else teacher["T"])
        if saved.meta.get("objective", {}).get("student", "new") == "pruned":
            config = UNetConfig(**teacher["teacher"])
        with torch.device("meta"):
            model = UNet(config)
        weights = {k.removeprefix("ema.net."): v.float() for k, v in saved.tensors.items() if k.startswith("ema.net.")}
        store.check_weights(model.state_dict(), weights)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no UNet of this kit ({error})") from error
    model.load_state_dict(weights, assign=True)
    return Found(model, Diffusion(cosine_schedule(T), "epsilon"), store.checksum(path), ())


# ----------------------------------------------------------------------------------------------------- of diffusers


def _of_diffusers(folder: Path, null_label: int | str | None, images: Shape | None,
                  diffusion: Diffusion | None) -> Found:
    place, index = _network_in(folder), {}
    for pipeline in (folder, place.parent):      # the network's own folder may be named, unet_ema/ beside unet/, too
        if (pipeline / export.INDEX).is_file():
            index = store.read_json(pipeline / export.INDEX)
            break
    config = store.read_json(place / export.CONFIG)
    kind = _kind(config, place)
    diffusion = _diffusion_of(folder, place, diffusion)
    files = _weight_files(place)
    null_label = index.get("null_label") if null_label is None else null_label
    shape = _shape(config, kind, images, folder)
    classes, null, said = _rows(config, kind, index.get("id2label"), null_label, images, folder)
    text = json.dumps(config, sort_keys=True)
    rows = (*classes, classes[0] if null is None else null)
    other = Other(shape.size, shape.channels, len(classes), kind, text, rows, diffusion)
    digest = hashlib.sha256(json.dumps(
        [text, diffusion.prediction, diffusion.schedule.alphas_cumprod.tolist(), null_label,
         [store.sha256(f) for f in files]]).encode()).hexdigest()
    names = index.get("id2label") or {}
    names = tuple(str(names[str(k)]) for k in classes) if {str(k) for k in classes} <= names.keys() else ()
    model: Any = None
    if _is_ours(config, diffusion) and other.rows == tuple(range(len(classes) + 1)):
        with suppress(ValueError):               # its widths or its attention may be others than we build
            model = export.read(place)           # the same network, without diffusers and somewhat faster
    if model is None:
        model = EpsModel(_filled(kind, config, files, place), other)
    if null is None:
        model = IndependentCondition(model)
    return Found(model, diffusion, digest, names, said)


def _network_in(folder: Path) -> Path:
    """The folder of the network in that of a pipeline, or the folder itself.

    ValueError if averaged weights (EMA) lie beside it: a teacher is sampled with these, and nobody said which to take.
    """
    for place in (folder, folder / "unet", folder / "transformer"):
        if (place / export.CONFIG).is_file():
            averaged = [] if place == folder else sorted(
                p for p in folder.iterdir() if _AVERAGED.search(p.name) and (p / export.CONFIG).is_file())
            if averaged:
                raise ValueError(f"{folder} has averaged weights (EMA) in {averaged[0].name}/ beside those in "
                                 f"{place.name}/; give {averaged[0]} for the averaged ones, which are the usual "
                                 f"choice, or {place}")
            return place
    raise FileNotFoundError(f"{folder} holds no network: there is no {export.CONFIG} in it, nor in unet/ or "
                            "transformer/")


def _kind(config: Mapping[str, Any], place: Path) -> str:
    name = config.get("_class_name")
    if name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
        return "DiTTransformer2DModel"           # what diffusers called it before
    if name not in KINDS:
        raise ValueError(f"{place / export.CONFIG} describes a {name}; this kit reads {' and '.join(KINDS)}, and any "
                         "other module by package.module:function")
    return str(name)


def _is_ours(config: Mapping[str, Any], diffusion: Diffusion) -> bool:
    return diffusion.prediction == "epsilon" and all(
        key in config and config[key] == value for key, value in export._FIXED.items())


def _diffusion_of(folder: Path, place: Path, given: Diffusion | None) -> Diffusion:
    for path in (folder / export.SCHEDULER, place.parent / export.SCHEDULER, place / "scheduler_config.json"):
        if path.is_file():
            try:
                return read_scheduler(store.read_json(path))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from None
    if given is not None:
        return given
    raise FileNotFoundError(f"{folder} does not say how it was noised: there is no {export.SCHEDULER} in it; save the "
                            "scheduler that the network was trained with, by "
                            "scheduler.save_pretrained(FOLDER/scheduler)")


def _shape(config: Mapping[str, Any], kind: str, images: Shape | None, folder: Path) -> Shape:
    size, channels = config.get("sample_size"), config.get("in_channels", 3 if kind == "UNet2DModel" else 4)
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if size is None and images is not None:
        size = images.size
    if not isinstance(size, int):
        raise ValueError(f"{folder} takes pictures of size {size}; this kit needs square ones, so give sample_size one "
                         "whole number in its config")
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ValueError(f"{folder}: in_channels must be a positive integer, not {channels!r:.80}")
    out = config.get("out_channels") or channels
    if out not in (channels, 2 * channels):
        raise ValueError(f"{folder} turns {channels} channels into {out}; a prediction has as many, or twice as many "
                         "with a learned variance")
    return Shape(channels, size, 0)


def _rows(config: Mapping[str, Any], kind: str, labels: object, null_label: int | str | None, images: Shape | None,
          folder: Path) -> tuple[tuple[int, ...], int | None, bool]:
    """The rows of the network's class table that are classes, and the one that is "no class" (None for random).

    The last is False where that row is a guess: the last one, because there is one more than classes of pictures.
    """
    said = True
    count: Any = config.get("num_class_embeds") if kind == "UNet2DModel" else config.get("num_embeds_ada_norm", 1000)
    if kind != "UNet2DModel":                     # its table has one row more, for labels that were dropped
        count, null_label = count + 1, count if null_label is None else null_label
    known = {int(k) for k in labels} if isinstance(labels, Mapping) and all(str(k).isdigit() for k in labels) else None
    if kind == "UNet2DModel" and config.get("class_embed_type") == "timestep" and isinstance(null_label, int):
        count = max(null_label, images.num_classes if images else 0, *(known or ())) + 1
    if not isinstance(count, int) or config.get("class_embed_type") not in (None, "timestep"):
        raise ValueError(f"{folder} takes no class numbers (num_class_embeds is {config.get('num_class_embeds')!r}, "
                         f"class_embed_type {config.get('class_embed_type')!r}): without classes there is no guidance")
    if null_label == RANDOM:
        return tuple(range(count)), None, said
    if null_label is None:
        rest = set(range(count)) - known if known else set()
        if len(rest) == 1:
            null_label = rest.pop()
        elif images is not None and count == images.num_classes + 1:
            null_label, said = count - 1, False
        elif (images is not None and count == images.num_classes) or (known and not rest):
            raise ValueError(
                f"{folder} has {count} rows, one for each class, and no row for \"no class\": it lacks an "
                "unconditional branch, so there is no gap to distil or to measure; if one of them is that row, name it "
                f"(--null NUMBER); else take --null {RANDOM}, a random class in its place (independent-condition "
                "guidance), or train a student from the pictures by label_drop")
        else:
            raise ValueError(f"{folder} has {count} rows of classes and does not say which one means \"no class\"; "
                             f"name it with --null NUMBER (often the last, {count - 1})")
    if not isinstance(null_label, int) or not 0 <= null_label < count:
        raise ValueError(f"the null label must be in 0 .. {count - 1}, or {RANDOM}, not {null_label!r}: {folder} has "
                         f"{count} rows of classes")
    return tuple(k for k in range(count) if k != null_label), null_label, said


def _weight_files(place: Path) -> list[Path]:
    """The files with the network's weights; pickled ones are refused, and those with averaged weights beside them."""
    averaged = sorted(p.name for p in place.iterdir() if p.is_file() and p.suffix in (".safetensors", *_PICKLED)
                      and _AVERAGED.search(p.stem))
    if averaged and (place / WEIGHTS).is_file():
        raise ValueError(f"{place} has averaged weights (EMA) in {averaged[0]} beside {WEIGHTS}; give the ones that "
                         f"you mean the name {WEIGHTS}, and move the others away")
    if (place / WEIGHTS).is_file():
        return [place / WEIGHTS]
    index = place / f"{WEIGHTS}.index.json"
    if index.is_file():
        names = sorted(set(store.read_json(index, "weight_map")["weight_map"].values()))
        files = [place / name for name in names if Path(name).name == name]
        if files and len(files) == len(names) and all(f.is_file() for f in files):
            return files
        raise FileNotFoundError(f"{index} names files that are not there")
    if others := sorted(p.name for p in place.glob("*.safetensors")):
        raise FileNotFoundError(f"{place} has no {WEIGHTS}, but {', '.join(others[:3])}; rename the one that you mean")
    if pickled := sorted(p.name for p in place.iterdir() if p.suffix in _PICKLED):
        raise ValueError(f"{place / pickled[0]} is pickled, and reading it may run any program, so it is not opened; "
                         "if you trust it, convert it with diffusers: Class.from_pretrained(FOLDER, "
                         "use_safetensors=False).save_pretrained(FOLDER)")
    raise FileNotFoundError(f"there are no weights at {place / WEIGHTS}")


def _built(kind: str, config: Mapping[str, Any]) -> Any:
    """A new network of a class of diffusers, without its messages about the config; or what a function returns."""
    if _names_function(kind):
        return _module_of(_called(kind))
    diffusers = _diffusers()
    known = {k: v for k, v in config.items() if not k.startswith("_")}
    try:
        return getattr(diffusers, kind)(**known)
    except TypeError:                            # a config of another version holds more than this one takes
        return getattr(diffusers, kind).from_config(dict(known))
    except (ValueError, RuntimeError, ArithmeticError, NotImplementedError, LookupError) as error:
        raise ValueError(f"diffusers makes no {kind} of this config ({' '.join(str(error).split())[:200]})") from error


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"a network of diffusers needs diffusers; type: {environment.install('scale')}") from error
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def _filled(kind: str, config: Mapping[str, Any], files: Sequence[Path], place: Path) -> nn.Module:
    """A network with the weights of its files; ValueError where config and weights disagree."""
    weights: dict[str, Tensor] = {}
    try:
        for path in files:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    weights[_renamed(name)] = export._number(file, name)
        layers = config.get("layers_per_block", 1) * len(config.get("block_out_channels", ())) if (
            kind == "UNet2DModel") else config.get("num_layers", 1)
        if layers > len(weights):                # a stranger's config cannot ask for more than its weights bear out
            raise ValueError(f"{layers} layers, but {len(weights)} weights")
        with torch.device("meta"):
            wanted = _built(kind, config).state_dict()
        if "pos_embed.pos_embed" not in wanted:
            weights.pop("pos_embed.pos_embed", None)     # computed, and stored by older versions
        store.check_weights(wanted, weights)
    except (SafetensorError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{place}: config and weights disagree ({error})") from error
    model = _built(kind, config)
    model.load_state_dict(weights, assign=True)
    return model


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


# -------------------------------------------------------------------------------------------------- of a function


def _called(text: str) -> Any:
    """What the function returns; the current folder is searched, too, as `python -m` does."""
    module, _, name = text.partition(":")
    here = os.getcwd()  # noqa: PTH109
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{text} is no function that Python finds from {here} ({error})") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise ValueError(f"{text} is no function; it must return the network")
    try:
        return function()
    except Exception as error:
        raise ValueError(f"{text} ended in {type(error).__name__}: {error}") from error


def _module_of(made: Any) -> Any:
    """The network of a pipeline of diffusers, or what was made itself."""
    if not hasattr(made, "scheduler") or isinstance(made, nn.Module):
        return made
    return getattr(made, "unet", None) or getattr(made, "transformer", None) or made


def _from_function(text: str, null_label: int | str | None, images: Shape | None, diffusion: Diffusion | None) -> Found:
    """A module of a user's, or a pipeline of diffusers.

    The module is called net(x_t, t, y) and returns its prediction.  It has an attribute `null_label`; it may have
    `alphas_cumprod` (T,) or `scheduler` (of diffusers), `prediction_type` (epsilon by default) and `num_classes`.
    """
    made = _called(text)
    net, scheduler = _module_of(made), getattr(made, "scheduler", None)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{text} returns a {type(made).__name__}; it must return a torch module")
    if scheduler is not None:
        try:
            diffusion = read_scheduler(dict(scheduler.config))
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from None
    elif hasattr(net, "alphas_cumprod"):
        abar = torch.as_tensor(net.alphas_cumprod, dtype=torch.float32).detach().cpu()
        try:
            diffusion = Diffusion(Schedule(abar), getattr(net, "prediction_type", "epsilon"))
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from None
    if diffusion is None:
        raise ValueError(f"the module of {text} does not say how it was noised; give it an attribute alphas_cumprod "
                         "(T,), or scheduler, a scheduler of diffusers")
    if scheduler is None and not hasattr(net, "alphas_cumprod"):
        diffusion = Diffusion(diffusion.schedule, getattr(net, "prediction_type", "epsilon"), diffusion.note)
    if diffusion.prediction not in PREDICTIONS:
        raise ValueError(f"prediction_type of {text} must be one of {', '.join(PREDICTIONS)}, "
                         f"not {diffusion.prediction!r}")
    kind, config = type(net).__name__, dict(getattr(net, "config", {}) or {}) if type(net).__name__ in KINDS else {}
    null: Any
    said = True
    if kind in KINDS:
        shape = _shape(config, kind, images, Path(text))
        classes, null, said = _rows(config, kind, None, null_label, images, Path(text))
        config = json.loads(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, default=list))
    else:
        kind, null = text, getattr(net, "null_label", None) if null_label is None else null_label
        if images is None:
            raise ValueError(f"what pictures the module of {text} takes is not known; give pictures, too")
        if not isinstance(null, int) and null != RANDOM:
            raise ValueError(f"the module of {text} has no attribute null_label, the number that means \"no class\"; "
                             f"give it one, or name it with --null NUMBER, or --null {RANDOM}")
        shape, count = images, getattr(net, "num_classes", images.num_classes)
        classes = tuple(range(count)) if null == RANDOM else tuple(k for k in range(count + 1) if k != null)[:count]
        null = None if null == RANDOM else null
    rows = (*classes, classes[0] if null is None else null)
    other = Other(shape.size, shape.channels, len(classes), kind, json.dumps(config, sort_keys=True), rows, diffusion)
    weights = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    answers = [] if kind in KINDS else [_answers(net, other)]
    digest = store.digest(weights, json.dumps([text, other.settings, rows, diffusion.prediction,
                                               diffusion.schedule.alphas_cumprod.tolist(), *answers]))
    model: Any = EpsModel(net, other)
    return Found(IndependentCondition(model) if null is None else model, diffusion, digest, (), said)


@torch.no_grad()
def _answers(net: nn.Module, config: Other) -> list[float]:
    """A few numbers that change when the code of a user's module does: what it answers to pictures that never change.

    They are computed in float64 and rounded, so that neither threads nor machines change them; in float32, with two
    digits, if the module takes no other.  [] for a module that answers otherwise each time, or not at all.
    """
    generator, T = torch.Generator().manual_seed(0), config.diffusion.schedule.T
    labels = (0, config.num_classes - 1, config.num_classes)
    x_t, seen = torch.randn((2, len(labels), config.channels, config.size, config.size), generator=generator,
                            dtype=torch.float64)
    t, rows = torch.tensor([T // 8, T // 2, T - 1]), torch.tensor([config.rows[k] for k in labels])

    def asked(dtype: torch.dtype) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = copy.deepcopy(net).cpu().to(dtype).eval()(x_t.to(dtype), t, rows)
        out = getattr(out, "sample", out)[:, : config.channels].double()
        size = out.square().flatten(1).mean(1).sqrt()
        return torch.cat([size, (out * seen).flatten(1).mean(1) / size.clamp(min=1e-30)])

    for dtype, digits in ((torch.float64, 6), (torch.float32, 2)):
        with suppress(Exception):                # a module of anybody's fails in any way
            first, again = asked(dtype), asked(dtype)
            if not bool((first - again).abs().max() < 10.0**-digits):          # NaN, too
                return []
            return [0.0 + round(float(f"{v:.{digits}g}"), digits + 2) for v in first.tolist()]      # no -0.0
    return []


# ---------------------------------------------------------------------------------------------------------- checks


def _check_table(schedule: Schedule, name: str) -> None:
    """Raise ValueError if most of the picture is still there at the last timestep: samples start from noise alone."""
    last = float(schedule.alphas_cumprod[-1])
    if last > MOST_LEFT:
        raise ValueError(f"{name} noises too little: abar is {last:.3g} at the last of {schedule.T} timesteps, and "
                         f"must be below {MOST_LEFT:g} there; alphas_cumprod is the running product of all alphas, and "
                         "betas belong to their number of timesteps")


@torch.no_grad()
def _probe(model: Any, T: int, name: str) -> None:
    """Raise ValueError unless the model takes its pictures, at the first and at the last timestep, and gives noise."""
    cfg = model.config
    x = torch.randn((2, cfg.channels, cfg.size, cfg.size), generator=torch.Generator().manual_seed(0))
    try:
        eps = model(x, torch.tensor([0, T - 1]), torch.tensor([0, model.null_label]))
    except Exception as error:                   # a module of anybody's fails in any way
        raise ValueError(f"{name} cannot be called with pictures {tuple(x.shape[1:])}, timesteps and labels "
                         f"({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error
    if not isinstance(eps, Tensor) or eps.shape != x.shape:
        raise ValueError(f"{name} gives {tuple(getattr(eps, 'shape', ())) or type(eps).__name__} for pictures "
                         f"{tuple(x.shape)}; a prediction has the same shape")
    if not bool(eps.isfinite().all()):
        raise ValueError(f"{name} gives NaN or infinity at timestep 0 or {T - 1}")


@torch.no_grad()
def ignores_label(model: Any) -> bool:
    """Whether a network answers alike for every label, also after its weights that are all zero are moved.

    Many networks start with a last layer of zeros: they answer alike at first, and learn not to.
    """
    cfg, generator = model.config, torch.Generator().manual_seed(0)
    moved = copy.deepcopy(model).cpu().eval()
    for p in moved.parameters():
        if not bool(p.any()):
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    y = torch.tensor(sorted({0, cfg.num_classes - 1, model.null_label}))
    x = torch.randn((1, cfg.channels, cfg.size, cfg.size), generator=generator).expand(len(y), -1, -1, -1)
    eps = moved(x.contiguous(), torch.full((len(y),), 5), y)
    return bool((eps - eps[:1]).abs().max() < 1e-7)
