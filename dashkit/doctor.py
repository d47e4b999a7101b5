"""Is this set-up fit for the series?  Layer 5; `dashkit doctor` and notebook 00 print the answer."""

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FREE_GB = 2


class Finding(NamedTuple):
    what: str
    ok: bool
    detail: str   # what was found, and for a failure what to do


def examine(*folders: Path) -> Iterator[Finding]:
    """Check Python, torch with torchvision, the notebook kernel and that `folders` can be written; never raises."""
    yield _python(sys.version_info[:2])
    yield _torch()
    yield _pins()
    yield _kernel()
    for folder in folders:
        yield _folder(folder)


def require(*folders: Path) -> None:
    """Raise RuntimeError with every failed check and its fix, before any long work."""
    failed = [f for f in examine(*folders) if not f.ok]
    if failed:
        lines = "\n".join(f"- {f.what}: {f.detail}" for f in failed)
        raise RuntimeError(f"this set-up cannot run the series:\n{lines}")


def _python(version: tuple[int, int]) -> Finding:
    text = ".".join(map(str, version))
    ok = (3, 11) <= version < (3, 14)
    return Finding("Python", ok, text if ok else f"{text} is not supported; use 3.11 to 3.13: make PYTHON=python3.12 …")


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("torch", False, f"cannot be imported ({error}); reinstall with: pip install torch torchvision")
    try:
        import torchvision
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding("torch", False,
                       f"torch {torch.__version__} and torchvision {_version('torchvision')} do not fit each other "
                       f"({first}): usually a CPU-only torch beside a CUDA torchvision. "
                       "Fix: pip uninstall -y torch torchvision && pip install torch torchvision")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device, the CPU does it all"
    return Finding("torch", True, f"torch {torch.__version__}, torchvision {torchvision.__version__}; {gpu}")


def _pins() -> Finding:
    seaborn, matplotlib = _version("seaborn"), _version("matplotlib")
    bad = seaborn.startswith("0.13") and tuple(map(int, matplotlib.split(".")[:2])) >= (3, 13)
    fix = "; seaborn 0.13 breaks with matplotlib 3.13. Fix: pip install 'matplotlib<3.13'" if bad else ""
    return Finding("plots", not bad, f"matplotlib {matplotlib}, seaborn {seaborn}{fix}")


def _kernel() -> Finding:
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs()
    ok = "python3" in found
    return Finding("kernel", ok, "python3" if ok else "no Jupyter kernel called python3. "
                   f"Fix: {sys.executable} -m ipykernel install --sys-prefix --name python3")


def _folder(folder: Path) -> Finding:
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        detail = f"cannot write in {folder} ({error.strerror}); give yourself access, or set DASHKIT_RUNS"
        return Finding(folder.name, False, detail)
    free = shutil.disk_usage(folder).free / 2**30
    ok = free >= FREE_GB
    return Finding(folder.name, ok, "can be written" if ok else f"only {free:.1f} GiB free; {FREE_GB} are needed")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
