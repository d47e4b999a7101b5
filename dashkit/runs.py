"""Runs on disk: safetensors and JSON, written whole or not at all.  Layer 0."""

import errno
import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

try:
    import fcntl
except ImportError:          # Windows: nothing is locked there
    fcntl = None

COLUMNS = ("profile", "arm", "seed", "metric", "value", "n", "device", "commit")
"""The columns of a tidy results table; `n` is how many samples or states a value comes from."""


MAX_JSON, MAX_TABLE = 2**22, 2**26          # bytes; a manifest has a few thousand, the digits' table a million
MAX_DEPTH = 32                              # of objects and lists in one another; a manifest has five


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part: temporary file, fsync, rename.

    OSError names the file and what to do about a full disk or a folder that cannot be written.  What a killed writer
    of the same file left behind is removed.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, glob.escape(path.name))
        file = _open_locked(lambda: _temporary(path))
        temporary = Path(file.name)
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    except BaseException as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _explained(error, path) from error
        raise


def _temporary(path: Path) -> IO:
    return tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False)


def _explained(error: OSError, path: Path) -> OSError:
    advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give yourself access"
    what = f"{error.strerror or error}: cannot write it; {advice} or set DASHKIT_RUNS, then run the same again"
    return OSError(error.errno, what, str(path))


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what killed processes left in a folder: temporary files and the lock, or the temporary files of one."""
    for path in (*folder.glob(f".{name}.*.tmp"), *([folder / ".lock"] if name == "*" else [])):
        with suppress(OSError), path.open("rb") as file:
            if _lock(file) and os.path.samestat(os.fstat(file.fileno()), path.stat()):     # or it is another's by now
                path.unlink()


def _lock(file: IO) -> bool:
    """Try to lock an open file until it is closed or its process ends; False if another holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_locked(make: Callable[[], IO]) -> IO:
    """Open and lock a file; again, if another process removed it in between."""
    while True:
        file = make()
        if _lock(file):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()):
                    return file
        file.close()


class Busy(RuntimeError):
    """Another process works in the run folder; the message names it."""


class _Claim(NamedTuple):
    token: object     # of the latest claim on the folder
    file: IO          # the locked one


_claims: dict[Path, _Claim] = {}


@contextmanager
def claim(folder: Path) -> Iterator[object]:
    """Hold a run folder against other processes while the block runs; Busy names the process that has it.

    The lock dies with its process, so a killed one blocks nothing, and what it left half-written is removed.  Within
    one process a later claim takes over from an earlier one (the loop of an interrupted notebook cell): `holds` tells.
    """
    path, token = folder / ".lock", object()
    if path in _claims:
        file = _claims[path].file
    else:
        file = _open_lock(path)
        remove_leftovers(folder)
    _claims[path] = _Claim(token, file)
    try:
        yield token
    finally:
        if holds(folder, token):                  # or a later one still works here
            del _claims[path]
            path.unlink(missing_ok=True)          # still locked: nobody can have taken it over
            file.close()


def holds(folder: Path, token: object) -> bool:
    """Whether a claim of this process has not been taken over by a later one."""
    claimed = _claims.get(folder / ".lock")
    return claimed is not None and claimed.token is token


def _open_lock(path: Path) -> IO:
    """The lock file of a run folder, locked, with this process's name in it."""
    def make() -> IO:
        file = path.open("a+")
        if not _lock(file) and not (time.sleep(0.05) or _lock(file)):         # or was it only being removed?
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise Busy(f"{path.parent} is in use by {holder}; wait for it or stop it")
        return file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(make)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
    except OSError as error:
        raise _explained(error, path.parent) from error
    return file


def write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, *required: str) -> dict:
    """A JSON object from disk; ValueError if the file is damaged, larger than 4 MiB or lacks a `required` key."""
    _check_size(path, MAX_JSON, "manifest")
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start afresh") from error
    missing = [k for k in required if k not in value]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; delete it to start afresh")
    return value


