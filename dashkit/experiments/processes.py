"""Several processes that train as one, on one machine or many: `accelerate launch -m dashkit train ...`.

Every process draws the same batch, computes its slice of it, and averages losses and gradients with the others: N of
them compute what one computes, up to rounding.  The first one, the main process, writes and reports.  They share the
folder of runs.  In a single process everything here does nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from dashkit import environment

Item = TypeVar("Item")
PATIENCE = timedelta(hours=3)     # how long a process waits for the others, which may measure meanwhile


def join(device: str = "auto") -> None:
    """Join the processes that a launcher started together, each with a GPU of its own unless `device` is cpu.

    Does nothing without a launcher.  ImportError if accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(f"several processes need accelerate; type: {environment.install('scale')}") from error
    PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)


def leave() -> None:
    """End what `join` began."""
    if size() > 1:
        distributed.destroy_process_group()


def size() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def is_main() -> bool:
    return rank() == 0


def wait() -> None:
    """Return when every process has come here."""
    if size() > 1:
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before the others do, who find its files."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def average(*values: Tensor) -> None:
    """Replace each tensor by its mean over all processes, in place."""
    if size() > 1:
        for value in values:
            distributed.all_reduce(value)
            value /= size()


def agree(flag: bool) -> bool:
    """Whether `flag` is true in any process; all must ask."""
    if size() == 1:
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    votes = torch.tensor(float(flag), device=device)
    distributed.all_reduce(votes)
    return votes.item() > 0


def own(items: Sequence[Item]) -> Sequence[Item]:
    """Every size-th item: each is one process's."""
    return items[rank() :: size()]


def own_slice(n: int) -> slice:
    """This process's samples of a batch of n; ValueError if it cannot be shared out evenly."""
    if n % size():
        raise ValueError(f"a batch of {n} cannot be shared by {size()} processes evenly; "
                         f"take a batch of {n // size() * size() or size()}")
    each = n // size()
    return slice(rank() * each, (rank() + 1) * each)
