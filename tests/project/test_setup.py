"""The set-up: an environment in any state is repaired, commands in texts work, one setting moves what is written."""

import ast
import contextlib
import errno
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dashkit import cli, doctor, environment, launch
from dashkit.environment import UNFINISHED, Environment, SetUpError
from dashkit.experiments.run import start_run
from dashkit.storage import paths

ROOT = paths.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
posix = pytest.mark.skipif(os.name == "nt", reason="SKIPPED: of POSIX")

# ------------------------------------------------------------------------------------------- the environment's states

PIP = """
import os, sys, time
from pathlib import Path
site = Path(__file__).parent.parent
with Path(site, "pip.log").open("a") as log:
    print(*sys.argv[1:], file=log)
if os.environ.get("FAKE_PIP_SAYS"):
    print(os.environ["FAKE_PIP_SAYS"])
    sys.exit(1)
if "--editable" in sys.argv:
    print("Installing collected packages: kit", flush=True)
    Path(site, "torch.py").write_text("half")
    time.sleep(float(os.environ.get("FAKE_PIP_SECONDS", "0")))
    Path(site, "torch.py").write_text("whole = True")
    Path(site, "kit.pth").write_text(sys.argv[-1].split("[")[0])
"""


def plant(folder):
    """A program called pip in an environment: it writes a log, and links the project like an editable installation."""
    [site] = folder.glob("lib/python*/site-packages")
    (site / "pip").mkdir(exist_ok=True)
    (site / "pip" / "__init__.py").write_text("")
    (site / "pip" / "__main__.py").write_text(PIP)
    script = folder / "bin" / "jupyter-of-the-kit"
    script.write_text(f"#!{folder}/bin/python\n")
    return site


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a project with a kit and extras of its own; new environments get the pip above in place of the real one."""
    real = subprocess.run

    def run(command, *rest, **keywords):
        command = list(map(str, command))
        if command[2:4] == ["-m", "ensurepip"]:
            return subprocess.CompletedProcess(command, 1)
        if command[2:4] == ["-m", "venv"] and "--without-pip" not in command:
            done = real([*command, "--without-pip"], *rest, **keywords)
            plant(Path(command[-1]))
            return done
        return real(command, *rest, **keywords)

    monkeypatch.setattr(subprocess, "run", run)

    def project(name="project"):
        folder = tmp_path / name
        (folder / "dashkit").mkdir(parents=True)
        (folder / "dashkit" / "__init__.py").write_text("")
        (folder / "pyproject.toml").write_text("[project]\nname = 'dashkit'\n[project.optional-dependencies]\n"
                                               "scale = ['x']\ntest = ['y']\n")
        (folder / "constraints.txt").write_text("torch==1.0\n")
        return Environment(folder)

    return project


@pytest.fixture
def env(make):
    env = make()
    env.ensure()
    return env


def log(env):
    [site] = env.folder.glob("lib/python*/site-packages")
    return (site / "pip.log").read_text().splitlines()


def is_whole(env):
    """Whether the environment is ready and its Python imports the kit of its own project, and all of torch."""
    code = "import dashkit\nimport torch; print(dashkit.__file__, torch.whole)"
    done = subprocess.run([env.python, "-I", "-c", code], capture_output=True, text=True)
    return env.state().kind == "ready" and done.stdout.strip() == f"{env.project / 'dashkit' / '__init__.py'} True"


def without(env, *names):
    for name in names:
        [path] = env.folder.glob(name)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def empty(env):
    shutil.rmtree(env.folder)
    env.folder.mkdir()


def a_file(env):
    shutil.rmtree(env.folder)
    env.folder.write_text("x")


def dangling(env):
    shutil.rmtree(env.folder)
    env.folder.symlink_to(env.project / "nowhere")


def interrupted(env):
    """Ctrl-C while the environment was made: no pip, no packages, no stamp."""
    shutil.rmtree(env.folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env.folder])


def no_interpreter(env):
    for path in env.bin.glob("python*"):
        path.unlink()


def another_interpreter(env):
    """The system's Python was replaced by a later one: what was installed is no longer found."""
    stamp = json.loads((env.folder / environment.STAMP).read_text())
    (env.folder / environment.STAMP).write_text(json.dumps(stamp | {"python": "3.9"}))


HALF_MADE = {
    "nothing": lambda env: shutil.rmtree(env.folder), "an empty folder": empty, "a file": a_file, "a link": dangling,
    "interrupted": interrupted, "no pip": lambda env: without(env, "lib/python*/site-packages/pip"),
    "a damaged pip": lambda env: without(env, "lib/python*/site-packages/pip/__main__.py", environment.STAMP),
    "no interpreter": no_interpreter, "no pyvenv.cfg": lambda env: without(env, "pyvenv.cfg"),
    "another interpreter": another_interpreter, "killed": lambda env: (env.folder / UNFINISHED).touch(),
    "no stamp": lambda env: without(env, environment.STAMP),
    "a damaged stamp": lambda env: (env.folder / environment.STAMP).write_text('{"python"'),
    "no kit": lambda env: without(env, "lib/python*/site-packages/kit.pth"),
}


@posix
@pytest.mark.parametrize("state", HALF_MADE)
def test_a_half_made_environment_is_repaired_by_the_next_call(env, state):
    assert is_whole(env)
    HALF_MADE[state](env)
    assert env.state().kind != "ready" and env.state().reason
    env.ensure()
    assert is_whole(env) and not list(env.project.glob(".venv.old*"))


@posix
def test_a_ready_environment_is_left_alone(env):
    before = log(env)
    env.ensure()
    assert log(env) == before
    env.ensure(again=True)
    assert len(log(env)) > len(before)


