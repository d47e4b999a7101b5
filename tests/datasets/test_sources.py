import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dashkit.datasets import fetch, files, sources
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run
from dashkit.method.arms import ARMS
from dashkit.method.images import Images, minibatches, to_float, to_uint8
from dashkit.method.quality import train_classifier
from dashkit.storage import locks, store, tables


def arrays(n=6, **changes):
    rng = np.random.default_rng(0)
    good = {"pixels": rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), "labels": np.arange(n) % 3,
            "test_pixels": rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8), "test_labels": np.arange(3)}
    return good | changes


def test_digits_are_split_without_overlap():
    images = sources.load_images("digits")
    assert images.pixels.shape == (1297, 1, 8, 8) and images.test_pixels.shape == (500, 1, 8, 8)
    assert images.num_classes == 10 and images.test_labels.bincount().min() >= 45
    assert images.x0.min() == -1 and images.x0.max() == 1 and images.x0.dtype == torch.float32
    assert torch.equal(sources.load_images("digits").pixels, images.pixels)


def test_bytes_survive_the_way_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert to_uint8(torch.tensor([-5.0, 5.0])).tolist() == [0, 255]


def test_minibatches_are_decided_by_the_generator():
    images = sources.load_images("digits")
    a, b = (minibatches(images, 16, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    for _ in range(3):
        (x, y), (x2, y2) = next(a), next(b)
        assert torch.equal(x, x2) and torch.equal(y, y2) and x.shape == (16, 1, 8, 8)


def test_your_own_arrays_load(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays())
    images = sources.load_images("cifar10", cache=tmp_path)
    assert images.shape == (3, 8, 8) and images.num_classes == 3


def test_mirrored_images_follow_the_plain_ones(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays())
    plain, both = (sources.load_images(name, cache=tmp_path) for name in ("cifar10", "cifar10_mirrored"))
    n = len(plain.pixels)
    assert torch.equal(both.pixels[:n], plain.pixels) and torch.equal(both.pixels[n:, ..., 0], plain.pixels[..., -1])
    assert torch.equal(both.labels[n:], plain.labels) and torch.equal(both.test_pixels, plain.test_pixels)


@pytest.mark.parametrize(("change", "message"), [
    ({"pixels": np.zeros((6, 3, 8, 8))}, "must be non-empty uint8"),
    ({"labels": np.arange(5)}, "labels must be 6 integers"), ({"labels": np.zeros(6)}, "labels must be 6 integers"),
    ({"labels": np.array([0, 0, 0, 2, 2, 2])}, "no training image has label 1"),
    ({"test_pixels": np.zeros((3, 1, 8, 8), np.uint8)}, "same shape"),
    ({"test_labels": np.array([0, 1, 7])}, "same classes"),
])  # fmt: skip
def test_wrong_arrays_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        files.from_arrays(**arrays(**change))


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays(labels=np.array([object()] * 6, dtype=object)))
    with pytest.raises(ValueError, match="labels holds Python objects, which are never opened"):
        sources.load_images("cifar10", cache=tmp_path)


def test_unknown_and_missing_sets_are_explained(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'mnist'; choose from digits, "):
        sources.load_images("mnist")
    with pytest.raises(FileNotFoundError, match=r"cifar100\.npz is not there"):
        sources.load_images("cifar100", cache=tmp_path)


def test_images_that_were_scaled_before_are_refused():
    pixels = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"pixels must be uint8, not torch\.float32: they may have been scaled before"):
        to_float(pixels)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        Images(pixels, torch.arange(2), pixels, torch.arange(2))


@pytest.mark.parametrize("x", [torch.full((2, 1, 8, 8), 255.0), torch.full((2, 1, 8, 8), -1.5),
                               torch.full((2, 1, 8, 8), float("nan")), torch.zeros((2, 1, 8, 8), dtype=torch.uint8)])
def test_data_outside_minus_one_to_one_is_refused(x):
    with pytest.raises(ValueError, match=r"images must be floats in \[-1, 1\]"):
        train_classifier(x, torch.zeros(2, dtype=int), num_classes=2, seed=0)


def test_a_label_that_is_no_class_is_refused_by_the_judge():
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 1, not 0 \.\. 2"):
        train_classifier(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]), num_classes=2, seed=0)


