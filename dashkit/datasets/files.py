"""Images from arrays and folders, and as one .npz file."""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dashkit.method.images import Images
from dashkit.storage.store import write_bytes

MAX_RATIO = 50           # how far an .npz may be compressed, beyond its first MiB
MAX_PIXELS = 2**25       # of one image in a folder
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")      # not all of Pillow's: some call other programs


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
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


def save_images(images: Images, path: Path) -> None:
    """Write images as the .npz that `load` reads, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, pixels=images.pixels, labels=images.labels, test_pixels=images.test_pixels,
             test_labels=images.test_labels)
    write_bytes(path, buffer.getvalue())
