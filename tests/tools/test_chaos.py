"""A few kills of the many that `make chaos` does, and whether it would notice a loss."""

import re

import chaos
import pandas as pd
import pytest
import torch


@pytest.mark.slow
def test_killed_work_goes_on_and_ends_as_undisturbed_work_does(capsys, monkeypatch):
    monkeypatch.setattr(chaos, "TOO_SMALL", 1)
    monkeypatch.setattr(chaos, "TWICE", 1)
    assert chaos.main(["--kills", "20", "--only", "fetch"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^2 kills, \d+ refusals, 0 differences", said, re.M) and "equal, nothing left over" in said
    assert "LEFT OUT" in said or re.search("1 disk full, 1 read-only|0 disk full, 1 read-only", said)


def test_every_kind_of_difference_is_noticed():
    whole = {"a": {"x": torch.zeros(2)}, "b": pd.DataFrame({"v": [1.0, 2.0]}), "lock": None, "index.html": "<p>1"}
    assert chaos.differences(whole, dict(whole)) == []
    other = {"a": {"x": torch.tensor([0.0, 1e-9])}, "b": pd.DataFrame({"v": [1.0, 2.0, 2.0]}), ".b.tmp": None,
             "index.html": "<p>2"}
    said = chaos.differences(whole, other)
    assert sorted(said) == [".b.tmp is left over", "a differs", "b differs", "index.html differs",
                            "lock is missing"]


@pytest.mark.parametrize(("code", "verdict"), [
    ("sys.exit('dashkit: No space left on device')", ""), ("pass", "went through"),
    ("sys.exit('No space left on device')", "ended with 1"), ("sys.exit('dashkit: no')", "ended with 1: dashkit: no"),
    ("sys.exit(1)", "ended with 1"), ("raise OSError(28, 'dashkit: No space left on device')", "ended with 1"),
    ("os.kill(os.getpid(), 9)", "ended with -9"),
])  # fmt: skip
def test_only_the_one_line_counts_as_a_refusal(tmp_path, monkeypatch, code, verdict):
    monkeypatch.setitem(chaos.SCENARIOS, "x", chaos.Scenario(code, 0.1, True))
    said = chaos.refused("x", tmp_path / "runs", chaos.DISK)
    assert verdict in "".join(said) and bool(verdict) == bool(said)


def test_a_scenario_is_killed_before_the_operation_that_was_chosen(tmp_path, monkeypatch):
    code = "os.mkdir(root); open(root + '/a', 'w').close(); os.rename(root + '/a', root + '/b'); open(root + '/b')"
    monkeypatch.setitem(chaos.SCENARIOS, "x", chaos.Scenario(code, 0.1, True))
    left = {}
    for last in range(5):
        folder = tmp_path / f"{last}"
        assert chaos.kill("x", folder, last=last) == (-9 if 0 < last <= 3 else 0)
        left[last] = sorted(p.name for p in folder.glob("*"))
    assert left == {0: ["b"], 1: [], 2: [], 3: ["a"], 4: ["b"]} and "3 file operations" in chaos.said(tmp_path / "0")
