"""Training: one generator for the teacher and for any number of students in lockstep."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashkit.method.memory import Batch, Parts

LR_MIN = 1e-6
EXPLODED = 100.0      # times the loss of the first steps


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

    Clipping, AdamW and the average then take one operation each, not one for every layer.
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


def ramp(ema: float) -> Callable[[int], float]:
    """A decay that starts low and grows to `ema`: min(ema, (1 + n) / (10 + n)) after n updates.

    A fixed decay of 0.9999 still holds 92% of the starting weights after 800 updates; this one forgets them.

    >>> [ramp(0.99)(n) for n in (0, 8, 10_000)]
    [0.1, 0.5, 0.99]
    """
    return lambda n: min(ema, (1 + n) / (10 + n))


Average = Callable[[Tensor, Tensor], None]
"""average(gradient, loss) replaces both by their means over several processes, in place."""


class Learner:
    """A model with its AdamW, its exponential moving average `ema` and the number of updates done.

    `ema` is the average's decay, or a function of the number of updates that gives it, as `ramp` makes.

    `tensors` gives all of its state and `load` takes it back, so that a resumed run continues bit for bit.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, steps: int, ema: float | Callable[[int], float], warmup: int = 0,
        clip: float = 1.0,
    ) -> None:
        self.model, self.lr, self.steps, self.warmup, self.clip, self.decay = model, lr, steps, warmup, clip, ema
        self._ema = copy.deepcopy(model).eval()
        self.vector, self.average = flatten(model), flatten(self._ema).detach()
        cuda = self.vector.is_cuda
        self._rate = torch.tensor(lr, device=self.vector.device) if cuda else None      # where a CUDA graph reads it
        self._weight = torch.tensor(1.0, device=self.vector.device) if cuda and callable(ema) else None    # the same
        self.optimiser = torch.optim.AdamW([self.vector], lr=lr if self._rate is None else self._rate, fused=True,
                                           capturable=cuda)
        self.done = self.averaged = 0

    @property
    def ema(self) -> nn.Module:
        """The averaged model, for evaluation; ValueError if it did not see every update."""
        if not self.done == self.averaged > 0:
            raise ValueError(f"the average has seen {self.averaged} of {self.done} updates")
        return self._ema

    def update(self, loss: Tensor | Iterable[Tensor], average: Average | None = None) -> Tensor:
        """One step of the optimiser on a scalar loss, then one of the average.  Returns the loss.

        The average starts as the weights after the first step.  A loss may come in parts that are computed one after
        another, so that only the activations of one part are in memory; the loss is their sum.
        """
        whole = self.differentiate(loss, average)
        self.step()
        return whole

    def differentiate(self, loss: Tensor | Iterable[Tensor], average: Average | None = None) -> Tensor:
        """The first half of an update: the gradient of a loss, which may come in parts.  Changes no weights."""
        gradient = self.vector.grad
        assert gradient is not None                          # `flatten` made it
        gradient.zero_()
        whole = torch.zeros((), device=self.vector.device)
        for part in [loss] if isinstance(loss, Tensor) else loss:
            part.backward()
            whole += part.detach()
        if average:
            average(gradient, whole)
        return whole

    def step(self) -> None:
        """The second half of an update: weights and average follow the gradient.  `done` is -1 meanwhile."""
        self.prepare()
        done, self.done = self.done, -1
        self.move()
        self.done = done + 1

    def prepare(self) -> None:
        """Set the learning rate of the next step."""
        rate = cosine_lr(self.done, lr=self.lr, steps=self.steps, warmup=self.warmup)
        if self._rate is None:
            self.optimiser.param_groups[0]["lr"] = rate
        else:
            self._rate.fill_(rate)
        if self._weight is not None:
            self._weight.fill_(self._newest())

    def move(self) -> None:
        """The part of `step` that works on tensors; a CUDA graph can record it from the second step on."""
        nn.utils.clip_grad_norm_(self.vector, self.clip)
        self.optimiser.step()
        self._follow()

    def _follow(self) -> None:
        self.average.lerp_(self.vector.detach(), self._newest() if self._weight is None else self._weight)
        for averaged, newest in zip(self._ema.buffers(), self.model.buffers(), strict=True):
            averaged.copy_(newest)                           # running statistics are averages already
        self.averaged += 1

    def _newest(self) -> float:
        """The share of the newest weights in the average."""
        if not self.averaged:
            return 1.0
        return 1 - (self.decay(self.averaged) if callable(self.decay) else self.decay)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that changes in training, by name."""
        out = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        out |= {f"ema.{k}": v for k, v in self._ema.state_dict().items()}
        out |= {f"adam.{k}": v for k, v in self.optimiser.state[self.vector].items()}
        return out | {"done": torch.tensor(self.done), "averaged": torch.tensor(self.averaged)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the state to what `tensors` returned.  Nothing is checked: see `experiments.checkpoints.load_learner`."""
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self._ema.load_state_dict(part("ema."))
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": {0: part("adam.")}})
        if self._rate is not None:
            self.optimiser.param_groups[0]["lr"] = self._rate       # it was copied
        self.done, self.averaged = int(tensors["done"]), int(tensors["averaged"])


