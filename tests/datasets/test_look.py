"""What pictures of a user's are, before they are read."""

import numpy as np
import pytest
from PIL import Image

from dashkit.datasets import files, sources
from dashkit.datasets.look import check_pictures, levels, look, proposed_size


def folder(path, size=(9, 7), classes=3, each=4, mode="RGB"):
    for k in range(classes):
        (path / f"kind {k}").mkdir(parents=True)
        for i in range(each):
            Image.new(mode, size, k * 20 + i).save(path / f"kind {k}" / f"{i}.png")
    return path


def npz(path, pixels, classes=3, **arrays):
    np.savez(path, pixels=pixels, labels=np.arange(len(pixels)) % classes, **arrays)
    return path


def test_a_folder_is_counted_by_its_headers(tmp_path):
    found = look(folder(tmp_path / "f"))
    assert (found.names, found.counts) == (("kind 0", "kind 1", "kind 2"), (4, 4, 4))
    assert (found.height, found.width, found.channels, found.grey) == (7, 9, 3, 0)
    Image.new("L", (20, 5)).save(tmp_path / "f" / "kind 1" / "grey.png")
    found = look(tmp_path / "f")
    assert (found.height, found.width, found.channels, found.grey) == (5, 20, 1, 1)


def test_a_divided_folder_counts_both_parts(tmp_path):
    folder(tmp_path / "f" / "train", each=3), folder(tmp_path / "f" / "test", each=2)
    assert look(tmp_path / "f").counts == (5, 5, 5)


def test_arrays_and_latents_are_told_apart(tmp_path):
    rng = np.random.default_rng(0)
    found = look(npz(tmp_path / "a.npz", rng.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)))
    assert (found.latent, found.exact, found.channels, found.counts) == (False, True, 3, (4, 4, 4))
    path = npz(tmp_path / "l.npz", rng.normal(size=(12, 4, 8, 8)).astype(np.float32))
    assert look(path).latent and look(path).channels == 4
    images = files.from_npz(path)
    assert images.latent and images.x0.abs().max() > 1 and len(images.test_labels) == 3
    assert images.to("cpu").latent
    with pytest.raises(ValueError, match=r"none is above 1.*pictures that were scaled belong into uint8"):
        look(npz(tmp_path / "s.npz", rng.random((12, 3, 8, 8), dtype=np.float32)))
    with pytest.raises(ValueError, match="class 2 has 1 image"):
        look(npz(tmp_path / "few.npz", rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)))
    with pytest.raises(ValueError, match="needs the arrays pixels and labels"):
        np.savez(tmp_path / "n.npz", images=np.zeros(3))
        look(tmp_path / "n.npz")


@pytest.mark.parametrize(("change", "why"), [
    (lambda x: x * 65535, "none is negative"), (lambda x: (x * 255).round() - 128, "all are whole numbers"),
    (lambda x: ((x * 255).round() / 255 - 0.5) / 0.2, "no channel has more than 256 different values"),
    (lambda x: ((x * 15).round() - 7.5) / 3 * np.array([1, 2, 3]).reshape(3, 1, 1), "no channel has more than 256"),
    (lambda x: np.log(x - 0.5), "some are no numbers"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_pictures_that_were_scaled_are_no_latents(tmp_path, change, why):
    x = np.random.default_rng(0).random((30, 3, 8, 8), dtype=np.float32)
    with pytest.raises(ValueError, match=f"are latents, but {why}.*belong into uint8"):
        look(npz(tmp_path / "s.npz", change(x).astype(np.float32)))


def test_latents_in_another_order_of_axes_and_half_precision(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 16, 16, 4))
    with pytest.raises(ValueError, match=r"looks like \(N, H, W, C\); type pixels.transpose\(0, 3, 1, 2\)"):
        look(npz(tmp_path / "a.npz", x.astype(np.float32)))
    assert look(npz(tmp_path / "b.npz", x.transpose(0, 3, 1, 2).astype(np.float16))).latent


def test_channels_that_a_teacher_does_not_take_are_named(tmp_path):
    place = folder(tmp_path / "f", size=(16, 16))
    with pytest.raises(ValueError, match=r"takes 4 channels, so it is a latent model, and .*f holds pictures; give"):
        check_pictures(look(place), 8, 4, place)
    latents = npz(tmp_path / "l.npz", np.random.default_rng(0).normal(size=(12, 16, 8, 8)).astype(np.float32))
    with pytest.raises(ValueError, match=r"takes 4 channels, and .*l.npz has 16; give arrays \(N, 4, H, W\)"):
        check_pictures(look(latents), 8, 4, latents)
    check_pictures(look(latents), 8, 16, latents)
    check_pictures(look(place), 8, 1, place)


@pytest.mark.parametrize("size", range(2, 80))
def test_every_proposed_size_can_be_halved_by_its_levels(size):
    side = proposed_size(size, size + 3)
    assert 0 < side <= size and side % 2 ** (len(levels(side)) - 1) == 0
    assert len(levels(side)) > 1 or side < 4


def test_a_digest_is_of_names_and_contents(tmp_path):
    place = folder(tmp_path / "f")
    first = sources.digest_of(place)
    (place / "kind 0" / "0.png").rename(place / "kind 0" / "9.png")
    assert sources.digest_of(place) != first
    assert sources.digest_of(folder(tmp_path / "g")) == first          # wherever the folder lies
    assert sources.is_own(str(place)) and not sources.is_own("digits") and not sources.is_own("cifar10")
