"""A short set of `make fuzz`, and that it notices what it is there for."""

import json
import shutil

import fuzz
import numpy as np
import pytest

from dashkit.analysis import tables as analysis_tables
from dashkit.datasets import files
from dashkit.storage import store, tables

FEW = {"weights of Inception": 1, "checkpoint, resumed": 4, "features for FID": 8, "package of Fashion": 8,
       "archive of CIFAR": 8}


QUICK = ("teacher", "settings", "JSON", "published table")        # one a reader: networks, text, JSON, tables


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in fuzz.KINDS])
def test_damaged_and_hostile_files_end_as_they_must(name, tmp_path):
    if name == "package of Fashion" and shutil.which("dpkg-deb") is None:
        pytest.skip("LEFT OUT: no dpkg-deb")
    bench, cases = fuzz.Bench(name, tmp_path), FEW.get(name, 20)
    assert fuzz.fuzz(bench, cases, seed=1) == ""
    assert bench.outcomes.total() >= cases


class Whatever(str):
    """Equal to every checksum."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return True


def with_pickles(path, names):
    with np.load(path, allow_pickle=True) as arrays:
        return [arrays[name] for name in names]


PLANTS = {
    "data set": (files, "read_npz", with_pickles, "what was planted has run|a wrong answer|Error|MiB"),
    "teacher": (store, "check_finite", lambda name, value: None, "a wrong answer"),
    "student": (store, "digest", lambda tensors, text: Whatever(), "a wrong answer"),
    "published table": (analysis_tables, "published_results",
                        lambda profile, root: tables.read_table(root / profile / "results.csv"),
                        "a wrong answer"),
    "JSON": (store, "parse_json", lambda text: json.loads(text), "a wrong answer|Error"),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_check_that_is_dropped_is_noticed(name, tmp_path, monkeypatch):
    *place, message = PLANTS[name]
    bench = fuzz.Bench(name, tmp_path)
    monkeypatch.setattr(*place)
    monkeypatch.setattr(fuzz, "BUGS", tmp_path / "bugs")
    said = fuzz.fuzz(bench, 1000, seed=0)
    assert fuzz.re.search(message, said), said


def test_a_picture_that_takes_too_much_memory_is_noticed(tmp_path, monkeypatch):
    bench = fuzz.Bench("image", tmp_path)
    assert bench.judge(fuzz.bomb(13_000)) == "ValueError"
    monkeypatch.setattr(files, "MAX_PIXELS", 10**9)
    if not fuzz.forget_peak():
        pytest.skip("LEFT OUT: memory is measured on Linux only")
    bench.kind = bench.kind._replace(room=64)        # a long process may hold memory already that is used again
    with pytest.raises(fuzz.Unexpected, match="MiB for a file of"):
        bench.judge(fuzz.bomb(13_000))


def test_a_pickle_that_runs_is_noticed(tmp_path, monkeypatch):
    bench = fuzz.Bench("data set", tmp_path)
    monkeypatch.setattr(files, "read_npz", with_pickles)
    np.savez(tmp_path / "x.npz", **fuzz.arrays_of_images() | {"labels": np.array([fuzz.Pickled()], dtype=object)})
    try:
        with pytest.raises(fuzz.Unexpected, match="what was planted has run"):
            bench.judge((tmp_path / "x.npz").read_bytes())
    finally:
        fuzz.PLANTED.rmdir()