@posix
def test_a_killed_installation_is_made_anew_and_its_torso_is_gone(make, monkeypatch):
    env = make()
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from dashkit.environment import Environment
Environment(Path({str(env.project)!r}))._install(Environment(Path({str(env.project)!r}))._wanted((), None), whole=True)
"""
    env._make()
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"FAKE_PIP_SECONDS": "60"},
                               start_new_session=True, stderr=subprocess.DEVNULL)
    [site] = env.folder.glob("lib/python*/site-packages")
    while not (site / "torch.py").exists() or (site / "torch.py").read_text() != "half":
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (site / "torch.py").read_text() == "half" and env.state().kind == "broken"
    env.ensure()
    assert is_whole(env)


@posix
def test_extras_and_new_requirements_are_installed_once_and_kept(env):
    env.ensure(["scale"])
    assert log(env)[-1].endswith(f"--editable {env.project}[scale]")
    (env.project / "pyproject.toml").write_text((env.project / "pyproject.toml").read_text() + "# changed\n")
    env.ensure(["test"])
    assert log(env)[-1].endswith("[scale,test]") and env.stamp().extras == ("scale", "test")
    before = log(env)
    env.ensure(["scale"])
    assert log(env) == before
    with pytest.raises(SetUpError, match="there is no extra scall; choose from scale, test"):
        env.ensure(["scall"])


@posix
def test_pins_are_used_unless_the_newest_are_wanted(env):
    pinned = f"--constraint {env.project / 'constraints.txt'}"
    assert pinned in log(env)[-1]
    env.ensure(latest=True)
    assert pinned not in log(env)[-1]
    before = log(env)
    env.ensure()                                             # stays so without being asked again
    (env.project / "constraints.txt").write_text("torch==2.0\n")
    env.ensure()
    assert log(env) == before
    env.ensure(latest=False)
    assert pinned in log(env)[-1]


@posix
@pytest.mark.parametrize(("said", "message"), [
    ("ERROR: No matching distribution found for torch==1.0", "no wheel for Python .* --latest"),
    ("WARNING: Retrying (Retry(total=4)) after error\nERROR: No matching distribution", "see to the network"),
    ("ERROR: Could not install: OSError: [Errno 13] Permission denied: '/x'", "ask whoever installed"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "free some space"),
])  # fmt: skip
def test_a_failure_of_pip_says_what_to_do_and_a_good_environment_stays(env, monkeypatch, said, message):
    (env.project / "constraints.txt").write_text("torch==3.0\n")
    monkeypatch.setattr(Environment, "_has_pip", lambda self: True)
    monkeypatch.setenv("FAKE_PIP_SAYS", said)
    with pytest.raises(SetUpError, match=message):
        env.ensure()
    assert env.state().kind == "stale"                       # pip had not begun to change it
    monkeypatch.setenv("FAKE_PIP_SAYS", f"Installing collected packages: x\n{said}")
    with pytest.raises(SetUpError, match=message):
        env.ensure()
    assert env.state().kind == "broken"                      # it had
    monkeypatch.delenv("FAKE_PIP_SAYS")
    env.ensure()
    assert is_whole(env)


MISSING = "ERROR: Could not find a version that satisfies x>=2\nERROR: No matching distribution found for x>=2"


@pytest.mark.parametrize(("said", "advice"), [
    ("ERROR: Could not install packages due to an OSError: [Errno 2] No such file: 'D:\\\\Ü\\\\.venv\\\\y.map'\n"
     "HINT: This error might have occurred since this system does not have Windows Long Path support enabled.",
     r"move the project's folder to a short place, such as C:\\dashkit"),
    ("OSError: [WinError 206] Der Dateiname oder die Erweiterung ist zu lang\nERROR: x", "to a short place"),
    ("ERROR: Could not install packages due to an OSError: [WinError 32] El proceso no tiene acceso: 'numpy.pyd'",
     "close JupyterLab and the shells that use .*venv"),
    ("ERROR: Could not install packages due to an OSError: [WinError 5] Accès refusé: 'C:\\\\k\\\\python.exe'\n"
     "Check the permissions.", "close JupyterLab and the shells that use .*venv"),
    ("ERROR: Could not install packages due to an OSError: [WinError 112] Nicht genug Platz", "disk is full"),
    ("error: subprocess-exited-with-error\nERROR: Failed to build x", "see what pip says above"),
    (MISSING, "--latest"),
])  # fmt: skip
def test_advice_on_pip_fits_what_it_says_and_its_own_hint_is_kept(tmp_path, monkeypatch, said, advice):
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    found, unpinned = (Environment(tmp_path)._failure(said, pinned=pinned) for pinned in (True, False))
    assert re.search(advice, found) and found.endswith(", then type the same again")
    assert ("--latest" in found) == (said == MISSING) and "--latest" not in unpinned
    assert ("HINT" in found) == ("HINT" in said)


def test_a_wheel_that_was_not_brought_along_is_no_question_of_pins(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/stick/wheels")
    for no_index, named in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("PIP_NO_INDEX", no_index)
        found = Environment(tmp_path)._failure(MISSING, pinned=True)
        assert ("not in the folder PIP_FIND_LINKS (/stick/wheels)" in found) == named == ("--latest" not in found)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert "PIP_FIND_LINKS (which is not set)" in Environment(tmp_path)._failure(MISSING, pinned=False)


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in
            p.parts and p.suffix != ".log"}


@posix
@pytest.mark.parametrize("renamed", [False, True])
def test_a_copied_or_renamed_project_repairs_its_environment_and_leaves_the_other_alone(env, tmp_path, renamed):
    kernel = env.folder / "share" / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": [str(env.python), "-m", "ipykernel_launcher"]}))
    before = content(env.project)
    other = Environment(tmp_path / "a copy, ü")
    env.project.rename(other.project) if renamed else shutil.copytree(env.project, other.project, symlinks=True)
    assert other.state() == ("moved", f"it was made for {env.project}")
    other.ensure()
    assert is_whole(other)
    inside = [p for p, text in content(other.folder).items() if os.fsencode(env.folder) + b"/" in text]
    assert not inside, "programs of the copy would start the other's Python"
    assert renamed or (content(env.project) == before and is_whole(env))


@posix
def test_copies_do_not_share_an_environment_by_a_link(env, tmp_path):
    env.folder.rename(tmp_path / "elsewhere")
    env.folder.symlink_to(tmp_path / "elsewhere")
    env.ensure()
    other = Environment(tmp_path / "copy")
    shutil.copytree(env.project, other.project, symlinks=True)
    other.ensure()
    assert is_whole(other) and not other.folder.is_symlink() and is_whole(env)


@posix
def test_two_calls_at_once_install_once(make):
    env = make()
    threads = [threading.Thread(target=env.ensure) for _ in range(2)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert is_whole(env) and sum("--editable" in line for line in log(env)) == 1


@posix
def test_a_shared_installation_that_cannot_be_written_is_used_or_its_owner_is_named(env):
    (env.project / ".venv.lock").unlink()
    (env.project / ".venv.lock").mkdir()                     # nobody can open it, not even root
    env.ensure()
    with pytest.raises(SetUpError, match=r"the requirements have changed, but .* ask whoever installed it to type"):
        env.ensure(["scale"])


@posix
@pytest.mark.parametrize("call", ["rename", "touch", "mkdir"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_shared_installation_that_is_broken_is_its_owners_to_mend(env, monkeypatch, call, number):
    """The lock can be opened, and the folder around it cannot be written."""
    def denied(self, *arguments, **how):
        raise OSError(number, os.strerror(number), str(self))

    no_interpreter(env)
    monkeypatch.setattr(Path, call, denied)
    with pytest.raises(SetUpError, match=rf"cannot be written \({os.strerror(number)}\); ask whoever installed it"):
        env.ensure()


def test_a_python_that_cannot_make_environments_is_explained(tmp_path, monkeypatch):
    said = "The virtual environment was not created successfully because ensurepip is not available."
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.setattr(subprocess, "run",
                        lambda command, **_: subprocess.CompletedProcess(command, 1, said, ""))
    with pytest.raises(SetUpError, match=r"no ensurepip.*sudo apt install python3\.\d+-venv"):
        Environment(tmp_path).ensure()
    assert not (tmp_path / ".venv").exists()


def test_windows_has_its_own_names(monkeypatch):
    monkeypatch.setattr(environment, "WINDOWS", True)
    assert Environment(Path("p")).python.parts[-3:] == (".venv", "Scripts", "python.exe")


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 10), (3, 14)])
def test_an_unsupported_python_reads_run_py_and_is_told_what_to_type(monkeypatch, version):
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 4))
    new = ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match, ast.Starred
    assert source.isascii() and not any(isinstance(node, new) for node in ast.walk(tree))
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    monkeypatch.setattr(sys, "argv", ["run.py", "lab"])
    with pytest.raises(SystemExit, match=r"3\.13 is needed, this is {}\.{}; type .* run.py lab".format(*version)):
        exec(compile(source, "run.py", "exec"), {"__name__": "x", "__file__": str(ROOT / "run.py")})


@pytest.mark.parametrize("page", ["README.md", "docs/setup.md"])
def test_pages_have_the_command_that_a_refusal_prints_on_windows(monkeypatch, page):
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr(sys, "version_info", (3, 10, 0))
        windows.setattr(sys, "argv", ["run.py", "series"])
        try:
            exec(compile(source, "run.py", "exec"), {"__name__": "x", "__file__": str(ROOT / "run.py")})
        except SystemExit as refusal:
            said = str(refusal)
    command = said.split("type for example: ")[1]
    assert command.startswith("py -3.") and not wrong(command)
    assert f"`{command}`" in (ROOT / page).read_text(encoding="utf-8")


@posix
@pytest.mark.parametrize(("programs", "base", "called"), [
    (["a/python", "b/py"], "/py", "python"), (["b/py"], "/py", "py -3.12"), ([], "/py", "python"),
    (["WindowsApps/python", "b/py"], "/py", "py -3.12"), (["WindowsApps/python"], "/py", "python"),
    (["WindowsApps/python", "b/py"], "/Files/WindowsApps/x", "python"),
    ([".venv/Scripts/python", "b/py"], "/py", "py -3.12"), ([".venv/Scripts/python", "a/python"], "/py", "python"),
])  # fmt: skip
def test_messages_call_python_as_a_fresh_shell_of_windows_can(tmp_path, monkeypatch, programs, base, called):
    """`python` may be missing there, or be what opens the Store; .venv's own is on no fresh shell's path."""
    for name in programs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join(str((tmp_path / name).parent) for name in programs))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(sys, "base_prefix", base)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert paths.shell_python(windows=True) == called
    assert paths.shell_python(windows=False) == "python3"


# -------------------------------------------------------------------------------------------------- tasks and commands


@pytest.fixture
def started(monkeypatch):
    """What run.py would start, without an environment."""
    found = []
    monkeypatch.setattr(Environment, "ensure", lambda self, extras=(), **k: found.append(tuple(extras)))
    monkeypatch.setattr(launch, "_start", lambda command, env, folder: found.append(command[1:]) or 0)
    monkeypatch.setattr(launch, "_become", lambda command, env, folder: found.append(command[1:]) or 0)
    return found


@pytest.mark.parametrize(("typed", "command"), [
    ("series", "-P -m dashkit series --profile digits --seed 42 --device auto --only "),
    ("series --profile smoke --only 02,04 --seed 7 --device cpu --set a=b --set c=1,2",
     "-P -m dashkit series --profile smoke --seed 7 --device cpu --only 02,04 --set a=b --set c=1,2"),
    ("series PROFILE=smoke ONLY=02,04 SEED= 'SET=a=b c=1,2'",
     "-P -m dashkit series --profile smoke --seed 42 --device auto --only 02,04 --set a=b --set c=1,2"),
    ("test", "tests/gate.py"), ("test-all", "tests/gate.py all"), ("test-rest", "tests/gate.py rest"),
    ("test-rest MINUTES=25", "tests/gate.py rest --minutes 25"), ("test ?PROFILE=smoke", "tests/gate.py"),
    ("refresh ONLY=03,04", "tests/gate.py refresh 03 04"), ("stable", "tests/gate.py stable"),
    ("browser --only 03", "tests/tools/browser.py 03"), ("doctor --device cuda", "-P -m dashkit doctor --device cuda"),
    ("dashkit fetch cifar10 --help", "-P -m dashkit fetch cifar10 --help"), ("dashkit --help", "-P -m dashkit --help"),
    ("tune", "-P -m dashkit tune --publish"), ("publish", "-P -m dashkit.publishing.readme"),
    ("site OPEN=1", "-P -m dashkit site --profile digits --open"),
    ("slides PROFILE=smoke", "-P -m dashkit slides --profile smoke"),
    ("bench QUICK=1", "tests/tools/bench.py --quick"),
    ("editions PROFILE=smoke", "-P -m dashkit.classroom.editions smoke"),
    ("chaos KILLS=3", "tests/tools/chaos.py --kills 3"),
    ("mutants ONLY=schedule,unet", "tests/tools/mutants.py --only schedule --only unet"),
    ("lowest TESTS='a.py b.py'", "-m pytest -q -n auto -m slow or not slow a.py b.py"),
])  # fmt: skip
def test_a_task_starts_what_it_says(started, typed, command):
    assert launch.main(shlex.split(typed)) == 0
    assert " ".join(started[-1]) == command
    module = started[-1][started[-1].index("-m") + 1] if "-m" in started[-1] else None
    assert (ROOT / started[-1][0]).is_file() if module is None else __import__(module)


@pytest.mark.parametrize(("typed", "opened", "options"), [
    ("lab", "", []), ("lab hand-out", "hand-out", []), ("lab -- hand-out --port 8899", "hand-out", ["--port", "8899"]),
    ("lab -- --no-browser hand-out/one.ipynb", "hand-out/one.ipynb", ["--no-browser"]),
    ("lab -- --no-browser", "", ["--no-browser"]),
])  # fmt: skip
def test_jupyterlab_is_told_one_folder(tmp_path, monkeypatch, typed, opened, options):
    """It takes the first that it is told, and does not mention a second."""
    (tmp_path / "hand-out").mkdir()
    (tmp_path / "hand-out" / "one.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    words = typed.split()
    [command] = launch.TASKS["lab"].commands(launch.parse(words))
    places = [w for w in command if Path(w).exists()]
    assert places == [str(tmp_path / opened) if opened else str(launch._notebooks())]
    assert [w for w in command[2 + len(launch.JUPYTERLAB) :] if w not in places] == options


@pytest.mark.parametrize(("typed", "message"), [
    ("lab build/editons/student", "there is no build/editons/student.*run.py editions"),
    ("lab . ..", "JupyterLab opens one folder, not 2"),
])  # fmt: skip
def test_what_jupyterlab_cannot_open_is_refused_before_anything_is_installed(started, capsys, typed, message):
    assert launch.main(typed.split()) == 2 and not started
    assert re.fullmatch(f"run.py: .*{message}.*\n", capsys.readouterr().err)


def test_the_guide_says_how_learners_open_what_is_handed_out():
    text = (ROOT / "notebooks" / "INSTRUCTOR.md").read_text(encoding="utf-8")
    [step] = re.findall(r"^\d\. (?:(?!^\d\. ).)*Hand out.*?(?=^\d\. )", text, re.M | re.S)
    opened = [launch.parse(command.split()[2:]).words for command, _ in commands(step) if command.split()[2] == "lab"]
    assert ["build/editions/student"] in opened


def module_imports(path):
    """The packages that a module of the kit imports while it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(n) for d in ast.walk(tree) if isinstance(d, ast.FunctionDef) for n in ast.walk(d)}
    inner |= {id(n) for d in ast.walk(tree) if isinstance(d, ast.If) and ast.unparse(d.test) == "TYPE_CHECKING"
              for n in ast.walk(d)}
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) and id(n) not in inner for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and id(n) not in inner}
    return {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "dashkit"}


