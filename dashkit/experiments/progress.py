"""Progress bars."""

import os
from collections.abc import Iterable
from typing import TypeVar

from dashkit.experiments import processes

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], *, total: int, title: str) -> Iterable[Item]:
    """A progress bar around `items`, unless the environment has DASHKIT_PROGRESS=0 (as the tests do)."""
    if os.environ.get("DASHKIT_PROGRESS") == "0" or not processes.is_main():
        return items
    from tqdm.auto import tqdm

    return tqdm(items, total=total, desc=title, mininterval=0.5)
