"""CUDA graphs: record the kernels of a repeated computation once, then replay all of them by one call of the CPU.

Small networks take less time to compute than to launch.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from dashkit.method.memory import Batch
from dashkit.method.training import Learner, LossFn

BRANCHES = 12        # learners that a GPU may work on at once: one small network does not fill it
WARM_UP = 3          # calls that run as usual: libraries choose their algorithms, optimisers make their state


class Replayed:
    """work(*inputs) as a CUDA graph; inputs and result are tensors, or tuples and dictionaries of tensors.

    The first calls, and calls with other shapes, run as usual.  `work` must not read a value back from the GPU, must
    draw no random numbers, and must change tensors only in place.  If no graph can be made, a line says so, and every
    call runs as usual.
    """

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work, self.calls, self.graph = work, 0, None
        self.stream = torch.cuda.Stream()

    def __call__(self, *inputs: Any) -> Any:
        if self.calls > WARM_UP and self.graph is None:
            return self.work(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.work(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.graph is None and not self._capture(inputs):
            return self.work(*inputs)
        given, kept = tree_flatten(inputs)[0], tree_flatten(self.inputs)[0]
        if [v.shape for v in given] != [v.shape for v in kept]:
            return self.work(*inputs)
        torch._foreach_copy_([k for k in kept if k.numel()], [g for g in given if g.numel()])
        self.graph.replay()
        return tree_map(Tensor.clone, self.result)           # the next replay writes over the graph's own

    def _capture(self, inputs: Any) -> bool:
        self.inputs = tree_map(Tensor.clone, inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.result = self.work(*self.inputs)
        except RuntimeError as error:
            print(f"no CUDA graph is made: {str(error).splitlines()[0][:200]}")
            return False
        self.graph = graph
        return True


def captured_steps(learners: Mapping[str, Learner], loss_fn: LossFn) -> Callable[[Batch], dict[str, Tensor]]:
    """Like `training.plain_steps`, with each step replayed as a CUDA graph; loss_fn must draw no random numbers.

    An interrupted step is half done, and `done` of its learners is -1.
    """
    streams = [torch.cuda.Stream() for _ in range(min(BRANCHES, len(learners)))]
    replayed = Replayed(partial(_move_all, learners, loss_fn, streams))

    def step(batch: Batch) -> dict[str, Tensor]:
        before = {name: (learner.done, learner.averaged) for name, learner in learners.items()}
        for learner in learners.values():
            learner.prepare()                                # rates and counters are set here, outside the graph
            learner.done = -1                                # until the step is whole
        losses = replayed(batch)
        for name, learner in learners.items():
            learner.done, learner.averaged = (count + 1 for count in before[name])
        return dict(zip(learners, losses.unbind(), strict=True))
    return step


def _move_all(learners: Mapping[str, Learner], loss_fn: LossFn, streams: Sequence[torch.cuda.Stream],
              batch: Batch) -> Tensor:
    """One step of every learner, on several streams of the GPU; returns their losses (n,)."""
    main, losses = torch.cuda.current_stream(), []
    for stream in streams:
        stream.wait_stream(main)
    for (name, learner), stream in zip(learners.items(), cycle(streams), strict=False):
        with torch.cuda.stream(stream):
            losses.append(learner.differentiate(loss_fn(name, learner.model, batch)))
            learner.move()
    for stream in streams:
        main.wait_stream(stream)
    return torch.stack(losses)


class ReplayedModel:
    """A network's forward pass without gradients, replayed as a CUDA graph for each batch size and precision.

    `load` puts the weights of another network of the same shape in place, so that one set of graphs serves many.
    """

    training = False

    def __init__(self, net: nn.Module, *, compiled: bool = False) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.null_label = net.null_label
        self._called = torch.compile(self.net, dynamic=False) if compiled else self.net
        self._replayed: dict[tuple, Replayed] = {}

    def load(self, net: nn.Module) -> "ReplayedModel":
        state, other = self.net.state_dict(), net.state_dict()
        torch._foreach_copy_([state[k] for k in state], [other[k] for k in state])
        return self

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        key = x_t.shape, torch.is_autocast_enabled(x_t.device.type)       # a graph keeps the precision it was made in
        if key not in self._replayed:
            self._replayed[key] = Replayed(torch.no_grad()(self._called))
        return self._replayed[key](x_t, t, y)
