"""Modules import downwards only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dashkit

LAYERS = [
    "schedule unet data fetch profiles runs plots parallel", "guidance curriculum exact export",
    "objectives rivals claims sample metrics fid", "train evaluate exercises", "recipes",
    "cli __main__ series publish budget campaign doctor widgets journal checks editions",
]  # fmt: skip
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names.split()}
MODULES = sorted(p for p in Path(dashkit.__file__).parent.glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_point_downwards(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dashkit":
            parts = node.module.split(".")[1:]
            for name in parts or [alias.name for alias in node.names]:
                assert LAYER[name] <= LAYER[path.stem], f"{path.stem} must not import {name}"


def test_run_time_needs_neither_diffusers_nor_pickle_loading():
    code = "import sys; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    banned = ("torch.load(", "import pickle", "allow_pickle=True")
    assert not [p.name for p in MODULES if any(b in p.read_text() for b in banned)]


def test_training_needs_nothing_of_notebooks_and_pictures():
    """They take longer to import than torch does."""
    code = "import sys; from dashkit import cli; code = cli.main(['train', '--profile', 'tiny']); " \
           "print(code, 'torch' in sys.modules, {'nbformat', 'papermill', 'matplotlib', 'IPython'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 True set()\n" and "unknown profile 'tiny'" in done.stderr
