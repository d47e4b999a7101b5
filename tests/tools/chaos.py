"""`make chaos`: kill the kit at random moments, take its disk away, run it twice, and see that nothing is lost.

Each scenario runs once undisturbed, and then in a folder of its own, killed by SIGKILL until it has survived its share
of kills: half of them at a random time (children and all), half at a random file operation, before it or within it,
since few moments fall there by chance.  After each the same command goes on.  Then, for scenarios without a kernel, the
disk is full at random sizes, or read-only, or the same command is already running: each must end in one line that says
so.  At the end every network's tensors, every table, the report's first page and every output of a notebook that is
regression-tested must equal those of the undisturbed run bit for bit, and no temporary file or lock may be left.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pandas as pd
import psutil
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[1]))
from gate import stripped

ROOT = Path(__file__).resolve().parents[2]
TINY = "teacher_steps=80 student_steps=60 samples=40 states=60 sample_steps=4 batch=16 warmup=0 arms=dash,cond_only"
PRELUDE = """
import atexit, os, signal, sys
from threading import Timer
root, last, delay, seen = os.environ["DASHKIT_RUNS"], int(os.environ["LAST"]), float(os.environ["DELAY"]), 0

def watch(event, arguments):                # Python tells of every file operation before it does it
    global seen
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")) and str(arguments[0]).startswith(root):
        seen += 1
        if seen == last and delay:
            Timer(delay, os.killpg, (0, signal.SIGKILL)).start()
        elif seen == last:
            os.killpg(0, signal.SIGKILL)

sys.addaudithook(watch)
atexit.register(lambda: print(f"{seen} file operations", file=sys.stderr))
"""
COMMAND = """
from functools import partial
from dashkit import cli
from dashkit.experiments import checkpoints
from dashkit.method import quality
from dashkit.method.quality import train_classifier
checkpoints.CHECKPOINT_SECONDS = 0.1
quality.train_classifier = partial(train_classifier, epochs=1)      # a poor judge is as good here
sys.exit(cli.main({!r}))
"""
SERIES = """
from pathlib import Path
from dashkit.experiments.settings import parse_settings
from dashkit.publishing.series import run_series
sys.exit(not run_series("smoke", seed=5, only=("02", "04"), settings=parse_settings({!r}), build=Path(root, "report")))
"""
FETCH = """
import hashlib
from pathlib import Path
import numpy as np
from dashkit.datasets import fetch

def refuse(work):
    raise OSError("out of reach")

slowly = "rm -f thing; for i in 1 2 3 4 5 6; do head -c 500000 /dev/zero >> thing; sleep 0.2; done"
pixels = np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 3), dtype=np.uint8)
arrays = (pixels, np.arange(4000) % 10, pixels[:1000], np.arange(1000) % 10)
package = fetch.Package(("sh", "-c", slowly), "thing", hashlib.sha256(bytes(3_000_000)).hexdigest())
fetch.SOURCES["cifar10"] = fetch.Source(refuse, package, lambda path: arrays, (), 1, "")
try:
    fetch.fetch("cifar10", cache=Path(root))
except OSError as error:
    sys.exit(f"dashkit: {error}")
"""
KILLS = ("kills at a file operation", "kills at a random time")
TOO_SMALL, TWICE = 4, 3          # how often a disk is too small, and how often a second process starts
DISK = r"(No space left on device|the disk of .* is full|free some space|MB are needed)"
READ_ONLY = r"Read-only file system"
BUSY = r"is in use by process {} on"


class Scenario(NamedTuple):
    code: str          # the program
    share: float       # of the kills
    faults: bool       # whether the disk is taken away from it, too, and a second process started


def program(*arguments: str) -> str:
    settings = [s for pair in TINY.split() for s in ("--set", pair)]
    return COMMAND.format([*arguments, "--profile", "smoke", "--seed", "5", *settings])


SCENARIOS = {                # the longest first
    "series": Scenario(SERIES.format(TINY.split()), 0.1, False),
    "sweep": Scenario(program("sweep", "--seeds", "2"), 0.36, True),
    "evaluate": Scenario(program("evaluate"), 0.2, True),
    "train": Scenario(program("train"), 0.24, True),
    "fetch": Scenario(FETCH, 0.1, True),
}


class Unmountable(Exception):
    """Here nobody may mount a small file system."""


def start(name: str, folder: Path, last: int = 0, delay: float = 0, log: str = ".log") -> subprocess.Popen:
    """The scenario in a process group of its own, all that it writes under `folder`, what it says in a `log` beside.

    It is killed before its file operation number `last`, or some seconds of `delay` later.
    """
    environment = {**os.environ, "DASHKIT_RUNS": str(folder), "DASHKIT_PROGRESS": "0", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(ROOT), "LAST": str(last), "DELAY": str(delay)}
    with folder.with_suffix(log).open("ab") as file:
        return subprocess.Popen([sys.executable, "-c", PRELUDE + SCENARIOS[name].code], env=environment, cwd=ROOT,
                                stdout=file, stderr=file, start_new_session=True)


def said(folder: Path, log: str = ".log") -> str:
    return folder.with_suffix(log).read_text(errors="replace")


def run(name: str, folder: Path) -> float:
    """Run to the end; seconds.  SystemExit with the log's end if it fails."""
    began = time.monotonic()
    if start(name, folder).wait():
        raise SystemExit(f"{name} failed:\n{said(folder)[-3000:]}")
    return time.monotonic() - began


