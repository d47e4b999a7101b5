"""The virtual environment `.venv` of the project: what to type, its state, its making and its repair.

It needs the standard library alone, since it must work before anything is installed.  An environment is ready if its
stamp, the last file that an installation writes, names this project, this Python and these requirements.  Any other
state is repaired by the next call.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dashkit.storage.paths import IS_PROJECT, PYTHON, ROOT

WINDOWS = os.name == "nt"
STAMP, UNFINISHED = "dashkit.json", "dashkit.unfinished"
PINS = "constraints.txt"
SUPPORTED = ((3, 11), (3, 12), (3, 13))          # versions of Python
NEVER_PINNED = re.compile(r"(nvidia|cuda)-.*|triton|dashkit|pip")     # systems without CUDA do not have the first
COMPILED = "torch,torchvision,numpy,scipy,pandas,scikit-learn,matplotlib,pillow,safetensors"
"""Packages that pip takes as wheels alone: building them from source takes hours, and fails."""
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
_READ = {"capture_output": True, "text": True, "encoding": "utf-8", "errors": "replace"}
_PROBE = """
import importlib.util, json, sys
kit = importlib.util.find_spec("dashkit")
print(json.dumps([sys.version_info[:2], sys.prefix, bool(importlib.util.find_spec("pip")), kit and kit.origin]))
"""


# ------------------------------------------------------------------------------------------------------ what to type


def is_active() -> bool:
    """Whether this process runs in the project's own environment."""
    return (ROOT / ".venv").resolve() == Path(sys.prefix).resolve()


def task(words: str) -> str:
    """What to type in the project's folder for a task of run.py, such as "series --only 02"."""
    return f"{PYTHON} run.py {words}"


def kit(words: str) -> str:
    """What to type in a fresh shell for a command of the kit, such as "fetch cifar10"."""
    return task(f"dashkit {words}") if is_active() else f"{quoted(sys.executable)} -m dashkit {words}"


def install(extra: str = "") -> str:
    """What to type in a fresh shell to install the requirements, and those of an extra such as "scale"."""
    if is_active():
        return task(f"install {extra}".strip())
    return f"{quoted(sys.executable)} -m pip install {quoted(*requirements(extra))}"


def repair(*requirements: str) -> str:
    """What to type where installed packages are broken: the environment anew, or these packages in a foreign one."""
    if is_active():
        return task("install --fresh")
    return f"{quoted(sys.executable)} -m pip install --force-reinstall {quoted(*requirements)}"


def requirements(extra: str = "") -> list[str]:
    """The direct requirements as declared, or those of one extra."""
    if IS_PROJECT:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = importlib.metadata.requires("dashkit") or []
    marker = f'extra == "{extra}"' if extra else None
    return [f.split(";")[0].strip() for f in found if (marker in f if marker else "extra ==" not in f)]


def quoted(*words: str) -> str:
    """Words as they are typed in a shell of this system, which then takes each for one word; so is every command that
    holds a user's path."""
    return " ".join(map(_for_windows, words)) if WINDOWS else shlex.join(words)


def _for_windows(word: str) -> str:
    """A word for cmd.exe and PowerShell: they know double quotes alone, and > < & | , and others mean something."""
    if re.fullmatch(r"[\w.:\\/+=~-]+", word):
        return word
    return subprocess.list2cmdline([word]) if re.search(r'[\s"]', word) or not word else f'"{word}"'


# ------------------------------------------------------------------------------------------------------------- pins


