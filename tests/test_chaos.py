"""A few kills of the many that `make chaos` does, and whether it would notice a loss."""

import chaos
import pandas as pd
import torch


def test_killed_work_goes_on_and_ends_as_undisturbed_work_does(capsys):
    assert chaos.main(["--kills", "20", "--only", "fetch"]) == 0
    said = capsys.readouterr().out
    assert "fetch     2 kills" in said and "equal, nothing left over" in said


def test_every_kind_of_difference_is_noticed():
    whole = {"a": {"x": torch.zeros(2)}, "b": pd.DataFrame({"v": [1.0, 2.0]}), "lock": None}
    assert chaos.differences(whole, dict(whole)) == []
    other = {"a": {"x": torch.tensor([0.0, 1e-9])}, "b": pd.DataFrame({"v": [1.0, 2.0, 2.0]}), ".b.tmp": None}
    said = chaos.differences(whole, other)
    assert sorted(said) == [".b.tmp is left over", "a differs", "b differs", "lock is missing"]
