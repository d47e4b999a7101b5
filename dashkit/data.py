"""Labelled images, kept in memory as uint8.  Layer 0."""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dashkit.runs import write_bytes

DATASETS = ("digits", "digits_validation", "fashion_mnist", "cifar10", "cifar10_mirrored", "cifar16",
            "cifar16_mirrored", "cifar100", "imagenet64")
HELD_OUT, VALIDATION = 500, 300
MAX_RATIO = 50           # how far an .npz may be compressed, beyond its first MiB
MAX_PIXELS = 2**25       # of one image in a folder
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")      # not all of Pillow's: some call other programs


@dataclass(frozen=True)
class Images:
    """A labelled image set with a held-out part; uint8 pixels (N, C, H, W), labels (N,)."""

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor

    def __post_init__(self) -> None:
        for pixels, labels in ((self.pixels, self.labels), (self.test_pixels, self.test_labels)):
            if pixels.dtype != torch.uint8 or labels.dtype != torch.int64 or int(labels.min()) < 0:
                raise ValueError(f"pixels must be uint8 and labels int64 from 0, not {pixels.dtype} and {labels.dtype}")

    @property
    def num_classes(self) -> int:
        return int(max(self.labels.max(), self.test_labels.max())) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    @property
    def x0(self) -> Tensor:
        """The training images in [-1, 1], float32 (N, C, H, W)."""
        return to_float(self.pixels)

    @property
    def test_x0(self) -> Tensor:
        """The held-out images in [-1, 1], float32 (M, C, H, W)."""
        return to_float(self.test_pixels)

    def to(self, device: torch.device | str) -> "Images":
        return Images(*(v.to(device) for v in (self.pixels, self.labels, self.test_pixels, self.test_labels)))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0 .. 255 to float32 -1 .. 1; ValueError for any other type."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, not {pixels.dtype}: they may have been scaled before")
    return pixels.float() / 127.5 - 1


def check_images(x: Tensor) -> None:
    """Raise ValueError unless images x (B, ...) are floats inside [-1, 1]."""
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
    if not x.is_floating_point() or not -1 <= low <= high <= 1:
        raise ValueError(f"images must be floats in [-1, 1], not {x.dtype} in [{low:g}, {high:g}]; see data.to_float")


