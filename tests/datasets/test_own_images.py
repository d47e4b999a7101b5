"""Images of your own: folders as people, cameras and operating systems leave them."""

import hashlib
import io
import os
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dashkit.datasets import fetch, files, sources
from dashkit.interop import export
from dashkit.method.images import Images
from dashkit.storage import store, tables


def picture(path, size=(12, 10), mode="RGB", colour=(200, 10, 30), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **how)


def classes(place, names=("cat", "dog"), n=5, **how):
    for i, name in enumerate(names):
        for k in range(n):
            picture(place / name / f"{k}.png", colour=(255 - i, 0, i), **how)
    return place


def test_a_folder_of_images_becomes_a_data_set_and_a_file(tmp_path):
    images = files.from_folder(classes(tmp_path / "in"), size=8)
    assert images.pixels.shape == (8, 3, 8, 8) and images.test_labels.tolist() == [0, 1]
    assert images.names == ("cat", "dog")
    assert images.pixels[images.labels == 1][0, :, 0, 0].tolist() == [254, 0, 1]
    files.save_images(images, tmp_path / "cifar10.npz")
    found = sources.load_images("cifar10", cache=tmp_path)
    assert torch.equal(found.pixels, images.pixels) and found.names == images.names


@pytest.mark.parametrize("kind", ["folder", "npz", "sorted npz"])
def test_the_first_held_out_pictures_are_of_every_class(tmp_path, kind):
    """Gaps are compared on the first few of them; once these were all of the first class."""
    names = [f"class {k}" for k in range(6)]
    path = classes(tmp_path / "in", names, n=40)
    if kind != "folder":
        images = files.from_folder(path, size=8)
        path = tmp_path / "own.npz"
        arrays = {"pixels": images.pixels, "labels": images.labels}
        if kind == "sorted npz":
            arrays |= {"test_pixels": images.test_pixels, "test_labels": images.test_labels}
        np.savez(path, **{k: v.numpy() for k, v in arrays.items()})
    found, again = (sources.load_own(str(path), size=8, channels=3) for _ in range(2))
    half = found.test_labels[: len(found.test_labels) // 2]
    assert set(half.tolist()) == set(range(6)) and found.test_labels.bincount().unique().numel() == 1
    assert torch.equal(found.test_pixels, again.test_pixels)
    if kind != "npz":                                     # pictures and labels stay together: the class is their blue
        assert torch.equal(found.test_pixels[:, 2].amax((1, 2)).long(), found.test_labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_set_is_written_as_a_folder_that_gives_the_same_images(tmp_path, channels, generator):
    pixels = torch.randint(256, (8, channels, 6, 6), generator=generator, dtype=torch.uint8)
    images = files.from_arrays(pixels[:6].numpy(), np.array([1, 0, 0, 1, 0, 1]), pixels[6:].numpy(), np.array([1, 0]),
                               names=("cat", "dog"))
    files.save_folder(images, tmp_path / "all")
    found = files.from_folder(tmp_path / "all", size=6, channels=channels)
    order = images.labels.argsort(stable=True)
    assert torch.equal(found.pixels, images.pixels[order]) and torch.equal(found.labels, images.labels[order])
    assert torch.equal(found.test_pixels, images.test_pixels.flip(0)) and found.names == images.names
    files.save_folder(images, tmp_path / "few", each=2)
    assert files.from_folder(tmp_path / "few", size=6, channels=channels).labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(FileExistsError):
        files.save_folder(images, tmp_path / "few")


def scattered(n, seed, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_copies_of_a_picture_are_held_out_together(tmp_path, kind):
    """Every picture is there three times, once as another file; one of a class is enough to tell on."""
    arrays, labels = [], []
    for k, name in enumerate(("cat", "dog", "emu")):
        for i, x in enumerate(scattered(20, k)):
            (tmp_path / name).mkdir(exist_ok=True)
            for copy in ("a.png", "b copy.png", "c.bmp"):
                Image.fromarray(x).save(tmp_path / name / f"{i:02d}{copy}")
                arrays, labels = [*arrays, x.transpose(2, 0, 1)], [*labels, k]
    np.savez(tmp_path / "own.npz", pixels=np.stack(arrays), labels=np.array(labels))
    path = tmp_path / "own.npz"
    if kind == "folder":
        path.unlink()
        path = tmp_path
    images = sources.load_own(str(path), size=8, channels=3)
    train, test = ([x.numpy().tobytes() for x in part] for part in (images.pixels, images.test_pixels))
    assert len(test) == 18 and len(set(test)) == 6 and not {*train} & {*test} and len(train) == 162
    assert images.test_labels.bincount().tolist() == [6, 6, 6]
    assert files.said_of_copies(images) == (
        "120 of the 180 pictures are copies of others; no held-out one is also learned from")


def test_copies_in_given_parts_and_in_several_classes_are_said():
    x = torch.from_numpy(scattered(6, 0)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([0, 1, 0, 1])
    assert files.said_of_copies(Images(x[:4], labels, x[4:], labels[:2])) == ""
    mixed = Images(x[[0, 1, 2, 0]], labels, x[[1, 2, 3]], torch.tensor([1, 0, 1]))
    assert files.said_of_copies(mixed) == (
        "3 of the 7 pictures are copies of others; 2 of the 3 held-out ones are also learned from; in more than one "
        "class: 1")


@pytest.mark.parametrize(("count", "share"), [(2, 0.1), (7, 0.1), (25, 0.1), (25, 0.4), (300, 0.03)])
def test_pictures_without_copies_are_divided_as_ever(count, share):
    order, n = np.random.default_rng(0).permutation(count), min(max(1, round(share * count)), count - 1)
    train, test = files._halves(scattered(count, 1), share)
    assert train.tolist() == order[n:].tolist() and test.tolist() == order[:n].tolist()
    same = files._halves(np.zeros((count, 3, 8, 8)), share)                  # of one picture alone, too
    assert [part.tolist() for part in same] == [train.tolist(), test.tolist()]


def test_a_folder_with_copies_is_another_data_set_than_before(tmp_path):
    """What was trained on pictures that are held out now is not taken for trained."""
    plain = sources.digest_of(classes(tmp_path / "a", n=1))
    for kind in ("cat", "dog"):
        (tmp_path / "a" / kind / "1.png").write_bytes((tmp_path / "a" / kind / "0.png").read_bytes())
    copied, listed = sources.digest_of(tmp_path / "a"), hashlib.sha256()
    for file in sorted((tmp_path / "a").rglob("*.png")):
        listed.update(f"\0{file.relative_to(tmp_path / 'a').as_posix()}\0{store.sha256(file)}".encode())
    assert plain != copied != listed.hexdigest()


# -------------------------------------------------------------------------------------------------------- transparency


def disc(mode):
    """A black disc, its rim half transparent, on transparent black: alpha alone tells them apart."""
    y, x = np.mgrid[:24, :24] - 11.5
    alpha = (255 * np.clip(9 - np.hypot(x, y), 0, 1)).astype(np.uint8)
    return Image.merge(mode, [Image.new("L", (24, 24))] * (len(mode) - 1) + [Image.fromarray(alpha)]), alpha


def masked(mode, **how):
    """A black square on one colour, or one palette entry, that is declared transparent."""
    ground = {"1": 1, "L": 40, "P": 1, "RGB": (40, 50, 60)}[mode]
    image = Image.new(mode, (24, 24), ground)
    if mode == "P":
        image.putpalette([0, 0, 0, 40, 50, 60])
    image.paste({"1": 0, "L": 0, "P": 0, "RGB": (0, 0, 0)}[mode], (6, 6, 18, 18))
    return image, how | {"transparency": ground}


CASES = {
    "RGBA.png": lambda: (disc("RGBA")[0], {}), "LA.png": lambda: (disc("LA")[0], {}),
    "RGBA.bmp": lambda: (disc("RGBA")[0], {}),
    "RGBA.webp": lambda: (disc("RGBA")[0], {"lossless": True}), "RGBA.tif": lambda: (disc("RGBA")[0], {}),
    "multiplied by alpha.tif": lambda: (disc("RGBA")[0], {}), "LA.tif": lambda: (disc("LA")[0], {}),
    "palette with alphas.png": lambda: (disc("RGBA")[0].quantize(16), {}),
    "palette, one entry.png": lambda: masked("P"), "palette, bytes.png": lambda: (masked("P")[0], {
        "transparency": b"\xff\x00"}), "gif.gif": lambda: masked("P"),
    "grey tRNS.png": lambda: masked("L"), "colour tRNS.png": lambda: masked("RGB"),
    "bits tRNS.png": lambda: masked("1"),
    "icon.gif": lambda: (disc("RGBA")[0].convert("PA").convert("RGBA"), {}), "PA.tif": lambda: (
        disc("RGBA")[0].convert("PA"), {}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_images_are_laid_on_white(tmp_path, name, channels):
    image, how = CASES[name]()
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            path = tmp_path / kind / f"{i}{name[name.rindex('.'):]}"
            image.save(path, **how)
            if name.startswith("multiplied"):             # by hand: the tag ExtraSamples, 1 for 2; black stays black
                before, after = (b"\x52\x01\x03\0\x01\0\0\0" + kind for kind in (b"\x02", b"\x01"))
                path.write_bytes(path.read_bytes().replace(before, after))
                assert before not in path.read_bytes()
    with Image.open(tmp_path / "a" / path.name) as saved:
        grey = saved.mode in ("1", "L", "LA")
    if grey and channels == 3:
        with pytest.raises(ValueError, match="are grey"):
            files.from_folder(tmp_path, size=24)
        return
    found = files.from_folder(tmp_path, size=24, channels=channels).pixels[0]
    assert found.shape == (channels, 24, 24)
    assert found[:, 0, 0].tolist() == [255] * channels and found[:, 12, 12].tolist() == [0] * channels


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    image, alpha = disc("RGBA")
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            image.save(tmp_path / kind / f"{i}.png")
    found = files.from_folder(tmp_path, size=24).pixels[0, 0].int()
    assert ((found - (255 - torch.from_numpy(alpha.astype(int)))).abs() <= 1).all()
    assert len(found.unique()) > 5


@pytest.mark.parametrize("fourth", [0, 255, 100])
def test_a_fourth_channel_of_a_bmp_that_is_the_same_everywhere_says_nothing(tmp_path, fourth):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.dstack([pixels, np.full((16, 16), fourth, np.uint8)])).save(tmp_path / kind / "0.bmp")
        Image.fromarray(pixels).save(tmp_path / kind / "1.bmp")
    images = files.from_folder(tmp_path, size=16, held_out=0.5)
    assert all((p.permute(1, 2, 0).numpy() == pixels).all() for p in (*images.pixels, *images.test_pixels))


def test_opaque_images_keep_their_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels).save(tmp_path / kind / "0.png")
        Image.fromarray(np.dstack([pixels, np.full((16, 16), 255, np.uint8)])).save(tmp_path / kind / "1.png")
    images = files.from_folder(tmp_path, size=16, held_out=0.5)
    assert all((p.permute(1, 2, 0).numpy() == pixels).all() for p in (*images.pixels, *images.test_pixels))


# -------------------------------------------------------------------------- what is no class, and what is no image


LEFT = ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "Desktop.ini", "THUMBS.DB", ".hidden.png", "ehthumbs.db",
        "Icon\r", "Thumbs.db:encryptable", "~$notes.docx", "ZbThumbnail.info",
        ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/cat/._0.png", "@eaDir/0.png/SYNOPHOTO_THUMB_M.png",
        "$RECYCLE.BIN/desktop.ini", ".git/config", "System Volume Information/x", "#recycle/0.png", "lost+found/x",
        "__pycache__/x.pyc", ".Trashes/0.png", ".Spotlight-V100/x"]


@pytest.mark.parametrize("left", LEFT)
def test_what_systems_leave_behind_is_neither_class_nor_image(tmp_path, left):
    plain = files.from_folder(classes(tmp_path / "in"), size=8)
    for place in (tmp_path / "in", tmp_path / "in" / "cat"):
        (place / left).parent.mkdir(parents=True, exist_ok=True)
        (place / left).write_bytes(b"left behind")
    found = files.from_folder(tmp_path / "in", size=8)
    assert found.names == plain.names == ("cat", "dog") and torch.equal(found.pixels, plain.pixels)


def test_all_files_that_cannot_be_used_are_named_at_once_with_the_reason(tmp_path):
    classes(tmp_path)
    cat, dog = tmp_path / "cat", tmp_path / "dog"
    (cat / "notes.txt").write_text("not an image")
    (dog / "labels.csv").write_text("a,b")
    (dog / "empty.png").write_bytes(b"")
    (dog / "cut.png").write_bytes((dog / "0.png").read_bytes()[:45])
    (dog / "page.jpg").write_text("<html>404</html>")
    (cat / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(cat / "pipe.png")                                          # to open it would wait for ever
    picture(dog / "small.png", size=(4, 9))
    picture(dog / "grey.png", mode="L", colour=3)
    picture(cat / "deep.tif", mode="I;16", colour=40_000)
    with pytest.raises(ValueError) as error:
        files.from_folder(tmp_path, size=8)
    said = str(error.value)
    assert f"{tmp_path} holds 10 files that cannot be used" in said
    assert "notes.txt, dog/empty.png, dog/labels.csv, dog/page.jpg are not images of a kind that is read here" in said
    assert "cat/gone.png, cat/pipe.png are not files: a pipe, or a link to nothing" in said
    assert "dog/cut.png cannot be read (" in said
    assert "dog/small.png has 4 x 9 pixels, fewer than 8 x 8" in said
    assert "dog/grey.png is grey (L); convert it to colour, or take channels=1" in said
    assert "cat/deep.tif has more than 8 bits a channel (I;16); save it with 8" in said
    assert "0.png" not in said


def test_a_reason_agrees_with_the_number_of_files(tmp_path):
    classes(tmp_path)
    for name in "xyz":
        picture(tmp_path / "cat" / f"{name}.png", mode="L", colour=3)
        picture(tmp_path / "dog" / f"{name}.tif", mode="I;16", colour=40_000)
        picture(tmp_path / "dog" / f"{name}.gif", size=(4, 9))
    with pytest.raises(ValueError, match="holds 9 files") as error:
        files.from_folder(tmp_path, size=8)
    said = str(error.value)
    assert "cat/x.png, cat/y.png, cat/z.png are grey (L); convert them to colour, or take channels=1" in said
    assert "dog/z.tif have more than 8 bits a channel (I;16); save them with 8" in said
    assert "dog/z.gif have 4 x 9 pixels, fewer than 8 x 8" in said
    assert "{" not in said


def test_thousands_of_bad_files_make_a_message_that_can_be_read(tmp_path):
    classes(tmp_path)
    for i in range(3000):
        (tmp_path / "cat" / f"{i:04d}.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 3,000 files .*0099\.txt and 2,900 more are not images") as error:
        files.from_folder(tmp_path, size=8)
    assert len(str(error.value)) < 3000


# -------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(("train", "test"), [
    ("train", "test"), ("Train", "Test"), ("training", "testing"), ("TRAIN", "VAL"), ("train", "valid"),
    ("Training", "validation"), ("training_set", "test_set"), ("train-data", "eval"), ("train", "held out"),
])  # fmt: skip
def test_parts_for_training_and_for_holding_out_are_recognised(tmp_path, train, test):
    classes(tmp_path / train, n=3)
    classes(tmp_path / test, n=2)
    (tmp_path / "README.md").write_text("about these images")
    (tmp_path / "__MACOSX").mkdir()
    images = files.from_folder(tmp_path, size=8)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1] and images.test_labels.tolist() == [0, 0, 1, 1]
    assert images.names == ("cat", "dog")


def test_one_image_a_class_is_enough_where_the_parts_are_given(tmp_path):
    classes(tmp_path / "train", n=1), classes(tmp_path / "test", n=1)
    assert len(files.from_folder(tmp_path, size=8).pixels) == 2


def test_a_training_part_alone_is_divided(tmp_path):
    classes(tmp_path / "train")
    assert len(files.from_folder(tmp_path, size=8).pixels) == 8


def test_a_class_of_trains_is_a_class(tmp_path):
    images = files.from_folder(classes(tmp_path, ("bus", "train", "tram")), size=8)
    assert images.names == ("bus", "train", "tram")


LAYOUTS = {
    "a class in one part only": (["train/cat", "train/dog", "train/emu", "test/cat", "test/dog", "test/fox"],
                                 "both parts need the same classes, but there is emu, which .*fox, which"),
    "three parts": (["train/cat", "val/cat", "test/cat"], r"2 held out parts \(test, val\); it needs one"),
    "two for training": (["train/cat", "training/cat", "test/cat"], r"2 training parts \(train, training\)"),
    "nothing for training": (["test/cat", "test/dog"], "has no training part; it needs one, called train or training"),
    "parts and classes": (["train/cat", "test/cat", "dog"], "has the parts test, train and beside them dog"),
    "parts without classes": (["train", "test"], "test, train hold images; they need one subfolder for each class"),
    "nested": (["cat", "cat/siamese", "dog", "dog/pug"], "folders inside a class.*: cat/siamese, dog/pug"),
    "nested in a part": (["train/cat/siamese", "train/dog", "test/cat", "test/dog"],
                         "folders inside a class.*cat/siamese"),
    "one folder too high": (["pets/cat", "pets/dog"], r"give the folder whose subfolders are the classes\): pets/cat"),
    "no classes": (["."], "has no subfolder; it needs one for each class"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_layouts_are_refused_by_name(tmp_path, name):
    places, message = LAYOUTS[name]
    for place in places:
        classes(tmp_path / place, (".",))
    with pytest.raises(ValueError, match=message):
        files.from_folder(tmp_path, size=8)


def test_loose_images_and_small_classes_are_named_together(tmp_path):
    classes(tmp_path)
    picture(tmp_path / "loose.JPG")
    (tmp_path / "emu").mkdir()
    picture(tmp_path / "fox" / "0.png")
    with pytest.raises(ValueError, match=r"images outside a class.*: loose\.JPG; class emu has 0 images, class fox has "
                                         "1 image; each needs two: to learn and to test"):
        files.from_folder(tmp_path, size=8)


def test_an_empty_class_is_named(tmp_path):
    (classes(tmp_path) / "emu").mkdir()
    with pytest.raises(ValueError, match="class emu has 0 images; it needs two: to learn and to test"):
        files.from_folder(tmp_path, size=8)


def test_names_are_composed_so_that_both_parts_agree(tmp_path):
    classes(tmp_path / "train", ("li\u00e8vre", "cat")), classes(tmp_path / "test", ("lie\u0300vre", "cat"))
    assert files.from_folder(tmp_path, size=8).names == ("cat", "li\u00e8vre")


# ----------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("how", [
    {"size": 0}, {"size": -8}, {"size": 8.0}, {"size": True}, {"size": "8"}, {"size": None}, {"held_out": 0},
    {"held_out": 1}, {"held_out": float("nan")}, {"held_out": "0.1"}, {"channels": 4}, {"held_out": None},
    {"held_out": [0.1, 0.2]}, {"held_out": 1j}, {"held_out": True}, {"channels": "3"}, {"channels": None},
    {"channels": np.array([1, 3])}, {"size": (8, 8)}, {"size": np.array([8, 8])},
])  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(tmp_path, how):
    with pytest.raises(ValueError, match=f"{next(iter(how))} must be"):
        files.from_folder(classes(tmp_path), **{"size": 8} | how)


@pytest.mark.parametrize("place", [None, 7, b"in", ["in"], "", " ", "a\0b"])
def test_what_is_no_path_is_refused_by_every_reader_and_writer(place):
    images = sources.load_images("digits")
    for read in (lambda: files.from_folder(place, size=8), lambda: files.read_npz(place, ["pixels"]),
                 lambda: files.save_images(images, place), lambda: sources.load_images("cifar10", cache=place),
                 lambda: fetch.fetch("cifar10", cache=place), lambda: store.load_tensors(place),
                 lambda: store.read_json(place), lambda: tables.read_table(place), lambda: export.read(place)):
        with pytest.raises(ValueError, match=r"must be a path, as a text or a Path, not "):
            read()


@pytest.mark.parametrize("name", [None, 7, ["cifar10"], b"cifar10", np.array(["digits", "cifar10"])])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"unknown data set .*; choose from digits"):
        sources.load_images(name)
    with pytest.raises(ValueError, match=r"nothing to fetch called .*; choose from cifar10"):
        fetch.fetch(name)


