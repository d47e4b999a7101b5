"""Look at pictures of a user's before anything is read whole: how many, how large, which classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dashkit.datasets import files

LARGEST = 64             # what is proposed for pictures of any size; larger networks need a larger machine
MOST_OPENED = 20_000     # headers of files


class Look(NamedTuple):
    """What pictures there are."""

    names: tuple[str, ...]     # of the classes
    counts: tuple[int, ...]    # of each class, the held-out part too
    height: int                # of the smallest picture in a folder; of all in an .npz
    width: int
    channels: int              # 1 if any picture is grey
    grey: int                  # how many are
    latent: bool               # floats: latents, and no pictures
    exact: bool                # an .npz: its size cannot be changed

    @property
    def num_classes(self) -> int:
        return len(self.names)


def look(path: Path | str) -> Look:
    """What a folder of pictures, or an .npz, holds; ValueError or FileNotFoundError in one sentence if it is none.

    Of a folder the headers of files are read, and no pixels.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() == ".npz":
        return _at_npz(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}; pictures are a folder with one subfolder a class, or an "
                                ".npz")
    parts = [files._classes(path, place, fewest) for place, fewest in files._parts(path)]
    return _at_folder(path, parts)


def _at_npz(path: Path) -> Look:
    images = files.from_npz(path)
    counts = np.bincount(np.concatenate([images.labels.numpy(), images.test_labels.numpy()]), minlength=1)
    channels, height, width = images.shape
    grey = len(images.labels) + len(images.test_labels) if channels == 1 else 0
    names = images.names or tuple(map(str, range(images.num_classes)))
    return Look(names, tuple(counts.tolist()), height, width, channels, grey, images.latent, True)


def _at_folder(path: Path, parts: list[Mapping[str, list[Path]]]) -> Look:
    names = tuple(parts[0])
    counts = tuple(sum(len(part.get(name, ())) for part in parts) for name in names)
    found = [f for part in parts for paths in part.values() for f in paths]
    if len(found) > MOST_OPENED:
        found = [found[i] for i in np.random.default_rng(0).choice(len(found), MOST_OPENED, replace=False)]
    height = width = files.MAX_PIXELS
    grey = 0
    for file in found:
        try:
            with Image.open(file, formats=files.FORMATS) as image:
                size, mode = image.size, image.mode
        except Exception:                        # reading them all says what is wrong, and with which of them
            continue
        if min(size) < min(width, height):
            width, height = size
        grey += mode in ("1", "L", "LA", "La")
    if height == files.MAX_PIXELS:
        raise ValueError(f"{path} holds no picture that can be read")
    return Look(names, counts, height, width, 1 if grey else 3, grey, False, False)


def check_classes(found: Look, path: object) -> None:
    """Raise ValueError unless the pictures of `path` have two classes or more."""
    if found.num_classes < 2:
        raise ValueError(f"{path} has one class ({found.names[0]}): guidance is the difference that a class makes, so "
                         "there must be two or more subfolders")


def check_pictures(found: Look, size: int, channels: int, path: object) -> None:
    """Raise ValueError unless the pictures of `path` have this size, or can be cut and reduced to it, and the channels:
    colour where there are three, latents where there are others."""
    if channels not in (1, 3) and not found.exact:
        raise ValueError(f"the teacher takes {channels} channels, so it is a latent model, and {path} holds pictures; "
                         "give their latents as an .npz: the encoder's output times its scaling_factor, in float32")
    if found.exact and found.channels != channels:
        raise ValueError(f"the teacher takes {channels} channels, and {path} has {found.channels}; give arrays "
                         f"(N, {channels}, H, W)")
    sides = {found.height, found.width}
    if (found.exact and sides != {size}) or min(sides) < size:
        raise ValueError(f"the teacher takes pictures of {size} x {size}, and {path} has {found.height} x "
                         f"{found.width}; give pictures of that size, or larger ones in a folder")
    if found.channels < channels:
        raise ValueError(f"the teacher takes {channels} channels, and {found.grey:,} of the pictures in {path} are "
                         "grey; convert them to colour")


def levels(size: int) -> tuple[int, ...]:
    """The width of each level as a multiple of the first, for pictures of this size; a level halves the picture.

    >>> levels(8), levels(28), levels(32)
    ((1, 2), (1, 2, 2), (1, 2, 2, 2))
    """
    wanted = 2 if size < 12 else 3 if size < 24 else 4
    while wanted > 1 and size % 2 ** (wanted - 1):
        wanted -= 1
    return (1, 2, 2, 2)[:wanted]


def proposed_size(height: int, width: int) -> int:
    """The largest size up to `LARGEST` that fits into a picture and can be halved as often as networks want to.

    >>> proposed_size(7, 9), proposed_size(33, 40), proposed_size(28, 28), proposed_size(500, 375)
    (6, 32, 28, 64)
    """
    side = min(height, width, LARGEST)
    unit = 8 if side >= 32 else 4 if side >= 12 else 2
    return max(side // unit * unit, min(side, 2))