def pins(project: Path = ROOT) -> dict[str, str]:
    """Versions by the normalised names of packages, as `constraints.txt` has them; {} if there is no such file."""
    path = project / PINS
    lines = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def frozen(extras: Iterable[str]) -> str:
    """The content of `constraints.txt` for this process's environment: what the kit and the extras need, and no more.

    Packages of one system alone, such as those of CUDA, are left out.  A build's own label (`+cpu`) is, too, and a
    version that not every supported Python may have (`fits_every_python`): pip then chooses one for its own.
    """
    from packaging.requirements import Requirement

    found, todo = {}, [("dashkit", frozenset(extras))]
    seen = set(todo)
    while todo:
        name, asked = todo.pop()
        try:
            there = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:         # a package of another system or another Python
            continue
        if fits_every_python(there.metadata.get("Requires-Python")):
            found[normal(name)] = f"{there.metadata['Name']}=={there.version.split('+')[0]}"
        for line in there.requires or ():
            need = Requirement(line)
            wanted = need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *asked))
            entry = normal(need.name), frozenset(need.extras)
            if wanted and entry not in seen:
                seen.add(entry)
                todo.append(entry)
    return "".join(f"{line}\n" for name, line in sorted(found.items()) if not NEVER_PINNED.fullmatch(name))


def fits_every_python(requires: str | None) -> bool:
    """Whether a package that `requires` such a Python can be installed on the first release of each supported one.

    >>> fits_every_python(">=3.10"), fits_every_python(">=3.11.5"), fits_every_python(None)
    (True, False, True)
    """
    from packaging.specifiers import SpecifierSet

    return all(SpecifierSet(requires or "").contains(f"{major}.{minor}.0") for major, minor in SUPPORTED)


def differences() -> list[str]:
    """How this process's environment differs from `constraints.txt`, a phrase a package."""
    found = []
    for name, version in pins().items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):       # an extra that is not installed
            there = importlib.metadata.version(name).split("+")[0]
            if there != version:
                found.append(f"{name} {there} (pinned: {version})")
    return found


# ------------------------------------------------------------------------------------------------------- environment


class SetUpError(Exception):
    """The environment cannot be made; the message says what to do."""


class State(NamedTuple):
    kind: str      # ready, stale (install again), moved (made for another folder), broken (make anew)
    reason: str    # empty for ready


class Stamp(NamedTuple):
    """What an environment was installed for; the last thing that an installation writes."""

    project: str
    python: str                  # e.g. 3.12
    digest: str                  # of pyproject.toml and, unless `latest`, of constraints.txt
    extras: tuple[str, ...] = ()
    latest: bool = False


