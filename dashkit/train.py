"""Training: one generator for the teacher and for any number of students in lockstep.  Layer 3."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
LR_MIN = 1e-6


def cosine_lr(step: int, *, lr: float, steps: int, warmup: int) -> float:
    """The learning rate of update `step` (from 0): linear warm-up, then half a cosine from lr to 1e-6.

    >>> [cosine_lr(s, lr=1.0, steps=10, warmup=2) for s in (0, 1, 2)]
    [0.5, 1.0, 1.0]
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return LR_MIN + (lr - LR_MIN) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def flatten(model: nn.Module) -> nn.Parameter:
    """Move a model's trainable parameters and their gradients into one vector, of which they become views.

    Clipping, AdamW and the average are then one operation each, instead of one for every layer.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in params]))
    vector.grad = torch.zeros_like(vector)
    start = 0
    for p in params:
        place = (p.shape, p.stride(), start)             # the strides keep channels_last as it is
        p.data = vector.data.as_strided(*place).copy_(p.detach())
        p.grad = vector.grad.as_strided(*place)
        start += p.numel()
    return vector


class Learner:
    """A model with its AdamW, its exponential moving average `ema` and the number of updates done.

    `tensors` and `load` carry all of it through a file, so that a resumed run goes on bit for bit.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, steps: int, ema: float, warmup: int = 0, clip: float = 1.0
    ) -> None:
        self.model, self.lr, self.steps, self.warmup, self.clip, self.decay = model, lr, steps, warmup, clip, ema
        self.ema = copy.deepcopy(model).eval()
        self.vector, self.average = flatten(model), flatten(self.ema).detach()
        self.optimiser = torch.optim.AdamW([self.vector], lr=lr, fused=True)
        self.done = 0

    def update(self, loss: Tensor) -> None:
        """One optimiser step on a scalar loss, and one of the average, which starts as the first step's weights."""
        self.optimiser.param_groups[0]["lr"] = cosine_lr(self.done, lr=self.lr, steps=self.steps, warmup=self.warmup)
        self.vector.grad.zero_()
        loss.backward()
        nn.utils.clip_grad_norm_(self.vector, self.clip)
        self.optimiser.step()
        self.average.lerp_(self.vector.detach(), 1 - self.decay if self.done else 1.0)
        self.done += 1

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes in training, flat."""
        out = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        out |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        out |= {f"adam.{k}": v for k, v in self.optimiser.state[self.vector].items()}
        return out | {"done": torch.tensor(self.done)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned; ValueError if it belongs to another model."""
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            self.model.load_state_dict(part("model."))
            self.ema.load_state_dict(part("ema."))
            self.done = int(tensors["done"])
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": {0: part("adam.")}})
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"the checkpoint does not fit this model: {error}") from error


class Step(NamedTuple):
    """One update of every learner."""

    number: int                # 1 for the first
    losses: dict[str, Tensor]  # the loss of each learner, a detached scalar on its device


def fit(
    learners: Mapping[str, Learner],
    loss_fn: Callable[[str, nn.Module, Batch], Tensor],
    batches: Iterable[Batch],
    *,
    steps: int,
    check_every: int = 25,
) -> Iterator[Step]:
    """Train `learners` on the same batches until each has done `steps` updates; yields after each.

    loss_fn(name, model, batch) returns a scalar.  The caller logs, plots, saves and may stop at any time.  Raises
    FloatingPointError with the learner and the step when a loss is not finite (looked at every `check_every` steps and
    at the last one).
    """
    done = {learner.done for learner in learners.values()}
    if len(done) != 1:
        raise ValueError(f"learners in lockstep must have done the same number of steps, not {sorted(done)}")
    for number, batch in zip(range(done.pop() + 1, steps + 1), batches, strict=False):
        losses = {}
        for name, learner in learners.items():
            loss = loss_fn(name, learner.model, batch)
            learner.update(loss)
            losses[name] = loss.detach()
        if number % check_every == 0 or number == steps:
            for name, loss in losses.items():
                if not math.isfinite(loss.item()):
                    raise FloatingPointError(f"the loss of {name} is {loss.item()} at step {number}; lower its lr")
        yield Step(number, losses)