def test_no_task_installs_more_than_its_command_imports():
    """The kit's own commands need its requirements, pages need `site`, and only programs in `tests` need `test`."""
    there = {environment.normal(line.split("==")[0]) for line in environment.frozen([]).splitlines()}
    of = importlib.metadata.packages_distributions()
    kit = {name for path in (ROOT / "dashkit").rglob("*.py") for name in module_imports(path)}
    assert {name for name in kit if name not in of or not {environment.normal(d) for d in of[name]} & there} == set()
    wanted = {"site": {"site"}, "slides": {"site"}, "pin": {"test"}, "mutants": {"test", "mutants"}, "lowest": set()}
    for name, task in launch.TASKS.items():
        programs = task.commands(launch.parse([name]))
        tests = any(command[0].startswith("tests/") for command in programs)
        assert set(task.extras) == wanted.get(name, {"test"} if tests else set()), name


def test_what_a_guide_fetches_for_machines_without_a_network_makes_the_pages_too():
    text = (ROOT / "notebooks" / "INSTRUCTOR.md").read_text(encoding="utf-8")
    [recipe] = [part for part in text.split("\n\n") if part.startswith("**Without a network.**")]
    assert re.search(r"pip download .*\"\.\[site\]\"", recipe)
    installed = re.findall(r"`[^`]*run\.py install( \w*)?`", recipe)
    assert installed == [" site", " site"], "in a shell of Unix and in PowerShell"