def test_a_stray_label_of_absurd_size_is_named_and_costs_no_memory():
    labels = np.array([0, 1, 2**62, 2, 0, 1])
    with pytest.raises(ValueError, match="no training image has label 3"):
        files.from_arrays(**arrays(labels=labels))


def forged(path, shape, *, kind="|u1", content=b"x" * 100):
    """An .npz whose first header says `shape`, whatever follows it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pixels.npy", header.getvalue() + content)


@pytest.mark.parametrize("shape", [(10**12, 3, 8, 8), (2**62, 2**62), (3, 3, 3), (0, 3, 8, 8)])
def test_a_header_that_its_bytes_do_not_bear_out_is_refused_before_anything_is_allocated(tmp_path, shape):
    forged(tmp_path / "cifar10.npz", shape)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"which its .* bytes are not"):
        sources.load_images("cifar10", cache=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_an_archive_that_would_blow_up_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "cifar10.npz", **arrays(pixels=np.zeros((6, 3, 1024, 1024), np.uint8)))
    for limit, message in (("MAX_ARRAY", "the limit is 9,999"), ("memory", "this machine has 9,999 bytes of memory")):
        with monkeypatch.context() as patch:
            if limit == "memory":
                patch.setattr(store, "machine_memory", lambda: 9_999)
            else:
                patch.setattr(files, "MAX_ARRAY", 9_999)
            with pytest.raises(ValueError, match=rf"cifar10\.npz: pixels has 18,874,496 bytes, and {message}; take"):
                sources.load_images("cifar10", cache=tmp_path)


def test_images_that_compress_a_thousandfold_are_honest(tmp_path):
    white = np.full((6, 3, 512, 512), 255, np.uint8)
    np.savez_compressed(tmp_path / "cifar10.npz", **arrays(pixels=white, test_pixels=white[:3]))
    assert (tmp_path / "cifar10.npz").stat().st_size < white.nbytes / 500
    assert sources.load_images("cifar10", cache=tmp_path).pixels.min() == 255


def test_the_whole_of_imagenet_in_its_profiles_size_is_within_the_limits(monkeypatch):
    net = PROFILES["imagenet64"].teacher
    monkeypatch.setattr(store, "machine_memory", lambda: None)
    files.check_array_size("pixels", 1_281_167 * net.channels * net.size**2)


def test_the_limits_are_those_that_the_guide_names():
    guide = Path(files.__file__).resolve().parents[2] / "data" / "README.md"
    limits = guide.read_text(encoding="utf-8").split("## Limits")[1]
    for said in (f"{files.MAX_ARRAY // 2**30} GiB (", f"{files.MAX_PIXELS:,} pixels", f"{store.MAX_JSON // 2**20} MiB",
                 f"{store.MAX_DEPTH} levels", f"{store.MAX_TABLE // 2**30} GiB (1,000",
                 f"{fetch.MAX_MEMBER // 2**20} MiB", f"{fetch.PATIENCE // 3600} hours", f"{fetch.TIMEOUT:g} seconds"):
        assert said in limits


def test_the_largest_sweep_a_profile_allows_is_a_table_that_can_be_read():
    """A thousand seeds of every arm, as long as the published rows are."""
    published = Path(files.__file__).resolve().parents[2] / "data" / "results" / "digits" / "results.csv"
    table = tables.read_table(published)
    models = len(table[table.arm != "real"].groupby(["arm", "seed"]))
    largest = published.stat().st_size / models * len(ARMS) * 1000
    assert 2 * largest < store.MAX_TABLE


def test_class_names_travel_with_the_images(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays(names=np.array(["Katze", "chien", "lièvre"])))
    images = sources.load_images("cifar10", cache=tmp_path)
    assert images.names == ("Katze", "chien", "lièvre") and images.class_name(torch.tensor(2)) == "lièvre"
    mirrored = sources.load_images("cifar10_mirrored", cache=tmp_path)
    assert mirrored.names == mirrored.to("cpu").names == images.names
    files.save_images(images, tmp_path / "new" / "cifar100.npz")
    assert sources.load_images("cifar100", cache=tmp_path / "new").names == images.names
    np.savez(tmp_path / "cifar10.npz", **arrays())                             # as files were before they had names
    assert sources.load_images("cifar10", cache=tmp_path).names == ()
    assert sources.load_images("digits").class_name(7) == "7"


@pytest.mark.parametrize("names", [np.array(["a", "b"]), np.array(["a", "b", "a"]), np.array(["a", "b", ""]),
                                   np.arange(3), np.array([["a"], ["b"], ["c"]]), np.array(["a", "b", "\ud800"])])
def test_names_that_are_not_one_text_a_class_are_refused(tmp_path, names):
    np.savez(tmp_path / "cifar10.npz", **arrays(names=names))
    with pytest.raises(ValueError, match=r"cifar10\.npz: names must be"):
        sources.load_images("cifar10", cache=tmp_path)


def test_pickled_names_are_never_loaded(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays(names=np.array(["a", None, "c"], dtype=object)))
    with pytest.raises(ValueError, match="names holds Python objects"):
        sources.load_images("cifar10", cache=tmp_path)


def test_a_path_may_be_a_text(tmp_path):
    one = Run(PROFILES["smoke"], root=str(tmp_path / "runs"))
    assert one.folder("teacher", 42).parent == tmp_path / "runs" / "smoke"
    store.save_tensors(str(tmp_path / "x"), {"a": torch.ones(2)}, {"seed": 1})
    assert store.load_tensors(str(tmp_path / "x")).meta == {"seed": 1}
    assert len(store.checksum(str(tmp_path / "x"))) == 64
    store.write_json(str(tmp_path / "x"), {"seed": 2})
    assert store.read_json(str(tmp_path / "x")) == {"seed": 2}
    with locks.lock_folder(str(tmp_path / "run")) as token:
        assert locks.is_current(str(tmp_path / "run"), token) and locks.is_current(tmp_path / "run", token)
    locks.remove(str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    images = files.from_arrays(**arrays())
    files.save_images(images, str(tmp_path / "cifar10.npz"))
    assert torch.equal(sources.load_images("cifar10", cache=str(tmp_path)).pixels, images.pixels)


def test_lists_are_arrays_too_and_empty_images_are_refused():
    assert files.from_arrays(**{k: v.tolist() if "label" in k else v for k, v in arrays().items()}).num_classes == 3
    with pytest.raises(ValueError, match=r"must be non-empty uint8 \(N, C, H, W\), not uint8 \(6, 3, 0, 8\)"):
        files.from_arrays(**arrays(pixels=np.zeros((6, 3, 0, 8), np.uint8)))


def test_every_truncation_of_an_archive_is_one_clear_error(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cifar10\.npz is damaged"):
            sources.load_images("cifar10", cache=tmp_path)


def test_every_flipped_byte_of_an_archive_is_the_right_answer_or_one_clear_error(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays())
    whole, right, refused = path.read_bytes(), sources.load_images("cifar10", cache=tmp_path), 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            found = sources.load_images("cifar10", cache=tmp_path)
        except ValueError:
            refused += 1
        else:
            assert torch.equal(found.pixels, right.pixels) and torch.equal(found.labels, right.labels), at
    assert refused > 200


def test_an_entry_without_its_suffix_does_not_take_the_place_of_a_checked_one(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays())
    with zipfile.ZipFile(path, "a") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**13,)})
        archive.writestr("pixels", header.getvalue())
    assert sources.load_images("cifar10", cache=tmp_path).shape == (3, 8, 8)


@pytest.mark.parametrize("header", [b"(" * 300, b"{", b"'\n", b"  x\n y",
                                    b"{'descr': (1,), 'fortran_order': 1, 'shape': ()}"])
def test_a_header_that_is_no_header_is_one_clear_error(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "cifar10.npz", "w") as archive:
        archive.writestr("pixels.npy", b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"cifar10\.npz is damaged"):
        sources.load_images("cifar10", cache=tmp_path)


def test_wrong_arrays_in_a_file_name_the_file(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays(labels=np.arange(5)))
    with pytest.raises(ValueError, match=r"cifar10\.npz: training labels must be 6 integers"):
        sources.load_images("cifar10", cache=tmp_path)
