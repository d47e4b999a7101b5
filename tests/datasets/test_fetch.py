import hashlib
import http.client
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from fetched import needs

from dashkit import cli
from dashkit.datasets import fetch, files, sources


def test_the_whole_of_cifar10_is_what_it_should_be():
    path = needs("npm", "cifar10")
    images = sources.load_images("cifar10", cache=path.parent)
    assert images.pixels.shape == (50_000, 3, 32, 32) and images.test_pixels.shape == (10_000, 3, 32, 32)
    arrays = (images.pixels.permute(0, 2, 3, 1), images.labels, images.test_pixels.permute(0, 2, 3, 1),
              images.test_labels)
    fetch._verify([a.numpy() for a in arrays], fetch.SOURCES["cifar10"].pins)
    assert images.labels.bincount().tolist() == [5000] * 10
    mean = images.pixels.sum((0, 2, 3)) / (50_000 * 1024)
    torch.testing.assert_close(mean, torch.tensor([125.307, 122.950, 113.865]), atol=5e-4, rtol=0)


@pytest.fixture
def source(monkeypatch):
    """A made-up data set whose own source is out of reach and whose package is copied from a folder."""
    def make(content, *, pin=None, command=None):
        def refuse(work):
            raise OSError("no route")

        digest = hashlib.sha256(content).hexdigest()
        command = command or ("sh", "-c", f"printf '%s' '{content.decode()}' > thing.bin")
        pixels = np.zeros((2, 32, 32, 3), np.uint8)
        found = fetch.Source(refuse, fetch.Package(command, "thing.bin", pin or digest),
                             lambda path: (pixels, np.arange(2), pixels, np.arange(2)), (), 1, "By hand: do it.")
        monkeypatch.setitem(fetch.SOURCES, "cifar10", found)
    return make


def test_the_package_is_taken_when_the_source_is_out_of_reach_and_then_kept(tmp_path, source):
    source(b"good")
    path = fetch.fetch("cifar10", cache=tmp_path)
    assert sources.load_images("cifar10", cache=tmp_path).shape == (3, 32, 32)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["cifar10.npz"]
    source(b"good", command=("false",))
    assert fetch.fetch("cifar10", cache=tmp_path) == path                # offline from now on


def test_classes_of_fetched_images_have_names(tmp_path, source, monkeypatch):
    from torchvision.datasets import FashionMNIST

    counts = {"cifar10": 10, "cifar100": 100, "fashion_mnist": 10}
    for name, n in counts.items():
        assert len(set(fetch.SOURCES[name].names)) == n
    assert list(fetch.SOURCES["fashion_mnist"].names) == FashionMNIST.classes
    for name in ("cifar10", "cifar100"):                     # whose authors number them in the order of the alphabet
        assert list(fetch.SOURCES[name].names) == sorted(fetch.SOURCES[name].names)
    source(b"good")
    monkeypatch.setitem(fetch.SOURCES, "cifar10", fetch.SOURCES["cifar10"]._replace(names=("cat", "dog")))
    fetch.fetch("cifar10", cache=str(tmp_path))
    assert sources.load_images("cifar10", cache=tmp_path).names == ("cat", "dog")


def test_a_client_is_called_by_its_whole_path_and_may_take_hours(tmp_path, source, monkeypatch):
    asked, real = [], subprocess.run

    def run(command, **how):
        asked.append((command, how["timeout"], {how["env"][k] for k in ("TMPDIR", "TEMP", "TMP")}))
        return real(command, **how)

    source(b"good")
    monkeypatch.setattr(subprocess, "run", run)
    fetch.fetch("cifar10", cache=tmp_path)
    [(command, timeout, places)] = asked
    assert command[0] == shutil.which("sh") and timeout >= 4 * 3600
    assert places == {str((tmp_path / ".cifar10.part" / "package").resolve())}


def test_the_package_is_taken_when_a_proxy_answers_garbage(tmp_path, source, monkeypatch):
    def garbage(work):
        raise http.client.BadStatusLine("garbage")

    source(b"good")
    monkeypatch.setitem(fetch.SOURCES, "cifar10", fetch.SOURCES["cifar10"]._replace(own=garbage))
    assert fetch.fetch("cifar10", cache=tmp_path).is_file()


def test_without_torch_fidelity_the_weights_of_inception_say_what_to_install(tmp_path, monkeypatch):
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    for work in (lambda: fetch.fetch("inception", cache=tmp_path), lambda: fetch.from_convolutions([])):
        with pytest.raises(ImportError, match=r"needs torch-fidelity; type: .*install"):
            work()


def test_a_download_that_was_verified_is_not_repeated(tmp_path, source):
    (tmp_path / ".cifar10.part" / "package").mkdir(parents=True)
    (tmp_path / ".cifar10.part" / "package" / "thing.bin").write_bytes(b"good")
    source(b"good", command=("false",))
    assert fetch.fetch("cifar10", cache=tmp_path).is_file()