def test_a_sweep_goes_through_both_profiles(started):
    assert launch.main(["sweep", "JOBS=2"]) == 0
    assert [c[c.index("--profile") + 1] for c in started[1:]] == ["digits", "exact"]


@pytest.mark.parametrize("typed", ["serie", "series PROFIL=smoke", "test --only 3", "dashkit2", "series extra"])
def test_a_misspelt_task_or_option_is_refused(started, typed, capsys):
    with pytest.raises(SystemExit) as caught:
        launch.main(typed.split())
    assert caught.value.code == 2 and not started and "error" in capsys.readouterr().err


def test_programs_of_the_environment_are_started_by_exec(started):
    assert launch.main(["exec", "python3" if os.name == "posix" else "python", "-c", "1"]) == 0
    assert started[-1] == ["-c", "1"]
    assert launch.main(["exec", "no-such-program"]) == 2 and launch.main(["exec"]) == 2


@posix
def test_a_program_is_replaced_so_that_signals_and_exit_codes_are_its_own(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from dashkit import launch; " \
           "from dashkit.environment import Environment; " \
           "launch._become([sys.executable, '-c', 'import os; print(os.getpid()); os.abort()'], Environment(), Path())"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.communicate()[0].strip() == str(process.pid) and process.returncode == -signal.SIGABRT


def test_make_is_a_layer_over_run_py():
    if shutil.which("make") is None:
        pytest.skip("SKIPPED: there is no make")
    text = (ROOT / "Makefile").read_text()
    [tasks] = re.findall(r"^TASKS := ((?:.*\\\n)*.*)", text, re.M)
    assert set(tasks.replace("\\", " ").split()) == set(launch.TASKS) - set(launch.VERBATIM)
    [variables] = re.findall(r"^VARIABLES := (.*)", text, re.M)
    assert {v.lower().replace("_", "-") for v in variables.split()} == set(launch.OPTIONS)
    # the test may run under make itself
    outside = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    said = subprocess.run(["make", "-n", "series", "PROFILE=smoke", "SET=a=1 b=2"], cwd=ROOT, capture_output=True,
                          text=True, env=outside | {"SEED": "7"}).stdout
    words = shlex.split(said)
    assert words[1:3] == ["run.py", "series"] and launch.parse(words[2:]) == launch.parse(
        ["series", "--profile", "smoke", "--seed", "7", "--set", "a=1 b=2"])


# ---------------------------------------------------------------------------------------------- commands in the texts

PROGRAMS = re.compile(r"(?:[A-Z_]+=\S+ )*(python3?|py|make|dashkit|pip3?|conda|accelerate|jupyter|ruff|pytest|"
                      r"pre-commit|sudo|apt-get|npm|uv|papermill)(?=\s|$)")
TEXTS = [p for pattern in ("*.md", "docs/**/*.md", "notebooks/*.md", "data/**/*.md", ".github/**/*.md")
         for p in ROOT.glob(pattern)]
TOOLS = [p for p in sorted((ROOT / "tests" / "tools").glob("*.py")) if not p.name.startswith("test_")]
SOURCES = [ROOT / "run.py", *sorted((ROOT / "dashkit").rglob("*.py")), *sorted((ROOT / "docs").glob("*.py")), *TOOLS]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def wrong(command, active=False):
    """Why a command cannot be copied into a fresh shell in the project's folder; empty if it can.

    `active`: it stands below `conda activate`, or where a machine without an environment is told where the kit lies.
    """
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    program, rest = words[0], words[1:]
    if program in ("python", "python3") and rest and rest[0].endswith("run.py"):
        return wrong_task(rest[1:])
    if program == "py" and rest[1:2] == ["run.py"]:          # the launcher that Windows has
        return wrong_task(rest[2:]) if rest[0] in {f"-{a}.{b}" for a, b in environment.SUPPORTED} else "no such Python"
    if program == "python" and rest[:2] == ["-m", "dashkit"] and active:
        return wrong_kit(rest[2:])
    if program == "make":
        return wrong_task([w for w in rest if not w.startswith("PYTHON=")])
    if program == "dashkit":
        return wrong_kit(rest) if active else "the kit's command is not known in a fresh shell"
    if program == "conda":
        name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
        return "" if rest in (["env", "create", "-f", "environment.yml"], ["activate", name]) else "unknown"
    if program == "jupyter":
        return "" if active and (ROOT / rest[-1]).is_dir() else "not known in a fresh shell"
    return "" if words == ["pre-commit", "install"] else f"{program} is not known in a fresh shell"


def wrong_task(words):
    if not words:
        return ""
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
        options = launch.parse(words)
        if options.task == "dashkit":
            return wrong_kit(options.words)
        if options.task == "exec":
            return wrong_program(options.words)
        unknown = set(options.words) - {*PROJECT["optional-dependencies"]} if options.task == "install" else ""
        return f"no extra {unknown}" if unknown else ""
    return "run.py refuses it"


def wrong_kit(words):
    with contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
        try:
            cli.parser().parse_args(words)
        except SystemExit as left:
            return "dashkit refuses it" if left.code else ""
    return ""


def wrong_program(words):
    if "dashkit" in words:
        return wrong_kit(words[words.index("dashkit") + 1 :])
    return "" if words[0] in ("python", "ruff") else "the environment has no such program"


def commands(text):
    """The commands in a text: lines of code blocks and code spans that begin with a program's name."""
    found, active = [], False
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines() if language in ("", "sh", "bash", "console", "text") else ():
            if PROGRAMS.match(line):
                found.append((line, active))
            active = active or line.startswith(("conda activate", "export PYTHONPATH="))
        active = False
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return found + [(s, False) for s in spans if PROGRAMS.match(s) and " " in s]


def texts():
    for path in TEXTS:
        yield path.name, path.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        yield path.name, "\n".join(c.source for c in cells if c.cell_type == "markdown")


def test_every_command_in_the_texts_works_in_a_fresh_shell():
    found = [(name, command, active) for name, text in texts() for command, active in commands(text)]
    assert len(found) > 20
    assert [(n, c, w) for n, c, active in found if (w := wrong(c, active))] == []


def test_blocks_of_commands_hold_commands_alone():
    """cmd.exe, and zsh as it is typed to, hand `# a remark` on to the program as words."""
    found = [(path.name, line) for path in TEXTS for language, block in re.findall(
        r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S) if language != "python"
        for line in block.splitlines() if re.search(r"(^|\s)#", line)]
    assert found == []


@pytest.mark.parametrize(("typed", "meant"), [
    ("doctor # is it fit?", ["doctor"]), ("install scale # FID, diffusers", ["install", "scale"]),
    ("series PROFILE=smoke # or digits: --profile digits", ["series", "--profile", "smoke"]),
    ("dashkit new my.toml --images a # looks", ["dashkit", "new", "my.toml", "--images", "a"]),
    ("exec grep # x.py", ["exec", "grep", "#", "x.py"]), ("sweep JOBS=#2", ["sweep", "--jobs", "#2"]),
])  # fmt: skip
def test_a_remark_that_a_shell_handed_on_is_dropped(typed, meant, capsys):
    assert launch.parse(typed.split()) == launch.parse(meant)
    for words in (["#", "lists", "the", "tasks"], []):
        with pytest.raises(SystemExit) as left:
            launch.parse(words)
        assert left.value.code == 0 and "series" in capsys.readouterr().out


@pytest.mark.parametrize("command", [
    "dashkit fetch cifar10", "pip install -e '.[scale]'", "make serie", "python3 run.py series --profil x",
    "python3 run.py dashkit fetch", "python3 run.py install scall", "python3 run.py dashkit tran",
    "accelerate launch -m dashkit campaign", "make test PROFILE=smoke", "conda activate base",
    "python3 run.py exec accelerate launch -m dashkit campain",
])  # fmt: skip
def test_a_command_that_does_not_work_would_be_noticed(command):
    assert [c for c, active in commands(f"Type `{command}` now.") if wrong(c, active)] == [command]


def test_no_message_names_a_command_that_a_fresh_shell_does_not_know():
    """Messages take their commands from `environment`, which knows where the kit is installed."""
    bad = []
    kit = "|".join(cli.parser()._subparsers._group_actions[0].choices)
    pattern = re.compile(rf"pip3? (un)?install|dashkit\[|apt-get|rm -rf|(?<!run\.py )(?<!-m )\bdashkit ({kit})\b|"
                         rf"\bmake ({'|'.join(launch.TASKS)})\b")
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}     # docstrings
        bad += [(path.name, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)
                and isinstance(node.value, str) and id(node) not in prose and pattern.search(node.value)]
    assert [(n, v) for n, v in bad if (n, v) != ("fetch.py", "apt-get") and n != "environment.py"] == []