@pytest.mark.skipif(os.name == "nt", reason="HOME is for other systems")
def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(classes(tmp_path / "in"))
    images = files.from_folder("~/in", size=8)
    files.save_images(images, "~/cache/cifar10.npz")
    assert torch.equal(sources.load_images("cifar10", cache="~/cache").pixels, images.pixels)
    assert not (tmp_path / "in" / "~").exists()
    with pytest.raises(ValueError, match="this system knows no such user"):
        files.from_folder("~nobody-at-all/in", size=8)


def test_a_path_may_be_a_text_and_a_size_numpys(tmp_path):
    assert files.from_folder(str(classes(tmp_path)), size=np.int64(8)).shape == (3, 8, 8)


def test_what_is_no_folder_is_named(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"PK")
    for name, message in (("pets.zip", r"pets\.zip is no folder"), ("none", "there is no folder .*none")):
        with pytest.raises(ValueError, match=message):
            files.from_folder(tmp_path / name, size=8)


@pytest.mark.parametrize(("held_out", "kept"), [(0.9, 1), (0.5, 1), (0.01, 1)])
def test_something_is_left_to_learn_and_to_test_whatever_the_share(tmp_path, held_out, kept):
    images = files.from_folder(classes(tmp_path, n=2), size=8, held_out=held_out)
    assert len(images.pixels) == len(images.test_pixels) == 2 * kept


