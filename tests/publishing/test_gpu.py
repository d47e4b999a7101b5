"""The page about GPUs is what its measurements say."""

import re
import shutil

from dashkit import cli
from dashkit.experiments.profiles import PROFILES
from dashkit.publishing import gpu, readme
from dashkit.storage import store


def test_the_page_is_filled_from_the_measurements():
    text = gpu.PAGE.read_text(encoding="utf-8")
    assert readme.fill({gpu.PAGE: text}, gpu.blocks()) == {gpu.PAGE: text}


def test_other_measurements_make_another_page(tmp_path):
    for name in ("loan.json", "loan_students.json", "loan_on.json", "selftest.json"):
        found = store.read_json(gpu.MEASURED / name)
        shutil.copy(gpu.MEASURED / "fid_students.csv", tmp_path)
        store.write_json(tmp_path / name, found | ({"lockstep_ms": 123.0} if name == "loan.json" else {}))
    assert "took 123 ms" in gpu.blocks(tmp_path)["measured"] and "took 123 ms" not in gpu.blocks()["measured"]


def test_a_check_that_failed_and_one_that_was_left_out_are_said():
    test = {"manifest": {"seconds": 3.0}, "checks": [
        {"name": name, "ok": ok, "seconds": 1.0, "found": [{"what": "it", "value": 2.0, "unit": "", "most": 1.0}]}
        for name, ok in (("one", True), ("two", False), ("three", None))]}
    table = gpu._checks(test)
    assert "| one | ok |" in table and "| two | FAILED |" in table and "| three | left out |" in table


def test_every_command_of_the_page_is_one():
    """Names, options and profiles of the page are those of the command."""
    page = gpu.PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^(?:python -m|python3 run.py) dashkit (.+?)(?:\s+#.*)?$", page, re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        options = cli.parser().parse_args(command.split())
        assert getattr(options, "profile", "auto") in ("auto", *PROFILES)


def test_links_of_the_page_lead_somewhere():
    page = gpu.PAGE.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links and all((gpu.PAGE.parent / link).is_file() for link in links)
