"""`make chaos`: kill the kit at random moments, and see that nothing is lost and nothing is wrong.

Each scenario runs once undisturbed, and then in a folder of its own, killed by SIGKILL (children and all) until it has
survived its share of kills; after each the same command goes on.  At the end every network's tensors and every table
must equal those of the undisturbed run bit for bit, and no temporary file or lock may be left.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
TINY = "teacher_steps=150 student_steps=100 samples=40 states=60 sample_steps=4 batch=16 warmup=0 arms=dash,cond_only"
COMMAND = "from dashkit import cli, recipes; recipes.CHECKPOINT_SECONDS = 0.2; import sys; sys.exit(cli.main({!r}))"
FETCH = """
import hashlib, os
from pathlib import Path
import numpy as np
from dashkit import fetch

def refuse(work):
    raise OSError("out of reach")

slowly = "rm -f thing; for i in 1 2 3 4 5 6; do head -c 500000 /dev/zero >> thing; sleep 0.2; done"
pixels = np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 3), dtype=np.uint8)
arrays = (pixels, np.arange(4000) % 10, pixels[:1000], np.arange(1000) % 10)
package = fetch.Package(("sh", "-c", slowly), "thing", hashlib.sha256(bytes(3_000_000)).hexdigest())
fetch.SOURCES["cifar10"] = fetch.Source(refuse, package, lambda path: arrays, (), 1, "")
fetch.fetch("cifar10", cache=Path(os.environ["DASHKIT_RUNS"]))
"""
SCENARIOS = {   # what is run, a command or a program, and its share of the kills
    "train": (["train"], 0.24),
    "sweep": (["sweep", "--seeds", "2"], 0.36),
    "evaluate": (["evaluate"], 0.2),
    "fetch": (FETCH, 0.1),
    "series": (["series", "--only", "02"], 0.1),
}


def start(name: str, folder: Path) -> subprocess.Popen:
    """The scenario in a process group of its own, its runs and reports under `folder`."""
    code, _ = SCENARIOS[name]
    if isinstance(code, list):
        settings = [s for pair in TINY.split() for s in ("--set", pair)]
        code = COMMAND.format([*code, "--profile", "smoke", "--seed", "5", *settings])
    environment = {**os.environ, "DASHKIT_RUNS": str(folder), "DASHKIT_PROGRESS": "0", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(ROOT)}
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=log, stderr=log,
                                start_new_session=True)


def run(name: str, folder: Path) -> float:
    """Run to the end; seconds.  SystemExit with the log's end if it fails."""
    began = time.monotonic()
    if start(name, folder).wait():
        raise SystemExit(f"{name} failed:\n{folder.with_suffix('.log').read_text()[-3000:]}")
    return time.monotonic() - began


def kill(name: str, folder: Path, after: float) -> bool:
    """Start, kill after some seconds; whether it was still running."""
    process = start(name, folder)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGKILL)     # and what it started since; a kernel has its own group
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        psutil.wait_procs(family[1:], timeout=30)
        return True
    return False


def content(folder: Path) -> dict[str, object]:
    """Everything that a run leaves, by name: tensors of networks, tables; not what says when and how long."""
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
        else:
            found[name] = None
    return found


def differences(whole: dict, broken: dict) -> list[str]:
    odd = sorted(whole.keys() ^ broken.keys())
    said = [f"{name} is {'missing' if name in whole else 'left over'}" for name in odd]
    for name in whole.keys() & broken.keys():
        a, b = whole[name], broken[name]
        if isinstance(a, dict):
            same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        else:
            same = a is None or a.equals(b)
        if not same:
            said.append(f"{name} differs")
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    options = parser.parse_args(arguments)
    rng, failed, began, total = random.Random(options.seed), 0, time.monotonic(), 0
    print(f"seed {options.seed}, {options.kills} kills")
    for name in options.only or SCENARIOS:
        with tempfile.TemporaryDirectory() as place:
            whole, broken = Path(place) / "whole", Path(place) / "broken"
            seconds = run(name, whole)
            wanted, kills, rounds = max(1, round(options.kills * SCENARIOS[name][1])), 0, 0
            while kills < wanted:
                # most of a start is imports: look for the moments after them
                kills += kill(name, broken, rng.uniform(0.3 * seconds, 1.05 * seconds))
                rounds += 1
                if rounds % 5 == 0 and kills < wanted:          # it was finished in between: begin anew
                    run(name, broken)
                    said = differences(content(whole), content(broken))
                    failed += bool(said)
                    print("\n".join(f"  {name}: {s}" for s in said), end="\n" if said else "")
                    subprocess.run(["rm", "-rf", str(broken)], check=True)
            run(name, broken)
            said = differences(content(whole), content(broken))
            failed += bool(said)
            total += kills
            print(f"{name:9s} {kills} kills, {seconds:.0f} s undisturbed: "
                  f"{'equal, nothing left over' if not said else '; '.join(said)}", flush=True)
    print(f"{total} kills, {failed} differences, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