def parse_json(text: str) -> dict:
    """A JSON object; ValueError if it is not one, says a name twice, holds NaN or half a character, or nests deeply.

    What it returns can be walked and written again without a second thought.
    """
    def once(pairs: list[tuple[str, object]]) -> dict:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("it says a name twice")
        return found

    def refuse(constant: str) -> float:
        raise ValueError(f"it holds {constant}")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()       # surrogates are no characters
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it must hold a JSON object")
    level, depth = [value], 0
    while level := [inner for v in level if isinstance(v, dict | list)
                    for inner in (v.values() if isinstance(v, dict) else v)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("it nests too deeply")
    return value


def _check_size(path: Path, most: int, kind: str) -> None:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes, more than any {kind}; it is not dashkit's")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; a file that holds just that is left alone, since it may be somebody else's to write."""
    content = table.to_csv(index=False).encode()
    if not (path.is_file() and path.read_bytes() == content):
        write_bytes(path, content)


def read_results(path: Path) -> pd.DataFrame:
    """Read a tidy results table; ValueError if its columns are not `COLUMNS`, a cell is missing or of the wrong kind,
    a row is there twice, or the file is larger than 64 MiB."""
    _check_size(path, MAX_TABLE, "table")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False, encoding_errors="strict")
    except ValueError as error:                              # pandas' parser errors are ValueErrors too
        raise ValueError(f"{path} is no table ({error})") from error
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{path}: columns must be {', '.join(COLUMNS)}; found {', '.join(map(str, table.columns))}")
    if (table.drop(columns="value") == "").any().any() or table.isna().any().any():
        raise ValueError(f"{path}: a row is incomplete")
    for name, kind in (("seed", np.int64), ("n", np.int64), ("value", np.float64)):
        try:
            table[name] = table[name].replace("", "nan").astype(kind)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: a {name} cannot be read ({error})") from error
    if (table.seed < 0).any() or (table.n < 1).any():
        raise ValueError(f"{path}: seeds start at 0 and n at 1")
    twice = table[table.duplicated(["profile", "arm", "seed", "metric"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(f"{path}: {row.metric} of {row.arm}, seed {row.seed}, is there twice")
    return table


class Saved(NamedTuple):
    tensors: dict[str, Tensor]
    meta: dict


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """Write tensors and JSON-able `meta` into one safetensors file, with a checksum over both."""
    flat = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    write_bytes(path, save(flat, metadata={"dashkit": text, "sha256": _digest(flat, text)}))


def load_tensors(path: Path, *, device: torch.device | str = "cpu") -> Saved:
    """Read what `save_tensors` wrote; FileNotFoundError, or ValueError for a damaged or foreign file.

    A file without a checksum is taken if it is whole; one that holds NaN or infinity never is.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts = file.metadata() or {}
            meta = parse_json(facts["dashkit"])
            # copies: what safetensors returns is a view of the file, which changes, or kills us, if it is written over
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118 (not a dict)
        if facts.get("sha256", "") not in ("", _digest(tensors, facts["dashkit"])):
            raise ValueError("its content does not match its checksum")
        for name, value in tensors.items():
            check_finite(name, value)
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or not dashkit's ({error}); delete it to start afresh") from error
    return Saved({k: v.to(device) for k, v in tensors.items()}, meta)


def checksum(path: Path) -> str:
    """The SHA-256 that `save_tensors` wrote into a file, without reading its tensors; ValueError if it is damaged.

    Nothing for a file that has none.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get("sha256", "")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not dashkit's ({error}); delete it to start afresh") from error


def check_finite(name: str, value: Tensor) -> None:
    """Raise ValueError if a tensor holds NaN or infinity; needs no memory of its size."""
    if value.is_floating_point() or value.is_complex():
        for part in value.reshape(-1).split(2**20):
            if not bool(part.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinity")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of names, types, shapes, values and the text beside them."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(settings: object) -> str:
    """Eight hex digits that change whenever a setting does; part of a run folder's name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


@functools.cache
def commit() -> str:
    """The project's commit when this process first asked, with "+" if tracked files were changed since that commit.

    Outside a clone it is what DASHKIT_COMMIT says, for a copy that was carried to a machine without git, or "unknown";
    also where a folder above is a clone of something else.
    """
    here = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(here)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "dashkit"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        told = os.environ.get("DASHKIT_COMMIT", "")
        return told if re.fullmatch(r"[0-9a-f]{7,40}\+?", told) else "unknown"
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
