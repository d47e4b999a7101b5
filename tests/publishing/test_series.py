import json
import shutil
from unittest.mock import create_autospec

import nbformat
import numpy as np
import pandas as pd
import pytest

from dashkit.analysis.tables import calibration_table
from dashkit.classroom.notebooks import SeriesError, execute, notebook_paths
from dashkit.experiments.evaluation import results_path
from dashkit.experiments.run import FINAL
from dashkit.publishing import series
from dashkit.storage import tables

START = "from dashkit.experiments.run import start_run\nstart_run(profile, seed=seed)"
STUB = "start_run = print\nstart_run(profile)"     # where what is checked comes later: no torch


def write(path, *cells, parameters='profile = "smoke"\nseed = 1', start=START):
    notebook = nbformat.v4.new_notebook()
    head = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.cells = [head, *(nbformat.v4.new_code_cell(s) for s in (start, *cells) if s)]
    nbformat.write(notebook, path)
    return path


def test_a_good_notebook_is_executed_with_its_parameters(tmp_path):
    source = write(tmp_path / "00_good.ipynb", "print(seed + 1)")
    execute(source, tmp_path / "out" / "00_good.ipynb", {"seed": 41})
    assert "42" in nbformat.read(tmp_path / "out" / "00_good.ipynb", 4).cells[-1].outputs[0].text


def test_unknown_parameter_is_an_error_that_names_the_known_ones(tmp_path):
    source = write(tmp_path / "00_x.ipynb")
    with pytest.raises(SeriesError, match="unknown parameter sead; it has profile, seed"):
        execute(source, tmp_path / "o.ipynb", {"sead": 1})


@pytest.mark.parametrize(("cells", "message"), [
    (["1 / 0", "2"], r"00_x, cell 3 \(\w+\): ZeroDivisionError: division by zero"),
    (["import sys\nsys.exit(0)", "2"], r"00_x, cell \d.*: .*(never completed|SystemExit)"),
    (["import os\nos._exit(0)", "2"], r"00_x"),
])  # fmt: skip
def test_a_notebook_that_does_not_finish_is_an_error_and_keeps_its_output(tmp_path, cells, message):
    source = write(tmp_path / "00_x.ipynb", *cells, start=STUB)
    with pytest.raises(SeriesError, match=message):
        execute(source, tmp_path / "o.ipynb", {})
    assert (tmp_path / "o.ipynb").is_file()


def test_bad_value_is_refused_in_the_validation_cell(tmp_path):
    source = write(tmp_path / "00_x.ipynb", "print('not reached')")
    with pytest.raises(SeriesError, match=r"cell .*ValueError: unknown profile 'tiny'; choose from auto, smoke"):
        execute(source, tmp_path / "o.ipynb", {"profile": "tiny"})


def test_validation_and_parameters_cells_are_required(tmp_path):
    with pytest.raises(SeriesError, match="must validate"):
        execute(write(tmp_path / "00_x.ipynb", start="print(1)"), tmp_path / "o.ipynb", {})
    bare = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(bare, tmp_path / "01_x.ipynb")
    with pytest.raises(SeriesError, match="exactly one cell tagged"):
        execute(tmp_path / "01_x.ipynb", tmp_path / "o.ipynb", {})


def test_only_picks_notebooks_and_refuses_unknown_numbers():
    assert [p.name[:2] for p in notebook_paths(["04", "02"])] == ["02", "04"]
    with pytest.raises(ValueError, match="no notebook has number 77; there are 00, "):
        notebook_paths(["77"])