def kill(name: str, folder: Path, *, after: float = 1e6, last: int = 0, delay: float = 0) -> int:
    """Start, kill after some seconds or at a file operation; how it ended: -9, or of itself before."""
    process = start(name, folder, last, delay)
    try:
        return process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGKILL)     # and what it started since; a kernel has its own group
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family[1:], timeout=30)
        return process.wait()


def content(folder: Path) -> dict[str, object]:
    """Everything that a run leaves, by name: tensors, tables, reports; not what says when and how long."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {k: torch.from_numpy(arrays[k]) for k in arrays}
        elif path.suffix == ".csv":
            found[name] = pd.read_csv(path).drop(columns="commit", errors="ignore")
        elif path.name == "index.html":
            found[name] = re.sub(r"<p>seed [^<]*</p>|<td>\d+ s</td>", "", path.read_text())
        elif path.suffix == ".ipynb":
            found[name] = [(c.source, c.get("outputs")) for c in stripped(nbformat.read(path, as_version=4)).cells]
        else:
            found[name] = None
    return found


def differences(whole: dict, broken: dict) -> list[str]:
    odd = sorted(whole.keys() ^ broken.keys())
    found = [f"{name} is {'missing' if name in whole else 'left over'}" for name in odd]
    for name in whole.keys() & broken.keys():
        a, b = whole[name], broken[name]
        if isinstance(a, dict):
            same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        elif isinstance(a, pd.DataFrame):
            same = a.equals(b)
        else:
            same = a == b
        if not same:
            found.append(f"{name} differs")
    return found


def killed(name: str, wanted: int, whole: Path, rng: random.Random, seconds: float) -> tuple[Counter, list[str]]:
    """How often the scenario was killed, by kind, and every difference that was seen."""
    broken, found, kills = whole.with_name("broken"), [], Counter()
    operations = int(re.findall(r"(\d+) file operations", said(whole))[-1])
    expected, lives = content(whole), 0
    while kills.total() < wanted:
        early = rng.random() < 0.5                 # so that one undisturbed run's work takes several lives
        if rng.random() < 0.5 and SCENARIOS[name].faults:       # a notebook's files are its kernel's
            last = rng.randint(1, max(1, operations // 3 if early else operations))
            kind, moment = KILLS[0], {"last": last, "delay": rng.choice([0, rng.uniform(0, 0.005)])}
        else:                                      # much of a start is imports: look for the moments after them
            kind, moment = KILLS[1], {"after": rng.uniform(0.3, 0.6 if early else 1) * seconds}
        status = kill(name, broken, **moment)
        kills[kind] += status == -signal.SIGKILL
        if status not in (0, -signal.SIGKILL):
            found.append(f"{name} ended with {status}: {said(broken)[-300:]}")
        lives += 1
        if status == 0 or lives == 6 or kills.total() == wanted:       # finished, or nearly: begin anew
            run(name, broken)
            found += differences(expected, content(broken))
            shutil.rmtree(broken)
            lives = 0
    return kills, found


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own in `folder`; Unmountable where that is not allowed."""
    folder.mkdir()
    try:
        mount = ("mount", "-t", "tmpfs", "-o", "size=1g", "none", str(folder))
        if subprocess.run(mount, capture_output=True).returncode:
            raise Unmountable
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def refused(name: str, folder: Path, pattern: str) -> list[str]:
    """Run while something is in the way: it ends well, or in one line that says what is."""
    log = ".refused.log"
    folder.with_suffix(log).unlink(missing_ok=True)
    code = start(name, folder, log=log).wait()
    lines = [line for line in said(folder, log).splitlines() if not line.endswith("file operations")]
    if code and not (code in (1, 2) and lines and lines[-1].startswith("dashkit: ") and re.search(pattern, lines[-1])
                     and "Traceback" not in "\n".join(lines)):
        return [f"{name} ended with {code}: {' '.join(lines[-3:])[:300]}"]
    return [] if code else ["went through"]


