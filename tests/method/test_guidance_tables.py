
import pytest

from dashkit.method import guidance


def test_guidance_tables_are_compared_at_equal_mean():
    tables = guidance.matched_tables(1000)
    assert set(tables) == {"tag", "constant", "interval"}
    assert all(v.mean().item() == pytest.approx(tables["tag"].mean().item(), abs=1e-4) for v in tables.values())
    assert tables["interval"][0] == 1 and tables["interval"][500] > 3
