"""Labelled images in memory, as uint8; or latents, as floats."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A labelled image set with a held-out part; uint8 pixels (N, C, H, W), labels (N,).

    With `latent` the pixels are float32 latents: they are what the network sees, and have no largest value.
    """

    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    names: tuple[str, ...] = ()      # of the classes, in the order of their labels; () if they have none
    latent: bool = False

    def __post_init__(self) -> None:
        for pixels, labels in ((self.pixels, self.labels), (self.test_pixels, self.test_labels)):
            kind = torch.float32 if self.latent else torch.uint8
            if pixels.dtype != kind or labels.dtype != torch.int64 or int(labels.min()) < 0:
                raise ValueError(f"pixels must be {str(kind).removeprefix('torch.')} and labels int64 from 0, "
                                 f"not {pixels.dtype} and {labels.dtype}")
        if self.names and len(self.names) != self.num_classes:
            raise ValueError(f"{self.num_classes} classes need as many names, not {len(self.names)}")

    def in_order(self, names: Sequence[str]) -> "Images":
        """The same images with the labels of a network whose class k is called names[k].

        Where either has no names, or only numbers, labels are taken to be the network's.  ValueError for other words
        than the network's, and for names with numbers in another order than that of their values, as 10 before 2: one
        cannot know what was meant.
        """
        if self.names and sorted(self.names) == sorted(names):
            new = torch.tensor([list(names).index(name) for name in self.names], device=self.labels.device)
            return replace(self, labels=new[self.labels], test_labels=new[self.test_labels], names=tuple(names))
        if words_differ(self.names, names):
            mine, theirs = ([n for n in one if n not in other] for one, other in (
                (self.names, names), (names, self.names)))
            raise ValueError(f"the network has other classes: it knows {_few(theirs)}, and the pictures have "
                             f"{_few(mine)}; rename the folders as the network's classes, or give them its labels as "
                             f"names, {_label(0, len(names))} to {_label(len(names) - 1, len(names))}")
        numbers = all(name.isdecimal() for name in self.names)
        if (numbers or list(self.names) == sorted(self.names)) and list(self.names) != sorted(self.names, key=_natural):
            raise ValueError(f"the classes have numbers in the order {', '.join(self.names[:4])}, …; give their "
                             "folders names of one length, as 00, 01, …, in the order in which the teacher knows them")
        return self

    def class_name(self, label: int) -> str:
        """What to call a class where people read it: its name, or its number if the classes have no names."""
        return self.names[label] if self.names else str(int(label))

    @property
    def num_classes(self) -> int:
        return int(max(self.labels.max(), self.test_labels.max())) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    @property
    def x0(self) -> Tensor:
        """The training images in [-1, 1], float32 (N, C, H, W); latents as they are."""
        return self.pixels if self.latent else to_float(self.pixels)

    @property
    def test_x0(self) -> Tensor:
        """The held-out images in [-1, 1], float32 (M, C, H, W); latents as they are."""
        return self.test_pixels if self.latent else to_float(self.test_pixels)

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device), self.test_pixels.to(device),
                      self.test_labels.to(device), self.names, self.latent)


def words_differ(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two lists of as many names of classes cannot mean the same: both have words, and not the same ones.

    >>> words_differ(("cat", "dog"), ("dog", "cat")), words_differ(("cat", "dog"), ("0", "1"))
    (False, False)
    >>> words_differ(("cat", "dog"), ("cat", "cow"))
    True
    """
    words = not (all(n.isdecimal() for n in a) or all(n.isdecimal() for n in b))
    return words and len(a) == len(b) and sorted(a) != sorted(b)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which 2 comes before 10, wherever in a name the numbers stand."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _label(k: int, count: int) -> str:
    """A label as the name of a folder: numbers of one length, so that their alphabet is their order."""
    return f"{k:0{len(str(count - 1))}d}"


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0 .. 255 to float32 -1 .. 1; ValueError for any other type."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, not {pixels.dtype}: they may have been scaled before")
    return pixels.float() / 127.5 - 1


def check_images(x: Tensor) -> None:
    """Raise ValueError unless images x (B, ...) are floats inside [-1, 1]."""
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
    if not x.is_floating_point() or not -1 <= low <= high <= 1:
        raise ValueError(f"images must be floats in [-1, 1], not {x.dtype} in [{low:g}, {high:g}]; see images.to_float")


def to_uint8(x: Tensor) -> Tensor:
    """float -1 .. 1 to the nearest uint8 0 .. 255; values outside are clamped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def minibatches(images: Images, batch: int, *, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (x0 (B, C, H, W), y (B,)), drawn with replacement by `generator` alone, so that a run can be resumed."""
    while True:
        i = torch.randint(len(images.pixels), (batch,), generator=generator, device=generator.device)
        i = i.to(images.pixels.device)
        yield images.pixels[i] if images.latent else to_float(images.pixels[i]), images.labels[i]
