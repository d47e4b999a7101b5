from dashkit.analysis.tables import RULES, published_results, write_published
from dashkit.storage import store


def test_a_published_table_names_the_rules_that_it_is_judged_by(tmp_path):
    table = published_results("exact").table
    write_published(table, {"commit": "c"}, tmp_path / "exact")
    assert store.read_json(tmp_path / "exact" / "manifest.json")["rules"] == store.sha256(RULES)
