"""The kit reaches nothing, writes nothing outside its folders, and JupyterLab listens to this machine alone."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from dashkit import launch
from dashkit.storage import paths

HOOK = """
import json, os, sys, tempfile
import psutil
root, report, extra = sys.argv[1:]
said = []
KEPT = tuple(map(os.path.realpath, (root, report, sys.prefix, tempfile.gettempdir(), "/dev", "/proc")))

def outside(path):
    place = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes)) else "/dev"
    return not place.startswith(KEPT) and "__pycache__" not in place and "matplotlib" not in place

def hook(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        said.append([event, repr(args)])
    elif event == "socket.bind" and args[1][0] not in ("::1", "127.0.0.1"):    # urllib3 asks for IPv6 so
        said.append([event, repr(args)])
    elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if outside(args[0]):
            said.append([event, str(args[0])])
    elif event in ("os.remove", "os.rename", "os.symlink") and outside(args[0]):
        said.append([event, str(args)])

sys.addaudithook(hook)
from pathlib import Path
"""
WORK = """
from functools import partial
from dashkit import doctor
from dashkit.analysis.tables import published_results
from dashkit.classroom import checks
from dashkit.classroom import plots
from dashkit.experiments.evaluation import get_results
from dashkit.experiments.profiles import resolve
from dashkit.experiments.run import Run
from dashkit.experiments.training import get_students
from dashkit.experiments.training import get_teacher
from dashkit.method import quality
from dashkit.method.quality import train_classifier
quality.train_classifier = partial(train_classifier, epochs=1)      # a poor judge is as good here
small = dict(teacher_steps=3, student_steps=3, samples=20, states=40, sample_steps=2, ws=(1.0, 1.5), batch=8, warmup=0,
             arms=("dash", "cond_only"))
run = Run(resolve("smoke", **small), seed=1, root=Path(root))
teacher = get_teacher(run)
table = get_results(run, teacher, get_students(run, teacher))
plots.use_style()
plots.png(plots.plot_w_curve(table).figure)
list(doctor.examine(Path(root)))
published_results("digits")
checks.check("03.1", lambda *a: None)
"""
END = """
exec(extra)
said += [["listens", str(c.laddr)] for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
Path(report).write_text(json.dumps(said))
"""


def flow(tmp_path, work=WORK, extra="pass"):
    """What the main flows reach for, as audit events, and what they leave in an empty home and temporary folder."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(), temporary.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "MPLBACKEND": "agg",
                   "DASHKIT_PROGRESS": "0", "OMP_NUM_THREADS": "1", "DASHKIT_RUNS": str(tmp_path / "runs")}
    report = tmp_path / "report.json"
    subprocess.run([sys.executable, "-c", HOOK + work + END, str(tmp_path / "runs"), str(report), extra],
                   env=environment, check=True, capture_output=True)
    left = [str(p.relative_to(tmp_path)) for folder in (home, temporary) for p in folder.rglob("*") if p.is_file()]
    return json.loads(report.read_text()), [p for p in left if "matplotlib" not in p]


def test_the_main_flows_reach_nothing_and_write_nowhere_else(tmp_path):
    assert flow(tmp_path) == ([], [])


def test_a_connection_and_a_file_elsewhere_would_be_noticed(tmp_path):
    said, left = flow(tmp_path, work="", extra="""
import contextlib, socket
with contextlib.suppress(OSError):
    socket.create_connection(("127.0.0.1", 1), timeout=1)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
Path(os.environ["HOME"], "note").write_text("x")
""")
    assert {event for event, _ in said} == {"socket.getaddrinfo", "socket.connect", "open", "listens"}
    assert left == ["home/note"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def status(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def lab(tmp_path):
    """JupyterLab as `run.py lab` starts it, without a browser: the process and its address."""
    options = launch.parse(["lab", "--", "--no-browser"])
    [[_, module, *given]] = launch.TASKS["lab"].commands(options)
    assert module == "jupyterlab" and given[-2:] == [str(paths.ROOT / "notebooks"), "--no-browser"]
    port = free_port()
    arguments = [*given, f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    environment = {**os.environ, "HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *arguments], cwd=paths.ROOT, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(36_000):                    # an hour: it ends what hangs, and not what is slow
            if status(f"http://127.0.0.1:{port}/login") == 200 or process.poll() is not None:
                break
            time.sleep(0.1)
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}", tmp_path / "runtime"
    finally:
        process.terminate()
        process.wait(timeout=600)


@pytest.mark.slow
def test_jupyterlab_listens_on_loopback_and_wants_its_token(lab):
    process, url, runtime = lab
    family = [process, *process.children(recursive=True)]
    listening = [c.laddr for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening and {address.ip for address in listening} <= {"127.0.0.1", "::1"}
    [facts] = [json.loads(p.read_text()) for p in runtime.glob("jpserver-*.json")]
    assert len(facts["token"]) >= 32
    assert status(f"{url}/api/contents") == 403 and status(f"{url}/api/contents?token=wrong") == 403
    assert status(f"{url}/api/contents?token={facts['token']}") == 200


def test_only_the_fetcher_and_the_launched_processes_know_the_network():
    words = re.compile(r"^\s*(?:import|from) (?:socket|urllib|http|requests|httpx|ftplib|smtplib)\b", re.M)
    found = {p.stem for p in (paths.ROOT / "dashkit").rglob("*.py") if words.search(p.read_text())}
    assert found <= {"fetch"}