def test_the_commands_of_messages_exist():
    found = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
            if name in ("task", "kit", "install") and node.args and path.name not in ("launch.py", "environment.py"):
                words = "".join(getattr(p, "value", "x") if isinstance(p, ast.Constant) else "x"
                                for p in getattr(node.args[0], "values", node.args[:1])).split()
                found += 1
                assert not {"task": wrong_task, "kit": wrong_kit,
                            "install": lambda w: wrong_task(["install", *w])}[name](words), (path.name, words)
    assert found >= 6


def test_what_to_type_depends_on_where_the_kit_is_installed(monkeypatch):
    monkeypatch.setattr(environment, "is_active", lambda: True)
    for said in (environment.kit("fetch cifar10"), environment.install("scale"), environment.repair("torch")):
        assert not wrong(said)
    monkeypatch.setattr(environment, "is_active", lambda: False)
    python = shlex.quote(sys.executable)
    assert environment.kit("fetch cifar10") == f"{python} -m dashkit fetch cifar10"
    said = shlex.split(environment.install("scale"))
    assert said[1:4] == ["-m", "pip", "install"] and said[4:] == PROJECT["optional-dependencies"]["scale"]
    monkeypatch.setattr(environment, "IS_PROJECT", False)
    assert not any(w.startswith("dashkit") for w in shlex.split(environment.install("scale")))
    assert shlex.split(environment.install("scale"))[4:]


