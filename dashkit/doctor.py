"""Is this set-up fit for the series?  `dashkit doctor` and notebook 00 print the answer."""

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dashkit import environment
from dashkit.storage import memory, paths

FREE_GB = 2                               # of disk
LEAST_GB, ROOMY_GB = 1.5, 6               # of memory: for one kernel, and for several
NEEDED = {"numpy": "all numbers", "pandas": "tables of results", "scipy": "statistics and scikit-learn",
          "sklearn": "the digits", "pydantic": "profiles", "safetensors": "weights on disk",
          "filelock": "two processes at once", "tqdm": "progress bars"}
USEFUL = {"torch_fidelity": "FID", "PIL": "unpacking images", "accelerate": "several GPUs", "diffusers": "export"}
"""What a machine without Jupyter imports, and what for."""


class Finding(NamedTuple):
    what: str
    ok: bool
    detail: str   # what was found, and for a failure what to do


def examine(*folders: Path, device: str = "auto") -> Iterator[Finding]:
    """Check Python, the project, torch with torchvision, versions, memory, imports, the GPU if `device` is cuda, the
    notebook kernel, and that `folders` can be written; never raises."""
    yield _python(sys.version_info[:2])
    yield _project()
    yield (torch := _torch())
    yield _versions()
    yield _pins()
    yield _memory()
    if torch.ok:
        yield _imports()
    if torch.ok and device == "cuda":
        yield _gpu()
    yield _kernel()
    for folder in folders:
        yield _folder(folder)


def examine_bare(*, device: str = "cuda") -> Iterator[Finding]:
    """What training needs on a machine that has no Jupyter and where the kit is not installed; never raises."""
    yield _python(sys.version_info[:2])
    yield (torch := _torch())
    if torch.ok and device == "cuda":
        yield _gpu()
    yield _packages()


def require(*folders: Path) -> None:
    """Raise RuntimeError with every failed check and its fix, before any long work."""
    failed = [f for f in examine(*folders) if not f.ok]
    if failed:
        lines = "\n".join(f"- {f.what}: {f.detail}" for f in failed)
        raise RuntimeError(f"this set-up cannot run the series:\n{lines}")


def _python(version: tuple[int, int]) -> Finding:
    text = ".".join(map(str, version))
    ok = (3, 11) <= version < (3, 14)
    return Finding("Python", ok, text if ok else f"{text} is not supported; use 3.11 to 3.13, e.g.: "
                                           f"{'py -3.12' if environment.WINDOWS else 'python3.12'} run.py install")