def disturbed(name: str, whole: Path, rng: random.Random) -> tuple[Counter, list[str]]:
    """A disk too small at several random sizes, then read-only, then as it should be."""
    broken, found, faults = whole.with_name("faults"), [], Counter()
    size = sum(p.stat().st_size for p in whole.rglob("*") if p.is_file())
    expected = content(whole)
    with small_disk(broken):
        for kind, pattern in [("disk full", DISK)] * TOO_SMALL + [("read-only", READ_ONLY)]:
            used = shutil.disk_usage(broken).used
            remount(broken, f"size={used + rng.randint(0, size)}" if kind == "disk full" else "ro")
            outcome = refused(name, broken, pattern)
            remount(broken, "rw,size=1g")
            faults[kind] += outcome == []
            found += differences(expected, content(broken)) if outcome == ["went through"] else outcome
        run(name, broken)
        found += differences(expected, content(broken))
    return faults, found


def hold(process: subprocess.Popen, folder: Path, wait: float) -> None:
    """Stop a process while it holds a lock, some seconds after its first one."""
    while process.poll() is None and not any(folder.rglob(".lock")):
        time.sleep(0.01)
    time.sleep(wait)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGSTOP)
        if any(folder.rglob(".lock")):
            return
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.01)


def doubled(name: str, whole: Path, rng: random.Random, seconds: float) -> tuple[Counter, list[str]]:
    """The same command twice: the second is refused, naming the first, which holds still meanwhile and then goes on.

    A second fetch waits for the first, and takes what it brought.
    """
    broken, found, refusals = whole.with_name("double"), [], Counter()
    for _ in range(TWICE):
        first = start(name, broken)
        if name == "fetch":
            time.sleep(rng.uniform(0, 0.3 * seconds))
        else:
            hold(first, broken, rng.uniform(0, 0.2 * seconds))
        outcome = refused(name, broken, BUSY.format(first.pid))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGCONT)
        refusals["second process"] += outcome == []
        found += [line for line in outcome if line != "went through"]
        if first.wait():
            found.append(f"the first {name} failed: {said(broken)[-300:]}")
        found += differences(content(whole), content(broken))
        shutil.rmtree(broken)
    if not refusals.total() and name != "fetch":
        found.append(f"a second {name} was never refused")
    return refusals, found


def endure(name: str, kills: int, seed: int) -> tuple[float, Counter, list[str]]:
    """One scenario with all that happens to it: seconds undisturbed, how often each thing did, what went wrong."""
    rng = random.Random(f"{seed} {name}")
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        seconds = run(name, whole)
        counts, found = killed(name, max(1, round(kills * SCENARIOS[name].share)), whole, rng, seconds)
        if SCENARIOS[name].faults:
            more = [doubled(name, whole, rng, seconds)]
            try:
                more.append(disturbed(name, whole, rng))
            except Unmountable:
                counts["full disk: LEFT OUT, only root can mount a small file system"] = 0
            for one, said_of_it in more:
                counts.update(one)
                found += said_of_it
    return seconds, counts, found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    options = parser.parse_args(arguments)
    began, total, failed = time.monotonic(), Counter(), 0
    print(f"seed {options.seed}, {options.kills} kills", flush=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:               # each scenario computes in one thread
        jobs = {pool.submit(endure, name, options.kills, options.seed): name for name in options.only or SCENARIOS}
        for job in as_completed(jobs):
            seconds, counts, found = job.result()
            failed += len(found)
            for kind, n in counts.items():
                total["kills" if kind in KILLS else "refusals"] += n
            print(f"{jobs[job]:9s} {seconds:3.0f} s undisturbed; {', '.join(f'{n} {k}' for k, n in counts.items())}: "
                  f"{'; '.join(found) or 'equal, nothing left over'}", flush=True)
    print(f"{total['kills']} kills, {total['refusals']} refusals, {failed} differences; "
          f"{time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