@dataclass(frozen=True)
class Environment:
    """The environment of one project's folder."""

    project: Path = ROOT

    @property
    def folder(self) -> Path:
        return self.project / ".venv"

    @property
    def bin(self) -> Path:
        return self.folder / ("Scripts" if WINDOWS else "bin")

    @property
    def python(self) -> Path:
        return self.bin / ("python.exe" if WINDOWS else "python")

    def variables(self) -> dict[str, str]:
        """The variables of this process, changed so that a program finds this environment and can print anything."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")}
        encoding = os.environ.get("PYTHONIOENCODING", "").split(":")[0] or "utf-8"
        return kept | {
            "VIRTUAL_ENV": str(self.folder), "PATH": os.pathsep.join([str(self.bin), os.environ.get("PATH", "")]),
            "PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:replace",
            "TQDM_MININTERVAL": os.environ.get("TQDM_MININTERVAL", "1"),
        }

    def ensure(self, extras: Iterable[str] = (), *, latest: bool | None = None, fresh: bool = False,
               again: bool = False) -> None:
        """Make the environment ready, with these extras beside those that it has; does nothing if it is.

        `latest` ignores the pins (None: as it was installed), `fresh` makes it anew, `again` installs even if it is
        ready.  SetUpError says what to do where that fails.
        """
        state = self.state(extras, latest)
        if state.kind == "ready" and not (fresh or again):
            return
        with self._alone(state.reason):
            state = self.state(extras, latest)              # another process may have repaired it meanwhile
            if state.kind == "ready" and not (fresh or again):
                return
            print(f"{self.folder}: {'made anew' if fresh else state.reason or 'installed again'}", file=sys.stderr)
            try:
                self._repair(state, self._wanted(extras, latest), fresh=fresh)
            except OSError as error:
                if error.errno not in NO_ACCESS:
                    raise
                raise SetUpError(self._not_ours(error)) from error

    def _repair(self, state: State, wanted: Stamp, *, fresh: bool) -> None:
        if state.kind == "moved" and not fresh and self._move(Path(self.stamp().project)):
            state = State("stale", state.reason)
        whole = state.kind in ("ready", "stale") and not fresh and self._has_pip()
        if not whole:
            self._make()
        self._install(wanted, whole=whole)

    def state(self, extras: Iterable[str] = (), latest: bool | None = None) -> State:
        """What must be done before the environment can be used, and why; changes nothing."""
        if not os.path.lexists(self.folder):
            return State("broken", "there is no environment yet")
        if not self.folder.is_dir():
            return State("broken", "it is no folder")
        if (self.folder / UNFINISHED).exists():
            return State("broken", "an installation did not come to its end")
        facts = self._probe()
        if facts is None:
            return State("broken", "its Python does not start")
        (major, minor), prefix, has_pip, kit = facts
        python, stamp = f"{major}.{minor}", self.stamp()
        if not _same(prefix, self.folder):
            return State("broken", "its Python is not its own")
        own = kit is not None and _same(Path(kit).parent, self.project / "dashkit")
        if stamp is None:
            return State("broken", "it belongs to another folder") if kit and not own else \
                State("stale", "nothing says what is installed")
        if stamp.python != python:
            return State("broken", f"it was made for Python {stamp.python}, but starts Python {python}")
        if not _same(stamp.project, self.project):
            return State("moved", f"it was made for {stamp.project}")
        if not own:
            return State("stale", "the kit is not installed from this folder")
        if self._wanted(extras, latest) != stamp:
            return State("stale", "the requirements have changed")
        if not has_pip:
            return State("stale", "it has no pip")
        return State("ready", "")

    def stamp(self) -> Stamp | None:
        """What the environment was installed for; None if nothing says so."""
        try:
            value = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
            return Stamp(**value | {"extras": tuple(value["extras"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _wanted(self, extras: Iterable[str], latest: bool | None) -> Stamp:
        """The stamp of the environment as it should be; SetUpError for an unknown extra."""
        text = (self.project / "pyproject.toml").read_bytes()
        known = tomllib.loads(text.decode("utf-8"))["project"].get("optional-dependencies", {})
        unknown = sorted({*extras} - {*known})
        if unknown:
            raise SetUpError(f"there is no extra {', '.join(unknown)}; choose from {', '.join(known)}")
        before = self.stamp() or Stamp("", f"{sys.version_info[0]}.{sys.version_info[1]}", "")
        latest = before.latest if latest is None else latest
        pinned = self.project / PINS
        content = text + (pinned.read_bytes() if pinned.is_file() and not latest else b"")
        return before._replace(project=str(self.project), digest=hashlib.sha256(content).hexdigest(), latest=latest,
                               extras=tuple(sorted({*before.extras} & {*known} | {*extras})))

    def _probe(self) -> tuple | None:
        """Version, prefix, whether pip is there, and where the kit is, as the environment's own Python sees it."""
        try:
            done = subprocess.run([self.python, "-I", "-c", _PROBE], **_READ, timeout=60)
            return tuple(json.loads(done.stdout)) if done.returncode == 0 else None
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None

    def _make(self) -> None:
        """An empty environment in the place of whatever is there; marked as unfinished."""
        self._discard()
        self.folder.mkdir()
        (self.folder / UNFINISHED).touch()
        base = sys.executable if sys.prefix == sys.base_prefix else sys._base_executable
        done = subprocess.run([base, "-I", "-m", "venv", str(self.folder)], **_READ)
        if done.returncode or not self.python.exists():
            said = done.stdout + done.stderr
            self._discard()
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            if "ensurepip" in said:
                raise SetUpError(f"this Python has no ensurepip, so that it cannot make environments; on Debian and "
                                 f"Ubuntu: sudo apt install python{version}-venv; then type the same again")
            reason = (said.strip().splitlines() or ["it gives no reason"])[-1]
            raise SetUpError(f"{base} cannot make an environment: {reason}")

    def _discard(self) -> None:
        """Remove what is there.  It is renamed first: an environment of which a part was deleted may look whole."""
        for old in self.project.glob(".venv.old-*"):
            shutil.rmtree(old, ignore_errors=True)
        if self.folder.is_symlink() or self.folder.is_file():
            self.folder.unlink()
        elif self.folder.exists():
            old = self.project / f".venv.old-{os.getpid()}-{time.time_ns()}"
            try:
                self.folder.rename(old)
            except OSError as error:
                if not WINDOWS and error.errno in NO_ACCESS:
                    raise                                        # nobody uses it: it is somebody else's
                raise SetUpError(f"{self.folder} cannot be replaced ({error.strerror}); close the programs that use it "
                                 "and shells in which it is active, then type the same again") from error
            shutil.rmtree(old, ignore_errors=True)

    def _not_ours(self, error: OSError) -> str:
        return (f"{self.folder} cannot be written ({error.strerror}); ask whoever installed it to type there: "
                f"{task('install')}")

    def _move(self, before: Path) -> bool:
        """Make an environment that was copied or renamed with its project this one's; False to make it anew."""
        if WINDOWS or self.folder.is_symlink():          # programs hold the old path; a link is shared with the other
            return False
        (self.folder / UNFINISHED).touch()
        done = subprocess.run([self.python, "-I", "-c", "import json, sys; print(json.dumps(sys._base_executable))"],
                              **_READ)
        base = json.loads(done.stdout or "null")
        if done.returncode or not base or subprocess.run([base, "-I", "-m", "venv", "--without-pip", str(self.folder)],
                                                         capture_output=True).returncode:
            return False
        old, new = os.fsencode(before / ".venv"), os.fsencode(self.folder)
        for path in (*self.bin.iterdir(), *self.folder.glob("share/jupyter/kernels/*/kernel.json")):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20:
                content = path.read_bytes()
                if old + b"/" in content:
                    path.write_bytes(content.replace(old + b"/", new + b"/"))
        return True

    def _install(self, wanted: Stamp, *, whole: bool) -> None:
        """Let pip install what is wanted and write the stamp.  `whole`: there was a good environment before."""
        mark = self.folder / UNFINISHED
        mark.touch()
        pinned = self.project / PINS
        pinned = [] if wanted.latest or not pinned.is_file() else ["--constraint", str(pinned)]
        needs = f"{self.project}[{','.join(wanted.extras)}]" if wanted.extras else str(self.project)
        print("installing; the first time this takes minutes, since torch is large", file=sys.stderr)
        options = ["install", "--disable-pip-version-check", "--only-binary", COMPILED, *pinned]
        for arguments in (["setuptools>=77"], ["--no-build-isolation", "--editable", needs]):
            done = self._pip(*options, *arguments)
            if done.returncode:
                if whole and "Installing collected packages" not in done.stdout:
                    mark.unlink()                       # pip failed before it changed anything
                raise SetUpError(self._failure(done.stdout, pinned=bool(pinned)))
        facts = self._probe()
        if facts is None or facts[3] is None or not _same(Path(facts[3]).parent, self.project / "dashkit"):
            raise SetUpError(f"the kit cannot be imported from {self.folder}; type: {task('install --fresh')}")
        wanted = wanted._replace(python="{}.{}".format(*facts[0]))
        mark.unlink()
        temporary = self.folder / f"{STAMP}.tmp"
        temporary.write_text(json.dumps(wanted._asdict(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.folder / STAMP)

    def _has_pip(self) -> bool:
        """Whether pip works, if need be after it was put in."""
        works = self._pip("--version").returncode == 0
        if not works and subprocess.run([self.python, "-I", "-m", "ensurepip"], capture_output=True).returncode == 0:
            works = self._pip("--version").returncode == 0
        return works

    def _failure(self, said: str, *, pinned: bool) -> str:
        """What pip said of its failure, and what to do about it."""
        tail = "\n".join(line for line in said.splitlines() if re.search("ERROR|(?i:error:)|^HINT", line))[-2000:]
        missing, version = "No matching distribution" in said, f"{sys.version_info[0]}.{sys.version_info[1]}"
        if "Permission denied" in said or "Read-only file system" in said:
            advice = f"{self.folder} cannot be written; ask whoever installed it to type there: {task('install')}"
            return f"{tail}\npip could not install what is needed: {advice}".strip()
        if re.search("No space left|WinError 112", said):
            advice = "the disk is full; free some space"
        elif re.search("Long Path support|WinError 206", said):
            advice = r"a path is too long for Windows; move the project's folder to a short place, such as C:\dashkit"
        elif re.search(r"WinError (5|32)\b", said):
            advice = (f"another program holds a file; close JupyterLab and the shells that use {self.folder}; if the "
                      "project lies in OneDrive, move it elsewhere")
        elif "NewConnectionError" in said or "Retrying (" in said:
            advice = "the index of packages could not be reached; see to the network"
        elif missing and os.environ.get("PIP_NO_INDEX", "").lower() in ("1", "true", "yes", "on"):
            advice = (f"PIP_NO_INDEX is set, and this wheel is not in the folder PIP_FIND_LINKS "
                      f"({os.environ.get('PIP_FIND_LINKS') or 'which is not set'}); put it there, for Python {version}")
        elif missing and pinned:
            advice = f"if a pinned version has no wheel for Python {version}, add --latest: {task('install --latest')}"
        else:
            advice = "see what pip says above"
        return f"{tail}\npip could not install what is needed: {advice}, then type the same again".strip()

    def _pip(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the environment's pip, without settings that let it install elsewhere; one line shows its progress."""
        clean = {k: v for k, v in os.environ.items()
                 if k not in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PYTHONPATH", "PYTHONHOME")}
        said, shown = [], sys.stderr.isatty()
        with subprocess.Popen([self.python, "-I", "-m", "pip", *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                              env=clean | {"PYTHONUTF8": "1"}, **self._held) as process:
            try:
                for line in process.stdout:
                    said.append(line)
                    if shown:
                        print("\r" + line.strip().encode("ascii", "replace").decode()[:78].ljust(78), end="",
                              file=sys.stderr, flush=True)
            except BaseException:
                process.terminate()
                raise
        if shown:
            print("\r" + 78 * " " + "\r", end="", file=sys.stderr, flush=True)
        return subprocess.CompletedProcess(process.args, process.returncode, "".join(said))

    @property
    def _held(self) -> dict:
        """pip holds the lock, too: it may go on where this process is killed."""
        return {} if WINDOWS or self.project not in _locks else {"pass_fds": (_locks[self.project],)}

    @contextlib.contextmanager
    def _alone(self, reason: str) -> Iterator[None]:
        """Hold the environment against other processes that would repair it, too."""
        try:
            file = (self.project / ".venv.lock").open("a")
        except OSError as error:
            raise SetUpError(f"{reason or 'it is to be installed again'}, but {self._not_ours(error)}") from error
        with file:
            said = False
            while not _try_lock(file.fileno()):
                if not said:
                    print(f"{self.folder}: another process installs; waiting for it", file=sys.stderr)
                said = True
                time.sleep(0.2)
            _locks[self.project] = file.fileno()
            try:
                yield
            finally:
                del _locks[self.project]


_locks: dict[Path, int] = {}


def _try_lock(number: int) -> bool:
    """Try to lock an open file until every process that holds it has ended."""
    try:
        if WINDOWS:
            import msvcrt

            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same(one: str | Path, other: str | Path) -> bool:
    """Whether two paths are one place."""
    return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))
