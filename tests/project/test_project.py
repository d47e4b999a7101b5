"""Files beside the code agree with each other and with the results they quote."""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from setuptools import find_packages

from dashkit import cli, doctor, environment
from dashkit.analysis import tables
from dashkit.analysis.tables import published_results, write_published
from dashkit.method import arms
from dashkit.publishing import readme
from dashkit.storage import paths, provenance, store

ROOT = paths.ROOT
CONDA = {"torch": "pytorch"}
FIX = r"(python3? run\.py install --fresh|.*-m pip install --force-reinstall )"
"""What mends a package: our own environment made anew, or pip in another one."""


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.fullmatch(r"([a-z0-9-]+)(.*)", d).groups() for d in project["dependencies"])
    return {CONDA.get(n, n): v for n, v in pinned.items()} | {"python": project["requires-python"]}


def test_environment_yml_agrees_with_pyproject():
    lines = re.findall(r"^  - ([a-z0-9-]+)([<>=!].*)?$", (ROOT / "environment.yml").read_text(), re.M)
    assert {n: v for n, v in lines if n not in ("conda-forge", "pip")} == requirements()


def test_pages_and_example_reports_name_networks_that_come_with_the_kit():
    pages = [*readme.PAGES, *readme.EXAMPLES.glob("*.html")]
    named = {(path.name, place) for path in pages for place in re.findall(
        r"data/pretrained/[\w/.-]*\w", path.read_text(encoding="utf-8"))}
    assert {name for name, _ in named} >= {"own.md", "measure.html", "shrink.html"}
    assert not [f"{name}: {place}" for name, place in named if not (ROOT / place).exists()]


def test_example_reports_print_commands_that_a_reader_can_type():
    for path in readme.EXAMPLES.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        command = re.search(r"<pre>(.*?)</pre>", page, re.S)[1]
        assert command.startswith(f"python3 run.py dashkit {path.stem} ") and len(page) < 600_000
        # no place on a machine
        assert not re.search(r"[\s&#;'\"(](/\w+/|[A-Z]:)", re.sub(r'data:image[^"]*', "", page))


def test_the_front_page_is_short():
    assert len(readme.README.read_text(encoding="utf-8").splitlines()) <= 120


def test_every_generated_part_comes_from_the_committed_results():
    pages, parts = readme.read_pages(), readme.blocks()
    assert readme.fill(pages, parts) == pages
    text = "\n".join(pages.values())
    assert all(text.count(f"<!-- begin {name} -->") == text.count(f"<!-- end {name} -->") == 1 for name in parts)
    assert {"notebooks", "claims"} <= set(re.findall(r"<!-- begin (\w+) -->", pages[readme.README]))


def test_the_matrix_of_claims_says_what_the_primary_rows_of_the_ledger_say():
    rows = pd.DataFrame([("C1", "primary", "digits", "holds"), ("C1", "secondary", "exact", "contradicted"),
                         ("C2", "primary", "digits", "undecided"), ("C2", "primary", "exact", "not testable here"),
                         ("C3", "primary", "digits", "holds"), ("C3", "primary", "cifar16", "holds"),
                         ("C4", "primary", "digits", "holds"), ("C4", "primary", "cifar16", "contradicted")],
                        columns=["claim", "rank", "profile", "verdict"]).assign(sentence="It is so")
    text = readme._claims(rows)
    cells = {line.split()[1]: [c.strip() for c in line.split("|")[2:-1]]
             for line in text.splitlines() if line.startswith("| C")}
    assert cells == {"C1": ["holds", "", "", "decided on digits alone"],
                     "C2": ["undecided", "not testable here", "", "not decided anywhere"],
                     "C3": ["holds", "", "holds", "yes"],
                     "C4": ["holds", "", "contradicted", "no: the data sets disagree"]}
    assert text.splitlines()[0] == ("| the paper's claim | digits | exact teacher | CIFAR-10, 16x16 | "
                                    "does it replicate? |")
    assert "C1 · It is so" in text


def test_the_matrix_names_every_claim_of_the_rules():
    rules = pd.read_csv(tables.RULES)
    ledger = pd.read_csv(tables.RESULTS / "digits" / "ledger.csv")
    named = {line.split()[1] for line in readme._claims(ledger).splitlines() if line.startswith("| C")}
    assert named == {f"C{i}" for i in range(1, 16)} and {c for c in rules.claim if c[0] == "C"} <= named


def examples():
    """The Python examples of every page, with the page's name."""
    pages = {*readme.PAGES, *ROOT.glob("*.md"), ROOT / "data" / "README.md"}
    return [pytest.param(block, id=f"{path.name}-{i}") for path in sorted(pages) for i, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M))]


