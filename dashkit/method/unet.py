"""The class-conditional DDPM UNet, from 8x8 grey to 64x64 colour."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class UNetConfig:
    """Everything that fixes a network's shape; every checkpoint holds it.

    `groups` is the number of groups of each GroupNorm: 32 in the paper.  Small networks are faster and no worse with
    fewer groups, of 4 to 8 channels each.  Attention (one head) is at the image sizes `attention`, and in the middle.
    """

    size: int
    channels: int
    num_classes: int
    ch: int
    ch_mult: tuple[int, ...]
    blocks: int
    groups: int = 32
    dropout: float = 0.0
    attention: tuple[int, ...] = (16,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        object.__setattr__(self, "attention", tuple(self.attention))
        for name in ("size", "channels", "num_classes", "ch", "blocks", "groups"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout!r}")
        if not self.ch_mult or any(not isinstance(m, int) or m < 1 for m in self.ch_mult):
            raise ValueError(f"ch_mult must be positive integers, not {self.ch_mult!r}")
        if self.ch % self.groups or self.ch % 2:
            raise ValueError(f"ch must be even and a multiple of groups: ch={self.ch}, groups={self.groups}")
        if self.size % 2 ** (len(self.ch_mult) - 1):
            raise ValueError(f"size {self.size} cannot be halved {len(self.ch_mult) - 1} times")

    def asdict(self) -> dict:
        return asdict(self)

    def make(self) -> "UNet":
        """A new network of this shape.  What describes a network of another library has this method, too."""
        return UNet(self)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of t (B,) at dim/2 frequencies from 1 to 1/10000; shape (B, dim).  DDPM's form."""
    half = dim // 2
    rates = torch.exp(-math.log(10_000) / max(half - 1, 1) * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class GroupNorm(nn.GroupNorm):
    """GroupNorm in the type of its input.

    Autocast alone would compute all of it in float32, at twice the memory traffic.  Its sums are float32 anyway.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ResBlock(nn.Module):
    def __init__(self, cin: int, cout: int, emb: int, cfg: UNetConfig) -> None:
        super().__init__()
        self.norm1 = GroupNorm(cfg.groups, cin, eps=1e-6)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.emb = nn.Linear(emb, cout)
        self.norm2 = GroupNorm(cfg.groups, cout, eps=1e-6)
        self.dropout = nn.Dropout(cfg.dropout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))             # (B, cout, H, W)
        h = h + self.emb(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class Attention(nn.Module):
    """Single-head self-attention over the H*W positions, with a residual."""

    def __init__(self, c: int, cfg: UNetConfig) -> None:
        super().__init__()
        self.norm = GroupNorm(cfg.groups, c, eps=1e-6)
        self.qkv = nn.Linear(c, 3 * c)
        self.out = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)       # (B, H*W, C)
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(*(part[:, None] for part in (q, k, v)))      # the fused kernels want a head
        h = self.out(h[:, 0])
        return x + h.transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """One residual block, with attention at the resolutions that have it."""

    def __init__(self, cin: int, cout: int, emb: int, attend: bool, cfg: UNetConfig) -> None:
        super().__init__()
        self.res = ResBlock(cin, cout, emb, cfg)
        self.attn = Attention(cout, cfg) if attend else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attn(self.res(x, emb))


class Down(nn.Conv2d):
    """Halve the resolution: 3x3 convolution of stride 2, padded right and below."""

    def __init__(self, c: int) -> None:
        super().__init__(c, c, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
    """Double the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, c: int) -> None:
        super().__init__(c, c, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """eps(x_t, t, y): the DDPM network (Ho et al., 2020) plus a class table with one null row.

    `model(x_t, t, y)` takes x_t (B, C, H, W) in float32, t (B,) and y (B,) integers with y in 0 .. num_classes, where
    `null_label` = num_classes means "no class", and returns eps (B, C, H, W).  Deterministic given its inputs.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = cfg = config
        self.null_label = cfg.num_classes
        emb, n_levels = 4 * cfg.ch, len(cfg.ch_mult)
        widths = [cfg.ch * m for m in cfg.ch_mult]
        attends = [cfg.size >> i in cfg.attention for i in range(n_levels)]

        self.time_mlp = nn.Sequential(nn.Linear(cfg.ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.class_table = nn.Embedding(cfg.num_classes + 1, emb)
        self.conv_in = nn.Conv2d(cfg.channels, cfg.ch, 3, padding=1)

        self.down, c, skips = nn.ModuleList(), cfg.ch, [cfg.ch]
        for i, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            for _ in range(cfg.blocks):
                self.down.append(Stage(c, width, emb, attend, cfg))
                c = width
                skips.append(c)
            if i < n_levels - 1:
                self.down.append(Down(c))
                skips.append(c)

        self.mid = nn.ModuleList([Stage(c, c, emb, True, cfg), Stage(c, c, emb, False, cfg)])

        self.up = nn.ModuleList()
        for i in reversed(range(n_levels)):
            for _ in range(cfg.blocks + 1):
                self.up.append(Stage(c + skips.pop(), widths[i], emb, attends[i], cfg))
                c = widths[i]
            if i > 0:
                self.up.append(Up(c))

        self.norm_out = GroupNorm(cfg.groups, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, cfg.channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        cfg = self.config
        if x_t.ndim != 4 or tuple(x_t.shape[1:]) != (cfg.channels, cfg.size, cfg.size):
            raise ValueError(f"x_t must have shape (B, {cfg.channels}, {cfg.size}, {cfg.size}), not {tuple(x_t.shape)}")
        emb = self.time_mlp(timestep_embedding(t, cfg.ch))   # (B, 4 ch)
        emb = F.silu(emb + self.class_table(y))
        x = self.conv_in(x_t)                                # (B, ch, H, W)
        skips = [x]
        for layer in self.down:
            x = layer(x, emb) if isinstance(layer, Stage) else layer(x)
            skips.append(x)
        for layer in self.mid:
            x = layer(x, emb)                                # (B, C, H/2^L, W/2^L)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], dim=1), emb) if isinstance(layer, Stage) else layer(x)
        x = F.silu(self.norm_out(x))
        if x.dtype == self.conv_out.weight.dtype:
            return self.conv_out(x)                          # (B, C, H, W)
        with torch.autocast(x.device.type, enabled=False):   # eps in float32: the gap is a small difference of two
            return self.conv_out(x.float())


def n_parameters(model: nn.Module) -> int:
    """The number of scalars in all weights, frozen or not.

    >>> config = UNetConfig(size=8, channels=1, num_classes=10, ch=32, ch_mult=(1, 2), blocks=1, attention=(4,))
    >>> n_parameters(UNet(config))
    702753
    """
    return sum(p.numel() for p in model.parameters())
