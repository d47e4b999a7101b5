"""Where files are: the project, trained runs, and data that was fetched."""

import errno
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder, or the folder of installed packages where dashkit is installed without its project."""
IS_PROJECT = (ROOT / "pyproject.toml").is_file() and (ROOT / "notebooks").is_dir()


def shell_python(*, windows: bool) -> str:
    """How Python is called in a fresh shell: on Windows by its launcher where `python` is missing or opens the Store.

    The programs of this process's own environment are on no fresh shell's path.
    """
    if not windows:
        return "python3"
    folders = os.environ.get("PATH", "").split(os.pathsep)
    if sys.prefix != sys.base_prefix:
        folders = [folder for folder in folders if not Path(folder).is_relative_to(sys.prefix)]
    found, launcher = (shutil.which(name, path=os.pathsep.join(folders)) for name in ("python", "py"))
    opens_store = found is not None and "WindowsApps" in found and "WindowsApps" not in sys.base_prefix
    if launcher and (found is None or opens_store):
        return f"py -{sys.version_info[0]}.{sys.version_info[1]}"
    return "python"


PYTHON = shell_python(windows=os.name == "nt")
"""How Python is called in a fresh shell of this system."""
NOT_A_PROJECT = ("dashkit is installed without its notebooks and published tables; get the project's whole folder, "
                 f"and type there: {PYTHON} run.py series")


def setting(name: str) -> Path | None:
    """The folder that an environment variable names, absolute and without `~`; None if it is not set.

    The variable is replaced by that path, since kernels and other processes start in other folders.  ValueError if it
    names a user who does not exist.
    """
    text = os.environ.get(name)
    if not text:
        return None
    path = os.path.expanduser(text)  # noqa: PTH111 (pathlib makes no difference between ./~x and ~x)
    if path.startswith("~"):
        raise ValueError(f"{name}={text}: this system knows no user {Path(path).parts[0]}; write the folder in full")
    os.environ[name] = os.path.abspath(path)  # noqa: PTH100 (links stay as the user wrote them)
    return Path(os.environ[name])


HOME = setting("DASHKIT_HOME") or (ROOT if IS_PROJECT else Path.home() / "dashkit")
"""Everything is written here: DASHKIT_HOME, or the project's folder, or ~/dashkit if there is no project."""
RUNS = setting("DASHKIT_RUNS") or HOME / "data" / "runs"
CACHE = HOME / "data" / "cache"
BUILD = HOME / "build"


def as_path(value: object, what: str) -> Path:
    """The path that a caller gave as a text or a `Path`, without `~`; ValueError names `what`, if it is none."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError(f"{what} must be a path, as a text or a Path, not {value!r:.80}")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{what} {value}: this system knows no such user; write the path in full") from None


def require_project(path: Path | None = None) -> None:
    """Raise ValueError if the kit is installed without its project, and `path`, if one is given, lies beside it.

    Nothing is ever written among the installed packages.
    """
    if not IS_PROJECT and (path is None or Path(path).absolute().is_relative_to(ROOT)):
        raise ValueError(NOT_A_PROJECT)


def explained(error: OSError, path: Path) -> OSError:
    """The same error with one sentence on what to do, which fits its cause: a file in the way, no access, a full disk.

    `path` is the file or the folder that could not be written.
    """
    name = "DASHKIT_RUNS" if "DASHKIT_RUNS" in os.environ and path.is_relative_to(RUNS) else "DASHKIT_HOME"
    moved = any(path.is_relative_to(p) for p in (RUNS, CACHE, BUILD, HOME / "notebooks"))

    def instead(folder: str) -> str:
        """What else helps: a setting, for what it moves; another folder, if the user named this one."""
        return f", or set {name} to {folder}" if moved else "" if path.is_relative_to(ROOT) else f", or take {folder}"

    blocking = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)
    if blocking and error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENOENT):
        advice = f"{blocking} is a file where a folder is wanted; move that file{instead('another folder')}"
    elif error.errno == errno.EISDIR:
        advice = "it is a folder where a file is wanted; move that folder"
    elif getattr(error, "winerror", None) == 32:
        advice = "another program has it open; close that program"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"free some space{instead('a folder on another disk')}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = f"give yourself access{instead('a folder of your own')}"
    elif error.errno == errno.ENAMETOOLONG:
        advice = f"its name is too long{instead('a folder with a shorter name')}"
    else:
        advice = f"look at the disk{instead('another folder')}"
    return OSError(error.errno, f"{error.strerror or error}: cannot write it; {advice}, then run the same again",
                   str(path))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; OSError says what to do where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, folder) from error


def other_copy(folder: Path) -> Path | None:
    """The copy of the project that `folder` lies in, if it is another one than this."""
    for place in (folder, *folder.parents):
        if (place / "run.py").is_file() and (place / "dashkit" / "storage" / "paths.py").is_file():
            return None if place.resolve() == ROOT else place
    return None


def refuse_another_copy() -> None:
    """Raise ValueError if the current folder belongs to another copy of the project, which is not to be touched.

    Or if the environment or the program does: until run.py has repaired it, a copied environment starts the kit that it
    was made for.  A kit that somebody has put on Python's path is meant.
    """
    places = {"the current folder": Path.cwd()}
    if str(ROOT) not in sys.path:
        places |= {"this environment": Path(sys.prefix), "this program": Path(sys.argv[0]).absolute()}
    for what, place in places.items():
        other = other_copy(place)
        if other is not None:
            raise ValueError(f"{what} belongs to the project in {other}, but this dashkit is that of {ROOT}; "
                             f"type there: {PYTHON} run.py dashkit …")


def hand_on() -> None:
    """Make processes that are started from here, such as notebook kernels, use this very copy of the kit.

    An environment that was copied or is shared may hold a link to another copy.
    """
    if IS_PROJECT:
        rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(ROOT)]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *rest])


def print_anything() -> None:
    """Let standard output replace a character that its encoding lacks; no command fails because of what it prints."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
