"""Rooms import only the rooms below them; what a start needs, and what no module may do."""

import subprocess
import sys
from pathlib import Path

import pytest

import dashkit

HOME = Path(dashkit.__file__).parent
MODULES = sorted(p for p in HOME.rglob("*.py") if p.stem != "__init__")
BANNED = ("torch.load(", "import pickle", "allow_pickle=True")


def lint_imports(folder):
    code = "import sys; from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                          env={"PYTHONPATH": str(folder), "PATH": ""})


def test_rooms_import_only_the_rooms_below_them():
    done = lint_imports(HOME.parent)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("module", "line", "message"), [
    ("method/schedule.py", "from dashkit.storage import paths", "dashkit.method is not allowed to import dashkit.stor"),
    ("analysis/rules.py", "from dashkit.classroom import plots", "dashkit.analysis is not allowed to import dashkit.c"),
    ("doctor.py", "from dashkit import cli", "dashkit.doctor is not allowed to import dashkit.cli"),
    ("method/unet.py", "import papermill", "dashkit.method is not allowed to import papermill"),
])  # fmt: skip
def test_an_import_upwards_would_be_noticed(tmp_path, module, line, message):
    for path in [*HOME.rglob("*.py"), HOME.parent / "pyproject.toml"]:
        target = tmp_path / path.relative_to(HOME.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with (tmp_path / "dashkit" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and message in " ".join(done.stdout.split()), done.stdout + done.stderr


def test_there_are_modules_in_every_room():
    assert {p.parent.name for p in MODULES} >= {"method", "storage", "datasets", "interop", "experiments", "analysis",
                                                "classroom", "publishing"}
    assert len(MODULES) > 50


def test_run_time_needs_neither_diffusers_nor_pickle_loading():
    code = "import sys, dashkit.publishing.series, dashkit.classroom.explorers; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not [p.name for p in MODULES if any(b in p.read_text() for b in BANNED)]


@pytest.mark.parametrize(("imports", "absent"), [
    ("dashkit", {"torch", "numpy", "pandas"}), ("dashkit.doctor", {"torch", "numpy", "pandas"}),
    ("dashkit.method", {"pydantic", "papermill", "IPython", "matplotlib", "nbformat", "pandas", "sklearn", "scipy"}),
    ("dashkit.experiments", {"papermill", "IPython", "matplotlib", "nbformat", "ipywidgets", "sklearn"}),
    ("dashkit.analysis", {"papermill", "IPython", "matplotlib", "nbformat", "ipywidgets"}),
    ("dashkit.classroom", {"papermill", "nbformat", "ipywidgets"}),
])  # fmt: skip
def test_a_room_loads_nothing_that_it_does_not_need(imports, absent):
    code = f"import sys, {imports}; print(*sorted({absent!r} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_training_needs_nothing_of_notebooks_and_pictures():
    """They take longer to import than torch does."""
    code = "import sys; from dashkit import cli; code = cli.main(['train', '--profile', 'tiny']); " \
           "print(code, 'torch' in sys.modules, {'nbformat', 'papermill', 'matplotlib', 'IPython'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 True set()\n" and "unknown profile 'tiny'" in done.stderr


@pytest.mark.parametrize("room", ["method", "experiments", "analysis", "classroom"])
def test_every_name_on_a_door_is_there(room):
    code = f"from dashkit.{room} import *; import dashkit.{room} as r; print(len([getattr(r, n) for n in r.__all__]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 5, done.stderr