@pytest.mark.parametrize("block", examples())
def test_every_python_example_names_things_that_exist(block):
    tree = ast.parse(block)
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name for n in imports for alias in n.names}
    exec(compile(ast.Module(imports, []), "page", "exec"), scope := {})
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert names <= used and names <= set(scope)
    for n in ast.walk(tree):                    # files.from_folder of an imported module
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in names:
            assert hasattr(scope[n.value.id], n.attr), f"{n.value.id}.{n.attr}"


def test_the_glossary_says_how_label_dropout_is_done():
    text = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    lam = arms.OBJECTIVES["kd_drop"].lam
    [row] = [line for line in rows if line.startswith("| `kd_drop` |")]
    assert f"weight {lam['im']} " in row and f"weight {lam['un']}," in row and set(lam) == {"im", "un"}
    calls = [path.name for path in (ROOT / "dashkit" / "experiments").glob("*.py")
             for _ in re.findall(r"\bdrop_labels\(", path.read_text(encoding="utf-8"))]
    assert calls == ["training.py"], "the teacher's labels alone are dropped"
    assert not [line for line in rows if "drops " in line and "No student drops" not in line]


def test_every_link_between_pages_leads_somewhere():
    pages = {*readme.PAGES, *ROOT.glob("*.md"), *(ROOT / "notebooks").glob("*.md"), ROOT / "data" / "README.md"}
    links = [(path, link) for path in pages
             for link in re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text(encoding="utf-8"))]
    assert len(links) > 40
    assert not [f"{path.name}: {link}" for path, link in links if not (path.parent / link).is_file()]


def test_every_folder_with_modules_is_installed_and_the_project_is_found_from_within_it():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    installed = set(find_packages(str(ROOT), include=table["include"], exclude=table.get("exclude", ())))
    assert installed == {".".join(p.relative_to(ROOT).parts) for p in (ROOT / "dashkit").rglob("*")
                         if p.is_dir() and list(p.glob("*.py"))} | {"dashkit"}
    assert "dashkit.classroom.exercises" in installed and (ROOT / "notebooks").is_dir()
    assert Path(provenance.__file__).is_relative_to(paths.ROOT / "dashkit")


@pytest.mark.parametrize(("text", "message"), [
    ("text", "no page has a place for x"), ("<!-- begin x -->\n", "a.md: the place x has no end"),
    ("<!-- begin x -->\n<!-- end x -->\n<!-- begin z -->\n<!-- end z -->", "a.md: the place z has no part")])
def test_fill_refuses_pages_that_lack_a_place_an_end_or_a_part(text, message):
    with pytest.raises(ValueError, match=message):
        readme.fill({Path("a.md"): text}, {"x": "y"})


def test_a_part_goes_to_whichever_page_has_its_place():
    pages = {Path("a.md"): "<!-- begin x -->\nold\n<!-- end x -->", Path("b.md"): "b <!-- begin y -->\n<!-- end y -->"}
    assert list(readme.fill(pages, {"x": "new", "y": r"\1"}).values()) == [
        "<!-- begin x -->\nnew\n<!-- end x -->", "b <!-- begin y -->\n\\1\n<!-- end y -->"]


def test_ci_calls_the_readme_test_command():
    front = readme.README.read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text() and "make test" in front and "run.py test" in front


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--profile", "tiny"], "unknown profile 'tiny'; choose from auto, smoke, digits"),
    (["train", "--profile", "smoke", "--set", "stepz=3"], "unknown setting stepz; choose from T, "),
    (["distil", "--profile", "smoke", "--set", "arms=dish"], "unknown arm 'dish'; choose from dash, "),
    (["train", "--profile", "smoke", "--set", "batch=big"], r"batch must be an integer in \[2, 65536\], not 'big'"),
    (["train", "--profile", "smoke", "--set", "w=77"], r"w must be a number in \[0, 20\], not 77"),
    (["train", "--profile", "smoke", "--set", "sample_steps=5000"], "sample_steps must be at most T=1000, not 5000"),
    (["train", "--profile", "smoke", "--seed", "-1"], "seed must be an integer in"),
    (["sweep", "--profile", "smoke", "--seeds", "0"], r"seeds must be an integer in \[1, 1000\], not 0"),
    (["series", "--profile", "smoke", "--only", "99"], "no notebook has number 99"),
    (["train", "--device", "tpu"], "device must be auto, cpu or cuda, not 'tpu'"),
])  # fmt: skip
def test_the_command_refuses_bad_input_in_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"dashkit: .*{message}.*\n", error)


