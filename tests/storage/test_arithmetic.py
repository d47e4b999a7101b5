"""How a GPU computes is chosen in one place, and said."""

import pytest
import torch

from dashkit.storage import provenance
from dashkit.storage.arithmetic import arithmetic, choose_arithmetic


@pytest.fixture(autouse=True)
def as_before():
    found = arithmetic()
    yield
    torch.backends.cuda.matmul.allow_tf32 = found["tf32_products"]
    torch.backends.cudnn.allow_tf32 = found["tf32_convolutions"]
    torch.backends.cudnn.benchmark = found["cudnn_benchmark"]


def test_float32_is_float32_unless_asked_otherwise(monkeypatch):
    choose_arithmetic()
    assert not any(arithmetic().values())
    monkeypatch.setenv("DASHKIT_TF32", "1")
    choose_arithmetic()
    assert arithmetic() == {"tf32_products": True, "tf32_convolutions": True, "cudnn_benchmark": False}
    monkeypatch.setenv("DASHKIT_CUDNN_BENCHMARK", "yes")
    with pytest.raises(ValueError, match="DASHKIT_CUDNN_BENCHMARK must be 0 or 1, not 'yes'"):
        choose_arithmetic()


def test_a_manifest_says_it_where_there_is_a_gpu(monkeypatch):
    assert "arithmetic" not in provenance.manifest() or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert provenance.manifest()["arithmetic"] == arithmetic()
