"""Images from arrays and folders, and as one .npz file."""

import hashlib
import math
import operator
import tokenize
import unicodedata
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dashkit.method.images import Images
from dashkit.storage import store
from dashkit.storage.paths import as_path

MAX_ARRAY = 2**36        # bytes of one array of an .npz; ImageNet-64 has a quarter of that
MAX_PIXELS = 2**27       # of one image in a folder; the largest cameras take 102 million
FEW_PIXELS = 200         # pictures among whose pixels it is looked for levels of grey
MOST_LEVELS = 256        # that a byte has: of pictures whose mean and deviation were made 0 and 1, too
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")      # not all of Pillow's: some call other programs
SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".ppm",
            ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".jp2")       # names that promise an image
LEFT_BEHIND = ("__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r",
               "picasa.ini", "thumbs.db:encryptable", "zbthumbnail.info", "pspbrwse.jbf",
               "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler",
               "system volume information", "lost+found", "network trash folder", "temporary items", "cvs")
"""Names, in lower case, of what operating systems, file servers and editors leave in folders; hidden files besides."""
TRAINING = ("train", "training")
HELD_OUT_PARTS = ("test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev", "held_out", "holdout")
"""Names, in any case, of the two parts that a folder of images may be divided into."""
MOST_NAMED = 100         # files in one message
OTHER_ORDERS = {"(N, H, W, C)": (0, 3, 1, 2), "(H, W, C, N)": (3, 2, 0, 1)}     # and how they are put in our order


class _TooLarge(ValueError):
    """An array that this machine, or no machine, should hold; the message says what to do."""


def holds(path: Path, name: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        return f"{name}.npy" in archive.namelist()


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The named arrays of an .npz; every header is held against its entry's size before anything is allocated."""
    path, found = as_path(path, "the .npz"), []
    try:
        with zipfile.ZipFile(path) as archive:
            there = [n.removesuffix(".npy") for n in archive.namelist()]
            for name in names:
                if name not in there:
                    raise ValueError(f"it lacks {name}, and has {_shortened(there)}")
                entry = archive.getinfo(f"{name}.npy")
                check_array_size(name, entry.file_size)
                with archive.open(entry) as file:          # its name in full: np.load would prefer one without .npy
                    version = np.lib.format.read_magic(file)
                    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
                        np.lib.format.read_array_header_2_0)
                    shape, _, kind = header(file)
                    if kind.hasobject:
                        raise ValueError(f"{name} holds Python objects, which are never opened; {_saved_as(name)}")
                    if math.prod(shape) * kind.itemsize != entry.file_size - file.tell():
                        raise ValueError(f"{name} says {kind} {shape}, which its {entry.file_size:,} bytes are not")
                with archive.open(entry) as file:
                    found.append(np.lib.format.read_array(file, allow_pickle=False))
        return found
    except _TooLarge as error:
        raise ValueError(f"{path}: {error}") from error
    except (LookupError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ArithmeticError,
            TypeError, AttributeError, SyntaxError, tokenize.TokenError) as error:      # numpy's header is Python
        raise ValueError(f"{path} is damaged or not what data/README.md asks for ({error})") from error


def _saved_as(name: str) -> str:
    """What to do with an array that holds Python objects, by its name in an .npz."""
    kind = {"names": f"texts: np.array({name}, dtype=str)", "labels": f"integers: np.array({name}, dtype=np.int64)",
            "pixels": f"bytes: np.stack({name}).astype(np.uint8), once all images have one size"}
    return f"save it as {kind.get(name.removeprefix('test_'), 'numbers or texts')}"


def check_array_size(name: str, size: int) -> None:
    """Raise ValueError if an array of `size` bytes is over MAX_ARRAY, or over the memory of this machine.

    A small archive may hold an enormous array: it is refused before a byte of it is unpacked.
    """
    memory = store.machine_memory() or MAX_ARRAY
    if size > min(MAX_ARRAY, memory):
        why = f"the limit is {MAX_ARRAY:,}" if size > MAX_ARRAY else f"this machine has {memory:,} bytes of memory"
        raise _TooLarge(f"{name} has {size:,} bytes, and {why}; take fewer or smaller images")


