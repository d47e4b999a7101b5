import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dashkit.storage import provenance, store


def test_manifest_says_where_a_result_comes_from():
    facts = provenance.manifest(seed=3)
    assert facts["seed"] == 3 and {"commit", "versions", "python", "platform", "written"} <= set(facts)
    assert torch.__version__.startswith(facts["versions"]["torch"])


def test_peak_memory_counts_this_process_and_its_children():
    assert provenance.manifest()["peak_memory_mib"] > 50
    hold = "import sys; block = b'x' * (400 * 2**20); sys.exit(len(block) == 0)"
    subprocess.run([sys.executable, "-c", hold], check=True)
    assert provenance.peak_memory_mib(children=True) >= 400


def test_a_commit_made_while_the_process_runs_is_not_taken_for_its_own(monkeypatch):
    own = provenance.commit()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("git was asked again"))
    assert provenance.commit() == own


def commit_of_a_copy(place):
    for name in [m for m in sys.modules if m.partition(".")[0] == "dashkit"]:
        del sys.modules[name]
    sys.path.insert(0, str(place))
    from dashkit.storage import provenance

    print(provenance.commit(), provenance.__file__)


def test_the_clone_of_something_else_above_has_no_commit_for_us(tmp_path, forked, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "other" / "lib"
    place.mkdir(parents=True)
    shutil.copytree(Path(store.__file__).parents[1], place / "dashkit")
    git = ["git", "-C", str(tmp_path / "other"), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    _, said, _ = forked(commit_of_a_copy, place)
    assert said.split() == ["unknown", str(place / "dashkit" / "storage" / "provenance.py")]
