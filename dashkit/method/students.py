"""Students of other kinds: a single head, a student that gets hints, and a rule at sampling time.

How each kind begins stands in `experiments.students`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dashkit.method.guidance import Branches, branches
from dashkit.method.losses import per_sample
from dashkit.method.schedule import expand
from dashkit.method.unet import UNet, UNetConfig


def middle_channels(config: UNetConfig) -> int:
    """The number of channels in the middle of a network, where hint features are taken."""
    return config.ch * config.ch_mult[-1]


def with_hint(net: UNet, x_t: Tensor, t: Tensor, y: Tensor) -> tuple[Branches, Tensor]:
    """`branches` of a network, and the features (2B, middle_channels, h, w) of its middle in the same pass."""
    caught: list[Tensor] = []
    handle = net.mid[-1].register_forward_hook(lambda module, arguments, output: caught.append(output))
    try:
        return branches(net, x_t, t, y), caught[0]
    finally:
        handle.remove()


def hint_term(adapter: nn.Module, features: Tensor, hint: Tensor) -> Tensor:
    """|A h_S - h_T|^2 of the conditional branch, (B,): FitNets (Romero et al., 2015).

    `features` (2B, ...) are the student's of both branches, `hint` (B, ...) the teacher's of the conditional one.
    """
    return per_sample(adapter(features[: len(hint)]), hint)


class SingleHead(nn.Module):
    """A student that predicts the guided output itself, in one pass: w is a constant input channel.

    Guidance distillation (Meng et al., 2023) in its plainest form, trained for w in `W_RANGE`, always with a real
    label: its null row is never trained, and nothing asks for it.  Called like any model it gives w = 1.
    """

    W_RANGE = (0.0, 4.0)

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config, self.null_label = config, config.num_classes
        self.net = UNet(UNetConfig(**config.asdict() | {"channels": config.channels + 1}))

    def guided(self, x_t: Tensor, t: Tensor, y: Tensor, w: float | Tensor) -> Tensor:
        """eps_w (B, C, H, W); w is a number or (B,)."""
        scale = torch.as_tensor(w, dtype=x_t.dtype, device=x_t.device).expand(len(x_t)) / self.W_RANGE[1]
        channel = expand(scale, x_t).expand(-1, 1, *x_t.shape[2:])
        return self.net(torch.cat([x_t, channel], 1), t, y)[:, :-1]

    def branches(self, x_t: Tensor, t: Tensor, y: Tensor) -> Branches:
        """Its outputs at w = 1 and w = 0, both with the real labels y (B,): the two branches that it stands for."""
        w = torch.cat([torch.ones_like(t), torch.zeros_like(t)]).to(x_t.dtype)
        eps = self.guided(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, y]), w)
        return Branches(*eps.chunk(2))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.guided(x_t, t, y, 1.0)


class IndependentCondition(nn.Module):
    """A model whose null label is a random class, drawn anew for each image and timestep.

    This is independent condition guidance (Sadat et al., 2025).  It needs no trained null row.  The mean over classes
    is near the unconditional prediction only if the classes are alike.  The class of an image depends on `seed`, on
    the first timestep of its batch and on its place in the batch, and on nothing else.
    """

    def __init__(self, net: UNet, *, seed: int = 0) -> None:
        super().__init__()
        self.net, self.config, self.null_label, self.seed = net, net.config, net.null_label, seed

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed << 16) + int(t[0]))      # a CPU's takes 32 bits
        other = torch.randint(self.null_label, y.shape, generator=generator).to(y.device)
        return self.net(x_t, t, torch.where(y == self.null_label, other, y))


class MeanCondition(nn.Module):
    """A model whose prediction without a class is the mean of those with each class.

    An `IndependentCondition` predicts this on average, and so does the best student of it under a squared loss.  Of
    more than `MOST` classes these many are taken, spread evenly over their numbers.
    """

    MOST = 50

    def __init__(self, net: nn.Module, null_label: int) -> None:
        super().__init__()
        self.net, self.null_label = net, null_label
        self.classes = torch.linspace(0, null_label - 1, min(null_label, self.MOST)).round().long().tolist()

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        eps, without = torch.empty_like(x_t), y == self.null_label
        if bool((~without).any()):
            eps[~without] = self.net(x_t[~without], t[~without], y[~without])
        if bool(without.any()):
            x, s, z = x_t[without], t[without], y[without]
            eps[without] = sum(self.net(x, s, torch.full_like(z, k)) for k in self.classes) / len(self.classes)
        return eps


def compared(model: Any, teacher: Any) -> Any:
    """A model as its gap is compared with its teacher's, the teacher itself among them.

    If the teacher's null label is a random class, a gap of one state is of that class, and no student that learns from
    many of them can have it: the mean over all classes takes its place, in the teacher and in a student of its kind.
    """
    if not (isinstance(teacher, IndependentCondition) and isinstance(model, IndependentCondition)):
        return model
    return MeanCondition(model.net, model.null_label).train(model.training)
