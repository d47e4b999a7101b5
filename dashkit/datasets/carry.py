"""Files for a machine without a network, and its results back: parts of a given size, the same bytes on both sides.

`pack` writes data sets and Inception's weights, `bring` writes trained networks with their tables, and `unpack` puts
either where it belongs.  Images go as lossless WebP mosaics, weights as byte planes under xz.  Every part and every
file has its SHA-256; a file appears whole or not at all.
"""

import hashlib
import io
import json
import lzma
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dashkit import environment
from dashkit.datasets.fetch import INCEPTION
from dashkit.storage import paths, provenance, store

PART_MB, BRING_MB = 59, 15         # what forms and mails usually take is a little more than this
RESULTS = paths.ROOT / "data" / "results"
MAX_FILE, MAX_INDEX = 2**31, 2**24
MAX_SIDE = 16_383                  # of a WebP picture, in pixels
PER_MOSAIC, COLUMNS = 2000, 50     # images of a mosaic, and of one of its rows
LEFT_OUT = re.compile(r"^\.|^checkpoint|\.lock$|^\d+\.safetensors$")      # not what a result is made of
_NAME = re.compile(r"[\w@=+.,-]+")


class Segment(NamedTuple):
    """Some bytes of a file, as they travel: `xz`, byte `planes` under xz, or mosaics (`webp`) of uint8 images."""

    kind: str
    size: int                 # bytes of the file
    shape: list[int]          # of the images (N, 3, H, W); [width] of the planes
    blobs: list[int]          # lengths of what is carried


# --------------------------------------------------------------------------------------------------------- file by file


def _encode(content: bytes) -> tuple[list[Segment], list[bytes]]:
    """A file as segments and what they carry."""
    images = _images_of(content)
    if images:
        segments, blobs, done = [], [], 0
        for start, shape in images:
            for segment, carried in (_xz(content[done:start]), _webp(content, start, shape)):
                segments.append(segment)
                blobs += carried
            done = start + math.prod(shape)
        last, carried = _xz(content[done:])
        return [*segments, last], blobs + carried
    width = _width(content)
    segment, blobs = _planes(content, width) if width else _xz(content)
    return [segment], blobs