# ------------------------------------------------------------------------------------------ hostile, and just large


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("I;16", "tif"), ("I;16B", "tif"), ("I", "tif"),
                                              ("F", "tif")])
def test_grey_of_more_than_8_bits_is_refused_and_not_clipped(tmp_path, mode, suffix, channels):
    picture(classes(tmp_path) / "dog" / f"x.{suffix}", mode=mode, colour=40_000)
    with pytest.raises(ValueError, match=rf"x\.{suffix} has more than 8 bits .*save it with 8"):
        files.from_folder(tmp_path, size=8, channels=channels)


def postscript(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n")


def said_to_be(width, height):
    """Writes a PNG that says how large it is, and has nothing in it."""
    def chunk(name, content):
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(("spoil", "message"), [
    (postscript, "is not an image of a kind that is"), (said_to_be(12_000, 12_000), "12000 x 12000 pixels, more than"),
    (said_to_be(60_000, 60_000), "has more than 134,217,728 pixels; make it smaller"),
])  # fmt: skip
def test_pictures_that_call_other_programs_or_take_all_memory_are_refused(tmp_path, spoil, message):
    spoil(classes(tmp_path) / "dog" / "x.png")
    with pytest.raises(ValueError, match=rf"x\.png.*{message}"):
        files.from_folder(tmp_path, size=8, channels=1)


def test_the_largest_photographs_there_are_are_within_the_limit():
    assert files.MAX_PIXELS > 11_662 * 8_746                      # 102 million, of a medium-format camera


def test_a_photograph_that_pillow_warns_of_is_read(tmp_path):
    side = 9_500                                                                  # 90 million pixels
    classes(tmp_path, n=1)
    for kind in ("cat", "dog"):
        buffer = io.BytesIO()
        Image.new("1", (side, side), 1).save(buffer, "PNG")
        (tmp_path / kind / "large.png").write_bytes(buffer.getvalue())
        picture(tmp_path / kind / "0.png", mode="L", colour=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = files.from_folder(tmp_path, size=8, channels=1)
    assert sorted({*images.pixels.unique().tolist(), *images.test_pixels.unique().tolist()}) == [7, 255]


def test_classes_without_names_keep_their_order(tmp_path):
    pixels = torch.arange(24, dtype=torch.uint8).reshape(24, 1, 1, 1).expand(24, 3, 8, 8).contiguous()
    labels = torch.arange(24) % 12
    files.save_folder(Images(pixels, labels, pixels, labels), tmp_path / "out")
    found = files.from_folder(tmp_path / "out", size=8)
    assert found.names == tuple(f"{k:02d}" for k in range(12))
    assert {(int(p[0, 0, 0]), int(k)) for p, k in zip(found.pixels, found.labels, strict=True)} == {
        (i, i % 12) for i in range(24)}


def test_labels_follow_the_classes_that_a_network_has_learned():
    pixels, labels = torch.zeros((6, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
    images = Images(pixels, labels, pixels, labels, names=("cat", "dog", "fox"))
    found = images.in_order(("fox", "cat", "dog"))
    assert [found.names[k] for k in found.labels] == [images.names[k] for k in labels] == [
        found.names[k] for k in found.test_labels]
    assert found.names == ("fox", "cat", "dog")
    for other in ((), ("0", "1", "2"), ("fox", "cat"), images.names):            # nothing that could be put in order
        assert torch.equal(images.in_order(other).labels, labels)


@pytest.mark.parametrize(("names", "known", "refused"), [
    (("0", "1", "10", "2"), (), True), (("1", "10", "11", "9"), ("a", "b", "c", "d"), True),
    (("0", "1", "10", "2"), ("0", "1", "2", "10"), False), (("00", "01", "02", "10"), (), False),
    (("class 1", "class 10", "class 2", "class 3"), (), True), ((), (), False),
    (("a10b", "a9b", "x", "y"), ("0", "1", "2", "3"), True), (("a09b", "a10b", "x", "y"), (), False),
    (("class 1", "class 2", "class 10", "x"), (), False),                    # in an .npz they come in their own order
])  # fmt: skip
def test_numbers_of_which_nobody_knows_the_order_are_refused(names, known, refused):
    pixels, labels = torch.zeros((4, 1, 8, 8), dtype=torch.uint8), torch.arange(4)
    images = Images(pixels, labels, pixels, labels, names=names)
    if refused:
        with pytest.raises(ValueError, match=r"numbers in the order .*, …; give their folders names of one length"):
            images.in_order(known)
    else:
        assert images.in_order(known).num_classes == 4


@pytest.mark.parametrize(("names", "known", "missing"), [
    (("ash", "oak", "yew"), ("ash", "oak", "taxus"), r"it knows taxus, and the pictures have yew; rename"),
    (("Ash", "Oak", "Yew"), ("ash", "oak", "yew"), r"it knows ash, oak, yew, and the pictures have Ash, Oak, Yew"),
    (("n01", "n02", "n03"), ("ash", "oak", "yew"), r"or give them its labels as names, 0 to 2"),
])  # fmt: skip
def test_classes_that_the_network_calls_otherwise_are_not_paired_by_their_alphabet(names, known, missing):
    pixels, labels = torch.zeros((3, 1, 8, 8), dtype=torch.uint8), torch.arange(3)
    with pytest.raises(ValueError, match=missing):
        Images(pixels, labels, pixels, labels, names=names).in_order(known)
    assert Images(pixels, labels, pixels, labels, names=("0", "1", "2")).in_order(known).names == ("0", "1", "2")