def test_a_part_that_a_killed_try_left_is_downloaded_again(tmp_path, source):
    (tmp_path / ".cifar10.part" / "package").mkdir(parents=True)
    (tmp_path / ".cifar10.part" / "package" / "thing.bin").write_bytes(b"go")
    source(b"good")
    assert fetch.fetch("cifar10", cache=tmp_path).is_file()


@pytest.mark.parametrize(("pin", "command", "message"), [
    ("0" * 64, None, "not the pinned file"),
    (None, ("sh", "-c", "printf goo > thing.bin"), "not the pinned file"),       # truncated
    (None, ("sh", "-c", "echo no such package >&2; exit 1"), "no such package"),
    (None, ("true",), "no file came"),
    (None, ("no-such-command",), "no-such-command is not there"),
])  # fmt: skip
def test_bad_downloads_leave_nothing_and_say_what_to_do(tmp_path, source, pin, command, message):
    source(b"good", pin=pin, command=command)
    with pytest.raises(OSError, match=rf"no route.*{message}.*By hand: do it"):
        fetch.fetch("cifar10", cache=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_wrong_contents_of_a_right_file_are_refused(tmp_path, source, monkeypatch):
    source(b"good")
    monkeypatch.setitem(fetch.SOURCES, "cifar10", fetch.SOURCES["cifar10"]._replace(pins=("0" * 64,) * 4))
    with pytest.raises(OSError, match="the pixels are not the pinned ones"):
        fetch.fetch("cifar10", cache=tmp_path)
    assert not (tmp_path / "cifar10.npz").exists()


def test_a_full_disk_is_named(tmp_path, source, monkeypatch):
    source(b"good")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(OSError, match="0 MB free and 1 MB are needed"):
        fetch.fetch("cifar10", cache=tmp_path)
    assert not (tmp_path / "cifar10.npz").exists()


def test_unknown_names_are_refused(capsys):
    assert cli.main(["fetch", "mnist"]) == 2
    assert "choose from cifar10, cifar100, fashion_mnist, inception" in capsys.readouterr().err


def archive(path, kind, size=0, link=""):
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("package/data_batch_1.png")
        member.type, member.size, member.linkname = kind, size, link
        tar.addfile(member, io.BytesIO(bytes(size)))
    return path


@pytest.mark.parametrize(("kind", "size", "link"), [
    (tarfile.SYMTYPE, 0, "data_batch_1.png"), (tarfile.SYMTYPE, 0, "/etc/passwd"),
    (tarfile.LNKTYPE, 0, "package/data_batch_1.png"), (tarfile.FIFOTYPE, 0, ""), (tarfile.REGTYPE, 100, ""),
])  # fmt: skip
def test_only_plain_files_of_a_sane_size_are_taken_out_of_an_archive(tmp_path, monkeypatch, kind, size, link):
    monkeypatch.setattr(fetch, "MAX_MEMBER", 99)
    with pytest.raises(ValueError, match="is no plain file of at most 99 bytes"):
        fetch._cifar_package(archive(tmp_path / "x.tgz", kind, size, link))


@pytest.mark.parametrize("error", [KeyError("x"), EOFError(), tarfile.ReadError(), zipfile.BadZipFile(), zlib.error(),
                                   RecursionError()])
def test_whatever_an_unpacker_says_of_an_archive_becomes_one_error(tmp_path, source, monkeypatch, error):
    def fail(path):
        raise error
    source(b"good")
    monkeypatch.setitem(fetch.SOURCES, "cifar10", fetch.SOURCES["cifar10"]._replace(unpack=fail))
    with pytest.raises(OSError, match="cifar10 could not be fetched"):
        fetch.fetch("cifar10", cache=tmp_path)


def test_cifar16_is_made_of_cifar10_and_has_its_names_though_its_file_has_none(tmp_path):
    """Trained networks are bound to the bytes of the file."""
    pixels, labels = np.arange(10 * 3 * 32 * 32, dtype=np.uint64).reshape(10, 3, 32, 32).astype(np.uint8), np.arange(10)
    whole = files.from_arrays(pixels, labels, pixels, labels, names=[f"kind {i}" for i in range(10)])
    files.save_images(whole, tmp_path / "cifar10.npz")
    path = fetch.fetch("cifar16", cache=tmp_path)
    with np.load(path) as arrays:
        assert set(arrays) == {"pixels", "labels", "test_pixels", "test_labels"}
        assert (arrays["pixels"] == sources.halved(pixels)).all()
    assert sources.load_images("cifar16", cache=tmp_path).names == fetch.SOURCES["cifar10"].names
