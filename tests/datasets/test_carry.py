"""Files for a machine without a network, and back."""

import json

import numpy as np
import pytest
import torch

from dashkit import cli
from dashkit.datasets import carry
from dashkit.storage import paths, provenance, store


@pytest.fixture
def cache(tmp_path):
    """A cache with a small data set, as the real one is written, and weights."""
    folder, rng = tmp_path / "cache", np.random.default_rng(0)
    folder.mkdir()
    slope, grain = rng.uniform(0, 25, (2100, 3, 1, 1)), rng.integers(0, 4, (2100, 1, 8, 8))
    smooth = (slope * np.arange(8) + grain).astype(np.uint8)          # as photographs are
    arrays = {"pixels": smooth, "labels": np.arange(2100) % 10,
              "test_pixels": rng.integers(0, 256, (7, 3, 8, 8), dtype=np.uint8), "test_labels": np.arange(7)}
    np.savez(folder / "cifar10.npz", **arrays)
    weights = {"a": torch.randn(300, 30, generator=torch.Generator().manual_seed(0)), "b": torch.ones(3)}
    store.save_tensors(folder / "inception.safetensors", weights, {})
    return folder


def unpacked(parts, tmp_path, name="there"):
    there = tmp_path / name
    return carry.unpack(parts, cache=there / "cache", runs=there / "runs", results=there / "results")


def test_what_is_unpacked_is_what_was_packed_byte_for_byte(cache, tmp_path):
    parts = carry.pack(["cifar10", "inception"], tmp_path / "out", cache=cache, part_mb=0.01)
    assert len(parts) > 1 and all(p.stat().st_size <= 10_000 for p in parts)
    there = unpacked(parts[::-1], tmp_path)
    assert [p.name for p in there.files] == ["cifar10.npz", "inception.safetensors"]
    assert there.commit == provenance.commit()
    for path in there.files:
        assert path.read_bytes() == (cache / path.name).read_bytes()
    written = [p.stat().st_mtime_ns for p in there.files]
    assert [p.stat().st_mtime_ns for p in unpacked([tmp_path / "out"], tmp_path).files] == written     # left alone
    there.files[0].write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"cifar10\.npz is there already and differs; delete it first"):
        unpacked(parts, tmp_path)


