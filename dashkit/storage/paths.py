"""Where files are: the project, trained runs, and data that was fetched."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path(os.environ.get("DASHKIT_RUNS") or ROOT / "data" / "runs")
CACHE = ROOT / "data" / "cache"
