"""Measure the `real` rows of published tables again, where the ruler was wrong and the networks were not.

`python -m dashkit.publishing.remeasure digits exact` does it.  The rows of the models stay as they are: their Fréchet
distances never used the floor.  The manifest keeps what stood there before, and says why.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

from dashkit.analysis.tables import RESULTS, published_text, write_published_text
from dashkit.experiments.evaluation import floor_rows
from dashkit.experiments.run import start_run
from dashkit.storage import provenance, store, tables

WHY = "real images were drawn with labels at random; samples are drawn with balanced labels, and so are they now"


def remeasure(profile: str, root: Path = RESULTS) -> pd.DataFrame:
    """The published table of a profile with new `real` rows, written with its manifest; returns the new rows.

    Uses as many threads as the rows were measured with: the small classifier depends on them in its last digits.
    """
    folder = root / profile
    table, manifest = tables.read_table(folder / "results.csv"), store.read_json(folder / "manifest.json", "settings")
    old = table[table.arm == "real"]
    threads = old.device.iloc[0].removeprefix("cpu-")
    if threads.isdigit():
        torch.set_num_threads(int(threads))
    new = floor_rows(start_run(profile, device="cpu", samples=manifest["settings"]["samples"]))
    note = {"arm": "real", "why": WHY, "before": old.set_index("metric").value.to_dict(),
            "commit_before": old.commit.iloc[0], **provenance.manifest(device=new.device.iloc[0])}
    models = [line for line in (folder / "results.csv").read_text(encoding="utf-8").splitlines(keepends=True)[1:]
              if line.split(",")[1] != "real"]                          # as they are, to the last digit
    write_published_text(published_text(new) + "".join(models),
                         manifest | {"remeasured": [*manifest.get("remeasured", []), note]}, folder)
    return new


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(remeasure(name).to_string())
