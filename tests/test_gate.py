"""The gate's own verdicts, from reports that are made up."""

import gate
import pytest


def entry(name, *vulns):
    return {"name": name, "version": "1.0", "vulns": [{"id": i, "fix_versions": list(fixes)} for i, *fixes in vulns]}


SKIPPED = {"name": "numpy", "skip_reason": "not found"}


@pytest.mark.parametrize(("entries", "verdict", "said"), [
    ([SKIPPED], None, "0 packages audited, 1 could not be, the first numpy\nNOT CHECKED"),
    ([], None, "NOT CHECKED"),
    ([SKIPPED, entry("torch")], True, "1 packages audited, 1 could not be"),
    ([entry("Torch", ("PYSEC-1", "1.1"))], False, "FAILED  Torch 1.0: PYSEC-1, fixed in 1.1"),
    ([entry("torch", ("PYSEC-1",))], True, "known   torch 1.0: PYSEC-1, no fix yet"),
    ([entry("else", ("PYSEC-2", "2", "3"))], True, "known   else 1.0: PYSEC-2, fixed in 2, 3"),
])  # fmt: skip
def test_an_audit_of_nothing_is_no_pass_and_a_direct_vulnerability_with_a_fix_fails(entries, verdict, said, capsys):
    assert gate.judged(entries, {"torch", "numpy"}) is verdict
    assert said in capsys.readouterr().out


def test_an_audit_that_gives_no_report_is_no_pass(monkeypatch, capsys):
    monkeypatch.setattr(gate.subprocess, "run", lambda *a, **k: gate.subprocess.CompletedProcess(a, 0, "", "no net"))
    assert gate.dependencies() is None and "NOT CHECKED" in capsys.readouterr().out


def test_direct_dependencies_are_read_from_the_project():
    assert {"torch", "jupyterlab", "scikit-learn", "pytest", "torch-fidelity"} <= gate._direct()
