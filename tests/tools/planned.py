"""How well a campaign keeps its time on this machine:  python tests/tools/planned.py [--minutes 6] [--profile NAME]

Runs a whole campaign in a folder of its own and prints what every stage took beside what was planned.  A machine that
others use as well keeps no time: this is a tool, and no test.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=6.0)
    options.add_argument("--profile", default="cifar10_proof")
    options.add_argument("--device", default="auto")
    options.add_argument("--stages", default="teacher,students,evaluation", help="with fid it takes Inception as well")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dashkit", "campaign", "--profile", asked.profile, "--device", asked.device,
                   "--minutes", str(asked.minutes), "--stages", asked.stages]
        if "fid" in asked.stages:
            command += ["--reference", "200", "--fid-samples", "200"]
        environment = os.environ | {"DASHKIT_RUNS": folder, "DASHKIT_PROGRESS": "0", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
