"""The data sets, by name."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dashkit import environment
from dashkit.datasets import files
from dashkit.method.images import Images
from dashkit.storage import paths, store

DATASETS = ("digits", "digits_validation", "fashion_mnist", "cifar10", "cifar10_mirrored", "cifar16",
            "cifar16_mirrored", "cifar100", "imagenet64")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HELD_OUT, VALIDATION = 500, 300
SAMPLES = {"cifar16": "69ff0ae5fc4f4eaaf96f5bb6ee194435d55e669b0acbae62c67ea0e9e849c60c"}
"""Sets of which a few images come with the kit, and the SHA-256 of their whole file."""


def is_own(name: str) -> bool:
    """Whether a data set is no known one by name but the path of pictures."""
    return name not in DATASETS and (os.sep in name or "/" in name)


def load_own(path: str, *, size: int, channels: int) -> Images:
    """Pictures of a user's: a folder with a subfolder a class, reduced to `size`; or an .npz, which has its size.

    The held-out pictures come in an order in which the first few of them have every class in its share.
    ValueError, or FileNotFoundError, in one sentence.
    """
    own = Path(path).suffix.lower() == ".npz"
    images = files.from_npz(path) if own else files.from_folder(path, size=size, channels=channels)
    order = _mixed(images.test_labels)
    return replace(images, test_pixels=images.test_pixels[order], test_labels=images.test_labels[order])


def _mixed(labels: Tensor) -> Tensor:
    """An order (N,) of labels (N,) that spreads each class evenly, at random within the class; always the same."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    place = torch.empty(len(labels), dtype=torch.float64)
    for k in labels.unique():
        of_class = order[labels[order] == k]
        place[of_class] = (torch.arange(len(of_class), dtype=torch.float64) + 0.5) / len(of_class)
    return place.argsort(stable=True)


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the names and the content of all files in it."""
    if path.is_file():
        return store.sha256(path)
    digest, seen = hashlib.sha256(), set()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not files.is_left_behind(p)):
        own = store.sha256(file)
        digest.update(f"\0{file.relative_to(path).as_posix()}\0{own}".encode(errors="surrogateescape"))
        if (file.parent, own) in seen:
            digest.update(b"\0a copy")           # held out with its original, which was not always so
        seen.add((file.parent, own))
    return digest.hexdigest()


def source_file(name: str, cache: Path) -> Path | None:
    """The file, or folder, that a data set is read from; None for the digits, which scikit-learn ships."""
    if is_own(name):
        return Path(name)
    return None if name.startswith("digits") else Path(cache) / f"{name.removesuffix('_mirrored')}.npz"


def sample_file(name: str) -> Path | None:
    """The file of those images of a data set that come with the kit, or None if none do."""
    plain = name.removesuffix("_mirrored")
    if is_own(name):
        return None
    path = paths.ROOT / "data" / "pretrained" / plain / "sample.npz"
    return path if plain in SAMPLES and path.is_file() else None


def load_images(name: str, *, cache: Path | str = Path("data/cache")) -> Images:
    """The data set called `name`.

    `digits` are the 1,797 8x8 digits inside scikit-learn, 500 of them held out by a fixed stratified split;
    `digits_validation` are the training images of that split, 300 of them held out, for choosing settings.
    `cifar16` is CIFAR-10 at half size, each pixel the mean of 2x2; `cifar10_mirrored` and `cifar16_mirrored` have the
    training images and their mirror images; where its file is missing, `sample_file` stands in for it, enough to look
    at networks and not to train them.  Every other set is read from `cache`/NAME.npz, with the arrays `pixels` and
    `test_pixels`, uint8 (N, C, H, W), `labels` and `test_labels`, integers (N,), and, if its classes have names,
    `names`, texts (K,).  ValueError for an unknown name, FileNotFoundError if there is no file.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise ValueError(f"unknown data set {name!r:.80}; choose from {', '.join(DATASETS)}")
    cache = paths.as_path(cache, "cache")
    if name == "digits":
        return _digits()
    if name == "digits_validation":
        return _split(_digits().pixels.numpy(), _digits().labels.numpy(), VALIDATION)
    if name.endswith("_mirrored"):
        plain = load_images(name.removesuffix("_mirrored"), cache=cache)
        return replace(plain, pixels=torch.cat([plain.pixels, plain.pixels.flip(3)]), labels=plain.labels.repeat(2))
    path = source_file(name, cache)
    if not path.is_file():
        path = sample_file(name) or path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; type: {environment.kit(f'fetch {name}')}. Or make it from a folder or from "
            "arrays of your own (see data/README.md); the profiles smoke and digits need no file."
        )
    arrays = files.read_npz(path, ("pixels", "labels", "test_pixels", "test_labels"))
    names = np.array(CIFAR10 if name == "cifar16" else (), dtype=str)      # the file of cifar16 holds none
    if files.holds(path, "names"):
        names, = files.read_npz(path, ("names",))
    try:
        return files.from_arrays(*arrays, names=names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def halved(pixels: np.ndarray) -> np.ndarray:
    """uint8 images (N, C, H, W) at half size, each pixel the mean of 2x2, rounded half up.

    >>> halved(np.array([[[[0, 1], [2, 3]]]], dtype=np.uint8)).tolist()
    [[[[2]]]]
    """
    n, c, h, w = pixels.shape
    sums = pixels.reshape(n, c, h // 2, 2, w // 2, 2).sum((3, 5), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)[:, None]        # (1797, 1, 8, 8), 17 grey levels
    return _split(pixels, bunch.target, HELD_OUT)


def _split(pixels: np.ndarray, labels: np.ndarray, held_out: int) -> Images:
    """A fixed stratified split."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(pixels)), test_size=held_out, stratify=labels, random_state=0)
    return files.from_arrays(pixels[train], labels[train], pixels[test], labels[test])
