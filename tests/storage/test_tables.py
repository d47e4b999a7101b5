
import pandas as pd
import pytest

from dashkit.storage import tables


def test_results_with_other_columns_or_half_a_row_are_refused(tmp_path):
    good = pd.DataFrame([["p", "dash", 1, "rho", 0.5, 10, "cpu", "abc"]], columns=list(tables.COLUMNS))
    tables.write_table(tmp_path / "good.csv", good)
    pd.testing.assert_frame_equal(tables.read_table(tmp_path / "good.csv"), good, check_dtype=False)
    tables.write_table(tmp_path / "other.csv", good.drop(columns="n"))
    with pytest.raises(ValueError, match="columns must be profile, arm, seed, metric, value, n, device, commit"):
        tables.read_table(tmp_path / "other.csv")
    (tmp_path / "half.csv").write_text((tmp_path / "good.csv").read_text() + "p,dash,2,rho,0.4,")
    with pytest.raises(ValueError, match="incomplete"):
        tables.read_table(tmp_path / "half.csv")


@pytest.mark.parametrize(("row", "message"), [
    ("p,dash,1.5,rho,0.5,10,cpu,abc", "a seed cannot be read"),
    ("p,dash,1,rho,much,10,cpu,abc", "a value cannot be read"),
    ("p,dash,1,rho,0.5,1e99,cpu,abc", "a n cannot be read"), ("p,dash,-1,rho,0.5,10,cpu,abc", "seeds start at 0"),
    ("p,dash,99999999999999999999,rho,0.5,10,cpu,abc", "a seed cannot be read"),
    ("p,,1,rho,0.5,9,cpu,abc", "incomplete"),
    ("p,dash,1,rho,0.5,10,cpu,abc\np,dash,1,rho,0.6,10,cpu,abc", "rho of dash, seed 1, is there twice"),
    ("p,dash,1,rho,0.5,10,cpu,abc,more", "is no table|incomplete|cannot be read"),
    ('p,"dash,1', "is no table|incomplete"),
])
def test_rows_of_the_wrong_kind_are_refused(tmp_path, row, message):
    (tmp_path / "r.csv").write_text(",".join(tables.COLUMNS) + "\n" + row + "\n")
    with pytest.raises(ValueError, match=message):
        tables.read_table(tmp_path / "r.csv")


def test_a_table_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "r.csv").open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(ValueError, match="more than any table"):
        tables.read_table(tmp_path / "r.csv")
