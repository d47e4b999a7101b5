"""A smaller network of the same class: what to change of a config so that it has a wished share of the parameters."""

import json
import math
from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import torch

from dashkit.interop.networks import Other
from dashkit.method.unet import UNetConfig, n_parameters

RATIOS = [Fraction(k, 16) for k in (16, 14, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1)]     # of the width
WIDEST = 65              # quarters of the width of the first level
BALANCE = 0.15           # how much it counts, beside the size, that a transformer's depth and width shrink alike


def shrunk(teacher: Other, factor: float) -> dict[str, Any]:
    """What to change of a teacher's config so that a student has about 1 / factor of its parameters.

    Of a UNet the widths and the blocks a level, of a DiT the depth and the heads (and their width) become fewer.
    ValueError for a class that this kit cannot shrink.
    """
    config = json.loads(teacher.settings)
    if teacher.kind == "UNet2DModel":
        candidates = [(c, _size(teacher, c), 0.0) for c in _unets(config)]
    elif teacher.kind == "DiTTransformer2DModel":
        candidates = list(_transformers(config, teacher))
    else:
        raise ValueError(f"{teacher.kind} is a module of your own, which this kit cannot shrink; name a student with "
                         "--student ours or --student package.module:function")
    wanted = math.log(_size(teacher, {}) / factor)
    ranked = [(abs(math.log(size) - wanted) + extra, c) for c, size, extra in candidates]
    return min(ranked, key=lambda pair: pair[0])[1]


def _size(teacher: Other, changes: dict[str, Any]) -> int:
    return parameters_of(teacher.changed(changes))


def _unets(config: dict) -> Iterator[dict[str, Any]]:
    """Widths scaled alike and rounded to what GroupNorm and attention take, with fewer blocks a level."""
    widths, layers = config.get("block_out_channels", (224, 448, 672, 896)), config.get("layers_per_block", 2)
    groups, head = config.get("norm_num_groups", 32), config.get("attention_head_dim", 8)
    heads = [head] if head is None or head < 8 or head % 2 else [head, head // 2]
    for ratio, head in product(RATIOS, heads):
        fewer = next(g for g in _halves(groups) if math.lcm(g, 2) <= max(min(widths) * ratio, 2))
        unit = math.lcm(fewer, head or 1, 2)
        scaled = [max(unit, round(w * ratio / unit) * unit) for w in widths]
        if any(s > w for s, w in zip(scaled, widths, strict=True)):
            continue
        for blocks in range(1, layers + 1):
            yield {"block_out_channels": scaled, "layers_per_block": blocks, "norm_num_groups": fewer,
                   "attention_head_dim": head, "dropout": 0.0}


def _halves(n: int) -> Iterator[int]:
    """n, n / 2, ... as long as it is whole, and at last 1."""
    while n % 2 == 0:
        yield n
        n //= 2
    yield n
    yield 1


def _transformers(config: dict, teacher: Other) -> Iterator[tuple[dict[str, Any], int, float]]:
    """Fewer layers of fewer or narrower heads, their parameters, and how unevenly depth and width shrink."""
    depth, heads, width = (config[k] for k in ("num_layers", "num_attention_heads", "attention_head_dim"))
    for fewer in range(1, heads + 1):
        for head in sorted({h for h in (width, width // 2, width // 4) if h >= 4 and h % 4 == 0} or {width}):
            change = {"num_attention_heads": fewer, "attention_head_dim": head, "dropout": 0.0}
            one, two = (_size(teacher, change | {"num_layers": n}) for n in (1, 2))      # all layers are alike
            for layers in range(1, depth + 1):
                uneven = abs(math.log((layers / depth) / (fewer * head / (heads * width))))
                yield change | {"num_layers": layers}, one + (layers - 1) * (two - one), BALANCE * uneven


def shrunk_unet(shape: UNetConfig, parameters: float) -> UNetConfig:
    """A UNet of this kit for the same pictures with about so many parameters: one block a level, as the paper's."""
    def groups(ch: int) -> int:
        return next(g for g in (16, 8, 4, 2) if (ch % g == 0 and ch // g >= 4) or g == 2)

    def made(k: int) -> UNetConfig:
        return UNetConfig(**shape.asdict() | {"ch": 4 * k, "blocks": 1, "groups": groups(4 * k), "dropout": 0.0})

    # the first that is larger, and the one before it
    k = bisect_left(range(1, WIDEST), parameters, key=lambda k: parameters_of(made(k))) + 1
    return min((made(max(k - 1, 1)), made(k)), key=lambda c: abs(math.log(parameters_of(c) / parameters)))


def parameters_of(config: UNetConfig | Other) -> int:
    """The parameters that a network of this shape has; it is built without memory for weights."""
    with torch.device("meta"):
        return n_parameters(config.make())
