

import pytest
import torch


@pytest.fixture
def two_threads():
    """Two seeds run side by side only where torch has two threads."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)
