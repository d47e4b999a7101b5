"""Rooms import only the rooms below them; what a start needs, and what no module may do."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dashkit

HOME = Path(dashkit.__file__).parent
MODULES = sorted(p for p in HOME.rglob("*.py") if p.stem != "__init__")
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib.load", "torch.load",
              "torch.jit.load", "torch.package", "pandas.read_pickle", "torch.hub.load_state_dict_from_url"}
"""What opens a pickle, which may run any program."""


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


def unpickled(source):
    """What a source takes from `UNPICKLERS`, under whatever name, and each `allow_pickle` that is not False."""
    names, found = {}, []
    for node in ast.walk(tree := ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            room = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            whole = {alias.asname or alias.name.partition(".")[0]: alias for alias in node.names}
            names |= {name: room + (alias.name if room or alias.asname else name) for name, alias in whole.items()}
            found += [room + alias.name for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            found.append(f"{names.get(first, first)}.{rest}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append("allow_pickle")
    return {name for name in found if any(f"{name}.".startswith(f"{b}.") for b in {*UNPICKLERS, "allow_pickle"})}


def test_no_module_opens_pickles():
    """Except for one download, whose SHA-256 was checked before."""
    found = {p.name: bad for p in HOME.rglob("*.py") if (bad := unpickled(p.read_text(encoding="utf-8")))}
    assert found == {"fetch.py": {"torch.jit.load"}}


@pytest.mark.parametrize("source", [
    "import torch\ntorch.load(path, weights_only=False)", "import torch as th\nth.load(path)",
    "from torch import load as read\nread(path)", "import pickle", "from pickle import Unpickler", "import dill as d",
    "import pandas as pd\npd.read_pickle(path)", "import joblib\njoblib.load(path)", "import torch.package",
    "import numpy as np\nnp.load(path, allow_pickle=True)", "np.load(path, allow_pickle=trusted)",
])  # fmt: skip
def test_a_pickle_that_is_opened_would_be_noticed(source):
    assert unpickled(f"def read(path):\n    {source.splitlines()[0]}\n    {source.splitlines()[-1]}\n")
    assert not unpickled("import torch\nimport joblib\ntorch.save(x, path)\njoblib.dump\nload(a, allow_pickle=False)")


ROOMS = {
    "dashkit": {"torch", "numpy", "pandas"}, "dashkit.doctor": {"torch", "numpy", "pandas"},
    "dashkit.method": {"pydantic", "papermill", "IPython", "matplotlib", "nbformat", "pandas", "sklearn", "scipy"},
    "dashkit.experiments": {"papermill", "IPython", "matplotlib", "nbformat", "ipywidgets", "sklearn"},
    "dashkit.analysis": {"papermill", "IPython", "matplotlib", "nbformat", "ipywidgets"},
    "dashkit.classroom": {"papermill", "nbformat", "ipywidgets"},
    "dashkit.publishing.series": {"diffusers"}, "dashkit.classroom.explorers": {"diffusers"},
}
"""What is not loaded once a room, and all before it in this list, have been imported."""
DOORS = ("dashkit.method", "dashkit.experiments", "dashkit.analysis", "dashkit.classroom")
IMPORTS = f"""
import importlib, json, sys
loaded, doors = {{}}, {{}}
for room in {list(ROOMS)}:
    module = importlib.import_module(room)
    loaded[room] = sorted({{name.partition(".")[0] for name in sys.modules}})
    if room in {DOORS}:
        try:
            exec(f"from {{room}} import *", names := {{}})
            doors[room] = sorted(set(module.__all__) & names.keys())
        except AttributeError as error:
            doors[room] = str(error)
print(json.dumps([loaded, doors]))
"""


@pytest.fixture(scope="module")
def imported():
    """What each room has loaded, and the names on its door, from one interpreter that imports room after room."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_loads_nothing_that_it_does_not_need(imported, room):
    loaded, _ = imported
    assert "dashkit" in loaded[room] and not ROOMS[room] & {*loaded[room]}


@pytest.mark.parametrize("room", DOORS)
def test_every_name_on_a_door_is_there(imported, room):
    _, doors = imported
    assert len(doors[room]) > 5 and doors[room] == sorted(importlib.import_module(room).__all__)


def test_training_needs_nothing_of_notebooks_and_pictures():
    """They take longer to import than torch does."""
    code = "import sys; from dashkit import cli; code = cli.main(['train', '--profile', 'tiny']); " \
           "print(code, 'torch' in sys.modules, {'nbformat', 'papermill', 'matplotlib', 'IPython'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 True set()\n" and "unknown profile 'tiny'" in done.stderr


def patches(source):
    """Calls in a test's source that would patch a name though it is not there."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    usual = {"raising": "True", "create": "False"}
    return [ast.unparse(call) for call in calls if not ast.unparse(call.func).endswith("env") for k in call.keywords
            if k.arg in usual and ast.unparse(k.value) != usual[k.arg]]


def test_a_patch_of_a_name_that_has_moved_fails(monkeypatch):
    """pytest and mock refuse an unknown name, unless they are told not to; no test tells them."""
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        monkeypatch.setattr("dashkit.method.schedule.no_such_name", None)
    with pytest.raises(ImportError, match="no_such_module"):
        monkeypatch.setattr("dashkit.method.no_such_module.name", None)
    assert patches("setattr(a, 'b', 1, raising=False)\npatch('a.b', create=True)\nset(b=1, raising=True)\n"
                   "monkeypatch.delenv('A', raising=False)") == [
        "setattr(a, 'b', 1, raising=False)", "patch('a.b', create=True)"]
    tests = HOME.parent / "tests"
    assert {p.name: bad for p in tests.rglob("*.py") if (bad := patches(p.read_text(encoding="utf-8")))} == {}
