"""Compute a batch in parts if memory is short.  Skip this file at first reading."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=Tensor | tuple[Any, ...])
"""A tensor (B, ...), or a NamedTuple of tensors, or of such NamedTuples."""
Joined = TypeVar("Joined", bound=Tensor | tuple[Any, ...])
Result = TypeVar("Result")


class Parts:
    """Work on batches in `count` parts: one at first, and twice as many each time when memory is short."""

    def __init__(self) -> None:
        self.count = 1

    def __call__(self, batch: Batch, work: Callable[[Iterator[tuple[Batch, float]]], Result], *,
                 said: str = "") -> Result:
        """work(parts), where each part comes with its share of the samples; if memory is short, again in smaller parts.

        Then `said` is printed, with the number of samples for {n} and of parts for {parts}.  torch.OutOfMemoryError if
        one sample alone is too large.
        """
        n = batch_size(batch)
        while True:
            try:
                return work(split(batch, self.count))
            except torch.OutOfMemoryError:
                if self.count >= n:
                    raise
                self.count = min(2 * self.count, n)
            if said:
                print("out of memory: " + said.format(n=n, parts=self.count))

    def map(self, batch: Batch, function: Callable[[Batch], Joined], *, said: str = "") -> Joined:
        """function(batch), computed in parts and joined: a tensor (B, ...), or a NamedTuple of such tensors."""
        return self(batch, lambda parts: joined([function(part) for part, _ in parts]), said=said)


def at_a_time(shape: tuple[int, ...], most: int) -> int:
    """How many samples (N, C, H, W) of this shape are computed at a time, if `most` is for those of 32x32 pixels.

    Of larger ones as many as take the same memory, one at least; of smaller ones, and of features (N, D), `most`.
    """
    return max(1, min(most, most * 32 * 32 // math.prod(shape[2:])))


def batch_size(batch: Batch) -> int:
    """The number of samples of a batch: a tensor (B, ...), or a NamedTuple whose first tensor is (B, ...)."""
    first: Any = batch
    while not isinstance(first, Tensor):
        first = first[0]
    return len(first)


def split(batch: Batch, parts: int) -> Iterator[tuple[Batch, float]]:
    """A batch in parts, each with its share of the samples."""
    n = batch_size(batch)
    for i, j in pairwise(n * k // parts for k in range(parts + 1)):
        yield samples_of(batch, slice(i, j)), (j - i) / n


def samples_of(batch: Batch, some: slice) -> Batch:
    """Some samples of a batch.  Tensors are (B, ...), or (k B, ...) for k runs over the samples (as the features of
    both branches), or empty."""
    n = batch_size(batch)

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return type(value)(*map(cut, value))
        return value.unflatten(0, (-1, n))[:, some].flatten(0, 1) if len(value) else value

    return batch if some == slice(0, n) else cut(batch)


def joined(parts: list[Batch]) -> Batch:
    """Join the parts of a batch again: tensors, or NamedTuples of tensors."""
    def join(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat(list(values))
        return type(first)(*map(join, zip(*values, strict=True)))

    return join(parts)
