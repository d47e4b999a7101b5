import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dashkit.storage import locks, store


def test_tensors_and_settings_travel_in_one_file(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "view": torch.arange(8)[::2],
               "one of several": torch.ones(1, 7).T[0]}
    store.save_tensors(tmp_path / "new" / "x.safetensors", tensors, {"seed": 1})
    saved = store.load_tensors(tmp_path / "new" / "x.safetensors")
    assert saved.meta == {"seed": 1} and all(torch.equal(saved.tensors[k], v) for k, v in tensors.items())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    store.write_json(path, {"old": True})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_json(path, {"new": True})
    assert json.loads(path.read_text()) == {"old": True} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_truncated_checkpoints_give_one_clear_error(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    store.save_tensors(path, {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"x.safetensors is damaged or not dashkit's"):
        store.load_tensors(path)


def test_foreign_and_missing_checkpoints_are_explained(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not dashkit's"):
        store.load_tensors(tmp_path / "foreign.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        store.load_tensors(tmp_path / "pickle.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        store.load_tensors(tmp_path / "none.safetensors")


def test_fingerprints_follow_settings():
    assert store.fingerprint({"a": 1, "b": (1, 2)}) == store.fingerprint({"b": [1, 2], "a": 1})
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})


MANY_CLAIMS = """
import sys
from pathlib import Path
from dashkit.storage import locks
folder, done = Path(sys.argv[1]), 0
while done < 100:
    try:
        with locks.lock_folder(folder):
            (folder / "inside").open("x").close()        # fails if another process is inside
            (folder / "inside").unlink()
            done += 1
    except locks.FolderInUse:
        pass
"""


def test_two_processes_are_never_inside_at_once_though_the_lock_is_removed_each_time(tmp_path):
    claimers = [subprocess.Popen([sys.executable, "-c", MANY_CLAIMS, str(tmp_path / "run")], stderr=subprocess.PIPE,
                                 text=True) for _ in range(3)]
    assert [(c.communicate()[1], c.returncode) for c in claimers] == [("", 0)] * 3
    assert list((tmp_path / "run").iterdir()) == []


def write_many(path):
    for _ in range(1500):
        store.write_bytes(path, b"x" * 100)


def test_many_writers_of_one_file_do_not_trip_over_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path / "x",)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0] * 3
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"x" * 100)]


def test_a_write_removes_what_a_killed_writer_of_the_same_file_left(tmp_path):
    (tmp_path / ".x.json.abc.tmp").write_bytes(b"half")
    with (tmp_path / ".x.json.def.tmp").open("wb") as living:
        locks._lock(living)
        store.write_json(tmp_path / "x.json", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x.json.def.tmp", "x.json"]


def write_into(folder):
    if os.getuid() == 0:
        os.setuid(65534)                               # root may write anywhere
    for act in (lambda: store.write_json(folder / "x.json", {}), lambda: locks.lock_folder(folder).__enter__()):
        try:
            act()
        except PermissionError as error:
            print(error)


def test_a_read_only_folder_gives_one_clear_line_and_stays_empty(tmp_path, forked):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in [p for p in tmp_path.parents if p.stat().st_uid == os.getuid() and len(p.parts) > 2]:
        parent.chmod(parent.stat().st_mode | 0o055)        # so that another user gets there at all
    tmp_path.chmod(0o755)
    _, said, wrong = forked(write_into, folder)
    lines = said.splitlines()
    assert len(lines) == 2 and not wrong, wrong
    said = r"\[Errno 13\] Permission denied: cannot write it; give yourself access, or take a folder of your " \
           "own, then run "
    assert all(re.fullmatch(rf"{said}the same again: '{folder}.*'", line) for line in lines)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="SKIPPED: only root can mount a small file system")
def test_a_full_disk_gives_one_clear_line_and_keeps_the_old_file(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]).returncode:
        pytest.skip("SKIPPED: a small file system cannot be mounted here")
    try:
        store.write_bytes(tmp_path / "x", b"old")
        with pytest.raises(OSError, match=r"No space left on device: cannot write it; free some space"):
            store.write_bytes(tmp_path / "x", bytes(200_000))
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"old")]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def saved(tmp_path, **tensors):
    path = tmp_path / "x.safetensors"
    store.save_tensors(path, {"a": torch.arange(64.0)} | tensors, {"seed": 1})
    return path


@pytest.mark.parametrize("place", ["tensor", "meta", "checksum"])
def test_one_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, place):
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    at = {"tensor": len(content) - 7, "meta": content.index(b"seed") + 8, "checksum": content.index(b"sha256") + 12}
    content[at[place]] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged or not dashkit's \(its content does not match its checksum"):
        store.load_tensors(path)


def write_over(path):
    tensors = store.load_tensors(path).tensors
    path.write_bytes(bytes(len(path.read_bytes())))      # in place, as cp does; the same length, and then none
    print(tensors["a"].sum().item())
    path.write_bytes(b"")
    print(tensors["a"].sum().item())


def test_what_was_read_stays_when_its_file_is_written_over(tmp_path, forked):
    code, said, _ = forked(write_over, saved(tmp_path, a=torch.ones(10_000)))
    assert (code, said.split()) == (0, ["10000.0"] * 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_loaded(tmp_path, bad):
    with pytest.raises(ValueError, match="w holds NaN or infinity"):
        store.load_tensors(saved(tmp_path, w=torch.tensor([1.0, bad])))


def test_settings_in_a_checkpoint_must_be_an_object(tmp_path):
    store.save_tensors(tmp_path / "x", {"a": torch.ones(1)}, [1])
    with pytest.raises(ValueError, match="must hold a JSON object"):
        store.load_tensors(tmp_path / "x")


@pytest.mark.parametrize(("text", "message"), [
    ("[1]", "must hold a JSON object"), ('{"a": ' + "9" * 5000 + "}", "damaged"), ("[" * 200_000, "damaged"),
    ('{"a"', "damaged"), ("{}", "lacks sha256"), ('"\xff"', "must hold"),
])
def test_damaged_manifests_give_one_clear_error(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        store.read_json(tmp_path / "m.json", "sha256")
    Path(tmp_path / "m.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="damaged"):
        store.read_json(tmp_path / "m.json")


def test_a_manifest_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "m.json").open("wb") as file:
        file.truncate(2**34)                                # a hole: takes no space
    with pytest.raises(ValueError, match="more than any manifest"):
        store.read_json(tmp_path / "m.json")


@pytest.mark.parametrize(("text", "message"), [
    ('{"a": 1, "a": 2}', "says a name twice"), ('{"a": NaN}', "holds NaN"), ('{"a": -Infinity}', "holds -Infinity"),
    ('{"a": ' + "[" * 60 + "]" * 60 + "}", "nests too deeply"), (r'{"a": "\ud800"}', "surrogates"),
])
def test_json_that_cannot_be_walked_or_written_again_is_refused(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=rf"m\.json is damaged .*{message}"):
        store.read_json(tmp_path / "m.json")


def test_complex_weights_must_be_finite_too():
    store.check_finite("w", torch.tensor([complex(1, 2)]))
    with pytest.raises(ValueError, match="w holds NaN or infinity"):
        store.check_finite("w", torch.tensor([complex(1, float("nan"))]))
