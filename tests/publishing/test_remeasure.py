import json

import pandas as pd
import torch

from dashkit.analysis.tables import RESULTS, published_results, write_published
from dashkit.publishing import remeasure
from dashkit.storage import tables


def test_only_the_real_rows_are_measured_again_and_the_manifest_keeps_the_old_ones(tmp_path, monkeypatch):
    end = (9, "cpu-1", "c")
    old = pd.DataFrame([("digits", "real", 42, "frechet", 2.0, *end), ("digits", "teacher", 42, "rho", 1.0, *end),
                        ("digits", "dash", 42, "rho", 0.123457, *end)], columns=list(tables.COLUMNS))
    write_published(old, {"settings": {"samples": 77}, "commit": "c"}, tmp_path / "digits")
    asked = []
    monkeypatch.setattr(remeasure, "start_run", lambda profile, **settings: asked.append((profile, settings)))
    monkeypatch.setattr(remeasure, "floor_rows", lambda run: old.head(1).assign(value=1.0, commit="d"))
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    remeasure.remeasure("digits", tmp_path)
    assert asked == [1, ("digits", {"device": "cpu", "samples": 77})]
    found = published_results("digits", tmp_path)
    assert found.table.value.tolist() == [1.0, 1.0, 0.123457] and found.table.commit.tolist() == ["d", "c", "c"]
    assert "commit c, real images measured at d" in found.source
    [note] = json.loads((tmp_path / "digits" / "manifest.json").read_text())["remeasured"]
    assert note["before"] == {"frechet": 2.0} and note["why"] == remeasure.WHY and note["commit_before"] == "c"


def test_the_published_floors_are_balanced_ones():
    """A model as good as real has 1: the floors published before were nearly twice as large."""
    for profile in ("digits", "exact"):
        manifest = json.loads((RESULTS / profile / "manifest.json").read_text())
        floor = published_results(profile).table.query("arm == 'real' and metric == 'frechet'").value.mean()
        assert floor < 0.6 * manifest["remeasured"][-1]["before"]["frechet"]