def _project() -> Finding:
    """Whether this is the kit of a whole project, and of the one that the current folder belongs to."""
    if not paths.IS_PROJECT:
        return Finding("project", False, paths.NOT_A_PROJECT)
    try:
        paths.refuse_another_copy()
    except (ValueError, OSError) as error:
        return Finding("project", False, str(error))
    elsewhere = "" if paths.HOME == paths.ROOT else f"; everything is written to {paths.HOME}"
    return Finding("project", True, f"{paths.ROOT}{elsewhere}")


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("torch", False, f"cannot be imported ({error}). Fix: {_fix_torch()}")
    try:
        import torchvision
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding("torch", False,
                       f"torch {torch.__version__} and torchvision {_version('torchvision')} do not fit each other "
                       f"({first}): usually a CPU-only torch beside a CUDA torchvision. "
                       f"Fix: {_fix_torch()}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device, the CPU does it all"
    return Finding("torch", True, f"torch {torch.__version__}, torchvision {torchvision.__version__}; {gpu}")


def _versions() -> Finding:
    """Every direct dependency against what the installed kit declares."""
    from packaging.requirements import Requirement

    try:
        needs = list(map(Requirement, importlib.metadata.requires("dashkit") or ()))
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", False, f"dashkit is not installed. Fix: {environment.task('install')}")
    needs = [n for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    wrong = [n for n in needs if not n.specifier.contains(_version(n.name) or "0", prereleases=True)]
    said = "; ".join(f"{n.name} is {_version(n.name) or 'not installed'}, but {n.specifier} is needed" for n in wrong)
    fix = f"Fix: {environment.repair(*(f'{n.name}{n.specifier}' for n in wrong))}"
    return Finding("versions", not wrong, f"{said}. {fix}" if wrong else f"{len(needs)} packages are as declared")


def _pins() -> Finding:
    """What differs from constraints.txt, the versions that the project was tested with; that is no failure."""
    found, pinned = environment.differences(), environment.pins()
    if not found:
        return Finding("pins", True, f"as in {environment.PINS}" if pinned else f"there is no {environment.PINS}")
    return Finding("pins", True, f"{len(found)} packages are not as tested, which may be meant: {', '.join(found)}")


def _memory() -> Finding:
    """Whether a notebook fits into the memory, and whether several do: each keeps its kernel until it is shut down."""
    found = memory.machine_memory()
    if found is None:
        return Finding("memory", True, "this system does not say how much it has")
    text = f"{found / 2**30:.1f} GiB"
    if found < LEAST_GB * 2**30:
        return Finding("memory", False, f"only {text}; {LEAST_GB} are needed for one notebook. Fix: take another "
                                        f"machine; there, {environment.task('site')} writes pages that this one reads")
    few = "; that is one notebook at a time: choose Kernel, Shut Down Kernel before you open the next"
    return Finding("memory", True, text + (few if found < ROOMY_GB * 2**30 else ""))


def _fix_torch() -> str:
    return environment.repair(*(r for r in environment.requirements() if r.startswith("torch")))


def _fix(missing: list[str]) -> str:
    """What to type for packages of NEEDED, each written as in a finding."""
    names = {"sklearn": "scikit-learn"}
    wanted = tuple(names.get(name, name) for name in (one.split()[0] for one in missing))
    return environment.repair(*(r for r in environment.requirements() if r.startswith(wanted)))


def _imports() -> Finding:
    """Everything that the kit itself imports: a package can be there as declared, and broken."""
    try:
        for name in ("analysis.ledger", "classroom.explorers", "publishing.series"):
            importlib.import_module(f"dashkit.{name}")
    except Exception as error:
        return Finding("imports", False, f"the kit cannot be imported ({type(error).__name__}: {error}). "
                                         f"Fix: {environment.repair(*environment.requirements())}")
    return Finding("imports", True, "all that the kit needs can be imported")


def _packages() -> Finding:
    """Packages that cannot be imported, and what each would be for; only those of NEEDED make it fail."""
    def absent(packages: dict[str, str]) -> list[str]:
        found = []
        for name, purpose in packages.items():
            try:
                importlib.import_module(name)
            except Exception:
                found.append(f"{name} ({purpose})")
        return found

    missing, useful = absent(NEEDED), absent(USEFUL)
    said = f"missing: {', '.join(missing)}. Fix: {_fix(missing)}" if missing else "all that training needs is there"
    return Finding("packages", not missing, said + (f"; without {', '.join(useful)}" if useful else ""))


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", True, torch.cuda.get_device_name())
    if torch.version.cuda is None:
        why = f"this torch is built for the CPU alone. Fix: {_fix_torch()}"
    else:
        why = f"torch {torch.__version__} is built for CUDA but finds no GPU. Fix: see that nvidia-smi lists one, " \
              f"with a driver for CUDA {torch.version.cuda}"
    return Finding("GPU", False, f"device='cuda' was asked for, but {why}; or take device='cpu'")


def _kernel() -> Finding:
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except Exception as error:
        return Finding("kernel", False, f"Jupyter cannot be imported ({error}). "
                                        f"Fix: {environment.repair('jupyterlab', 'ipykernel')}")

    fix = f"Fix: {environment.quoted(sys.executable)} -m ipykernel install --sys-prefix --name python3"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
        own = spec.argv[0] in ("python", "python3")               # jupyter_client takes its own Python for these
        python = sys.executable if own else shutil.which(spec.argv[0])
    except (NoSuchKernel, ValueError, IndexError):
        return Finding("kernel", False, f"no Jupyter kernel called python3. {fix}")
    if python is None or Path(python).absolute().parent != Path(sys.executable).absolute().parent:
        where = "which is not there" if python is None else "another Python than this one"
        return Finding("kernel", False, f"the kernel python3 of {spec.resource_dir} starts {spec.argv[0]}, {where}. "
                                        f"{fix}, or remove that folder")
    return Finding("kernel", True, "python3")


def _folder(folder: Path) -> Finding:
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return Finding(folder.name, False, f"{folder}: {paths.explained(error, folder).strerror}")
    free = shutil.disk_usage(folder).free / 2**30
    ok = free >= FREE_GB
    return Finding(folder.name, ok, "can be written" if ok else f"only {free:.1f} GiB free; {FREE_GB} are needed")


def _version(package: str) -> str:
    """The installed version, or nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
