"""Where a result comes from: commit, device, versions, memory."""

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from dashkit.storage.arithmetic import arithmetic


@functools.cache
def commit() -> str:
    """The project's commit when this process first asked, with "+" if tracked files were changed since that commit.

    Outside a clone it is what DASHKIT_COMMIT says, for a copy that was carried to a machine without git, or "unknown";
    also where a folder above is a clone of something else.
    """
    here = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(here)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, encoding="ascii", check=True)
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "dashkit"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        told = os.environ.get("DASHKIT_COMMIT", "")
        return told if re.fullmatch(r"[0-9a-f]{7,40}\+?", told) else "unknown"
    return head.stdout.strip() + ("+" if dirty else "")


def device_name(device: torch.device | str) -> str:
    """What a table calls the device: the GPU's name, or cpu with its thread count."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device).replace(" ", "-")
    return f"cpu-{torch.get_num_threads()}"


def peak_memory_mib(*, children: bool = False) -> float | None:
    """The most memory that this process has held so far, in MiB; or the largest of its finished children.

    None where the system does not count it (Windows).
    """
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def manifest(**facts: object) -> dict:
    """Where a result comes from: versions, platform, commit and peak memory, beside the `facts` given."""
    versions = {p: importlib.metadata.version(p) for p in ("torch", "numpy", "scikit-learn", "safetensors", "pandas")}
    if torch.cuda.is_available():
        facts = {"arithmetic": arithmetic(), **facts}
    return {
        "commit": commit(), "python": platform.python_version(), "platform": platform.platform(terse=True),
        "versions": versions, "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "peak_memory_mib": peak_memory_mib(), **facts,
    }