def from_arrays(pixels: np.ndarray, labels: np.ndarray, test_pixels: np.ndarray, test_labels: np.ndarray, *,
                names: Sequence[str] = (), latent: bool = False) -> Images:
    """Check and wrap arrays of your own: pixels uint8 (N, C, H, W), labels integers from 0 (N,), names of the classes.

    ValueError says what is wrong with them.  Pixels whose channels come last are recognised by their shape, and refused
    with what to type; (N, 3, 3, 3) could be either, and is taken as (N, C, H, W).  With `latent` they are floats, as
    the encoder of a latent diffusion model gives them to the network.
    """
    given = {"training pixels": pixels, "training labels": labels, "test pixels": test_pixels,
             "test labels": test_labels}
    pixels, labels, test_pixels, test_labels = (_array(name, value) for name, value in given.items())
    for part, p, y in (("training", pixels, labels), ("test", test_pixels, test_labels)):
        if p.ndim != 4 or p.dtype not in ((np.float16, np.float32) if latent else (np.uint8,)) or 0 in p.shape:
            kind, advice = ("float32", "") if latent else ("uint8", _advice(p))
            raise ValueError(f"{part} pixels must be non-empty {kind} (N, C, H, W), not {p.dtype} {p.shape}{advice}")
        if latent and (why := _no_latents(p)):
            raise ValueError(f"{part} pixels are floats, which are latents, but {why}; pictures that were scaled "
                             "belong into uint8, 0 to 255")
        if other := _other_order(p.shape, y.shape):
            raise ValueError(f"{part} pixels must be (N, C, H, W), and {p.shape} looks like {other}; type "
                             f"pixels.transpose{OTHER_ORDERS[other]}")
        if y.shape != (len(p),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise ValueError(f"{part} labels must be {len(p)} integers from 0, not {y.dtype} {y.shape}")
    there = np.zeros(len(labels) + 1, dtype=bool)          # not labels.max(): a stray label may be huge
    there[labels[labels < len(labels)]] = True
    if (gap := there.argmin()) <= labels.max():
        raise ValueError(f"no training image has label {gap}")
    if pixels.shape[1:] != test_pixels.shape[1:]:
        raise ValueError(f"training and test images must have the same shape, not {pixels.shape[1:]} and "
                         f"{test_pixels.shape[1:]}")
    if test_labels.max() > labels.max():
        raise ValueError(f"training and test images must have the same classes, but only test images have label "
                         f"{test_labels.max()}")
    if latent:
        pixels, test_pixels = pixels.astype(np.float32), test_pixels.astype(np.float32)
    return Images(*(torch.from_numpy(np.ascontiguousarray(a)) for a in
                    (pixels, labels.astype(np.int64), test_pixels, test_labels.astype(np.int64))),
                  _class_names(names, int(labels.max()) + 1), latent)


def _array(name: str, value: object) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:     # lists of several lengths, a tensor on a GPU
        raise ValueError(f"{name} cannot be read as one array ({_said(error)})") from error


def _no_latents(pixels: np.ndarray) -> str:
    """Why floats are no latents but pictures that were scaled, or no numbers; nothing if they may be latents."""
    if not np.isfinite(pixels).all():
        return "some are no numbers"
    if np.abs(pixels).max() <= 1:
        return "none is above 1"
    if pixels.min() >= 0:
        return "none is negative"
    some = np.moveaxis(pixels[:FEW_PIXELS], 1, 0)
    if (some == some.round()).all():
        return "all are whole numbers"
    if some[0].size > 2 * MOST_LEVELS and all(len(np.unique(channel)) <= MOST_LEVELS for channel in some):
        return f"no channel has more than {MOST_LEVELS} different values, as in pictures"
    return ""


def _advice(pixels: np.ndarray) -> str:
    """What makes an array of images uint8 (N, C, H, W), if its shape or type says so; else nothing."""
    if pixels.ndim == 3 and pixels.dtype == np.uint8:
        return "; grey images get their channel by pixels[:, None]"
    if pixels.ndim == 4 and np.issubdtype(pixels.dtype, np.floating):
        return "; scale them to 0 .. 255, then type pixels.round().astype(np.uint8)"
    return ""


def _other_order(shape: tuple[int, ...], labels: tuple[int, ...]) -> str:
    """The order of axes that images (N, C, H, W) of this shape seem to have instead; nothing if they seem in order."""
    first, second, third, last = shape
    if third in (1, 3, 4) and (last,) == labels != (first,):
        return "(H, W, C, N)"
    return "(N, H, W, C)" if last in (1, 3, 4) and second > 4 and third != last else ""


def _class_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The names of `count` classes, or () for none; ValueError unless they are as many different texts."""
    found = _array("names", names)
    if not found.size:
        return ()
    if found.dtype.kind != "U" or found.shape != (count,) or len(set(found.tolist())) < count or "" in found:
        raise ValueError(f"names must be {count} different texts, one for each class, not {found.dtype} {found.shape}"
                         + ("; type np.array(names, dtype=str)" if found.dtype.kind == "S" else ""))
    try:
        "".join(found.tolist()).encode()
    except UnicodeError as error:
        raise ValueError(f"names must be texts ({error})") from error
    return tuple(found.tolist())


def from_folder(folder: Path | str, *, size: int, channels: int = 3, held_out: float = 0.1) -> Images:
    """Images of your own: one subfolder a class, in the order of their names, which the classes keep.

    The folder may have two parts, such as train/ and test/, with the same classes in both; else a fixed share
    `held_out` of each class is held out, at least one image, and equal images together.  Each image is turned as its
    camera says, laid on white where it is transparent, cropped to its central square and reduced to `size` pixels; of
    an animation the first picture counts.  What operating systems leave in folders is skipped (`LEFT_BEHIND`, hidden
    files).

    ValueError names, all at once, the images outside a class, the folders inside one, the classes with too few images,
    and the files that are no image, are damaged, are smaller than `size`, have more than 8 bits a channel or
    MAX_PIXELS pixels, or are grey where `channels` is 3.
    """
    folder, size, channels = as_path(folder, "folder"), _whole("size", size), _whole("channels", channels)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    held_out = _share("held_out", held_out)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}")
    parts = [_classes(folder, place, fewest) for place, fewest in _parts(folder)]
    names = list(parts[0])
    if len(parts) > 1 and (other := sorted(parts[0].keys() ^ parts[1].keys())):
        where = "; ".join(f"{n}, which is in only one" for n in other[:MOST_NAMED])
        raise ValueError(f"{folder}: both parts need the same classes, but there is {where}")
    pixels = _read_images(folder, [f for part in parts for files in part.values() for f in files], size, channels)
    train, test = [], []
    for label, name in enumerate(names):
        files = [part[name] for part in parts]
        if len(parts) == 1:
            halves = _halves([pixels[f] for f in files[0]], held_out)
            files = [[files[0][i] for i in half] for half in halves]
        train += [(pixels[f], label) for f in files[0]]
        test += [(pixels[f], label) for f in files[1]]
    arrays = (np.stack([p for p, _ in part]) if i == 0 else np.array([y for _, y in part])
              for part in (train, test) for i in (0, 1))
    return from_arrays(*arrays, names=names)


def _halves(pictures: Sequence[np.ndarray], held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Which images of a class are learned from, and which are held out: a fixed share, at least one.

    Equal images go to the same part, unless the class has no two different ones.
    """
    groups: dict[bytes, list[int]] = {}
    for i, digest in enumerate(_digests(pictures)):
        groups.setdefault(digest, []).append(i)
    places = list(groups.values()) if len(groups) > 1 else [[i] for i in range(len(pictures))]
    n = min(max(1, round(held_out * len(places))), len(places) - 1)
    order = np.random.default_rng(0).permutation(len(places))
    train, test = (np.concatenate([places[k] for k in half]) for half in (order[n:], order[:n]))
    return train, test


def _digests(pictures: Sequence[np.ndarray]) -> list[bytes]:
    return [hashlib.sha256(p.tobytes()).digest() for p in pictures]


def said_of_copies(images: Images) -> str:
    """A sentence about images that are there more than once, as the network sees them; nothing if none are."""
    train, test = (_digests(part.cpu().numpy()) for part in (images.pixels, images.test_pixels))
    copies = len(train) + len(test) - len({*train, *test})
    if not copies:
        return ""
    of_train = set(train)
    seen = sum(d in of_train for d in test)
    classes = {*zip(train, images.labels.tolist(), strict=True), *zip(test, images.test_labels.tolist(), strict=True)}
    several = sum(n > 1 for n in Counter(d for d, _ in classes).values())
    held_out = f"{seen:,} of the {len(test):,} held-out ones are also learned from" if seen else (
        "no held-out one is also learned from")
    return (f"{copies:,} of the {len(train) + len(test):,} {'latents' if images.latent else 'pictures'} are copies of "
            f"others; {held_out}{f'; in more than one class: {several:,}' if several else ''}")


def from_npz(path: Path | str, *, held_out: float = 0.1) -> Images:
    """Images of your own in an .npz: `pixels` uint8 (N, C, H, W), or float32 for latents, and `labels` (N,).

    `test_pixels` and `test_labels` are the held-out part; without them a fixed share of each class is held out.
    `names` (K,) are those of the classes, optional.  ValueError says what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        there = [holds(path, name) for name in ("pixels", "labels", "test_pixels", "test_labels", "names")]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no .npz ({error})") from error
    if there[:2] != [True, True] or there[2] != there[3]:
        raise ValueError(f"{path} needs the arrays pixels and labels, and test_pixels and test_labels or neither of "
                         "both")
    arrays = read_npz(path, ("pixels", "labels", "test_pixels", "test_labels")[: 4 if there[2] else 2])
    names = read_npz(path, ("names",))[0] if there[4] else np.array((), dtype=str)
    try:
        if not there[2]:
            arrays = _split(*arrays, held_out)
        return from_arrays(*arrays, names=names, latent=np.issubdtype(arrays[0].dtype, np.floating))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _split(pixels: np.ndarray, labels: np.ndarray, held_out: float) -> list[np.ndarray]:
    """Arrays with a share of each class held out."""
    if labels.shape != pixels.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be {len(pixels)} integers from 0, not {labels.dtype} {labels.shape}")
    parts = []
    for k in np.unique(labels):
        places = np.flatnonzero(labels == k)
        if len(places) < 2:
            raise ValueError(f"class {k} has 1 image; it needs two: to learn and to test")
        parts.append([places[half] for half in _halves(pixels[places], held_out)])
    train, test = (np.concatenate(half) for half in zip(*parts, strict=True))
    return [pixels[train], labels[train], pixels[test], labels[test]]


def _whole(name: str, value: object) -> int:
    """A positive whole number, of numpy too; ValueError for anything else."""
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r:.80}")
    return number


def _share(name: str, value: object) -> float:
    """A number between 0 and 1, both left out; ValueError for anything else."""
    try:
        number = 0.0 if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = 0.0
    if not 0 < number < 1:
        raise ValueError(f"{name} must be a number in (0, 1), not {value!r:.80}")
    return number


def is_left_behind(path: Path) -> bool:
    """Whether a file or folder is hidden, or of the kind that operating systems, file servers and editors leave."""
    return path.name.startswith((".", "~$")) or path.name.lower() in LEFT_BEHIND


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, in the order of the names (which on Windows is not that of paths), clutter left out."""
    return sorted((p for p in folder.iterdir() if not is_left_behind(p)), key=lambda p: p.name)


def _part_of(path: Path) -> str:
    """Which part of a divided folder this is by its name: "training", "held out", or nothing."""
    name = path.name.casefold().replace("-", "_").replace(" ", "_")
    name = name.removesuffix("_set").removesuffix("_data").removesuffix("_images")
    return "training" if name in TRAINING else "held out" if name in HELD_OUT_PARTS else ""


def _parts(folder: Path) -> list[tuple[Path, int]]:
    """Where the classes are, and how many images each needs there: the folder, or its training and its held-out part.

    A folder called train or test is a part if it holds folders; if it holds images it may be a class of trains.
    """
    folders = [p for p in _inside(folder) if p.is_dir()]
    named = [p for p in folders if _part_of(p)]
    kinds = {_part_of(p) for p in named}
    parts = [p for p in named if any(q.is_dir() for q in _inside(p))]
    if not parts and len(kinds) == 2 and named == folders:
        raise ValueError(f"{_listed(folder, named)} hold images; they need one subfolder for each class")
    if not parts:
        return [(folder, 2)]
    if parts != folders:
        others = _listed(folder, [p for p in folders if p not in parts])
        raise ValueError(f"{folder} has the parts {_listed(folder, parts)} and beside them {others}; a folder has "
                         "parts or classes, so move the others away or rename them")
    found = {kind: [p for p in parts if _part_of(p) == kind] for kind in ("training", "held out")}
    for kind, places in found.items():
        if len(places) > 1 or (kind == "training" and not places):
            there = f"{len(places)} {kind} parts ({_listed(folder, places)})" if places else "no training part"
            raise ValueError(f"{folder} has {there}; it needs one, called {' or '.join(TRAINING)}, and at most one to "
                             f"hold out, called {' or '.join(HELD_OUT_PARTS)}: join them or move the others away")
    if loose := [p for p in _inside(folder) if p.suffix.lower() in SUFFIXES and not p.is_dir()]:
        raise ValueError(f"{folder}: images outside a class: {_listed(folder, loose)}; move them into one")
    train, test = found["training"][0], found["held out"]
    return [(train, 1), (test[0], 1)] if test else [(train, 2)]


def _classes(folder: Path, place: Path, fewest: int) -> dict[str, list[Path]]:
    """The files of each class in `place`, by the name of the class; ValueError names everything that is not in order.

    `folder` is what the user gave; messages name files from there.
    """
    inside = _inside(place)
    folders = [p for p in inside if p.is_dir()]
    if not folders:
        raise ValueError(f"{place} has no subfolder; it needs one for each class")
    loose = [p for p in inside if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    classes: dict[str, list[Path]] = {}
    nested, twice = [], []
    for kind in folders:
        # the same name comes composed from one system and decomposed from another, or may not be text at all
        name = unicodedata.normalize("NFC", kind.name.encode(errors="surrogateescape").decode(errors="replace"))
        twice += [kind] if name in classes else []
        found = _inside(kind)
        nested += [p for p in found if p.is_dir()]
        classes[name] = [p for p in found if not p.is_dir()]
    few = [f"class {name} has {len(files)} image{'' if len(files) == 1 else 's'}" for name, files in classes.items()
           if len(files) < fewest]
    need = "two: to learn and to test" if fewest == 2 else "at least one"
    wrong = [f"{what}: {_listed(folder, paths)}" for what, paths in (
        ("images outside a class, which would be left out", loose), ("classes with the same name", twice),
        ("folders inside a class, whose images would be left out (give the folder whose subfolders are the classes)",
         nested)) if paths]
    if few and not nested:
        shown = _shortened(few)
        wrong.append(f"{shown}; it needs {need}" if len(few) == 1 else f"{shown}; each needs {need}")
    if wrong:
        raise ValueError(f"{place}: {'; '.join(wrong)}")
    return classes


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    return _shortened([p.relative_to(folder).as_posix() for p in paths])


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED]) or "nothing"
    return shown + (f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else "")


