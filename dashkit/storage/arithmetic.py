"""How a GPU computes: the one place where it is chosen, and what a manifest says of it.

Measurements are float32 throughout, so convolutions and products are not rounded to TF32 unless DASHKIT_TF32 is 1.
cudnn's search for the fastest algorithm is off unless DASHKIT_CUDNN_BENCHMARK is 1: it is done again for every shape,
and makes a first step of seconds one of many.
"""

import os

import torch


def choose_arithmetic() -> None:
    """Set TF32 and cudnn.benchmark for this process; ValueError for a value that is neither 0 nor 1."""
    tf32 = _asked("DASHKIT_TF32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = _asked("DASHKIT_CUDNN_BENCHMARK")


def arithmetic() -> dict[str, bool]:
    """What is chosen now, for a manifest."""
    return {"tf32_products": torch.backends.cuda.matmul.allow_tf32,
            "tf32_convolutions": torch.backends.cudnn.allow_tf32, "cudnn_benchmark": torch.backends.cudnn.benchmark}


def _asked(name: str) -> bool:
    value = os.environ.get(name, "0")
    if value not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, not {value!r}")
    return value == "1"