@pytest.mark.parametrize(("windows", "word", "typed"), [
    (False, "my pictures/a.toml", "'my pictures/a.toml'"), (False, "cats&dogs", "'cats&dogs'"),
    (False, "a.toml", "a.toml"),
    (True, "my pictures\\a.toml", '"my pictures\\a.toml"'), (True, "C:\\cats&dogs", '"C:\\cats&dogs"'),
    (True, "C:\\models\\T-1_b", "C:\\models\\T-1_b"), (True, "torch>=2.11,<3", '"torch>=2.11,<3"'), (True, "", '""'),
    (True, "my dir\\", '"my dir\\\\"'), (True, "it's", '"it\'s"'), (True, "batch=32", "batch=32"),
    (True, "Bücher\\x", "Bücher\\x"), (True, "ws=1,1.5", '"ws=1,1.5"'),
])  # fmt: skip
def test_a_word_with_spaces_is_one_word_in_the_shell_of_the_system(monkeypatch, windows, word, typed):
    monkeypatch.setattr(environment, "WINDOWS", windows)
    assert environment.quoted("fetch", word) == f"fetch {typed}"


# --------------------------------------------------------------------------------------------------------------- pins


def test_the_pins_fit_the_requirements_of_every_system():
    lines = (ROOT / environment.PINS).read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pins = environment.pins()
    assert len(pins) == len(lines) and not [n for n in pins if re.match("nvidia|cuda|triton|dashkit|pip$", n)]
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["scale"], *extras["test"], *extras["site"]]:
        need = Requirement(line)
        if need.name != "dashkit":
            assert need.specifier.contains(pins[environment.normal(need.name)], prereleases=True), line


def test_every_pin_can_be_installed_on_the_first_release_of_every_supported_python():
    """Debian has 3.11.2: a pin that wants 3.11.5 would stop its first command."""
    assert list(SpecifierSet(PROJECT["requires-python"]).filter(f"3.{n}.0" for n in range(30))) == [
        f"{major}.{minor}.0" for major, minor in environment.SUPPORTED]
    narrow = []
    for name in environment.pins():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            requires = importlib.metadata.metadata(name).get("Requires-Python")
            narrow += [] if environment.fits_every_python(requires) else [f"{name} needs {requires}"]
    assert narrow == []


def test_pins_are_made_from_what_is_installed_and_needed():
    lines = environment.frozen(["site"]).splitlines()
    names = dict.fromkeys(environment.normal(line.split("==")[0]) for line in lines)
    assert {"torch", "sphinx", "jinja2", "setuptools"} <= {*names} and not {*names} & {"pytest", "triton", "dashkit"}
    assert all("+" not in line for line in lines) and [*names] == sorted(names)


def test_doctor_tells_what_differs_from_the_pins_and_is_content(monkeypatch):
    monkeypatch.setattr(environment, "pins", lambda: {"torch": "0.1", "no-such-package": "1"})
    finding = doctor._pins()
    assert finding.ok and re.fullmatch(r"1 packages are not as tested.*: torch \d.* \(pinned: 0\.1\)", finding.detail)


# ------------------------------------------------------------------------------------------------ one folder for all

PLACES = "import json; from dashkit.storage import paths; " \
         "print(json.dumps([str(p) for p in (paths.HOME, paths.RUNS, paths.CACHE, paths.BUILD)]))"


def shell(code, cwd, module=("-c",), **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("DASHKIT_HOME", "DASHKIT_RUNS", "PYTHONIOENCODING")}
    return subprocess.run([sys.executable, *module, *([code] if isinstance(code, str) else code)], cwd=cwd,
                          capture_output=True, env=kept | {"PYTHONPATH": str(ROOT)} | variables)


@posix
@pytest.mark.parametrize("setting", ["out", "./out/../out", "~/out", "{}/out"])
def test_one_setting_moves_everything_and_other_processes_get_it_in_full(tmp_path, setting):
    code = f"from dashkit.storage import paths; import os, subprocess, sys; os.chdir('/'); " \
           f"subprocess.run([sys.executable, '-c', {PLACES!r}])"
    done = shell(code, tmp_path, DASHKIT_HOME=setting.format(tmp_path), HOME=str(tmp_path))
    home = tmp_path / "out"
    assert json.loads(done.stdout) == [str(home), str(home / "data" / "runs"), str(home / "data" / "cache"),
                                       str(home / "build")]


def test_runs_can_be_moved_alone(tmp_path):
    assert json.loads(shell(PLACES, tmp_path, DASHKIT_RUNS="mine").stdout) == [
        str(ROOT), str(tmp_path / "mine"), str(ROOT / "data" / "cache"), str(ROOT / "build")]
    both = json.loads(shell(PLACES, tmp_path, DASHKIT_RUNS="mine", DASHKIT_HOME="all").stdout)
    assert both[1:3] == [str(tmp_path / "mine"), str(tmp_path / "all" / "data" / "cache")]
    assert json.loads(shell(PLACES, tmp_path, DASHKIT_RUNS="", DASHKIT_HOME="").stdout)[0] == str(ROOT)


