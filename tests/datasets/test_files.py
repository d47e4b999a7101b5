import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from dashkit.datasets import files, sources
from dashkit.storage import store


def arrays(n=6, **changes):
    rng = np.random.default_rng(0)
    good = {"pixels": rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), "labels": np.arange(n) % 3,
            "test_pixels": rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8), "test_labels": np.arange(3)}
    return good | changes


def test_your_own_arrays_load(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays())
    images = sources.load_images("cifar10", cache=tmp_path)
    assert images.shape == (3, 8, 8) and images.num_classes == 3


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
