"""What `run.py` does: it makes the environment ready and starts a task in it."""

import argparse
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from dashkit import environment, stopping
from dashkit.environment import Environment, SetUpError
from dashkit.storage import paths
from dashkit.storage.paths import ROOT

Options = argparse.Namespace
Command = list[str]       # a Python program and its arguments, or "-m" and a module

OPTIONS = {
    "profile": {"default": "digits", "help": "smoke, digits (default), ..."},
    "only": {"default": "", "help": "numbers of notebooks, e.g. 02,04; of mutants: modules, e.g. schedule"},
    "seed": {"default": "42"},
    "device": {"default": "auto", "help": "auto (default), cpu or cuda"},
    "set": {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": "settings of the profile"},
    "jobs": {"default": "1", "help": "worker processes (default 1: none)"},
    "minutes": {"default": "", "help": "no more than fits into this time on this machine"},
    "kills": {"default": "50"},
    "cases": {"default": "10000"},
    "fuzz-seed": {"default": "0"},
    "tests": {"default": "", "help": "files of tests (default: all)"},
    "quick": {"action": "store_true", "help": "two minutes"},
    "publish": {"action": "store_true", "help": "keep the result in data/results"},
    "open": {"action": "store_true", "help": "open it in the browser"},
}
JUPYTERLAB = ["--ServerApp.ip=127.0.0.1", "--LabApp.news_url=None",
              "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
"""JupyterLab listens on this machine alone, wants its token, and asks nobody for news."""


class Task(NamedTuple):
    help: str
    commands: Callable[[Options], list[Command]] = lambda options: []
    options: tuple[str, ...] = ()
    extras: tuple[str, ...] = ("test",)
    words: str = ""           # what further words are, if there may be any


def _series(options: Options) -> list[Command]:
    settings = [part for group in options.set for word in group.split() for part in ("--set", word)]
    return [["-m", "dashkit", "series", "--profile", options.profile, "--seed", options.seed,
             "--device", options.device, "--only", options.only, *settings]]


def _numbers(options: Options) -> list[str]:
    return options.only.replace(",", " ").split()


def _gate(stages: str, options: Options) -> list[Command]:
    return [["tests/gate.py", stages, *(["--minutes", options.minutes] if options.minutes else [])]]


def _sweep(options: Options) -> list[Command]:
    of_teachers = {"digits": ["--teachers", "5", "--seeds", "1"], "exact": []}
    return [["-m", "dashkit", "sweep", "--profile", profile, *more, "--jobs", options.jobs, "--publish"]
            for profile, more in of_teachers.items()]


def _site(options: Options) -> list[Command]:
    return [["-m", "dashkit", options.task, "--profile", options.profile, *(["--open"] if options.open else [])]]


def _lab(options: Options) -> list[Command]:
    """JupyterLab with one place to open: it takes the first, and does not mention a second."""
    words, before = options.words, ["", *options.words]
    places = [word for word in words if Path(word).exists()]
    for word, last in zip(words, before, strict=False):
        if word not in places and not word.startswith("-") and not re.fullmatch("-[^=]+", last):    # no option's value
            raise ValueError(f"there is no {word} to open; {environment.task('editions')} makes build/editions/student")
    if len(places) > 1:
        raise ValueError(f"JupyterLab opens one folder, not {len(places)}: {', '.join(places)}")
    opened = [str(Path(word).absolute()) if word in places else word for word in words]
    return [["-m", "jupyterlab", *JUPYTERLAB, *([] if places else [str(_notebooks())]), *opened]]


def _bench(options: Options) -> list[Command]:
    given = ["--quick"] if options.quick else []
    return [["tests/tools/bench.py", *given, *(["--publish"] if options.publish else [])]]


def _mutants(options: Options) -> list[Command]:
    return [["tests/tools/mutants.py", *(part for name in _numbers(options) for part in ("--only", name))]]


def _fuzz(options: Options) -> list[Command]:
    return [["tests/tools/fuzz.py", "--cases", options.cases, "--seed", options.fuzz_seed]]


TASKS = {
    "series": Task("execute the notebooks and write build/series/PROFILE/index.html", _series,
                   ("profile", "only", "seed", "device", "set"), ()),
    "test": Task("the quick checks: lint, unit tests, every notebook executed once and compared",
                 lambda o: [["tests/gate.py", *o.words]], words="stages"),
    "test-rest": Task("what test leaves out: slow unit tests, nbval, solutions, browser, site, versions",
                      lambda o: _gate("rest", o), ("minutes",)),
    "test-all": Task("every check of the project", lambda o: _gate("all", o), ("minutes",)),
    "lab": Task(f"open JupyterLab; {paths.PYTHON} run.py lab FOLDER opens another folder than notebooks", _lab, (), (),
                "a folder or a notebook; options of JupyterLab, after --"),
    "doctor": Task("check this set-up", lambda o: [["-m", "dashkit", "doctor", "--device", o.device]], ("device",), ()),
    "dashkit": Task(f"any command of the kit, e.g. {paths.PYTHON} run.py dashkit fetch cifar10",
                    lambda o: [["-m", "dashkit", *o.words]], (), (), "the command"),
    "exec": Task(f"any program of the environment, e.g. {paths.PYTHON} run.py exec python my_script.py",
                 words="the program", extras=()),
    "install": Task(f"install again; with extras: {paths.PYTHON} run.py install scale", words="extras", extras=()),
    "pin": Task("write constraints.txt from what is installed, after test-all passed"),
    "sweep": Task("train and measure every arm over many seeds; goes on where it was stopped", _sweep, ("jobs",), ()),
    "tune": Task("choose each arm's learning rate on a validation split",
                 lambda o: [["-m", "dashkit", "tune", "--publish"]], (), ()),
    "publish": Task("ledger, cost and README from data/results and the last digits series",
                    lambda o: [["-m", "dashkit.publishing.readme"]], (), ()),
    "refresh": Task("renew the outputs that are stored in the notebooks",
                    lambda o: [["tests/gate.py", "refresh", *_numbers(o)]], ("only",)),
    "stable": Task("two refreshes of every notebook differ in nothing",
                   lambda o: [["tests/gate.py", "stable", *_numbers(o)]], ("only",)),
    "browser": Task("every control of every notebook, in JupyterLab (needs chromium)",
                    lambda o: [["tests/tools/browser.py", *_numbers(o)]], ("only",)),
    "editions": Task("notebooks for students (no outputs) and solved ones in build/editions",
                     lambda o: [["-m", "dashkit.classroom.editions", o.profile]], ("profile",), ()),
    "site": Task("build/site/html: pages that need no network and no Python, explorers too", _site,
                 ("profile", "open"), ("site",)),
    "slides": Task("build/site/html/slides_00.html, _03, _04: the 90-minute plan", _site, ("profile", "open"),
                   ("site",)),
    "bench": Task("time this kit against diffusers", _bench, ("quick", "publish")),
    "chaos": Task("kill training, sweep, evaluation, fetch and series: is anything lost?",
                  lambda o: [["tests/tools/chaos.py", "--kills", o.kills]], ("kills",)),
    "fuzz": Task("damaged files for every reader", _fuzz, ("cases", "fuzz-seed")),
    "mutants": Task("change the mathematics one place at a time: do the tests notice?", _mutants, ("only",),
                    ("test", "mutants")),
    "lowest": Task("the tests on the lowest supported versions", options=("tests",), extras=()),
    "clean": Task("delete build", extras=()),
}
VERBATIM = ("dashkit", "exec")        # what follows them is for another program


def parser() -> argparse.ArgumentParser:
    """One subcommand a task.  Options may be written as words, too: PROFILE=smoke is --profile smoke."""
    top = argparse.ArgumentParser(
        f"{paths.PYTHON} run.py", allow_abbrev=False,
        description="Makes or repairs the environment .venv, then runs a task in it.",
        epilog="Options may be written as for make: PROFILE=smoke ONLY=02,04.  DASHKIT_HOME=FOLDER moves everything "
               "that tasks write.")
    tasks = top.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, task in TASKS.items():
        command = tasks.add_parser(name, help=task.help, description=task.help, allow_abbrev=False)
        for option in task.options:
            command.add_argument(f"--{option}", **OPTIONS[option])
        if task.words:
            command.add_argument("words", nargs="*", metavar="WORD", help=task.words)
        command.add_argument("--latest", action="store_true", default=None,
                             help="the newest versions that fit, not those of constraints.txt")
        if name == "install":
            command.add_argument("--fresh", action="store_true", help="make the environment anew")
    return top


def parse(arguments: Sequence[str]) -> Options:
    """The options of one call, without a remark after a bare `#`; exits with a message if they are wrong.

    cmd.exe, and zsh as it is typed to, hand a remark on as words.  What follows `exec` is left as it is.
    """
    if list(arguments[:1]) != ["exec"]:
        arguments = list(itertools.takewhile(lambda word: word != "#", arguments)) or ["--help"]
    if arguments[0] in VERBATIM:
        return Options(task=arguments[0], words=list(arguments[1:]))
    task = TASKS.get(arguments[0])
    return parser().parse_args([part for word in arguments for part in _option(word, task)])


def _option(word: str, task: Task | None) -> Iterator[str]:
    """PROFILE=smoke as --profile=smoke, QUICK=1 as --quick; any other word as it is.

    ?PROFILE=smoke, a variable that make found in the environment, is for tasks that have this option.
    """
    match = re.fullmatch(r"\??([A-Z][A-Z_]*)=(.*)", word, re.S)
    name = match[1].lower().replace("_", "-") if match else ""
    if word.startswith("?") and match and (task is None or name not in task.options):
        return
    if name not in OPTIONS:
        yield word
    elif OPTIONS[name].get("action") == "store_true":
        yield from [f"--{name}"] if match[2] not in ("", "0") else []
    elif match[2]:
        yield f"--{name}={match[2]}"


def main(arguments: Sequence[str]) -> int:
    """Run one task; returns its exit code, 2 if the environment cannot be made, 130 or 143 if it was stopped."""
    paths.print_anything()
    options, came = parse(arguments), []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt(number)

    try:
        with stopping.answered_by(stop):                 # pip is ended with us
            return run(options, Environment(ROOT))
    except (Exception, KeyboardInterrupt) as error:
        if came or isinstance(error, KeyboardInterrupt):
            print("\nrun.py: stopped; type the same again", file=sys.stderr)
            return 128 + (came or [signal.SIGINT])[0]
        if isinstance(error, SetUpError | OSError | ValueError):
            print(f"run.py: {error}", file=sys.stderr)
            return 2
        raise


def run(options: Options, env: Environment) -> int:
    """Make the environment ready and run the task in it; returns the exit code."""
    if options.task == "clean":
        shutil.rmtree(paths.BUILD, ignore_errors=True)
        return 0
    task = TASKS[options.task]
    if options.task == "install":
        env.ensure(options.words, latest=bool(options.latest), fresh=options.fresh, again=True)
        print(f"{env.folder} is ready; to check it, type: {environment.task('doctor')}")
        return 0
    commands = task.commands(options)            # refuses wrong words before anything is installed
    env.ensure(task.extras, latest=getattr(options, "latest", None))
    if options.task == "exec":
        return _become(_program(options.words, env), env, Path.cwd())
    special = {"pin": _pin, "lowest": _lowest, "fuzz": _with_atheris}
    if options.task in special:
        return special[options.task](options, env)
    return _all(commands, env, Path.cwd() if options.task == "dashkit" else ROOT)


def _all(commands: list[Command], env: Environment, folder: Path) -> int:
    """Run Python programs one after the other until one fails; modules do not come from `folder`."""
    *first, last = [[str(env.python), *(["-P"] if command[0] == "-m" else []), *command] for command in commands]
    for command in first:
        if code := _start(command, env, folder):
            return code
    return _become(last, env, folder)


def _start(command: Command, env: Environment, folder: Path) -> int:
    """Run a program in the environment and wait for it; returns its exit code."""
    paths.hand_on()
    with subprocess.Popen(command, cwd=folder, env=env.variables()) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:                # the program has got it, too, and may have to save
            code = process.wait() or 130
        finally:
            signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


def _become(command: Command, env: Environment, folder: Path) -> int:
    """End in a program: it takes this process's place, so that signals and exit codes are its own."""
    if environment.WINDOWS:                      # has nothing of the kind
        return _start(command, env, folder)
    paths.hand_on()
    os.chdir(folder)
    sys.stdout.flush()
    if command[1:4] == ["-P", "-m", "dashkit"]:
        stopping.hold_back()
    os.execve(command[0], command, env.variables())


def _program(words: Sequence[str], env: Environment) -> Command:
    """A program of the environment, or of the system, with its arguments; ValueError if there is none of that name."""
    found = shutil.which(words[0], path=env.variables()["PATH"]) if words else None
    if found is None:
        raise ValueError(f"there is no program {words[0]!r}" if words else "exec needs the name of a program")
    return [found, *words[1:]]


def _notebooks() -> Path:
    """The folder that JupyterLab opens: the project's, or copies in DASHKIT_HOME, which are yours to change."""
    own = paths.HOME / "notebooks"
    if own == ROOT / "notebooks":
        return own
    paths.make_folder(own)
    for path in sorted((ROOT / "notebooks").iterdir()):
        if path.is_file() and not (own / path.name).exists():
            shutil.copyfile(path, own / path.name)
    return own


def _pin(options: Options, env: Environment) -> int:
    code = "import sys; from dashkit import environment; print(environment.frozen(sys.argv[1:]), end='')"
    done = subprocess.run([env.python, "-P", "-c", code, *env.stamp().extras], stdout=subprocess.PIPE, text=True,
                          encoding="utf-8", env=env.variables())
    if done.returncode == 0:
        (ROOT / environment.PINS).write_text(done.stdout, encoding="utf-8", newline="\n")
        print(f"{environment.PINS}: {len(done.stdout.splitlines())} packages")
    return done.returncode


def _lowest(options: Options, env: Environment) -> int:
    """The tests in `.venv-lowest`, which has the lowest supported versions of the direct requirements."""
    other = ROOT / ".venv-lowest"
    python = other / env.python.relative_to(env.folder)
    pip = [str(env.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]
    uv = [str(env.python), "-m", "uv"]
    make = [] if python.exists() else [[*uv, "venv", "--quiet", "--clear", "--python", str(env.python), str(other)]]
    install = [*uv, "pip", "install", "--quiet", "--python", str(python), "--resolution", "lowest-direct", ".[test]"]
    test = [str(python), "-m", "pytest", "-q", "-n", "auto", "-m", "slow or not slow", *options.tests.split()]
    for command in (pip, *make, install):
        if code := _start(command, env, ROOT):
            return code
    return _become(test, env, ROOT)


def _with_atheris(options: Options, env: Environment) -> int:
    """Coverage guides the cases where atheris can be installed; fuzz.py says so where it cannot."""
    subprocess.run([env.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                    "--only-binary", ":all:", "atheris"], capture_output=True)
    return _all(_fuzz(options), env, ROOT)
