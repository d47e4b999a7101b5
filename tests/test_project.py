"""Files beside the code agree with each other and with the results they quote."""

import re
import tomllib
from pathlib import Path

import pytest

from dashkit import cli, doctor, publish, recipes

ROOT = recipes.ROOT
CONDA = {"torch": "pytorch"}


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.fullmatch(r"([a-z-]+)(.*)", d).groups() for d in project["dependencies"])
    return {CONDA.get(n, n): v for n, v in pinned.items()} | {"python": project["requires-python"]}


def test_environment_yml_agrees_with_pyproject():
    lines = re.findall(r"^  - ([a-z-]+)([<>=!].*)?$", (ROOT / "environment.yml").read_text(), re.M)
    assert {n: v for n, v in lines if n not in ("conda-forge", "pip")} == requirements()


def test_readme_numbers_come_from_the_committed_results():
    text = publish.README.read_text()
    assert publish.fill(text, publish.blocks()) == text
    guide = publish.GUIDE.read_text()
    assert publish.fill(guide, publish.minutes()) == guide


def test_readme_example_names_things_that_exist():
    blocks = re.findall(r"```python\n(.*?)```", publish.README.read_text(), re.S)
    assert len(blocks) == 2
    from dashkit import evaluate, metrics, profiles

    modules = {"evaluate": evaluate, "metrics": metrics, "recipes": recipes, "profiles": profiles}
    for block in blocks:
        compile(block, "README", "exec")
        used = re.findall(r"\b(evaluate|metrics|recipes|profiles)\.(\w+)", block)
        assert used and all(hasattr(modules[m], name) for m, name in used)


def test_fill_refuses_a_readme_without_a_place():
    with pytest.raises(ValueError, match="no place for x"):
        publish.fill("text", {"x": "y"})


def test_ci_calls_the_readme_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text() and "make test" in publish.README.read_text()


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--profile", "tiny"], "unknown profile 'tiny'; choose from auto, smoke, digits"),
    (["train", "--profile", "smoke", "--set", "stepz=3"], "unknown setting stepz; choose from T, "),
    (["distil", "--profile", "smoke", "--set", "arms=dish"], "unknown arm 'dish'; choose from dash, "),
    (["train", "--profile", "smoke", "--set", "batch=big"], r"batch must be an integer in \[2, 65536\], not 'big'"),
    (["train", "--profile", "smoke", "--set", "w=77"], r"w must be a number in \[0, 20\], not 77"),
    (["train", "--profile", "smoke", "--set", "sample_steps=5000"], "sample_steps must be at most T=1000, not 5000"),
    (["train", "--profile", "smoke", "--seed", "-1"], "seed must be an integer in"),
    (["series", "--profile", "smoke", "--only", "99"], "no notebook has number 99"),
    (["train", "--device", "tpu"], "device must be auto, cpu or cuda, not 'tpu'"),
])  # fmt: skip
def test_the_command_refuses_bad_input_in_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"dashkit: .*{message}.*\n", error)


def test_doctor_passes_here_and_names_the_fix_for_a_folder_it_cannot_write(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    good, bad = list(doctor.examine(tmp_path / "new", blocked))[-2:]
    assert good.ok and not bad.ok and "DASHKIT_RUNS" in bad.detail
    with pytest.raises(RuntimeError, match="cannot write"):
        doctor.require(blocked)


def test_doctor_explains_a_torchvision_built_for_another_torch(monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *rest, **keywords):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    finding = doctor._torch()
    assert not finding.ok
    assert "CPU-only torch beside a CUDA torchvision" in finding.detail and "pip install" in finding.detail


@pytest.mark.parametrize(("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_doctor_knows_the_supported_pythons(version, ok):
    assert doctor._python(version).ok is ok


def test_no_tracked_file_is_large():
    folders = ("dashkit", "notebooks", "tests", "data/reference", "data/results")
    large = [p for f in folders for p in Path(ROOT, f).rglob("*") if p.is_file() and p.stat().st_size > 2**20]
    assert not large