def _read_images(folder: Path, files: Sequence[Path], size: int, channels: int) -> Mapping[Path, np.ndarray]:
    """Every image (channels, size, size), uint8; ValueError names all files that cannot be used, by what is wrong."""
    pixels: dict[Path, np.ndarray] = {}
    wrong: dict[str, list[Path]] = {}
    for file in files:
        try:
            pixels[file] = _read_image(file, size, channels)
        except ValueError as error:
            wrong.setdefault(str(error), []).append(file)
            pixels.clear()                       # only the message is still to be made
    if wrong:
        said = "; ".join(f"{_listed(folder, paths)} {_agreeing(reason, len(paths))}"
                         for reason, paths in list(wrong.items())[:MOST_NAMED])
        n = sum(map(len, wrong.values()))
        raise ValueError(f"{folder} holds {n:,} file{'' if n == 1 else 's'} that cannot be used; remove or mend {said}")
    return pixels


def _agreeing(reason: str, count: int) -> str:
    """A reason of `_read_image` as said of one file or of several."""
    words = {"{is}": "are", "{has}": "have", "{it}": "them", "{an image}": "images", "{a file}": "files"}
    for word, several in words.items():
        reason = reason.replace(word, word.strip("{}") if count == 1 else several)
    return reason


def _read_image(file: Path, size: int, channels: int) -> np.ndarray:
    """One image (channels, size, size), uint8; ValueError says what is wrong with it, without its name.

    The message has the words of `_agreeing`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not file.is_file():
        raise ValueError("{is} not {a file}: a pipe, or a link to nothing")         # and a pipe would never end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)      # the limit here is our own
            image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("{is} not {an image} of a kind that is read here (" + ", ".join(FORMATS) + ")") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{{has}} more than {MAX_PIXELS:,} pixels; make {{it}} smaller") from None
    except Exception as error:                   # decoders fail in every way there is
        raise ValueError(f"cannot be read ({_said(error)})") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{{has}} {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; make {{it}} "
                             "smaller")
        if image.mode.startswith(("I", "F")):                # convert would clip them to 255
            raise ValueError(f"{{has}} more than 8 bits a channel ({image.mode}); save {{it}} with 8")
        if channels == 3 and image.mode in ("1", "L", "LA", "La"):
            raise ValueError(f"{{is}} grey ({image.mode}); convert {{it}} to colour, or take channels=1")
        if min(image.size) < size:
            raise ValueError(f"{{has}} {image.width} x {image.height} pixels, fewer than {size} x {size}")
        try:
            if (alpha := _alpha_of_bmp(file, image)) is not None:
                image.putalpha(alpha)
            ImageOps.exif_transpose(image, in_place=True)
            picture = _on_white(image, "RGB" if channels == 3 else "L")
            pixels = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BOX))
        except Exception as error:
            raise ValueError(f"cannot be read ({_said(error)})") from error
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _on_white(image: "Image.Image", mode: str) -> "Image.Image":
    """The image in `mode`, RGB or L, laid on white where it is transparent: by alpha, a colour or a palette."""
    from PIL import Image

    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)            # colours that are multiplied by alpha
    image = (image if image.mode == plain else image.convert(plain)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(mode)


def _alpha_of_bmp(file: Path, image: "Image.Image") -> "Image.Image | None":
    """The fourth channel of a 32-bit BMP, which the format leaves open and programs take for alpha.

    None where it says nothing: it is the same everywhere, mostly 0.
    """
    from PIL import Image

    if image.format != "BMP" or not image.tile or image.tile[0][3][0] != "BGRX":
        return None
    _, _, offset, (_, _, direction) = image.tile[0]
    pixels = np.fromfile(file, np.uint8, 4 * image.width * image.height, offset=offset)
    alpha = pixels.reshape(image.height, image.width, 4)[::direction, :, 3]
    return None if alpha.min() == alpha.max() else Image.fromarray(np.ascontiguousarray(alpha))


def save_images(images: Images, path: Path | str) -> None:
    """Write images as the .npz that `load` reads, whole or not at all."""
    arrays = {"pixels": images.pixels, "labels": images.labels, "test_pixels": images.test_pixels,
              "test_labels": images.test_labels} | ({"names": np.array(images.names)} if images.names else {})
    store.write_file(as_path(path, "the .npz"), lambda file: np.savez(file, **arrays))


def save_folder(images: Images, folder: Path | str, *, each: int | None = None) -> None:
    """Write images as PNG files that `from_folder` reads: train/CLASS/00000.png, and test/ with the images held out.

    `each` is how many images of a class are written in each of the two parts, all if None.  FileExistsError if the
    folder is there, so that nothing is mixed with what it holds.
    """
    folder = as_path(folder, "folder")
    each = None if each is None else _whole("each", each)
    folder.mkdir(parents=True)
    for part, pixels, labels in (("train", images.pixels, images.labels),
                                 ("test", images.test_pixels, images.test_labels)):
        for k in range(images.num_classes):
            # numbers of one length, so that 10 comes after 9 by its name, too
            name = images.names[k] if images.names else f"{k:0{len(str(images.num_classes - 1))}d}"
            place = folder / part / name
            place.mkdir(parents=True)
            for i, picture in enumerate(pixels[labels == k][:each].numpy()):
                Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(
                    place / f"{i:05d}.png")
