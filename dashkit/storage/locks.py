"""Folders and files held against other processes."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from filelock import FileLock, Timeout

from dashkit.storage.paths import explained

fcntl: Any
try:
    import fcntl
except ImportError:          # Windows, where nobody can delete a file that is open
    fcntl = None


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what killed processes left in a folder: temporary files and the lock, or the temporary files of one.

    A temporary file that is being written stays: it is locked, or, on Windows, cannot be deleted while it is open.
    """
    folder = Path(folder)
    for path in folder.glob(f".{name}.*.tmp"):
        with suppress(OSError):
            with path.open("rb") as file:
                idle = _lock(file)
            if idle:
                path.unlink()
    if name == "*" and (folder / LOCK).is_file():
        with suppress(OSError):                          # among them Timeout: a process works here
            _release(_acquired(folder / LOCK), folder)


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


class FolderInUse(RuntimeError):
    """Another process works in the run folder; the message names it."""


class _Holder(NamedTuple):
    token: object     # of the latest holder of the folder
    lock: FileLock


_held: dict[Path, _Holder] = {}


@contextmanager
def lock_folder(folder: Path) -> Iterator[object]:
    """Hold a run folder against other processes while the block runs; FolderInUse names the process that has it.

    The lock dies with its process, so a killed one blocks nothing, and what it left half-written is removed.  Within
    one process a later holder takes over from an earlier one (the loop of an interrupted notebook cell): `is_current`
    tells.
    """
    folder = Path(folder)
    path, token = folder / LOCK, object()
    if path in _held:
        lock = _held[path].lock
    else:
        lock = _claimed_lock(folder)
        remove_leftovers(folder)
    _held[path] = _Holder(token, lock)
    try:
        yield token
    finally:
        if is_current(folder, token):                  # or a later one still works here
            del _held[path]
            _release(lock, folder)


def is_current(folder: Path, token: object) -> bool:
    """Whether a holder of this process has not been followed by a later one."""
    held = _held.get(Path(folder) / LOCK)
    return held is not None and held.token is token


def holds_any() -> bool:
    """Whether this process works in any run folder: there may be something to save."""
    return bool(_held)


LOCK, HOLDER = ".lock", ".holder"      # two files: on Windows nobody else can read a locked one


WAITS = (0.01, 0.03, 0.1, 0.3, 1.0)         # seconds between tries to replace or delete a file that is open elsewhere


def _patiently(act: Callable[[], object]) -> None:
    """Act, and again after a while where Windows refuses: a reader, or a virus scanner, has the file open just now."""
    for wait in WAITS:
        try:
            act()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in (5, 32):        # access denied, sharing violation
                raise
        time.sleep(wait)
    act()


def remove(path: Path) -> None:
    """Delete a file if it is there; wait a moment where Windows says that another process has it open."""
    _patiently(lambda: Path(path).unlink(missing_ok=True))


def _acquired(path: Path) -> FileLock:
    """A lock file, locked by this process; Timeout if another process holds it.

    filelock itself notices a file that was removed while it waited.
    """
    lock = FileLock(path, thread_local=False)                 # a generator may be closed by another thread
    lock.acquire(timeout=0.05, poll_interval=0.01)            # or was it only being removed?
    return lock


def _release(lock: FileLock, folder: Path) -> None:
    """Release a lock and remove its file.

    Where open files can be removed, it is removed first: afterwards another process might hold it.  Elsewhere (Windows)
    filelock removes it once it is closed.
    """
    with suppress(OSError):
        (folder / HOLDER).unlink(missing_ok=True)
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _claimed_lock(folder: Path) -> FileLock:
    """The lock of a run folder, with this process's name beside it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(folder / LOCK)
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = (folder / HOLDER).read_text(encoding="utf-8").strip()
        raise FolderInUse(f"{folder} is in use by {holder or 'another process'}; wait for it or stop it") from None
    except OSError as error:
        raise explained(error, folder) from error
    try:
        since = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        (folder / HOLDER).write_text(since, encoding="utf-8")
    except OSError as error:
        _release(lock, folder)
        raise explained(error, folder) from error
    return lock
