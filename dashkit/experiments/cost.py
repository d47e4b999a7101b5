"""Cost: operations, passes, memory and seconds of a network."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dashkit.method.unet import UNet


def inner_network(model: nn.Module) -> nn.Module:
    """The UNet that a model is, or wraps; the model itself if there is none in it."""
    return next((m for m in model.modules() if isinstance(m, UNet)), model)


def flops(model: nn.Module) -> int:
    """Operations of one pass of a network for one image, 2 for each multiply-add, by torch's FlopCounterMode."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = inner_network(model)             # the network alone: a wrapper may draw random numbers
    cfg, device = model.config, next(model.parameters()).device
    t = torch.zeros(1, dtype=torch.long, device=device)
    # the counter knows the products of attention only when they are not fused
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, cfg.channels, cfg.size, cfg.size, device=device), t, t)
    return counter.get_total_flops()


@contextmanager
def counted_passes(model: nn.Module) -> Iterator[list[int]]:
    """Count the images that go through the network of `model` inside the block: a list with one number.

    >>> from dashkit.method.unet import UNet, UNetConfig
    >>> net = UNet(UNetConfig(8, 1, 2, ch=4, ch_mult=(1,), blocks=1, groups=1, attention=(8,)))
    >>> with counted_passes(net) as passes:
    ...     _ = net(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=int), torch.zeros(3, dtype=int))
    >>> passes
    [3]
    """
    seen = [0]

    def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen[0] += len(arguments[0])

    handle = inner_network(model).register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def peak_memory(work: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors that `work()` holds at once beyond what is there before it.

    On CUDA it is read from the allocator's counter.  On a CPU it is added up from the profiler's list of allocations.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")      # the profiler's own notices would reach the notebook
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call; a GPU finishes earlier work before the clock starts, and this work before it stops."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
