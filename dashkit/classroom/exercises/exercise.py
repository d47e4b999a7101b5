"""What an exercise is, how an answer becomes numbers, and the inputs that several lessons draw."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor


class WrongAnswer(Exception):
    """What is wrong with an answer, in a sentence."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: a right answer to compare with, and wrong ones by the sentence that names their mistake.

    `inputs` draws the arguments; it is None where the answer is a number.  What an answer must use differs from draw to
    draw: numbers, names, shapes.  `view` is applied to every answer before it is compared, for tasks with many right
    answers; `check_answer`, if given, replaces the comparison.  `solution` is Python.
    """

    task: str
    right: Callable
    inputs: Callable[[torch.Generator], tuple] | None
    mistakes: Mapping[str, Callable]
    hints: tuple[str, str, str]
    solution: str
    view: Callable[[Tensor], Tensor] = field(default=lambda answer: answer)
    check_answer: Callable[[Callable], None] | None = None


def as_numbers(value: object, shape: tuple[int, ...]) -> Tensor:
    """An answer as a finite float64 tensor, where `shape` is wanted; WrongAnswer says what came instead."""
    if value is None:
        raise WrongAnswer("No answer yet: your function returned None. (Is there a `return`?)")
    try:
        out = as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = f"Numbers of shape {tuple(shape)} are" if len(shape) else "One number is"
        raise WrongAnswer(f"{wanted} wanted, but {describe_value(value)} arrived.") from error
    bad = int((~out.isfinite()).sum())
    if bad:
        raise WrongAnswer(f"Your result holds NaN or infinity: {bad} of its {out.numel()} numbers.")
    return out.reshape(shape) if len(shape) == 0 and out.numel() == 1 else out


def as_tensor(value: object) -> Tensor:
    """Numbers, arrays, tensors on any device, and tuples or lists of them, as one float64 tensor."""
    if isinstance(value, tuple | list):
        return torch.stack([as_tensor(v) for v in value])
    out = torch.as_tensor(value if isinstance(value, Tensor) or not hasattr(value, "__array__") else np.array(value))
    if out.is_complex():
        raise TypeError("complex numbers")
    return out.detach().to_dense().cpu().double()


def as_arrays(value: object) -> object:
    """The tensors in a value, alone or in tuples and dictionaries, as arrays."""
    return _replaced(value, lambda v: v.numpy())


def as_series(value: object) -> object:
    """The tensors in a value as pandas Series, or as arrays where they have more than one axis."""
    return _replaced(value, lambda v: pd.Series(v.numpy()) if v.ndim == 1 else v.numpy())


def _replaced(value: object, change: Callable[[Tensor], object]) -> object:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {k: _replaced(v, change) for k, v in value.items()}
    if isinstance(value, tuple):
        parts = (_replaced(v, change) for v in value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def describe_value(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f" on {value.device.type}"
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}{place}"
    return f"a {type(value).__name__}" + (f" of length {len(value)}" if isinstance(value, tuple | list | dict) else "")


def source(solution: Callable) -> str:
    """The solution as a learner would write it: the source of a function, called `answer`."""
    text = inspect.getsource(solution).rstrip("\n")
    return text.replace(f"def {solution.__name__}(", "def answer(", 1)


def draw_fields(n: int) -> Callable[[torch.Generator], tuple]:
    """Inputs: n random fields (5, 3) and a scale w."""
    def draw(g: torch.Generator) -> tuple:
        w = 1.5 + 3 * float(torch.rand((), generator=g))
        return (*(torch.randn(5, 3, generator=g, dtype=torch.float64) for _ in range(n)), w)
    return draw


def draw_noise(g: torch.Generator) -> tuple:
    """Inputs: x_t and eps (5, 3), and abar."""
    x_t, eps, _ = draw_fields(2)(g)
    return x_t, eps, 0.1 + 0.8 * float(torch.rand((), generator=g))


def image_shape(g: torch.Generator) -> tuple[int, int, int]:
    """The shape (C, H, W) of a draw's images: one channel and three in turn, not square."""
    return (3, 2, 4) if g.initial_seed() % 2 else (1, 4, 3)


def draw_gaps(g: torch.Generator) -> tuple:
    """Inputs: two fields (7, C, H, W) that have something in common, each sample of its own size."""
    a, b = torch.randn(2, 7, *image_shape(g), generator=g, dtype=torch.float64)
    size = torch.randn(7, 1, 1, 1, generator=g, dtype=torch.float64).exp()
    return a + 0.5 * size * b, size * b


def dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def norms(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)
