"""The project's front door: `python3 run.py series`, on Windows `python run.py series`; without a task it lists them.

This file is read by old Pythons, too, so that they can say what is needed: no syntax here that they do not know.
"""

import os
import sys

if not (3, 11) <= sys.version_info[:2] < (3, 14):
    sys.exit("Python 3.11, 3.12 or 3.13 is needed, this is {}.{}; type for example: {} run.py {}".format(
        sys.version_info[0], sys.version_info[1], "py -3.12" if os.name == "nt" else "python3.12",
        " ".join(sys.argv[1:] or ["series"])))

from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from dashkit import stopping

stopping.catch(stopping.leave("run.py"))

try:
    from dashkit import launch
except ValueError as error:         # DASHKIT_HOME names no folder
    sys.exit("run.py: " + str(error))

if __name__ == "__main__":
    sys.exit(stopping.finish(launch.main(sys.argv[1:])))
