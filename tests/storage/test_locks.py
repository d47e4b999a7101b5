import multiprocessing
import os

import filelock
import pytest

from dashkit.storage import locks, store


def claimed_elsewhere(folder, pipe):
    with locks.lock_folder(folder):
        pipe.send("ready")
        pipe.poll(60)


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path / "run" until it is told to go, or killed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=claimed_elsewhere, args=(tmp_path / "run", theirs), daemon=True)
    process.start()
    assert ours.poll(60)
    yield process, ours
    process.kill()
    process.join()


def test_a_second_process_is_refused_and_told_who_was_first(tmp_path, other):
    process, pipe = other
    named = rf"run is in use by process {process.pid} on {os.uname().nodename} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(locks.FolderInUse, match=named), locks.lock_folder(tmp_path / "run"):
        pass
    pipe.send("go")
    process.join()
    with locks.lock_folder(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_of_a_killed_process_blocks_nobody_and_its_leftovers_go(tmp_path, other):
    process, _ = other
    process.kill()
    process.join()
    assert (tmp_path / "run" / ".lock").is_file()
    (tmp_path / "run" / ".x.safetensors.abc.tmp").write_bytes(b"half")
    with locks.lock_folder(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_that_nobody_holds_is_a_leftover(tmp_path):
    with locks.lock_folder(tmp_path):
        locks.remove_leftovers(tmp_path)
        assert (tmp_path / ".lock").is_file()
    (tmp_path / ".lock").write_text("process 1 on a machine")
    store.write_json(tmp_path / "a.json", {})                 # a writer cleans up after writers of this file alone
    assert (tmp_path / ".lock").is_file()
    locks.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_later_claim_of_one_process_takes_over(tmp_path):
    with locks.lock_folder(tmp_path) as first:
        assert locks.is_current(tmp_path, first)
        with locks.lock_folder(tmp_path) as second:
            assert locks.is_current(tmp_path, second) and not locks.is_current(tmp_path, first)


def test_the_lock_stays_while_a_later_claim_works(tmp_path):
    first, second = locks.lock_folder(tmp_path), locks.lock_folder(tmp_path)
    first.__enter__()
    token = second.__enter__()
    first.__exit__(None, None, None)              # the loop of an interrupted notebook cell ends at last
    assert locks.is_current(tmp_path, token)
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(tmp_path / ".lock").acquire(timeout=0)
    second.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == [] and not locks.is_current(tmp_path, token)
