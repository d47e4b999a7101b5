
import pytest

from dashkit.method import guidance


def test_guidance_tables_are_compared_at_equal_mean():
    tables = guidance.matched_tables(1000)
    assert set(tables) == {"tag", "constant", "interval"}
    assert all(v.mean().item() == pytest.approx(tables["tag"].mean().item(), abs=1e-4) for v in tables.values())
    assert tables["interval"][0] == 1 and tables["interval"][500] > 3


@pytest.mark.parametrize("mean", [0.5, 1.0, 1.25, 4.0])
def test_a_table_is_stretched_to_a_mean_and_keeps_its_form(mean):
    table = guidance.tag(1000)
    found = guidance.with_mean(table, mean)
    assert found.mean().item() == pytest.approx(mean, abs=1e-5)
    parts = (found - 1) * (table - 1).mean()
    assert parts.allclose((table - 1) * (mean - 1), atol=1e-5)
    with pytest.raises(ValueError, match="guidance scale"):
        guidance.with_mean(table, -1.0)
