"""Networks as folders that diffusers loads, and back.  Needs no diffusers itself.

`write_pipeline` writes a whole pipeline, which samples; `write` the network alone, a part of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dashkit.interop.schedules import scheduler_config
from dashkit.method.schedule import cosine_schedule
from dashkit.method.unet import Attention, Stage, UNet, UNetConfig
from dashkit.storage import store
from dashkit.storage.paths import as_path

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
INDEX, SCHEDULER, NETWORK = "model_index.json", "scheduler/scheduler_config.json", "unet"
PIPELINE = Path(__file__).with_name("pipeline.py")      # copied into every exported folder
_FIXED = {
    "_class_name": "UNet2DModel", "act_fn": "silu", "attention_head_dim": None, "center_input_sample": False,
    "class_embed_type": None, "downsample_padding": 0, "downsample_type": "conv", "flip_sin_to_cos": False,
    "freq_shift": 1, "mid_block_scale_factor": 1, "norm_eps": 1e-6, "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional", "upsample_type": "conv",
}
_OUTSIDE = {"time_mlp.0": "time_embedding.linear_1", "time_mlp.2": "time_embedding.linear_2", "conv_in": "conv_in",
            "norm_out": "conv_norm_out", "conv_out": "conv_out"}
_IN_BLOCK = {"norm1": "norm1", "conv1": "conv1", "emb": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
             "skip": "conv_shortcut"}


def write_pipeline(model: UNet, folder: Path | str, *, T: int, names: Sequence[str] = ()) -> None:
    """Write a network as a folder from which diffusers samples as we do: network, schedule and class names.

    T is the number of timesteps of the cosine schedule that the network was trained on; `names` are those of its
    classes, () for their numbers.  The folder holds model_index.json, pipeline.py, unet/ and scheduler/; the index is
    written last, so that a folder with an index is whole.  ValueError for anything that is not a plain UNet, for
    names that are not one text for each class, and for a T that is no positive integer.
    """
    folder, count = as_path(folder, "folder"), _plain(model).config.num_classes
    names = _names_of(count, names)
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"T must be a positive integer, not {T!r:.80}")
    write(model, folder / NETWORK)
    write_around(folder, scheduler_config(cosine_schedule(T), "epsilon"), range(count + 1), names=names)


def write_around(folder: Path, scheduler: Mapping[str, Any], rows: Sequence[int], *, names: Sequence[str] = (),
                 kind: str = "UNet2DModel") -> None:
    """Make a pipeline of a folder that holds a network of a class of diffusers in `NETWORK`.

    `rows` are what the network takes for each class, and at last for "no class"; `scheduler` is the config of a
    DDIMScheduler.
    """
    *classes, null = rows
    store.write_json(folder / SCHEDULER, dict(scheduler))
    store.write_bytes(folder / PIPELINE.name, PIPELINE.read_bytes())
    index = {
        "_class_name": [PIPELINE.stem, "GuidedPipeline"], "_diffusers_version": "0.35.0",
        "id2label": {str(k): name for k, name in zip(classes, _names_of(len(classes), names), strict=True)},
        "null_label": null, "scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", kind]}
    store.write_json(folder / INDEX, index)


def _names_of(count: int, names: Sequence[str]) -> list[str]:
    """The names of `count` classes, their numbers for (); ValueError unless they are as many different texts."""
    found = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    texts = {name for name in found if isinstance(name, str) and name}
    if found and not len(texts) == len(found) == count:
        raise ValueError(f"{count} classes need as many names, all of them different texts, not {names!r:.80}")
    return found or [str(i) for i in range(count)]


def write(model: UNet, folder: Path | str) -> None:
    """Write a network as a diffusers `UNet2DModel`: its `sample` for (x_t, t, class_labels=y) is the same eps.

    The null label is the last class.  ValueError for anything that is not a plain UNet.
    """
    folder = as_path(folder, "folder")
    cfg, ours = _plain(model).config, model.state_dict()
    attends = [cfg.size >> i in cfg.attention for i in range(len(cfg.ch_mult))]
    config = _FIXED | {
        "sample_size": cfg.size, "in_channels": cfg.channels, "out_channels": cfg.channels,
        "layers_per_block": cfg.blocks, "block_out_channels": [cfg.ch * m for m in cfg.ch_mult],
        "norm_num_groups": cfg.groups, "dropout": cfg.dropout, "num_class_embeds": cfg.num_classes + 1,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }
    theirs: dict[str, Tensor] = {}
    for own, other in _names(model):
        values = ours[own].chunk(len(other))                   # queries, keys and values are one matrix here
        theirs |= {name: v.detach().cpu().contiguous().clone() for name, v in zip(other, values, strict=True)}
    store.write_bytes(folder / WEIGHTS, save(theirs, metadata={"format": "pt"}))
    store.write_json(folder / CONFIG, config)


def _plain(model: UNet) -> UNet:
    if type(model) is not UNet:
        raise ValueError(f"only a plain UNet can be exported, not {type(model).__name__}")
    return model


def read(folder: Path | str) -> UNet:
    """The network that `write`, `write_pipeline` or diffusers wrote: the folder of a network, or of a whole pipeline.

    ValueError if it is not of this family, or its weights are not.
    """
    folder = as_path(folder, "folder")
    if not (folder / CONFIG).is_file() and (folder / NETWORK).is_dir():
        folder = folder / NETWORK
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no network: there is no {CONFIG} in it, nor in {NETWORK}/")
    config = store.read_json(folder / CONFIG)
    for key, value in _FIXED.items():
        if key not in config:
            raise ValueError(f"{folder}: {key} is missing, and diffusers' own default need not be {value!r}, as here")
        if config[key] != value:
            raise ValueError(f"{folder}: {key} is {config[key]!r}, but networks of this kit have {value!r}")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"there are no weights at {folder / WEIGHTS}")
    try:
        with safe_open(folder / WEIGHTS, framework="pt", device="cpu") as file:
            model = _described(config, most=len(file.keys()))
            ours = {own: torch.cat([_number(file, name) for name in other]) for own, other in _names(model)}
            more = sorted({*file.keys()} - {name for _, other in _names(model) for name in other})
        model.load_state_dict(ours, assign=True)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, OSError,
            SafetensorError) as error:
        raise ValueError(f"{folder} holds no network of this kit ({error})") from error
    if more:
        raise ValueError(f"{folder} holds more than a network of this kit: {', '.join(more[:3])}, …")
    return model.eval()


def _described(config: dict, *, most: int) -> UNet:
    """The network of a diffusers config, without memory for weights; ValueError where it has more than `most` of them.

    So a stranger's config cannot ask for more than the weights beside it bear out.
    """
    ch, *_ = widths = config["block_out_channels"]
    size, blocks = config["sample_size"], config["layers_per_block"]
    if len(widths) * blocks > most or len(widths) != len(config["down_block_types"]):
        raise ValueError(f"{len(widths)} levels of {blocks} blocks need more than {most} weights")
    attention = tuple(size >> i for i, kind in enumerate(config["down_block_types"]) if kind.startswith("Attn"))
    with torch.device("meta"):
        return UNet(UNetConfig(size, config["in_channels"], config["num_class_embeds"] - 1, ch=ch,
                               ch_mult=tuple(w // ch for w in widths), blocks=blocks, groups=config["norm_num_groups"],
                               dropout=config.get("dropout", 0.0), attention=attention))


def _number(file: safe_open, name: str) -> Tensor:
    """One weight in float32; ValueError if it is whole numbers, NaN or infinite."""
    value = file.get_tensor(name)
    if not value.is_floating_point():
        raise ValueError(f"{name} is {value.dtype}")
    store.check_finite(name, value)
    return value.float()


def _names(model: UNet) -> Iterator[tuple[str, list[str]]]:
    """Each weight of ours, and the one or three of diffusers that it holds."""
    yield "class_table.weight", ["class_embedding.weight"]
    modules = dict(_OUTSIDE)
    for side, count in (("down", model.config.blocks), ("up", model.config.blocks + 1)):
        level = block = 0
        for i, layer in enumerate(getattr(model, side)):
            if isinstance(layer, Stage):
                modules |= _stage(layer, f"{side}.{i}", f"{side}_blocks.{level}", block)
                block += 1
            else:
                modules[f"{side}.{i}"] = f"{side}_blocks.{level}.{side}samplers.0.conv"
                level, block = level + 1, 0
        if block != count:
            raise ValueError(f"the {side} side has {block} blocks, not {count}")
    for i, layer in enumerate(model.mid):
        assert isinstance(layer, Stage)
        modules |= _stage(layer, f"mid.{i}", "mid_block", i)
    for own, other in modules.items():
        for kind in ("weight", "bias"):
            if own.endswith(".qkv"):
                yield f"{own}.{kind}", [f"{other}.to_{part}.{kind}" for part in "qkv"]
            elif f"{own}.{kind}" in model.state_dict():
                yield f"{own}.{kind}", [f"{other}.{kind}"]


def _stage(layer: Stage, own: str, block: str, i: int) -> dict[str, str]:
    parts = {f"{own}.res.{a}": f"{block}.resnets.{i}.{b}" for a, b in _IN_BLOCK.items()}
    if isinstance(layer.attn, Attention):
        place = f"{block}.attentions.{i}"
        parts |= {f"{own}.attn.norm": f"{place}.group_norm", f"{own}.attn.qkv": place,
                  f"{own}.attn.out": f"{place}.to_out.0"}
    return parts
