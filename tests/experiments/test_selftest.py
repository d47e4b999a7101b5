"""The self-test of a device, on a CPU, which must agree with itself."""

import json
from dataclasses import replace

import pytest
import torch

from dashkit import cli
from dashkit.experiments import selftest
from dashkit.experiments.profiles import PROFILES
from dashkit.storage import paths


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The network of the checks, for images of eight pixels."""
    config = replace(PROFILES["cifar10_proof"].student, size=8)
    monkeypatch.setattr(selftest.SelfTest, "config", config)
    return config


@pytest.fixture
def cpu(tmp_path, small):
    small = replace(PROFILES["cifar10_fast"], teacher=small, student=small, batch=4)
    return selftest.SelfTest(torch.device("cpu"), tmp_path, small, ("dash", "cond_only_icg", "pruning"))


def only(monkeypatch, *names):
    monkeypatch.setattr(selftest, "CHECKS", {k: v for k, v in selftest.CHECKS.items() if k in names})


def test_a_cpu_agrees_with_itself(cpu):
    made = {check.name: check for check in selftest.checks(cpu, seconds=10_000)}
    assert list(made) == list(selftest.CHECKS)
    assert not [str(c) for c in made.values() if c.ok is False]
    left = {name for name, c in made.items() if c.ok is None} - {"Inception as on the CPU"}
    assert left == {"a CUDA graph is what it recorded", "synchronisations of a step", "compiled as plain, bfloat16"}
    assert made["three updates as on the CPU, float32"].found[0].value == 0
    measured = {f.what for c in made.values() for f in c.found if f.most is not None}
    assert measured <= set(selftest.BOUNDS)
    assert made["images a second"].found[0].value > 0


@pytest.mark.parametrize(("bound", "name"), [
    ("losses", "three updates as on the CPU, float32"), ("samples", "samples as on the CPU, float32"),
    ("resumed weights", "a stopped run goes on, bit for bit"), ("FID", "FID and KID in float64 as on the CPU"),
    ("eps in bfloat16", "bfloat16: loss, eps and gap"),
])
def test_a_bound_that_is_not_kept_fails(cpu, monkeypatch, tmp_path, capsys, bound, name):
    only(monkeypatch, name)
    monkeypatch.setitem(selftest.BOUNDS, bound, -1.0)
    assert selftest.self_test("cpu", path=tmp_path / "found.json") is False
    said = capsys.readouterr().out
    assert f"FAIL  {name}" in said and "(at most -1)" in said and f"1 of 1 checks failed: {name}" in said


def test_a_wrong_device_fails(cpu, monkeypatch):
    """A device that rounds as bfloat16 does is found out by the checks of float32."""
    real = selftest.SelfTest.updates
    calls = []

    def rounded(self, device, n=3, **how):
        calls.append(device)
        return real(self, device, n, **how | {"bf16": len(calls) == 2})

    monkeypatch.setattr(selftest.SelfTest, "updates", rounded)
    only(monkeypatch, "three updates as on the CPU, float32")
    check, = selftest.checks(cpu)
    assert check.ok is False and check.found[0].value > check.found[0].most


def test_a_check_that_raises_or_finds_no_number_fails_and_the_next_one_goes_on(cpu, monkeypatch):
    def broken(test):
        raise RuntimeError("CUDA error:\n  no kernel image")

    monkeypatch.setattr(selftest, "CHECKS", {
        "broken": broken, "nothing": lambda test: [selftest.bounded("losses", float("nan"))],
        "fine": lambda test: [selftest.bounded("losses", 0.0)]})
    one, two, three = selftest.checks(cpu)
    assert (one.ok, two.ok, three.ok) == (False, False, True)
    assert one.said == "RuntimeError: CUDA error: no kernel image"


def test_what_no_time_is_left_for_is_left_out_and_said(cpu, monkeypatch):
    now = iter(range(0, 10_000, 40))
    monkeypatch.setattr(selftest.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(selftest, "CHECKS", dict.fromkeys("abc", lambda test: []))
    assert [c.ok for c in selftest.checks(cpu, seconds=60)] == [True, None, None]
    assert "60 s are over" in list(selftest.checks(cpu, seconds=60))[-1].said


def test_the_command_prints_and_keeps_its_table(monkeypatch, tmp_path, capsys):
    only(monkeypatch, "three updates as on the CPU, float32", "launches")
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    assert cli.main(["doctor", "--device", "cpu", "--self-test"]) == 0
    said = capsys.readouterr().out
    assert "ok    three updates as on the CPU" in said and "0 of 2 checks failed" in said and "Jupyter" not in said
    path, = tmp_path.glob("selftest-cpu-*.json")
    kept = json.loads(path.read_text())
    assert {"commit", "versions", "device", "python"} <= kept["manifest"].keys() and len(kept["checks"]) == 2
    monkeypatch.setitem(selftest.BOUNDS, "losses", -1.0)
    assert cli.main(["doctor", "--device", "cpu", "--self-test"]) == 1


def test_settings_of_torch_are_left_as_they_were(cpu):
    before = torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    cpu.three_updates()
    assert before[0] == torch.are_deterministic_algorithms_enabled() and torch.equal(before[1], torch.get_rng_state())


def test_a_wait_is_counted_and_torchs_remark_about_its_mode_is_not():
    """On a GPU the remark comes once, at the first use, and looked like a quarter of a wait a step."""
    remark = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"
    wait = "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:115.)"
    assert selftest.count_waits([remark, wait, "something else", wait]) == 2
    assert selftest.count_waits([remark]) == 0