def test_a_file_that_could_not_be_unpacked_is_not_packed(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(carry, "MAX_FILE", (cache / "cifar10.npz").stat().st_size - 1)
    with pytest.raises(ValueError, match=r"cifar10\.npz has .* and a packed file at most .*; copy the file itself"):
        carry.pack(["inception", "cifar10"], tmp_path / "out", cache=cache)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("save", [
    lambda path: np.savez_compressed(path, pixels=np.zeros((4, 3, 8, 8), np.uint8)),
    lambda path: np.savez(path, pixels=np.zeros((4, 1, 8, 8), np.uint8), labels=np.arange(4)),
    lambda path: np.savez(path, pixels=np.asfortranarray(np.arange(3 * 64 * 2, dtype=np.uint8).reshape(2, 3, 8, 8))),
    lambda path: np.savez(path, pixels=np.zeros((3, 3, 8, 400), np.uint8)),              # too wide for a WebP mosaic
    lambda path: np.savez(path, pixels=np.zeros((3, 3, 500, 4), np.uint8)),
    lambda path: path.write_bytes(b"no data set at all"), lambda path: path.write_bytes(b""),
])  # fmt: skip
def test_files_of_any_kind_come_out_the_same(tmp_path, save):
    (tmp_path / "cache").mkdir()
    save(tmp_path / "cache" / "mine.npz")
    parts = carry.pack(["mine"], tmp_path / "out", cache=tmp_path / "cache")
    assert unpacked(parts, tmp_path).files[0].read_bytes() == (tmp_path / "cache" / "mine.npz").read_bytes()


def test_images_and_numbers_shrink(cache, tmp_path):
    """The images' own bytes under xz are the floor that mosaics must beat."""
    size = {name: sum(p.stat().st_size for p in carry.pack([name], tmp_path / name, cache=cache))
            for name in ("cifar10", "inception")}
    plain = {name: carry._xz((cache / file).read_bytes())[0].blobs[0]
             for name, file in (("cifar10", "cifar10.npz"), ("inception", "inception.safetensors"))}
    assert size["cifar10"] < plain["cifar10"] and size["inception"] < 0.95 * plain["inception"]


def test_a_missing_a_damaged_and_a_foreign_part_are_named(cache, tmp_path):
    parts = carry.pack(["cifar10"], tmp_path / "out", cache=cache, part_mb=0.01)
    count = len(parts)
    with pytest.raises(FileNotFoundError, match=f"part 2 of {count} is missing"):
        unpacked([p for p in parts if p != parts[1]], tmp_path)
    other = carry.pack(["inception"], tmp_path / "other", cache=cache)
    with pytest.raises(ValueError, match=f"{other[0].name} belongs to another archive than {parts[0].name}"):
        unpacked([*parts, *other], tmp_path)
    content = bytearray(parts[1].read_bytes())
    content[-5] ^= 1
    parts[1].write_bytes(content)
    with pytest.raises(ValueError, match=rf"{parts[1].name} is damaged \(SHA-256 differs\); copy it again"):
        unpacked(parts, tmp_path)
    (tmp_path / "x.part").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"x\.part is no part of dashkit's"):
        unpacked([tmp_path / "x.part"], tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no part"):
        unpacked([tmp_path / "cache"], tmp_path)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(("root", "name"), [
    ("cache", "../outside.npz"), ("cache", "/etc/x"), ("runs", "a/../../x"), ("home", "x.npz"), ("cache", ""),
    ("cache", "a\\b"), ("runs", "..")])
def test_an_archive_writes_nowhere_else(tmp_path, monkeypatch, root, name):
    (tmp_path / "x").write_bytes(b"x")
    with monkeypatch.context() as patch:                       # an archive that dashkit did not write
        patch.setattr(carry, "_allowed", lambda name: True)
        parts = carry._write([carry._File(root, name, tmp_path / "x")], tmp_path / "out", 10**5)
    with pytest.raises(ValueError, match="none of dashkit's; nothing was unpacked"):
        unpacked(parts, tmp_path)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("profile", ["größe", "ученик", "my-net_2"])
def test_what_is_brought_home_can_be_unpacked_whatever_the_profile_is_called(tmp_path, profile):
    file = tmp_path / "runs" / profile / "dash-s1-0123" / "manifest.json"
    store.write_json(file, {"seed": 1})
    unpacked(carry.bring(tmp_path / "out", runs=tmp_path / "runs", results=tmp_path / "no"), tmp_path)
    assert (tmp_path / "there" / "runs" / profile / "dash-s1-0123" / "manifest.json").read_bytes() == file.read_bytes()


def test_a_name_that_could_not_be_unpacked_is_not_packed(tmp_path):
    store.write_json(tmp_path / "runs" / "my nets" / "a-s1-0" / "manifest.json", {"seed": 1})
    with pytest.raises(ValueError, match=r"my nets.* cannot be packed: a name holds letters.*; rename it"):
        carry.bring(tmp_path / "out", runs=tmp_path / "runs", results=tmp_path / "no")
    assert not (tmp_path / "out").exists()


def test_a_small_part_does_not_grow_into_a_large_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(bytes(10**7))
    real = carry._xz
    monkeypatch.setattr(carry, "_xz", lambda content: (real(content)[0]._replace(size=10), real(content)[1]))
    parts = carry._write([carry._File("cache", "x.npz", tmp_path / "x")], tmp_path / "out", 10**5)
    with pytest.raises(ValueError, match="no sensible size in the archive"):
        unpacked(parts, tmp_path)


def test_results_come_home_without_what_can_be_made_again(tmp_path):
    runs = tmp_path / "runs"
    home = runs / "smoke" / "dash-s1-0123"
    weights = {"ema.a": torch.randn(2000, generator=torch.Generator().manual_seed(0)).half()}
    store.save_tensors(home / "final.safetensors", weights, {"seed": 1})
    store.write_json(home / "manifest.json", {"arm": "dash"})
    store.save_tensors(home / "features-1.safetensors", {"w=1": torch.ones(3)}, {})      # others are measured with them
    for name in ("evaluation-1.csv", "checkpoint.safetensors", ".lock", "fid-1/000000.safetensors"):
        store.write_bytes(home / name, b"x")
    store.write_bytes(runs / "digits" / "results-s1-2.csv", b"y")
    for profile in ("smoke", "exact"):
        store.write_bytes(tmp_path / "results" / profile / "results.csv", profile.encode())
    parts = carry.bring(tmp_path / "out", runs=runs, results=tmp_path / "results")
    assert all(p.stat().st_size < 16 * 10**6 for p in parts)
    there = unpacked(parts, tmp_path)
    names = {p.relative_to(tmp_path / "there").as_posix() for p in there.files}
    assert names == {"runs/digits/results-s1-2.csv", "runs/smoke/dash-s1-0123/evaluation-1.csv",
                     "runs/smoke/dash-s1-0123/features-1.safetensors",
                     "runs/smoke/dash-s1-0123/final.safetensors", "runs/smoke/dash-s1-0123/manifest.json",
                     "results/smoke/results.csv"}
    carried = store.load_tensors(tmp_path / "there" / "runs" / "smoke" / "dash-s1-0123" / "final.safetensors")
    assert torch.equal(carried.tensors["ema.a"], weights["ema.a"])
    one = unpacked(carry.bring(tmp_path / "one", runs=runs, results=tmp_path, only=["digits"]), tmp_path, "one")
    assert [p.name for p in one.files] == ["results-s1-2.csv"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        carry.bring(tmp_path / "no", runs=runs, only=["cifar"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing is finished"):
        carry.bring(tmp_path / "no", runs=tmp_path / "empty")


def test_the_commands_pack_unpack_and_bring(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "CACHE", cache)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(carry, "RESULTS", tmp_path / "results")
    store.write_bytes(tmp_path / "runs" / "smoke" / "results.csv", b"y")
    out = tmp_path / "out"
    assert cli.main(["pack", "cifar10", "inception", str(out), "--part-mb", "0.01"]) == 0
    assert "DASHKIT_COMMIT=" in capsys.readouterr().out
    monkeypatch.setattr(paths, "CACHE", tmp_path / "there")
    assert cli.main(["unpack", *map(str, sorted(out.iterdir()))]) == 0
    assert (tmp_path / "there" / "cifar10.npz").read_bytes() == (cache / "cifar10.npz").read_bytes()
    assert cli.main(["bring", str(tmp_path / "home"), "--runs", "smoke"]) == 0
    assert cli.main(["unpack", str(out / "no.part")]) == 2
    assert cli.main(["pack", "cifar100", str(out)]) == 2
    assert "dashkit fetch cifar100" in capsys.readouterr().err
    assert cli.main(["pack", "cifar10", str(out), "--part-mb", "0"]) == 2
    assert "part_mb must be a number in [0.01, 2000], not 0" in capsys.readouterr().err


def test_the_line_of_a_part_is_short(cache, tmp_path):
    for part in carry.pack(["cifar10"], tmp_path / "out", cache=cache, part_mb=0.01):
        line = part.read_bytes().partition(b"\n")[0]
        assert len(line) < 1000 and json.loads(line)["dashkit"] == "part"
