import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dashkit.datasets import carry, fetch, files, sources
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import Run
from dashkit.method.arms import ARMS
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


def test_mirrored_images_follow_the_plain_ones(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays())
    plain, both = (sources.load_images(name, cache=tmp_path) for name in ("cifar10", "cifar10_mirrored"))
    n = len(plain.pixels)
    assert torch.equal(both.pixels[:n], plain.pixels) and torch.equal(both.pixels[n:, ..., 0], plain.pixels[..., -1])
    assert torch.equal(both.labels[n:], plain.labels) and torch.equal(both.test_pixels, plain.test_pixels)


def test_unknown_and_missing_sets_are_explained(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'mnist'; choose from digits, "):
        sources.load_images("mnist")
    with pytest.raises(FileNotFoundError, match=r"cifar100\.npz is not there"):
        sources.load_images("cifar100", cache=tmp_path)


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
                 f"{fetch.MAX_MEMBER // 2**20} MiB", f"packed | {carry.MAX_FILE // 2**30} GiB",
                 f"{fetch.PATIENCE // 3600} hours", f"{fetch.TIMEOUT:g} seconds"):
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


@pytest.mark.parametrize(("name", "advice"), [
    ("names", "texts: np.array(names, dtype=str)"), ("labels", "integers: np.array(labels, dtype=np.int64)"),
    ("test_labels", "integers: np.array(test_labels, dtype=np.int64)"),
    ("pixels", "bytes: np.stack(pixels).astype(np.uint8), once all images have one size"),
    ("test_pixels", "bytes: np.stack(test_pixels).astype(np.uint8), once all images have one size"),
])  # fmt: skip
def test_pickled_arrays_are_never_loaded_and_the_message_says_how_to_save_them(tmp_path, name, advice):
    good = arrays(names=np.array(["a", "b", "c"]))
    bad = np.empty(len(good[name]), dtype=object)
    bad[:] = list(good[name])
    np.savez(tmp_path / "cifar10.npz", **good | {name: bad})
    with pytest.raises(ValueError, match=re.escape(f"({name} holds Python objects, which are never opened; save it as "
                                                   f"{advice})")):
        sources.load_images("cifar10", cache=tmp_path)
    saved = eval(advice.partition(": ")[2].partition(", once")[0], {"np": np, name: bad})      # it must work
    np.savez(tmp_path / "cifar10.npz", **good | {name: saved})
    assert sources.load_images("cifar10", cache=tmp_path).names == ("a", "b", "c")


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


ORDERS = {"(N, H, W, C)": ((0, 2, 3, 1), "pixels.transpose(0, 3, 1, 2)"),
          "(H, W, C, N)": ((2, 3, 1, 0), "pixels.transpose(3, 2, 0, 1)")}


@pytest.mark.parametrize("part", ["training", "test"])
@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 1, 28, 28), (6, 4, 16, 16), (6, 3, 24, 32)])
@pytest.mark.parametrize("order", ORDERS)
def test_channels_in_another_place_are_refused_with_what_to_type(tmp_path, order, shape, part):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    good = arrays(pixels=pixels, test_pixels=pixels[:3])
    axes, way = ORDERS[order]
    name = "pixels" if part == "training" else "test_pixels"
    wrong = np.ascontiguousarray(good[name].transpose(axes))
    np.savez(tmp_path / "cifar10.npz", **good | {name: wrong})
    with pytest.raises(ValueError, match=re.escape(f"{part} pixels must be (N, C, H, W), and {wrong.shape} looks like "
                                                   f"{order}; type {way}")):
        sources.load_images("cifar10", cache=tmp_path)
    mended = eval(way, {"pixels": wrong})                                                      # it must work
    assert torch.equal(files.from_arrays(**good | {name: mended}).pixels, torch.from_numpy(pixels))


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (6, 1, 4, 4), (6, 16, 4, 4), (6, 4, 8, 8), (6, 3, 8, 1), (6, 2, 5, 3)])
def test_images_that_can_be_in_order_are_taken_as_they_are(shape):
    pixels = np.zeros(shape, np.uint8)
    assert files.from_arrays(**arrays(pixels=pixels, test_pixels=pixels[:3])).shape == shape[1:]


@pytest.mark.parametrize(("change", "message"), [
    ({"pixels": np.zeros((6, 28, 28), np.uint8)}, r"grey images get their channel by pixels\[:, None\]"),
    ({"pixels": np.zeros((6, 3, 8, 8), np.float32)}, r"scale them to 0 \.\. 255, then type pixels\.round\(\)"),
    ({"pixels": None}, r"training pixels must be non-empty uint8 \(N, C, H, W\), not object \(\)"),
    ({"pixels": [[1, 2], [3]]}, "training pixels cannot be read as one array"),
    ({"test_labels": [[0], [1, 2]]}, "test labels cannot be read as one array"),
    ({"labels": None}, "training labels must be 6 integers from 0, not object"),
    ({"names": None}, "names must be 3 different texts"), ({"names": 5}, "names must be 3 different texts"),
    ({"names": {"a", "b", "c"}}, "names must be 3 different texts"), ({"names": "cat"}, "names must be 3 different"),
    ({"names": np.array([b"a", b"b", b"c"])}, r"not \|S1 \(3,\); type np\.array\(names, dtype=str\)"),
    ({"test_labels": [0, 1, 7]}, "same classes, but only test images have label 7"),
    ({"names": [["a"], ["b", "c"]]}, "names cannot be read as one array"),
])  # fmt: skip
def test_arrays_of_another_kind_are_refused_with_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        files.from_arrays(**arrays(**change))


def test_a_file_that_lacks_an_array_says_which_and_what_it_has(tmp_path):
    for given, message in (((arrays()["pixels"],), r"it lacks pixels, and has arr_0\)"), ((), "and has nothing")):
        np.savez(tmp_path / "cifar10.npz", *given)
        with pytest.raises(ValueError, match=message):
            sources.load_images("cifar10", cache=tmp_path)


def test_lists_are_arrays_too_and_empty_images_are_refused():
    assert files.from_arrays(**{k: v.tolist() if "label" in k else v for k, v in arrays().items()}).num_classes == 3
    with pytest.raises(ValueError, match=r"must be non-empty uint8 \(N, C, H, W\), not uint8 \(6, 3, 0, 8\)"):
        files.from_arrays(**arrays(pixels=np.zeros((6, 3, 0, 8), np.uint8)))
