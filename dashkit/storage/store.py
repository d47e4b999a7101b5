"""Files on disk: safetensors and JSON, written whole or not at all."""

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dashkit.storage import locks
from dashkit.storage.memory import machine_memory as machine_memory
from dashkit.storage.paths import as_path, explained, require_project

MAX_JSON = 2**24                            # bytes; a manifest has thousands, a learner's work some hundred thousand
MAX_TABLE = 2**30                           # bytes; a thousand seeds of every arm are an eighth of that
MAX_DEPTH = 32                              # of objects and lists in one another; a manifest has five


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; see `write_file`."""
    write_file(path, lambda file: file.write(content))


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: `write(file)` fills a temporary one, which is closed and then renamed.

    A large file need not be held in memory.  `write` is called again in the rare case that another process took the
    temporary file for a leftover.  OSError names the file and what to do about a full disk or a folder that cannot be
    written.  What a killed writer of the same file left behind is removed.
    """
    path = Path(path)
    require_project(path)
    try:
        while not _written(path, write):
            pass
    except OSError as error:
        raise explained(error, path) from error


def _written(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Write a file once; False if its temporary file was removed between the closing and the renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    locks.remove_leftovers(path.parent, glob.escape(path.name))
    file = locks.open_locked(lambda: _temporary(path))
    temporary = Path(file.name)
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
        with suppress(FileNotFoundError):
            locks._patiently(lambda: temporary.replace(path))
            return True
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return False


def check_writable(folder: Path) -> None:
    """Raise OSError, which says what to do, unless files can be written in a folder; it is made if it is not there."""
    require_project(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test."):
            pass
    except OSError as error:
        raise explained(error, folder) from error


def _temporary(path: Path) -> IO:
    return tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False)


def write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, *required: str) -> dict:
    """A JSON object from disk; ValueError if the file is damaged, larger than 16 MiB or lacks a `required` key."""
    path = as_path(path, "the file")
    check_size(path, MAX_JSON, "manifest")
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


def check_size(path: Path, most: int, kind: str) -> None:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes, more than any {kind} (at most {most:,}); it is not dashkit's: "
                         "delete it to start afresh")


class Saved(NamedTuple):
    tensors: dict[str, Tensor]
    meta: dict


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping) -> None:
    """Write tensors and JSON-able `meta` into one safetensors file, with a checksum over both."""
    flat = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    write_bytes(path, save(flat, metadata={"dashkit": text, "sha256": digest(flat, text)}))


def load_tensors(path: Path, *, device: torch.device | str = "cpu") -> Saved:
    """Read what `save_tensors` wrote; FileNotFoundError, or ValueError for a damaged or foreign file.

    A file without a checksum is taken if it is whole; one that holds NaN or infinity never is.
    """
    path = as_path(path, "the file")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts = file.metadata() or {}
            meta = parse_json(facts["dashkit"])
            # copies: what safetensors returns is a view of the file, which changes, or kills us, if it is written over
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118 (not a dict)
        if facts.get("sha256", "") not in ("", digest(tensors, facts["dashkit"])):
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


def check_weights(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `weights` fit a network's state: names, shapes, and types that it holds without loss."""
    if wanted.keys() != weights.keys():
        odd = sorted(wanted.keys() ^ weights.keys())
        raise ValueError(f"{len(odd)} weights are missing or unknown, the first {odd[0]}")
    for name, value in wanted.items():
        found = weights[name]
        kept = found.is_floating_point() == value.is_floating_point() and (
            torch.promote_types(found.dtype, value.dtype) == value.dtype)
        if found.shape != value.shape or not kept:
            raise ValueError(f"{name} must be {value.dtype} {tuple(value.shape)}, "
                             f"not {found.dtype} {tuple(found.shape)}")


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of names, types, shapes, values and the text beside them."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(settings: object) -> str:
    """Eight hex digits that change whenever a setting does; part of a run folder's name."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
