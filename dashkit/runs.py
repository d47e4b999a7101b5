"""Runs on disk: safetensors and JSON, written whole or not at all.  Layer 0."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

COLUMNS = ("profile", "arm", "seed", "metric", "value", "n", "device", "commit")
"""The columns of a tidy results table; `n` is how many samples or states a value comes from."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict:
    """A JSON object from disk; ValueError if the file is damaged."""
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start afresh") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False).encode())


def read_results(path: Path) -> pd.DataFrame:
    """Read a tidy results table; ValueError if its columns are not `COLUMNS` or a value is missing."""
    table = pd.read_csv(path, dtype={"commit": str, "profile": str, "arm": str, "metric": str, "device": str})
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{path}: columns must be {', '.join(COLUMNS)}; found {', '.join(table.columns)}")
    if table.drop(columns="value").isna().any().any():
        raise ValueError(f"{path}: a row is incomplete")
    return table


class Saved(NamedTuple):
    tensors: dict[str, Tensor]
    meta: dict


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """Write tensors and JSON-able `meta` into one safetensors file."""
    flat = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_bytes(path, save(flat, metadata={"dashkit": json.dumps(meta, sort_keys=True)}))


def load_tensors(path: Path, *, device: torch.device | str = "cpu") -> Saved:
    """Read what `save_tensors` wrote; FileNotFoundError, or ValueError for a damaged or foreign file."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            meta = json.loads((file.metadata() or {})["dashkit"])
            return Saved({k: file.get_tensor(k) for k in file.keys()}, meta)  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or not dashkit's ({error}); delete it to start afresh") from error


def fingerprint(settings: object) -> str:
    """Eight hex digits that change whenever a setting does; part of a run folder's name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def commit() -> str:
    """The project's commit, with "+" if tracked files were changed since; "unknown" outside a clone."""
    here = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "dashkit"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty else "")


def device_name(device: torch.device | str) -> str:
    """What a table calls the device: the GPU's name, or cpu with its thread count."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device).replace(" ", "-")
    return f"cpu-{torch.get_num_threads()}"


def peak_memory_mib(*, children: bool = False) -> float | None:
    """The most memory that this process has held so far, in MiB; or the largest of its finished children.

    None where the system does not count it (Windows).
    """
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def manifest(**facts: object) -> dict:
    """Where a result comes from: versions, platform, commit and peak memory, beside the `facts` given."""
    versions = {p: importlib.metadata.version(p) for p in ("torch", "numpy", "scikit-learn", "safetensors", "pandas")}
    return {
        "commit": commit(), "python": platform.python_version(), "platform": platform.platform(terse=True),
        "versions": versions, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "peak_memory_mib": peak_memory_mib(), **facts,
    }