def to_uint8(x: Tensor) -> Tensor:
    """float -1 .. 1 to the nearest uint8 0 .. 255; values outside are clamped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def source(name: str, cache: Path) -> Path | None:
    """The file that a data set is read from; None for the digits, which scikit-learn ships."""
    return None if name.startswith("digits") else cache / f"{name.removesuffix('_mirrored')}.npz"


def load(name: str, *, cache: Path = Path("data/cache")) -> Images:
    """The data set called `name`.

    `digits` are the 1,797 8x8 digits inside scikit-learn, 500 of them held out by a fixed stratified split;
    `digits_validation` are the training images of that split, 300 of them held out, for choosing settings.
    `cifar16` is CIFAR-10 at half size, each pixel the mean of 2x2; `cifar10_mirrored` and `cifar16_mirrored` have the
    training images and their mirror images.  Every other set is read from `cache`/NAME.npz, with the arrays `pixels`
    and `test_pixels`, uint8 (N, C, H, W), and `labels` and `test_labels`, integers (N,).  ValueError for an unknown
    name, FileNotFoundError if there is no file.
    """
    if name == "digits":
        return _digits()
    if name == "digits_validation":
        return _split(_digits().pixels.numpy(), _digits().labels.numpy(), VALIDATION)
    if name.endswith("_mirrored") and name in DATASETS:
        plain = load(name.removesuffix("_mirrored"), cache=cache)
        return replace(plain, pixels=torch.cat([plain.pixels, plain.pixels.flip(3)]), labels=plain.labels.repeat(2))
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    path = source(name, cache)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: dashkit fetch {name}. Or make it from a folder or from arrays of your own "
            "(see data/README.md); the profiles smoke and digits need no file."
        )
    arrays = _read_npz(path, ("pixels", "labels", "test_pixels", "test_labels"))
    try:
        return from_arrays(*arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The named arrays of an .npz; every header is held against its entry's size before anything is allocated."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                entry = archive.getinfo(f"{name}.npy")
                if entry.file_size > 2**20 + MAX_RATIO * entry.compress_size:
                    raise ValueError(f"{name} would grow from {entry.compress_size:,} to {entry.file_size:,} bytes")
                with archive.open(entry) as file:          # its name in full: np.load would prefer one without .npy
                    version = np.lib.format.read_magic(file)
                    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
                        np.lib.format.read_array_header_2_0)
                    shape, _, kind = header(file)
                    if kind.hasobject or math.prod(shape) * kind.itemsize != entry.file_size - file.tell():
                        raise ValueError(f"{name} says {kind} {shape}, which its {entry.file_size:,} bytes are not")
                with archive.open(entry) as file:
                    found.append(np.lib.format.read_array(file, allow_pickle=False))
        return found
    except (LookupError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ArithmeticError,
            TypeError, AttributeError, SyntaxError, tokenize.TokenError) as error:      # numpy's header is Python
        raise ValueError(f"{path} is damaged or not what data/README.md asks for ({error})") from error


def from_arrays(pixels: np.ndarray, labels: np.ndarray, test_pixels: np.ndarray, test_labels: np.ndarray) -> Images:
    """Check and wrap arrays of your own; ValueError says what is wrong with them."""
    for part, p, y in (("training", pixels, labels), ("test", test_pixels, test_labels)):
        if p.ndim != 4 or p.dtype != np.uint8 or len(p) == 0:
            raise ValueError(f"{part} pixels must be non-empty uint8 (N, C, H, W), not {p.dtype} {p.shape}")
        if y.shape != (len(p),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise ValueError(f"{part} labels must be {len(p)} integers from 0, not {y.dtype} {y.shape}")
    there = np.zeros(len(labels) + 1, dtype=bool)          # not labels.max(): a stray label may be huge
    there[labels[labels < len(labels)]] = True
    if (gap := there.argmin()) <= labels.max():
        raise ValueError(f"no training image has label {gap}")
    if pixels.shape[1:] != test_pixels.shape[1:] or test_labels.max() > labels.max():
        raise ValueError("training and test images must have the same shape and the same classes")
    return Images(*(torch.from_numpy(np.ascontiguousarray(a)) for a in
                    (pixels, labels.astype(np.int64), test_pixels, test_labels.astype(np.int64))))


def from_folder(folder: Path, *, size: int, channels: int = 3, held_out: float = 0.1) -> Images:
    """Images of your own: one subfolder a class, in the order of their names; a fixed share of each is held out.

    Each image is cropped to its central square and reduced to `size` pixels.  ValueError for a class with fewer than
    two images and for a file that cannot be read, is smaller than `size`, is grey of more than 8 bits, or is grey where
    `channels` is 3.
    """
    classes = sorted(p for p in Path(folder).iterdir() if p.is_dir())
    if not classes:
        raise ValueError(f"{folder} has no subfolder; it needs one for each class")
    if not 0 < held_out < 1 or channels not in (1, 3):
        raise ValueError(f"held_out must be in (0, 1) and channels 1 or 3, not {held_out!r} and {channels!r}")
    train, test = [], []
    for label, place in enumerate(classes):
        files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith("."))
        if len(files) < 2:
            raise ValueError(f"class {place.name} has {len(files)} images; it needs two: to learn and to test")
        found = [(_read_image(file, size, channels), label) for file in files]
        n = max(1, round(held_out * len(found)))
        shuffled = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
        test += shuffled[:n]
        train += shuffled[n:]
    arrays = (np.stack([p for p, _ in part]) if i == 0 else np.array([y for _, y in part])
              for part in (train, test) for i in (0, 1))
    return from_arrays(*arrays)


def _read_image(file: Path, size: int, channels: int) -> np.ndarray:
    """One image (channels, size, size), uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{file} has {image.width} x {image.height} pixels; make it smaller")
            if image.mode.startswith(("I", "F")):            # convert would clip them to 255
                raise ValueError(f"{file} has more than 8 bits ({image.mode}); save it with 8 bits a channel")
            if channels == 3 and image.mode in ("1", "L", "LA"):
                raise ValueError(f"{file} is grey ({image.mode}); convert it, or use channels=1")
            picture = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
    except Exception as error:                   # decoders fail in every way there is
        raise ValueError(f"{file} cannot be read as an image ({error})") from error
    if min(picture.size) < size:
        raise ValueError(f"{file} has {picture.width} x {picture.height} pixels, fewer than {size} x {size}")
    pixels = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BOX))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def save(images: Images, path: Path) -> None:
    """Write images as the .npz that `load` reads, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, pixels=images.pixels, labels=images.labels, test_pixels=images.test_pixels,
             test_labels=images.test_labels)
    write_bytes(path, buffer.getvalue())


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
    return from_arrays(pixels[train], labels[train], pixels[test], labels[test])


def minibatches(images: Images, batch: int, *, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (x0 (B, C, H, W), y (B,)) drawn with replacement; all state is in `generator`, so a run can resume."""
    while True:
        i = torch.randint(len(images.pixels), (batch,), generator=generator, device=generator.device)
        i = i.to(images.pixels.device)
        yield to_float(images.pixels[i]), images.labels[i]
