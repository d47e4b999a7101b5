"""Batches in parts, for where memory is short.  Skip this file at first reading."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

from torch import Tensor

Batch = TypeVar("Batch")


def batch_size(batch: Batch) -> int:
    """The number of samples of a batch: a tensor (B, ...), or a NamedTuple whose first tensor is (B, ...)."""
    while not isinstance(batch, Tensor):
        batch = batch[0]
    return len(batch)


def split(batch: Batch, parts: int) -> Iterator[tuple[Batch, float]]:
    """A batch in parts, each with its share of the samples."""
    n = batch_size(batch)
    for i, j in pairwise(n * k // parts for k in range(parts + 1)):
        yield samples_of(batch, slice(i, j)), (j - i) / n


def samples_of(batch: Batch, some: slice) -> Batch:
    """Some samples of a batch.  Tensors are (B, ...), or (k B, ...) for k runs over the samples (as the features of
    both branches), or empty."""
    n = batch_size(batch)

    def cut(value: Batch) -> Batch:
        if not isinstance(value, Tensor):
            return type(value)(*map(cut, value))
        return value.unflatten(0, (-1, n))[:, some].flatten(0, 1) if len(value) else value

    return batch if some == slice(0, n) else cut(batch)
