import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dashkit import runs


def test_tensors_and_settings_travel_in_one_file(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "view": torch.arange(8)[::2]}
    runs.save_tensors(tmp_path / "new" / "x.safetensors", tensors, {"seed": 1})
    saved = runs.load_tensors(tmp_path / "new" / "x.safetensors")
    assert saved.meta == {"seed": 1} and all(torch.equal(saved.tensors[k], v) for k, v in tensors.items())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    runs.write_json(path, {"old": True})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_json(path, {"new": True})
    assert json.loads(path.read_text()) == {"old": True} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_truncated_checkpoints_give_one_clear_error(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    runs.save_tensors(path, {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"x.safetensors is damaged or not dashkit's"):
        runs.load_tensors(path)


def test_foreign_and_missing_checkpoints_are_explained(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not dashkit's"):
        runs.load_tensors(tmp_path / "foreign.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        runs.load_tensors(tmp_path / "pickle.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        runs.load_tensors(tmp_path / "none.safetensors")


def test_results_with_other_columns_or_half_a_row_are_refused(tmp_path):
    good = pd.DataFrame([["p", "dash", 1, "rho", 0.5, 10, "cpu", "abc"]], columns=list(runs.COLUMNS))
    runs.write_table(tmp_path / "good.csv", good)
    pd.testing.assert_frame_equal(runs.read_results(tmp_path / "good.csv"), good, check_dtype=False)
    runs.write_table(tmp_path / "other.csv", good.drop(columns="n"))
    with pytest.raises(ValueError, match="columns must be profile, arm, seed, metric, value, n, device, commit"):
        runs.read_results(tmp_path / "other.csv")
    (tmp_path / "half.csv").write_text((tmp_path / "good.csv").read_text() + "p,dash,2,rho,0.4,")
    with pytest.raises(ValueError, match="incomplete"):
        runs.read_results(tmp_path / "half.csv")


def test_fingerprints_follow_settings():
    assert runs.fingerprint({"a": 1, "b": (1, 2)}) == runs.fingerprint({"b": [1, 2], "a": 1})
    assert runs.fingerprint({"a": 1}) != runs.fingerprint({"a": 2})


def test_manifest_says_where_a_result_comes_from():
    facts = runs.manifest(seed=3)
    assert facts["seed"] == 3 and {"commit", "versions", "python", "platform", "written"} <= set(facts)
    assert torch.__version__.startswith(facts["versions"]["torch"])


def test_peak_memory_counts_this_process_and_its_children():
    assert runs.manifest()["peak_memory_mib"] > 50
    hold = "import sys; block = b'x' * (400 * 2**20); sys.exit(len(block) == 0)"
    subprocess.run([sys.executable, "-c", hold], check=True)
    assert runs.peak_memory_mib(children=True) >= 400