def test_a_series_hands_typed_settings_and_the_place_of_the_profile_to_its_notebooks(tmp_path, monkeypatch):
    own, given = tmp_path / "mine.toml", []
    own.write_text('extends = "smoke"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(series, "execute", lambda source, target, parameters, **_: given.append(parameters))
    monkeypatch.setattr(series, "notebook_paths", lambda only=(): [tmp_path / "00_x.ipynb"])
    assert series.run_series("mine.toml", seed=np.int64(7), build=tmp_path / "build",
                             settings={"ws": np.array([1, 1.5]), "clip": "2", "batch": np.int64(8), "gamma": None})
    assert given == [{"profile": str(own), "seed": 7, "device": "auto",
                      "settings": {"ws": [1.0, 1.5], "clip": 2.0, "batch": 8}}]
    assert json.dumps(given) and (tmp_path / "build" / "mine" / "series.json").is_file()


@pytest.mark.parametrize(("settings", "message"), [
    ("nothing", "a setting looks like"), ({"batch": "big"}, "batch must be an integer"), (3, "settings must look like"),
])
def test_bad_settings_end_a_series_before_any_work(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        series.run_series("smoke", settings=settings, build=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_notebook_takes_settings_in_every_spelling(tmp_path):
    """All spellings as parameters of one notebook: each goes through papermill, and one kernel is enough."""
    batch, plain = "8 (1.0, 1.5)", "64 (1.0, 1.5, 4.0)"
    spellings = {"settings": ('{"batch": 8, "ws": "1.0,1.5"}', batch), "none": (None, plain), "null": ("null", plain),
                 "numbers": ({"batch": 8.0, "ws": [1, 1.5]}, batch)}
    source = write(tmp_path / "00_x.ipynb", *(
        f"run = start_run(profile, settings={name})\nprint(run.profile.batch, run.profile.ws)" for name in spellings),
        parameters="\n".join(['profile = "smoke"', *(f"{name} = {{}}" for name in spellings)]),
        start="from dashkit.experiments.run import start_run\nrun = start_run(profile, settings=settings)")
    execute(source, tmp_path / "o.ipynb", {name: spelt for name, (spelt, _) in spellings.items()})
    cells = nbformat.read(tmp_path / "o.ipynb", 4).cells[-len(spellings):]
    assert [c.outputs[0].text for c in cells] == [f"{wanted}\n" for _, wanted in spellings.values()]


def test_every_notebook_hands_its_settings_over_as_they_were_said():
    for path in notebook_paths():
        cell = next(c for c in nbformat.read(path, 4).cells if "run = start_run(profile" in c.source)
        assert "settings=settings)" in cell.source and "**settings" not in cell.source, path.name


WHOLE = 'profile = "smoke"\nseed = 1\ndevice = "cpu"'


@pytest.fixture
def copied(monkeypatch):
    """A notebook is not executed, but copied; one that raises is refused as papermill's error would be."""
    calls = []

    def copy(source, target, parameters, *, bar=False):
        calls.append((source.stem, parameters))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if "raise" in source.read_text():
            raise SeriesError(f"{source.stem}, cell 3 (x): RuntimeError: <planted>")

    monkeypatch.setattr(series, "execute", create_autospec(execute, side_effect=copy))
    yield calls
    assert calls


def test_a_failed_series_says_so_everywhere(tmp_path, monkeypatch, capsys, copied):
    failed_series(tmp_path, monkeypatch, capsys)
    parameters = {"profile": "smoke", "seed": 1, "device": "auto"}
    assert copied == [("00_fine", parameters), ("01_broken", parameters)]


@pytest.mark.slow
def test_a_failed_series_of_executed_notebooks_says_so_everywhere(tmp_path, monkeypatch, capsys):
    failed_series(tmp_path, monkeypatch, capsys)


def failed_series(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "00_fine.ipynb", parameters=WHOLE)
    write(folder / "01_broken.ipynb", "raise RuntimeError('<planted>')", parameters=WHOLE)
    write(folder / "02_after.ipynb", parameters=WHOLE)
    monkeypatch.setattr(series, "notebook_paths", lambda only=(): sorted(folder.glob("*.ipynb")))
    assert series.run_series("smoke", seed=1, build=tmp_path / "build") is False
    written = json.loads((tmp_path / "build" / "smoke" / "series.json").read_text())
    assert [n["status"] for n in written["notebooks"]] == ["ok", "failed", "not run"]
    assert written["ok"] is False and written["profile"] == "smoke"
    assert ": RuntimeError: <planted>" in capsys.readouterr().err
    page = (tmp_path / "build" / "smoke" / "index.html").read_text()
    assert "&lt;planted&gt;" in page and "<planted>" not in page and "00_fine.ipynb" in page


@pytest.mark.parametrize(("damaged", "cut"), [("final", 100), ("results", 100), ("results", -5), ("results", None)])
@pytest.mark.usefixtures("copied")
def test_a_series_over_damaged_files_says_so_and_leaves_no_old_verdict(
    swept, tmp_path, monkeypatch, capsys, damaged, cut
):
    run = swept
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks" / "00_fine.ipynb", parameters=WHOLE)
    monkeypatch.setattr(series, "notebook_paths", lambda only=(): sorted((tmp_path / "notebooks").glob("*.ipynb")))
    monkeypatch.setattr(series, "start_run", lambda *a, **k: run)
    folder = tmp_path / "build" / "smoke"
    assert series.run_series("smoke", seed=1, build=tmp_path / "build") and (folder / "results.csv").is_file()
    path = run.folder("teacher", 1) / FINAL if damaged == "final" else results_path(run)
    cut = cut or path.read_bytes()[:-1].rindex(b"\n") + 1                 # without its last row
    path.write_bytes(path.read_bytes()[:cut])
    assert not series.run_series("smoke", seed=1, build=tmp_path / "build") and not (folder / "results.csv").exists()
    assert json.loads((folder / "series.json").read_text())["ok"] is False
    assert f"FAILED  {path}" in capsys.readouterr().err and path.name in (folder / "index.html").read_text()


def test_calibration_table_takes_means_over_seeds_and_divides_by_the_floor():
    def row(arm, seed, metric, value):
        return dict(zip(tables.COLUMNS, ("p", arm, seed, metric, value, 10, "cpu", "c"), strict=True))

    rows = [row("real", 0, "frechet", 2.0)]
    for seed, fd in ((0, 4.0), (1, 8.0)):
        rows += [row("dash", seed, m, 1.0) for m in ("rho", "slope", "cos", "r2", "parameters", "accuracy@w=1")]
        rows += [row("dash", seed, "frechet@w=1", fd), row("dash", seed, "frechet@w=2", 3.0)]
    table = calibration_table(pd.DataFrame(rows), w=1.0)
    assert table.fd["dash"] == 3.0 and table.sd["dash"] == pytest.approx(2**0.5)
    assert table.fd_best["dash"] == 1.5 and table.seeds["dash"] == 2
