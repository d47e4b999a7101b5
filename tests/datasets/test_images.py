
import pytest
import torch

from dashkit.datasets import sources
from dashkit.method.images import Images, minibatches, to_float, to_uint8
from dashkit.method.quality import train_classifier


def test_bytes_survive_the_way_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert to_uint8(torch.tensor([-5.0, 5.0])).tolist() == [0, 255]


def test_minibatches_are_decided_by_the_generator():
    images = sources.load_images("digits")
    a, b = (minibatches(images, 16, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    for _ in range(3):
        (x, y), (x2, y2) = next(a), next(b)
        assert torch.equal(x, x2) and torch.equal(y, y2) and x.shape == (16, 1, 8, 8)


def test_images_that_were_scaled_before_are_refused():
    pixels = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"pixels must be uint8, not torch\.float32: they may have been scaled before"):
        to_float(pixels)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        Images(pixels, torch.arange(2), pixels, torch.arange(2))


@pytest.mark.parametrize("x", [torch.full((2, 1, 8, 8), 255.0), torch.full((2, 1, 8, 8), -1.5),
                               torch.full((2, 1, 8, 8), float("nan")), torch.zeros((2, 1, 8, 8), dtype=torch.uint8)])
def test_data_outside_minus_one_to_one_is_refused(x):
    with pytest.raises(ValueError, match=r"images must be floats in \[-1, 1\]"):
        train_classifier(x, torch.zeros(2, dtype=int), num_classes=2, seed=0)


def test_a_label_that_is_no_class_is_refused_by_the_judge():
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 1, not 0 \.\. 2"):
        train_classifier(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]), num_classes=2, seed=0)
