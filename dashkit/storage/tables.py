"""Tidy tables of results as CSV."""

from pathlib import Path

import numpy as np
import pandas as pd

from dashkit.storage.paths import as_path
from dashkit.storage.store import MAX_TABLE, check_size, write_bytes

COLUMNS = ("profile", "arm", "seed", "metric", "value", "n", "device", "commit")
"""The columns of a tidy results table; `n` is how many samples or states a value comes from."""


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; a file that holds just that is left alone, since it may be somebody else's to write."""
    path = Path(path)
    content = table.to_csv(index=False, lineterminator="\n").encode()
    if not (path.is_file() and path.read_bytes() == content):
        write_bytes(path, content)


def read_table(path: Path) -> pd.DataFrame:
    """Read a tidy results table; ValueError if its columns are not `COLUMNS`, a cell is missing or of the wrong kind,
    a row is there twice, or the file is larger than 1 GiB."""
    path = as_path(path, "the table")
    check_size(path, MAX_TABLE, "table")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False, encoding_errors="strict")
    except ValueError as error:                              # pandas' parser errors are ValueErrors too
        raise ValueError(f"{path} is no table ({error})") from error
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{path}: columns must be {', '.join(COLUMNS)}; found {', '.join(map(str, table.columns))}")
    if (table.drop(columns="value") == "").any().any() or table.isna().any().any():
        raise ValueError(f"{path}: a row is incomplete")
    for name, kind in (("seed", np.int64), ("n", np.int64), ("value", np.float64)):
        try:
            table[name] = table[name].replace("", "nan").astype(kind)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: a {name} cannot be read ({error})") from error
    if (table.seed < 0).any() or (table.n < 1).any():
        raise ValueError(f"{path}: seeds start at 0 and n at 1")
    twice = table[table.duplicated(["profile", "arm", "seed", "metric"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(f"{path}: {row.metric} of {row.arm}, seed {row.seed}, is there twice")
    return table
