"""Ctrl-C and SIGTERM end every command with one line and the right exit status, from its first moment on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dashkit import stopping

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "import sys; from dashkit.__main__ import main; sys.exit(main())"           # as pip writes it
KIT = [["-m", "dashkit", "train"], ["-c", SCRIPT, "train"]]
STARTS = [(start, module, "dashkit") for start in KIT for module in ("argparse", "torch", "pandas")] + [
    ([str(ROOT / "run.py"), "doctor"], module, "run.py") for module in ("argparse", "tomllib")]
STOPPED = """
import os, time
try:
    os.kill(os.getpid(), {number})
    time.sleep(10)
except BaseException as error:
    raise ImportError("half of it") from error
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals to one process")


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """A shell that starts tests in the background lets them ignore SIGINT, and their processes too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(start, cwd, *places):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DASHKIT_")}
    path = os.pathsep.join(map(str, (*places, ROOT)))
    return subprocess.run([sys.executable, *start], cwd=cwd, capture_output=True, text=True,
                          env=kept | {"PYTHONPATH": path, "DASHKIT_HOME": str(cwd / "home")})


@pytest.mark.parametrize("number", stopping.SIGNALS)
@pytest.mark.parametrize(("start", "module", "name"), STARTS)
def test_a_signal_in_the_midst_of_an_import_is_one_line(tmp_path, start, module, name, number):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / f"{module}.py").write_text(STOPPED.format(number=int(number)))
    done = started(start, tmp_path, tmp_path / "early")
    assert (done.returncode, done.stderr) == (128 + number, f"\n{name}: stopped; type the same again\n")


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_between_run_py_and_the_command_waits_for_the_command(tmp_path, number):
    code = f"""
import os, sys
from pathlib import Path
from dashkit import launch
from dashkit.environment import Environment
real = os.execve
def execve(*arguments):
    os.kill(os.getpid(), {int(number)})
    real(*arguments)
os.execve = execve
launch._become([sys.executable, "-P", "-m", "dashkit", "--help"], Environment(), Path())
"""
    done = started(["-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (128 + number, "\ndashkit: stopped; type the same again\n")


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_an_error_that_a_library_makes_of_an_interrupt_is_an_interrupt(tmp_path, number):
    code = f"""
import os, sys
from dashkit import cli
def fetch(options):
    try:
        os.kill(os.getpid(), {int(number)})
        import time; time.sleep(10)
    except BaseException as error:
        raise SystemError("error return without exception set") from error
cli._fetch = fetch
sys.exit(cli.main(["fetch", "cifar10"]))
"""
    done = started(["-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (128 + number, "\ndashkit: stopped; the same command goes on from here\n")


def test_a_program_that_is_done_keeps_its_exit_status(tmp_path):
    code = "import atexit, os, signal, sys; from dashkit import stopping; " \
           "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); sys.exit(stopping.finish(3))"
    done = started(["-c", code], tmp_path)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.answered_by(lambda *_: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
