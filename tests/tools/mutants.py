"""`make mutants`: mutmut changes the mathematics one place at a time, and the tests that reach the place must notice.

The modules and their tests are in pyproject.toml under [tool.mutmut].  Survivors are listed with their change, and with
the reason where one is written down in `tests/tools/mutants.csv`.  It fails below 90% killed and at a survivor without
a reason.  `--only MODULE`.  mutmut leaves decorated functions, properties and what stands at module level alone.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REASONS, WANTED = ROOT / "tests" / "tools" / "mutants.csv", 0.9
KILLED = ("killed", "timeout")                       # a child that the system ended proves nothing
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}   # children are forked


def mutmut(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, text=True, **keywords)


def change(name: str) -> str:
    """What a mutant changes: the lines before and after, the function before them."""
    diff = mutmut("show", name, capture_output=True, check=True).stdout.splitlines()[3:]      # name, --- and +++
    old, new = (" ".join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    # dashkit, method, cost, x_flops or xǁClassǁmethod
    *_, module, mangled = name.rpartition("__mutmut_")[0].split(".")
    function = mangled[1:].replace("ǁ", ".") if "ǁ" in mangled else f".{mangled.removeprefix('x_')}"
    return f"{module}{function}: {old} -> {new}"


def main() -> int:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    dotted = {Path(path).stem: path.removesuffix(".py").replace("/", ".") for path in table["only_mutate"]}
    modules = list(dotted)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=modules, action="append")
    chosen = parser.parse_args().only or modules
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)              # nothing is taken over from an earlier run
    began = time.monotonic()
    done = mutmut("run", "--max-children", str(os.cpu_count() or 1), *(f"{dotted[module]}.*" for module in chosen))
    seconds = time.monotonic() - began
    if done.returncode:
        return 1
    said = mutmut("results", "--all", "1", capture_output=True, check=True).stdout
    fates = dict(re.findall(r"^ *(dashkit\.\S+): (.+)$", said, re.MULTILINE))
    fates = {name: fate for name, fate in fates.items() if name.split(".")[-2] in chosen}
    with REASONS.open(newline="") as file:
        reasons = {row["mutant"]: row["reason"] for row in csv.DictReader(file)}
    print()
    for module in chosen:
        tally = Counter(fate in KILLED for name, fate in fates.items() if name.split(".")[-2] == module)
        print(f"{module:12s} {tally[True]:4d} of {tally.total():4d} killed")
    survivors = {change(name): fate for name, fate in sorted(fates.items()) if fate not in KILLED}
    for mutant, fate in survivors.items():
        print(f"{fate:9s} {mutant}\n          {reasons.get(mutant, 'NO REASON WRITTEN DOWN')}")
    for mutant in reasons:
        if mutant.split(".")[0] in chosen and mutant not in survivors:
            print(f"has a reason and is gone: {mutant}")
    unexplained = sum(mutant not in reasons for mutant in survivors)
    dead, total = sum(fate in KILLED for fate in fates.values()), len(fates)
    print(f"{dead} of {total} killed ({dead / total:.1%}), {total - dead} survived, {unexplained} of them unexplained; "
          f"{seconds:.0f} s")
    return 0 if dead >= WANTED * total and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
