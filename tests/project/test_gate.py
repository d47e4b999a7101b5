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


@pytest.mark.parametrize("command", ["refresh", "stable"])
def test_outputs_are_stored_from_a_start_with_nothing_trained(command, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(gate, "WORK", tmp_path / "work")
    monkeypatch.setattr(gate, command, lambda numbers: seen.append((numbers, gate.WORK.exists())) or True)
    (tmp_path / "work" / "runs").mkdir(parents=True)
    assert gate.main([command, "04"]) == 0 and seen == [(["04"], False)]


def test_a_misspelt_stage_is_refused_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "WORK", tmp_path)
    with pytest.raises(SystemExit, match="unknown stage lnt; choose from lint, unit"):
        gate.main(["lnt"])
    assert tmp_path.is_dir()
