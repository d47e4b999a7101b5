"""Students that are cut out of their teacher: single weights (`pruned`), or whole channels (`sliced`)."""

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor, nn

from dashkit.method.unet import UNet, UNetConfig, n_parameters


def pruned(teacher: UNet, config: UNetConfig) -> UNet:
    """The teacher with its smallest weights zero for good; as many remain as a network of `config` has parameters.

    Magnitude pruning: one threshold for all weight matrices; biases and norms stay.  The shapes stay, too, so there are
    fewer parameters to store, but as many operations.  Zeros get no gradient, so AdamW and its average keep them zero.
    """
    net = UNet(teacher.config).to(next(teacher.parameters()).device)        # its masks stay where it is trained
    net.load_state_dict(teacher.state_dict())
    with torch.device("meta"):
        budget = n_parameters(UNet(config))
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    kept = budget - (n_parameters(net) - sum(w.numel() for w in weights))
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    if not 0 < kept <= len(sizes):
        raise ValueError(f"a network of {n_parameters(net)} parameters cannot be pruned to {budget}")
    threshold = sizes.kthvalue(len(sizes) - kept).values if kept < len(sizes) else sizes.new_tensor(-1.0)
    for weight in weights:
        mask = (weight.detach().abs() > threshold).to(weight)
        with torch.no_grad():
            weight.mul_(mask)
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    return net


def n_nonzero(model: nn.Module) -> int:
    """The number of weights of a model that are not zero: what a pruned network has to store."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


def sliced(teacher: UNet, config: UNetConfig) -> UNet:
    """A network of `config` cut out of the teacher: its strongest channels, first blocks and last block of each level.

    Structural pruning (Li et al., 2017): channels are ranked by the L1 norm of the weights that write them, in whole
    GroupNorm groups, and one choice holds wherever a width occurs, since residual sums tie the layers together.
    """
    big = teacher.config
    ratio = big.ch // config.ch
    if big.ch != ratio * config.ch or big.ch_mult != config.ch_mult or big.blocks < config.blocks:
        raise ValueError("the smaller network must have the same levels, fewer blocks and a width that divides")
    weights, net = teacher.state_dict(), UNet(config)
    keep = {big.ch * m: _strongest(teacher, big.ch * m, ratio) for m in set(big.ch_mult)}
    pairs = _layers(config, config.blocks, config.blocks), _layers(big, config.blocks, big.blocks)
    cut: dict[str, Tensor] = {}
    for (own, _), (source, widths) in zip(*pairs, strict=True):
        inside = torch.cat([keep[w] + sum(widths[:i]) for i, w in enumerate(widths[:-1])])
        for name in net.get_submodule(own).state_dict():
            rows, columns = keep[widths[-1]], inside
            if name.startswith(("res.conv2", "res.norm2", "attn")):
                columns = keep[widths[-1]]
            if name.startswith("res.norm1"):
                rows = inside
            whole = weights[f"{source}.{name}"]
            if name.startswith("attn.qkv"):                     # q, k and v, one below the other
                rows = torch.cat([rows + i * (len(whole) // 3) for i in range(3)])
            part = whole[rows]
            cut[f"{own}.{name}"] = part if part.ndim == 1 or name.startswith("res.emb") else part[:, columns]
    first, last = keep[big.ch * big.ch_mult[0]], keep[big.ch * big.ch_mult[0]]
    cut |= {"conv_in.weight": weights["conv_in.weight"][first], "conv_in.bias": weights["conv_in.bias"][first],
            "norm_out.weight": weights["norm_out.weight"][last], "norm_out.bias": weights["norm_out.bias"][last],
            "conv_out.weight": weights["conv_out.weight"][:, last], "conv_out.bias": weights["conv_out.bias"]}
    # the embedding is four times as wide as the network, and its units stay as they are: the first of each run
    device = first.device
    units = torch.arange(0, 4 * big.ch, ratio, device=device)
    sines = torch.arange(0, big.ch, ratio, device=device)
    cut |= {"time_mlp.0.weight": weights["time_mlp.0.weight"][units][:, sines] * ratio,
            "time_mlp.0.bias": weights["time_mlp.0.bias"][units],
            "time_mlp.2.weight": weights["time_mlp.2.weight"][units][:, units] * ratio,
            "time_mlp.2.bias": weights["time_mlp.2.bias"][units],
            "class_table.weight": weights["class_table.weight"][:, units]}
    for name in cut:
        if name.endswith("res.emb.weight"):
            cut[name] = cut[name][:, units] * ratio
    net.load_state_dict(cut)
    return net


def _strongest(net: UNet, width: int, ratio: int) -> Tensor:
    """The 1/ratio of a width's channels, in whole groups, with the largest L1 norm over all its convolutions."""
    strength = reduce(torch.add, [m.weight.detach().abs().sum((1, 2, 3)) for m in net.modules()
                                  if isinstance(m, nn.Conv2d) and m.out_channels == width])
    group = width // net.config.groups
    order = strength.reshape(-1, group).sum(1).argsort(descending=True)[: net.config.groups // ratio].sort().values
    return (order[:, None] * group + torch.arange(group, device=order.device)).flatten()


def _layers(cfg: UNetConfig, blocks: int, of: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The layers that a network keeps, `blocks` of its `of` blocks a level: name, (input widths ..., output width)."""
    widths, c, skips, at = [cfg.ch * m for m in cfg.ch_mult], cfg.ch, [cfg.ch], 0
    for i, width in enumerate(widths):
        for k in range(of):
            if k < blocks:
                yield f"down.{at}", (c, width)
            c, at = width, at + 1
            skips.append(c)
        if i < len(widths) - 1:
            yield f"down.{at}", (c, c)
            at += 1
            skips.append(c)
    yield from (("mid.0", (c, c)), ("mid.1", (c, c)))
    at = 0
    for i in reversed(range(len(widths))):
        for k in range(of + 1):
            skip = skips.pop()
            if k < blocks or k == of:
                yield f"up.{at}", (c, skip, widths[i])
            c, at = widths[i], at + 1
        if i > 0:
            yield f"up.{at}", (c, c)
            at += 1