def test_a_package_that_is_missing_is_a_case_for_the_doctor(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dashkit.experiments.settings", None)
    assert cli.main(["train", "--profile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"dashkit: .*settings.*; to see what is missing, type: .*dashkit doctor\n", said)


def test_doctor_passes_here_and_names_the_fix_for_a_folder_it_cannot_write(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    good, bad = list(doctor.examine(tmp_path / "new", blocked))[-2:]
    assert good.ok and not bad.ok and "another folder" in bad.detail
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
    assert "CPU-only torch beside a CUDA torchvision" in finding.detail and environment.repair()[:9] in finding.detail


BROKEN = [
    ("torch", "ImportError('libcudart.so: cannot open shared object file')",
     rf"FAIL  torch    cannot be imported \(libcudart.*Fix: {FIX}"),
    ("torchvision", "RuntimeError('operator torchvision::nms does not exist')", "FAIL  torch .*CPU-only torch beside"),
    ("jupyter_client", "AttributeError('none')", f"FAIL  kernel .*Fix: {FIX}"),
    ("papermill", "TypeError('broken')", rf"FAIL  imports .*TypeError: broken.*Fix: {FIX}"),
    ("pandas", "ImportError('numpy.core.multiarray failed to import')",
     rf"FAIL  imports .*ImportError: numpy.*Fix: {FIX}"),
    ("ipywidgets", "AttributeError('x')", r"FAIL  imports .*AttributeError: x"),
]
DOCTOR = """
import os, sys, traceback
from pathlib import Path
import ipywidgets, jupyter_client, nbconvert, pandas, papermill, seaborn, sklearn, torch, torchvision   # once for all
for folder in Path(sys.argv[1]).iterdir():
    if child := os.fork():
        (folder / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
        continue
    code = 99
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
        for name in [m for m in sys.modules if m.partition(".")[0] == folder.name]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        from dashkit.cli import main
        code = main(["doctor"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
"""


def test_doctor_answers_where_a_package_is_broken(tmp_path):
    for package, error, _ in BROKEN:
        (tmp_path / package / package).mkdir(parents=True)
        (tmp_path / package / package / "__init__.py").write_text(f"raise {error}")
    subprocess.run([sys.executable, "-c", DOCTOR, str(tmp_path)], check=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT)})
    for package, _, message in BROKEN:
        code, said, wrong = ((tmp_path / package / name).read_text() for name in ("code", "stdout", "stderr"))
        assert (code, wrong) == ("1", "") and re.search(message, said), (package, said, wrong)
        assert len(said.splitlines()) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(("package", "error", "message"), BROKEN)
def test_doctor_answers_in_a_set_up_that_is_really_broken(tmp_path, package, error, message):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {error}")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-m", "dashkit", "doctor"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 1 and not done.stderr and re.search(message, done.stdout)
    assert len(done.stdout.splitlines()) >= 4


@pytest.mark.parametrize(("package", "version", "message"), [
    ("torch", "2.13.0", rf"torch is 2\.13\.0, but .*!=2\.13\.0.* is needed.*Fix: {FIX}"),
    ("torch", "2.4.1+cpu", "torch is 2.4.1"), ("matplotlib", "3.13.0", "matplotlib is 3.13.0"),
    ("pandas", "4.0", "pandas is 4.0"), ("papermill", "", "papermill is not installed"),
])  # fmt: skip
def test_doctor_names_versions_that_are_too_old_too_new_or_missing(monkeypatch, package, version, message):
    real = doctor._version
    assert doctor._versions().ok, doctor._versions()
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == package else real(name))
    finding = doctor._versions()
    assert not finding.ok and re.search(message, finding.detail)


def test_a_bare_machine_needs_no_jupyter_and_hears_what_a_missing_package_is_for(monkeypatch):
    real, absent = doctor.importlib.import_module, {"torch_fidelity", "PIL"}

    def without(name, package=None):
        if name in absent:
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(doctor.importlib, "import_module", without)
    found = list(doctor.examine_bare(device="cpu"))
    assert [f.what for f in found] == ["Python", "torch", "packages"] and all(f.ok for f in found)
    assert found[-1].detail == "all that training needs is there; without torch_fidelity (FID), PIL (unpacking images)"
    absent.add("safetensors")
    last = list(doctor.examine_bare(device="cpu"))[-1]
    assert not last.ok and last.detail.startswith("missing: safetensors (weights on disk). Fix: ")
    monkeypatch.setattr(environment, "is_active", lambda: False)
    absent.add("sklearn")
    *_, last = doctor.examine_bare(device="cpu")
    assert re.search(r"pip install --force-reinstall '?scikit-learn\S* '?safetensors\S*; without torch", last.detail)


def test_doctor_explains_why_there_is_no_gpu(monkeypatch):
    import torch
    import torchvision  # noqa: F401  (it looks at torch's version once, when it is imported)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert re.search(f"built for the CPU alone. Fix: {FIX}", doctor._gpu().detail)
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    assert "nvidia-smi" in doctor._gpu().detail and "CUDA 12.9" in doctor._gpu().detail
    asked = [f for f in doctor.examine(device="cuda") if f.what == "GPU"]
    assert asked and not asked[0].ok and not [f for f in doctor.examine() if f.what == "GPU"]


@pytest.mark.parametrize(("python", "message"), [
    ("/nowhere/bin/python", "starts /nowhere/bin/python, which is not there"),
    ("/bin/sh", "starts /bin/sh, another Python than this one"), (None, "no Jupyter kernel called python3")])
def test_doctor_names_a_kernel_that_is_missing_or_starts_another_python(monkeypatch, tmp_path, python, message):
    from jupyter_client import kernelspec

    assert doctor._kernel().ok
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    if python:
        argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    else:
        monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", refuse_kernel)
    finding = doctor._kernel()
    assert not finding.ok and message in finding.detail and "-m ipykernel install" in finding.detail


def refuse_kernel(self, name):
    from jupyter_client.kernelspec import NoSuchKernel

    raise NoSuchKernel(name)


def test_doctor_names_a_disk_that_is_full(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**8))
    assert doctor._folder(tmp_path) == (tmp_path.name, False, "only 0.1 GiB free; 2 are needed")


