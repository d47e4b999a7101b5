"""Folders and files held against other processes."""

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

try:
    import fcntl
except ImportError:          # Windows: nothing is locked there
    fcntl = None


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


def open_locked(make: Callable[[], IO]) -> IO:
    """Open and lock a file; again, if another process removed it in between."""
    while True:
        file = make()
        if _lock(file):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()):
                    return file
        file.close()


def explained(error: OSError, path: Path) -> OSError:
    advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give yourself access"
    what = f"{error.strerror or error}: cannot write it; {advice} or set DASHKIT_RUNS, then run the same again"
    return OSError(error.errno, what, str(path))


class FolderInUse(RuntimeError):
    """Another process works in the run folder; the message names it."""


class _Holder(NamedTuple):
    token: object     # of the latest holder of the folder
    file: IO          # the locked one


_held: dict[Path, _Holder] = {}


@contextmanager
def lock_folder(folder: Path) -> Iterator[object]:
    """Hold a run folder against other processes while the block runs; FolderInUse names the process that has it.

    The lock dies with its process, so a killed one blocks nothing, and what it left half-written is removed.  Within
    one process a later holder takes over from an earlier one (the loop of an interrupted notebook cell): `is_current`
    tells.
    """
    path, token = folder / ".lock", object()
    if path in _held:
        file = _held[path].file
    else:
        file = _open_lock(path)
        remove_leftovers(folder)
    _held[path] = _Holder(token, file)
    try:
        yield token
    finally:
        if is_current(folder, token):                  # or a later one still works here
            del _held[path]
            path.unlink(missing_ok=True)          # still locked: nobody can have taken it over
            file.close()


def is_current(folder: Path, token: object) -> bool:
    """Whether a holder of this process has not been followed by a later one."""
    held = _held.get(folder / ".lock")
    return held is not None and held.token is token


def _open_lock(path: Path) -> IO:
    """The lock file of a run folder, locked, with this process's name in it."""
    def make() -> IO:
        file = path.open("a+")
        if not _lock(file) and not (time.sleep(0.05) or _lock(file)):         # or was it only being removed?
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise FolderInUse(f"{path.parent} is in use by {holder}; wait for it or stop it")
        return file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_locked(make)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
    except OSError as error:
        raise explained(error, path.parent) from error
    return file