@posix
@pytest.mark.parametrize("start", [["-m", "dashkit", "doctor"], [str(ROOT / "run.py"), "doctor"]])
def test_a_home_of_an_unknown_user_is_refused_in_one_line(tmp_path, start):
    done = shell(start[-1:], tmp_path, start[:-1], DASHKIT_HOME="~nobody-at-all/x")
    assert done.returncode != 0 and not list(tmp_path.iterdir())
    assert re.fullmatch(rb".*: DASHKIT_HOME=~nobody-at-all/x: this system knows no user.*\n", done.stderr)


LEARNER = """
import json, sys
sys.path.insert(0, ROOT)                # as `python -m dashkit` in the project's folder: kernels start elsewhere
from pathlib import Path
import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from dashkit import cli, doctor
from dashkit.classroom import editions, journal
from dashkit.classroom.notebooks import execute
from dashkit.experiments.run import start_run
from dashkit.publishing import readme, series
from dashkit.storage import paths
print(json.dumps(list(map(str, [paths.RUNS, paths.CACHE, journal.PATH, series.BUILD, editions.EDITIONS,
                                readme.BUILD, start_run("smoke").root]))))
print(json.dumps([p.name for p in Path().iterdir()]))
cells = [new_code_cell('profile = "smoke"', metadata={"tags": ["parameters"]}),
         new_code_cell("import dashkit; from dashkit.experiments import start_run; run = start_run(profile); "
                       "print(run.root, dashkit.__file__)")]
kernel = {"name": "python3", "language": "python", "display_name": "x"}
nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), "n.ipynb")
execute(Path("n.ipynb"), Path("done.ipynb"), {})
print(json.dumps(nbformat.read("done.ipynb", as_version=4).cells[-1].outputs[0].text.split()))
series.execute, doctor.require = lambda *a, **k: None, lambda *a: None
sys.exit(cli.main(["series", "--profile", "smoke", "--only", "00"]))
"""


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """What a learner's process says whose DASHKIT_HOME is relative and whose output is ASCII: code, lines, folder."""
    folder = tmp_path_factory.mktemp("learner")
    done = shell(f"ROOT = {str(ROOT)!r}\n{LEARNER}", folder, DASHKIT_HOME="home", PYTHONPATH="",
                 PYTHONIOENCODING="ascii", JUPYTER_PLATFORM_DIRS="1", PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("ascii").splitlines(), folder


def test_every_module_that_writes_does_so_below_the_one_folder(learner):
    lines, folder = learner
    assert all(place.startswith(str(folder / "home")) for place in json.loads(lines[0]))
    assert json.loads(lines[1]) == [], "asking where things are writes nothing"


def test_a_notebook_gets_the_folder_in_full_and_the_kit_of_this_very_copy(learner):
    lines, folder = learner
    assert json.loads(lines[2]) == [str(folder / "home" / "data" / "runs"), str(ROOT / "dashkit" / "__init__.py")]


def test_a_series_runs_where_its_characters_cannot_be_printed(learner):
    lines, folder = learner
    assert "1 notebooks ? " in lines[3] and (folder / "home" / "build" / "series" / "smoke" / "index.html").is_file()


def test_jupyterlab_opens_the_notebooks_or_copies_that_can_be_changed(tmp_path, monkeypatch):
    assert launch._notebooks() == paths.HOME / "notebooks" or paths.HOME != ROOT
    monkeypatch.setattr(paths, "HOME", tmp_path / "home")
    folder = launch._notebooks()
    assert {p.name for p in NOTEBOOKS} <= {p.name for p in folder.iterdir()}
    (folder / NOTEBOOKS[0].name).write_text("mine")
    (folder / NOTEBOOKS[1].name).unlink()
    launch._notebooks()
    assert (folder / NOTEBOOKS[0].name).read_text() == "mine" and (folder / NOTEBOOKS[1].name).is_file()


@pytest.mark.parametrize(("number", "advice"), [
    (13, "give yourself access, or set DASHKIT_HOME to a folder of your own"), (30, "give yourself access"),
    (28, "free some space, or set DASHKIT_HOME to a folder on another disk"), (21, "move that folder"),
    (36, "shorter name"), (5, "look at the disk"),
])  # fmt: skip
def test_advice_fits_the_cause(monkeypatch, number, advice):
    monkeypatch.delenv("DASHKIT_RUNS", raising=False)
    error = paths.explained(OSError(number, os.strerror(number)), paths.RUNS / "x")
    assert error.errno == number and advice in str(error) and type(error) is type(OSError(number, ""))


@pytest.mark.parametrize("inner", ["", "data/runs"])
def test_a_file_where_a_folder_is_wanted_is_no_question_of_access(tmp_path, inner):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file is a file where a folder is wanted; move that file") as caught:
        paths.make_folder(tmp_path / "file" / inner)
    assert "access" not in str(caught.value)
    assert "where a folder is wanted" in doctor._folder(tmp_path / "file" / inner).detail


def test_advice_names_the_setting_that_is_in_force(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("DASHKIT_RUNS", str(tmp_path / "runs"))
    assert "set DASHKIT_RUNS" in str(paths.explained(OSError(13, "x"), tmp_path / "runs" / "a"))
    assert "set DASHKIT_HOME" in str(paths.explained(OSError(13, "x"), paths.BUILD / "a"))


@pytest.mark.parametrize("number", [13, 20, 28, 30, 36, 5])
def test_advice_names_no_setting_that_would_not_help(tmp_path, number):
    (tmp_path / "file").write_text("")
    error = OSError(number, os.strerror(number))
    assert "DASHKIT" not in str(paths.explained(error, ROOT / "data" / "results" / "digits"))       # always there
    said = str(paths.explained(error, tmp_path / "file" / "exported"))                              # the user's choice
    assert "DASHKIT" not in said and ", or take a" in said


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The current folder is in another copy of the project."""
    (tmp_path / "copy" / "dashkit" / "storage").mkdir(parents=True)
    (tmp_path / "copy" / "notebooks").mkdir()
    (tmp_path / "copy" / "run.py").touch()
    (tmp_path / "copy" / "dashkit" / "storage" / "paths.py").touch()
    monkeypatch.chdir(tmp_path / "copy" / "notebooks")
    return tmp_path / "copy"


def test_a_copy_is_never_served_by_the_kit_of_another(copy, capsys):
    assert cli.main(["fetch", "cifar10"]) == 2 and cli.main(["train", "--profile", "smoke"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(f"belongs to the project in {copy}" in x and "run.py dashkit" in x for x in lines)
    with pytest.raises(ValueError, match="belongs to the project in"):
        start_run("smoke")
    assert not doctor._project().ok
    assert sorted(p.name for p in copy.rglob("*")) == ["dashkit", "notebooks", "paths.py", "run.py", "storage"]


@pytest.mark.parametrize("part", ["environment", "program"])
def test_a_copied_environment_that_is_not_repaired_serves_nobody(copy, monkeypatch, capsys, part):
    monkeypatch.chdir(copy.parent)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(ROOT))])
    monkeypatch.setattr(sys, "prefix", str(copy / ".venv" if part == "environment" else copy.parent))
    monkeypatch.setattr(sys, "argv", [str(copy / ".venv" / "bin" / "dashkit" if part == "program" else "dashkit")])
    assert cli.main(["train", "--profile", "smoke"]) == 2 and not doctor._project().ok
    assert f"this {part} belongs to the project in {copy}" in capsys.readouterr().err
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])                   # put there by hand
    assert doctor._project().ok


def test_a_link_to_the_project_is_no_copy(tmp_path, monkeypatch):
    if os.name == "posix":
        (tmp_path / "link").symlink_to(ROOT)
        assert paths.other_copy(tmp_path / "link" / "notebooks") is None
    assert paths.other_copy(tmp_path) is None


@pytest.fixture
def wheel(tmp_path):
    """The kit as a wheel installs it: the package alone."""
    shutil.copytree(ROOT / "dashkit", tmp_path / "site" / "dashkit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def test_a_kit_without_its_project_says_so_and_writes_to_the_users_folder(wheel, tmp_path):
    code = "from dashkit import doctor; from dashkit.storage import paths; " \
           "print(doctor._project()); print(paths.RUNS); print(paths.NOT_A_PROJECT)"
    done = shell(code, tmp_path, PYTHONPATH=str(wheel), HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    finding, runs, said = done.stdout.decode().splitlines()
    assert "ok=False" in finding and said in finding and "without its notebooks" in said
    assert not wrong(said.split("type there: ")[1])
    assert runs == str(tmp_path / "dashkit" / "data" / "runs")


INSTALLED = """
import sys
import numpy as np
from pathlib import Path
from dashkit import cli
from dashkit.analysis import published_results
from dashkit.analysis.tables import RESULTS, write_published
from dashkit.publishing import pictures, readme
from dashkit.storage import paths, store
for act in (lambda: published_results("digits"), lambda: readme.main(), lambda: pictures.main(),
            lambda: store.write_bytes(RESULTS / "x", b""),
            lambda: store.check_writable(paths.ROOT / "data")):
    try:
        act()
        print("done")
    except ValueError as error:
        print(error)
for command in ("sweep", "tune", "campaign"):
    print(cli.main([command, "--publish", "--profile", "digits"]))
"""


def test_a_kit_without_its_project_publishes_nothing_among_the_installed_packages(wheel, tmp_path):
    before = sorted(p for p in wheel.rglob("*") if "__pycache__" not in p.parts)
    done = shell(INSTALLED, tmp_path, PYTHONPATH=str(wheel), HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert done.stdout.decode().splitlines() == 5 * [paths.NOT_A_PROJECT] + 3 * ["2"], done.stderr.decode()
    assert done.stderr.decode().splitlines()[:2] == 2 * [f"dashkit: {paths.NOT_A_PROJECT}"]
    assert sorted(p for p in wheel.rglob("*") if "__pycache__" not in p.parts) == before


def test_a_series_without_notebooks_says_what_is_missing(tmp_path, monkeypatch):
    from dashkit.classroom.notebooks import notebook_paths

    with pytest.raises(ValueError, match=f"there are no notebooks in {tmp_path}"):
        notebook_paths(folder=tmp_path)
    monkeypatch.setattr(paths, "IS_PROJECT", False)
    with pytest.raises(ValueError, match="installed without its notebooks and published tables"):
        notebook_paths(["99"], folder=tmp_path)


# ------------------------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("start", [["-m", "dashkit", "--help"], ["-m", "dashkit", "series", "--help"],
                                   [str(ROOT / "run.py"), "--help"], [str(ROOT / "run.py"), "series", "--help"]])
def test_help_is_printed_in_any_encoding(tmp_path, encoding, start):
    done = shell(start[1:], tmp_path, start[:1], PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and b"usage" in done.stdout and not done.stderr


def test_programs_of_the_environment_can_print_anything(monkeypatch):
    for given, made in (("", "utf-8:replace"), ("cp1252", "cp1252:replace"), ("ascii:strict", "ascii:replace")):
        monkeypatch.setenv("PYTHONIOENCODING", given)
        assert Environment().variables()["PYTHONIOENCODING"] == made


def test_texts_are_read_and_written_as_utf_8_wherever_the_kit_runs():
    bad = []
    for path in [*SOURCES[:1], *(p for p in SOURCES if p not in TOOLS)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            keys = {k.arg: k.value for k in node.keywords} if name else {}
            if name in ("read_text", "write_text", "run", "Popen") and "encoding" not in keys and \
                    (name.endswith("_text") or "text" in keys):
                bad.append((path.name, node.lineno))
    assert not bad


# ------------------------------------------------------------------------------------------------- checks elsewhere


def test_the_checks_of_a_commit_are_local_and_exist():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {r["repo"] for r in config["repos"]} == {"local"}
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system" and not wrong(hook["entry"])
        assert all((ROOT / w).is_file() for w in hook["entry"].split() if w.startswith("tests/"))


def test_continuous_integration_runs_the_same_commands_on_three_systems():
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in flow["jobs"].items()}
    assert all(not wrong(command) for commands in runs.values() for command in commands)
    assert "python run.py test" in runs["test"] and "python run.py test-all" in runs["everything"]
    systems = flow["jobs"]["test"]["strategy"]["matrix"]["os"]
    assert {name.split("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}