def _images_of(content: bytes) -> list[tuple[int, tuple[int, ...]]]:
    """Where colour images (N, 3, H, W) lie uncompressed in an .npz: start and shape of each array."""
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith(".npy") or entry.compress_type != zipfile.ZIP_STORED:
                    continue
                with archive.open(entry) as file:
                    if np.lib.format.read_magic(file) != (1, 0):
                        continue
                    shape, by_column, kind = np.lib.format.read_array_header_1_0(file)
                    header = file.tell()
                fits = kind == np.uint8 and len(shape) == 4 and shape[1] == 3 and not by_column and math.prod(shape)
                if fits and max(shape[2] * PER_MOSAIC // COLUMNS, shape[3] * COLUMNS) <= MAX_SIDE:
                    local = entry.header_offset
                    names = int.from_bytes(content[local + 26 : local + 28], "little")
                    extra = int.from_bytes(content[local + 28 : local + 30], "little")
                    found.append((local + 30 + names + extra + header, tuple(shape)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError):      # no .npz, or not numpy's: it goes as it is
        return []
    return sorted(found)


def _width(content: bytes) -> int:
    """Bytes of most numbers of a safetensors file; 0 for any other file."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(len(content) - 8, 2**26) or content[8:9] != b"{":
        return 0
    try:
        entries = json.loads(content[8 : 8 + size])
        spans = [(v["dtype"], v["data_offsets"]) for k, v in entries.items() if k != "__metadata__"]
        total = {width: sum(b - a for kind, (a, b) in spans if kind in kinds)
                 for width, kinds in ((2, ("F16", "BF16")), (4, ("F32",)))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
    return max(total, key=total.get) if max(total.values()) else 0


def _xz(content: bytes) -> tuple[Segment, list[bytes]]:
    blob = lzma.compress(content, preset=1)
    return Segment("xz", len(content), [], [len(blob)]), [blob]


def _planes(content: bytes, width: int) -> tuple[Segment, list[bytes]]:
    """The first bytes of all numbers together, then the second: exponents compress, and mantissas do not."""
    raw = np.frombuffer(content + bytes(-len(content) % width), np.uint8).reshape(-1, width)
    with ThreadPoolExecutor(width) as pool:
        blobs = list(pool.map(lambda i: lzma.compress(raw[:, i].tobytes(), preset=1), range(width)))
    return Segment("planes", len(content), [width], list(map(len, blobs))), blobs


def _webp(content: bytes, start: int, shape: tuple[int, ...]) -> tuple[Segment, list[bytes]]:
    from PIL import Image

    pixels = np.frombuffer(content, np.uint8, math.prod(shape), start).reshape(shape)

    def mosaic(i: int) -> bytes:
        part = pixels[i : i + PER_MOSAIC]
        rows = -(-len(part) // COLUMNS)
        full = np.zeros((rows * COLUMNS, *shape[1:]), np.uint8)
        full[: len(part)] = part
        picture = full.reshape(rows, COLUMNS, *shape[1:]).transpose(0, 3, 1, 4, 2).reshape(
            rows * shape[2], COLUMNS * shape[3], 3)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "WEBP", lossless=True, quality=100, method=4)
        return buffer.getvalue()

    with ThreadPoolExecutor(4) as pool:
        blobs = list(pool.map(mosaic, range(0, shape[0], PER_MOSAIC)))
    return Segment("webp", math.prod(shape), list(shape), list(map(len, blobs))), blobs


def _decode(segment: Segment, blobs: Sequence[bytes]) -> bytes:
    """The bytes of one segment; ValueError if they are not what the index says."""
    if segment.kind == "xz":
        return _expand(blobs[0], segment.size)
    if segment.kind == "planes":
        width, = segment.shape
        each = -(-segment.size // width)
        with ThreadPoolExecutor(width) as pool:
            planes = list(pool.map(lambda blob: np.frombuffer(_expand(blob, each), np.uint8), blobs))
        return np.stack(planes, 1).tobytes()[: segment.size]
    if segment.kind == "webp":
        return _pictures(segment, blobs)
    raise ValueError(f"it holds a segment called {segment.kind!r}")


def _expand(blob: bytes, size: int) -> bytes:
    content = lzma.LZMADecompressor().decompress(blob, max_length=size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content):,} bytes where {size:,} were packed")
    return content


def _pictures(segment: Segment, blobs: Sequence[bytes]) -> bytes:
    from PIL import Image

    n, channels, height, width = segment.shape

    def images(i: int, blob: bytes) -> np.ndarray:
        count = min(PER_MOSAIC, n - i * PER_MOSAIC)
        rows = -(-count // COLUMNS)
        picture = Image.open(io.BytesIO(blob), formats=("WEBP",))
        if picture.size != (COLUMNS * width, rows * height):
            raise ValueError(f"a mosaic of {picture.size} where {COLUMNS * width} x {rows * height} was packed")
        tiles = np.asarray(picture.convert("RGB")).reshape(rows, height, COLUMNS, width, channels)
        return tiles.transpose(0, 2, 4, 1, 3).reshape(-1, channels, height, width)[:count]

    with ThreadPoolExecutor(4) as pool:
        return np.concatenate(list(pool.map(images, range(len(blobs)), blobs))).tobytes()


# -------------------------------------------------------------------------------------------------------------- archive


class _File(NamedTuple):
    root: str        # cache, runs or results
    name: str        # below it, with /
    path: Path


def _write(files: Sequence[_File], out: Path, part_bytes: int) -> list[Path]:
    """An archive of files in parts of `part_bytes`: in each a line that says which it is, then its share.

    ValueError for a file that `unpack` would not take.
    """
    index, blobs = {"files": [], "commit": provenance.commit()}, []
    for file in files:
        if not _allowed(PurePosixPath(file.name)):
            raise ValueError(f"{file.path} cannot be packed: a name holds letters, digits and _ @ = + . , - alone; "
                             "rename it")
    for path in (file.path for file in files):
        if (size := path.stat().st_size) > MAX_FILE:
            raise ValueError(f"{path} has {size:,} bytes, and a packed file at most {MAX_FILE:,}; copy the file "
                             "itself, to the same place of the other machine")
    for file in files:
        content = file.path.read_bytes()
        segments, carried = _encode(content)
        index["files"].append({"root": file.root, "name": file.name, "size": len(content), "sha256":
                               hashlib.sha256(content).hexdigest(), "segments": [s._asdict() for s in segments]})
        blobs += carried
    head = json.dumps(index).encode()
    stream = b"".join([len(head).to_bytes(8, "little"), head, *blobs])
    whole = hashlib.sha256(stream).hexdigest()
    share = part_bytes - 1024                              # the first line has its place in it
    count = -(-len(stream) // share)
    digits, written = len(str(count)), []
    for i in range(count):
        payload = stream[i * share : (i + 1) * share]
        line = {"dashkit": "part", "archive": whole, "part": i + 1, "parts": count,
                "sha256": hashlib.sha256(payload).hexdigest()}
        path = out / f"dashkit-{whole[:8]}-{i + 1:0{digits}d}-of-{count}.part"
        store.write_bytes(path, json.dumps(line).encode() + b"\n" + payload)
        written.append(path)
    return written


def pack(names: Sequence[str], out: Path, *, cache: Path = paths.CACHE, part_mb: float = PART_MB) -> list[Path]:
    """Write what is called `names` in `cache` (as of `dashkit fetch`) into parts in `out`; returns their paths.

    FileNotFoundError for what is not fetched, ValueError for a size of parts below 0.01 MB, and what `_write` says.
    """
    files = []
    for name in dict.fromkeys(names):
        file = INCEPTION if name == "inception" else f"{name}.npz"
        if not _NAME.fullmatch(file) or not (cache / file).is_file():
            raise FileNotFoundError(f"{cache / file} is not there to be packed; type: "
                                    + environment.kit(f"fetch {name}"))
        files.append(_File("cache", file, cache / file))
    return _write(files, out, _bytes(part_mb))


def bring(out: Path, *, runs: Path = paths.RUNS, results: Path = RESULTS, only: Sequence[str] = (),
          part_mb: float = BRING_MB) -> list[Path]:
    """Write the finished networks, manifests, plans and tables below `runs` into parts in `out`, with the tables that
    were published of the same profiles.

    `only` are folders below `runs`, e.g. a profile's name.  Networks travel as they are stored: a profile with
    stored=float16 has them in half precision, rounded before any student was bound to its teacher's checksum.
    FileNotFoundError if there is nothing to bring.
    """
    places = [runs / name for name in only] or [runs]
    absent = [str(p) for p in places if not p.is_dir()]
    if absent:
        raise FileNotFoundError(f"there is no folder {', '.join(absent)}")
    found = sorted({p for place in places for p in place.rglob("*") if p.is_file() and not LEFT_OUT.search(p.name)})
    files = [_File("runs", p.relative_to(runs).as_posix(), p) for p in found]
    profiles = dict.fromkeys(file.name.split("/")[0] for file in files if "/" in file.name)
    files += [_File("results", f"{profile}/{name}", results / profile / name) for profile in profiles
              for name in ("results.csv", "manifest.json") if (results / profile / name).is_file()]
    if not files:
        raise FileNotFoundError(f"nothing is finished in {', '.join(map(str, places))}")
    return _write(files, out, _bytes(part_mb))


def _bytes(part_mb: float) -> int:
    if not 0.01 <= part_mb <= 2000:
        raise ValueError(f"a part must have 0.01 to 2000 MB, not {part_mb!r}")
    return int(part_mb * 10**6)


class Unpacked(NamedTuple):
    files: list[Path]
    commit: str         # where they were packed: what DASHKIT_COMMIT should say on a machine without git


def unpack(parts: Sequence[Path], *, cache: Path = paths.CACHE, runs: Path = paths.RUNS,
           results: Path = RESULTS) -> Unpacked:
    """Put together what `pack` or `bring` wrote: its parts in any order, or the folder that holds them.

    A file that is there with the same bytes is left alone.  FileNotFoundError names parts that are missing; ValueError
    a part that is damaged, of another archive or none of ours, or a file that is there and differs.
    """
    stream = _joined(parts)
    try:
        size = int.from_bytes(stream[:8], "little")
        if not 2 <= size <= min(len(stream) - 8, MAX_INDEX):
            raise ValueError("it has no index")
        index = store.parse_json(stream[8 : 8 + size].decode())
        roots, at = {"cache": cache, "runs": runs, "results": results}, 8 + size
        places = [(_place(file, roots), file, [Segment(**s) for s in file["segments"]]) for file in index["files"]]
        there = [path.is_file() for path, _, _ in places]
        for (path, file, _), old in zip(places, there, strict=True):
            if old and store.sha256(path) != file["sha256"]:
                raise ValueError(f"{path} is there already and differs; delete it first")
        for (path, file, segments), old in zip(places, there, strict=True):
            if not old:
                _restore(path, file, segments, _cut(stream, at))
            at += sum(sum(s.blobs) for s in segments)
        return Unpacked([path for path, _, _ in places], str(index.get("commit", "unknown")))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, lzma.LZMAError, MemoryError) as error:
        raise ValueError(f"the parts do not make an archive of dashkit's ({error}); pack again") from error


def _cut(stream: memoryview | bytes, at: int) -> Callable[[int], bytes]:
    """A function that takes the next n bytes of the stream."""
    view = memoryview(stream)

    def take(n: int) -> bytes:
        nonlocal at
        if n < 0 or at + n > len(view):
            raise ValueError("the archive ends too early; pack again")
        at += n
        return bytes(view[at - n : at])
    return take


def _restore(path: Path, file: dict, segments: list[Segment], take: Callable[[int], bytes]) -> None:
    if sum(s.size for s in segments) != file["size"] or not 0 <= file["size"] <= MAX_FILE or any(
            s.size < 0 for s in segments):
        raise ValueError(f"{path.name} has no sensible size in the archive; pack again")
    content = b"".join(_decode(s, [take(n) for n in s.blobs]) for s in segments)
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise ValueError(f"{path.name} does not come out as it was packed (SHA-256 differs); pack again")
    store.write_bytes(path, content)


def _allowed(name: PurePosixPath) -> bool:
    """Whether a file below one of the folders may be called so: it stays there, and every system has such names."""
    return bool(name.parts) and not name.is_absolute() and all(
        _NAME.fullmatch(p) and p.strip(".") for p in name.parts)


def _place(file: dict, roots: dict[str, Path]) -> Path:
    """Where a file of the archive goes: below one of the three folders, and nowhere else."""
    name = PurePosixPath(file["name"])
    if file["root"] not in roots or not _allowed(name):
        raise ValueError(f"the archive holds a file {file['name']!r}, which is none of dashkit's; nothing was unpacked")
    return roots[file["root"]].joinpath(*name.parts)


def _joined(parts: Sequence[Path]) -> bytes:
    """The archive's stream, from parts that are all there and whole."""
    files = [p for part in parts for p in (sorted(part.glob("*.part")) if part.is_dir() else [part])]
    if not files:
        raise FileNotFoundError("there is no part (a file *.part) to unpack")
    found: dict[int, bytes] = {}
    first: dict | None = None
    for path in files:
        line, _, payload = path.read_bytes().partition(b"\n")
        try:
            head = store.parse_json(line[:1024].decode())
            if head["dashkit"] != "part" or not 1 <= head["part"] <= head["parts"] <= 10**6:
                raise ValueError("it says something else")
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no part of dashkit's") from error
        if hashlib.sha256(payload).hexdigest() != head["sha256"]:
            raise ValueError(f"{path} is damaged (SHA-256 differs); copy it again")
        first = first or head
        if (head["archive"], head["parts"]) != (first["archive"], first["parts"]):
            raise ValueError(f"{path} belongs to another archive than {files[0].name}; unpack them one after another")
        found[head["part"]] = payload
    missing = [str(i) for i in range(1, first["parts"] + 1) if i not in found]
    if missing:
        raise FileNotFoundError(f"part {', '.join(missing)} of {first['parts']} is missing "
                                f"(dashkit-{first['archive'][:8]}-…): copy it, and unpack again")
    stream = b"".join(found[i] for i in sorted(found))
    if hashlib.sha256(stream).hexdigest() != first["archive"]:
        raise ValueError("the parts do not make the archive that was packed (SHA-256 differs); pack again")
    return stream