class Step(NamedTuple):
    """One update of every learner."""

    number: int                # 1 for the first
    losses: dict[str, Tensor]  # the loss of each learner, a detached scalar on its device


LossFn = Callable[[str, nn.Module, Batch], Tensor]
"""loss_fn(name, model, batch): a learner's loss, the mean over the samples of the batch."""
Stepper = Callable[[Mapping[str, Learner], LossFn], Callable[[Batch], dict[str, Tensor]]]
"""stepper(learners, loss_fn): a function of a batch that moves every learner one step and returns their losses."""


def fit(learners: Mapping[str, Learner], loss_fn: LossFn, batches: Iterable[Batch], *, steps: int,
        check_every: int = 25, stepper: Stepper | None = None) -> Iterator[Step]:
    """Train `learners` on the same batches until each has done `steps` updates; yields after each.

    A batch is a tensor or a NamedTuple of tensors.  `stepper` is `plain_steps`, unless another is given.  The caller
    logs, plots, saves, and may stop at any time.  Every `check_every` steps, and at the end, losses are checked:
    FloatingPointError names the learner and the step if a loss is not finite, or a hundred times as large as in the
    first steps.
    """
    step = (stepper or plain_steps)(learners, loss_fn)
    done = {learner.done for learner in learners.values()}
    if len(done) != 1:
        raise ValueError(f"learners in lockstep must have done the same number of steps, not {sorted(done)}")
    recent: dict[str, list[Tensor]] = {name: [] for name in learners}
    first: dict[str, float] = {}
    for number, batch in zip(range(done.pop() + 1, steps + 1), batches, strict=False):
        losses = step(batch)
        for name, loss in losses.items():
            recent[name].append(loss)
        if number % check_every == 0 or number == steps:
            for name, values in recent.items():
                _check_losses(name, number, torch.stack(values).tolist(), first)
                values.clear()
        yield Step(number, losses)


def plain_steps(learners: Mapping[str, Learner], loss_fn: LossFn, *,
                average: Average | None = None) -> Callable[[Batch], dict[str, Tensor]]:
    """Steps of learners in lockstep, as a function of a batch.  `average` is passed to `Learner.differentiate`.

    No learner moves before the losses of all are known: an error or an interrupt in a loss leaves all as they were
    after the step before.  If memory is too small for a batch, its loss is computed in halves, quarters, …; the result
    is equal up to rounding.
    """
    in_parts = Parts()

    def step(batch: Batch) -> dict[str, Tensor]:
        losses = {}
        for name, learner in learners.items():
            def differentiate(parts: Iterator[tuple[Batch, float]], name: str = name, one: Learner = learner) -> Tensor:
                return one.differentiate((share * loss_fn(name, one.model, part) for part, share in parts), average)

            said = f"batches of {{n}} go in {{parts}} parts from step {learner.done + 1} on"
            losses[name] = in_parts(batch, differentiate, said=said)
        for learner in learners.values():
            learner.step()
        return losses
    return step


def _check_losses(name: str, number: int, losses: list[float], first: dict[str, float]) -> None:
    """Check the losses up to step `number`; `first` keeps the mean of each learner's first losses."""
    for step, loss in enumerate(losses, number - len(losses) + 1):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {name} is {loss} at step {step}; lower its lr")
    mean = sum(losses) / len(losses)
    if mean > EXPLODED * first.setdefault(name, mean):
        raise FloatingPointError(f"the loss of {name} explodes: {mean:.3g} up to step {number}, {first[name]:.3g} in "
                                 "the first steps; lower its lr")