@pytest.mark.parametrize(("found", "ok", "detail"), [
    (int(3.7 * 2**30), True, r"3\.7 GiB; that is one notebook at a time: choose Kernel, Shut Down Kernel .*"),
    (2**30, False, r"only 1\.0 GiB; 1\.5 are needed.*"), (16 * 2**30, True, r"16\.0 GiB"), (None, True, ".*not say.*"),
])  # fmt: skip
def test_doctor_says_how_many_notebooks_fit_into_memory(monkeypatch, found, ok, detail):
    monkeypatch.setattr(doctor.memory, "machine_memory", lambda: found)
    [finding] = [f for f in doctor.examine() if f.what == "memory"]
    assert finding.ok is ok and re.fullmatch(detail, finding.detail)


@pytest.mark.parametrize(("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)])
def test_doctor_knows_the_supported_pythons(version, ok):
    assert doctor._python(version).ok is ok


def test_no_tracked_file_is_large():
    folders = ("dashkit", "notebooks", "tests", "data/reference", "data/results")
    large = [p for f in folders for p in Path(ROOT, f).rglob("*") if p.is_file() and p.stat().st_size > 2**20]
    assert not large


@pytest.mark.parametrize("change", [{"notebooks": 3}, {"notebooks": [1]}, {"seconds": "x"}, {"manifest": []}])
def test_a_report_that_is_none_is_not_taken_over(tmp_path, change):
    series = {"ok": True, "seconds": 1.0, "manifest": {"device": "x", "commit": "y"}, "notebooks": []}
    store.write_json(tmp_path / "series.json", series | change)
    with pytest.raises(ValueError, match=r"series\.json is no report"):
        readme.take_series(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_published_table_is_of_the_devices_in_it_wherever_it_is_published(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [{"profile": "smoke", "arm": arm, "seed": 0, "metric": "rho", "value": 1.0, "n": 1, "device": device,
             "commit": "c"} for arm, device in (("real", "X"), ("teacher", "X"), ("dash", "A"))]
    cli._publish(argparse.Namespace(publish=True), tiny(), pd.DataFrame(rows))
    assert store.read_json(tmp_path / "smoke" / "manifest.json")["device"] == "A, X"
    store.write_json(tmp_path / "smoke" / "manifest.json",
                    store.read_json(tmp_path / "smoke" / "manifest.json") | {"device": "the publisher's"})
    assert published_results("smoke", tmp_path).source.endswith("on A, X")


def test_a_published_table_of_two_profiles_is_refused_and_named(tmp_path):
    table = published_results("digits").table
    write_published(table.assign(profile=["a"] + ["digits"] * (len(table) - 1)), {"device": "x"}, tmp_path / "digits")
    with pytest.raises(ValueError, match=r"results\.csv: results of several profiles"):
        published_results("digits", tmp_path)
