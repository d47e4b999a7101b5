from dashkit.analysis.tables import RULES, published_results, write_published
from dashkit.publishing.corrections import CORRECTIONS, corrections
from dashkit.publishing.readme import fill
from dashkit.storage import store


def test_the_corrections_are_what_the_tables_give():
    text = CORRECTIONS.read_text()
    assert fill(text, corrections()) == text


def test_a_published_table_names_the_rules_that_it_is_judged_by(tmp_path):
    table = published_results("exact").table
    write_published(table, {"commit": "c"}, tmp_path / "exact")
    assert store.read_json(tmp_path / "exact" / "manifest.json")["rules"] == store.sha256(RULES)
