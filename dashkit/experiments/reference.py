"""What samples of colour photographs are compared with, kept in a file: on a CPU it takes minutes to make."""

from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional as F

from dashkit.method.images import Images, to_float
from dashkit.method.quality import Classifier, ImageReference, make_image_reference
from dashkit.storage import store


def colour_reference(path: Path, images: Images, *, n: int, device: torch.device, facts: dict) -> ImageReference:
    """The reference of colour images for n samples, from its file, which is made first if it is not there.

    Of the held-out images it keeps points with the same mean and covariance, all that a Fréchet distance looks at.
    `facts` are kept in the file, too.  ValueError for a file that holds another reference.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                print("a classifier whose features measure samples is trained now, once; minutes on a CPU")
                _make(path, images, n=n, facts=facts)
    saved, model = store.load_tensors(path), ColourClassifier(images.shape, images.num_classes)
    weights = {k.removeprefix("classifier."): v for k, v in saved.tensors.items() if k.startswith("classifier.")}
    try:
        store.check_weights(model.state_dict(), weights)
        reference, floor = saved.tensors["reference"], saved.tensors["floor"]
        accuracy, n = float(saved.meta["accuracy"]), int(saved.meta["samples"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no reference of these images ({error}); delete it to make it again") from error
    model.load_state_dict(weights)
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return ImageReference(model, reference.to(device), floor, accuracy, n)


def _make(path: Path, images: Images, *, n: int, facts: dict) -> None:
    trained = train_colour_classifier(images.pixels, images.labels, num_classes=images.num_classes, seed=0)
    weights = {f"classifier.{k}": v.half() if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    trained.load_state_dict({k.removeprefix("classifier."): v for k, v in weights.items()})
    made = make_image_reference(images, n=n, seed=0, classifier=trained)
    store.save_tensors(path, {"reference": moment_points(made.reference), "floor": made.floor, **weights},
                       {"accuracy": made.accuracy, "samples": made.n, **facts})


class ColourClassifier(Classifier):
    """A convolutional classifier of colour photographs: logits, and `features` (B, 64) for the Fréchet distance."""

    @staticmethod
    def layers(shape: tuple[int, ...], num_classes: int) -> tuple[nn.Module, nn.Module]:
        def block(cin: int, cout: int) -> list[nn.Module]:
            return [nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]

        body = nn.Sequential(
            *block(shape[0], 24), *block(24, 48), nn.MaxPool2d(2), *block(48, 48), *block(48, 96), nn.MaxPool2d(2),
            *block(96, 96), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64))
        return body, nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, num_classes))


def train_colour_classifier(
    pixels: Tensor, labels: Tensor, *, num_classes: int, seed: int, epochs: int = 6, batch: int = 256
) -> ColourClassifier:
    """Train a `ColourClassifier` on uint8 images (N, 3, H, W) with labels (N,); mirrored and shifted at random.

    The seed decides everything, and the caller's random state is left as it was.  Minutes on a CPU, seconds on a GPU.
    """
    device = pixels.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = ColourClassifier(tuple(pixels.shape[1:]), num_classes)
        model.to(device, memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = max(epochs * len(pixels) // batch, 20)             # a few images make less than one
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=steps)
        for _ in range(steps):
            i = torch.randint(len(pixels), (batch,), device=device)
            x = to_float(pixels[i])
            flip, (dy, dx) = torch.rand(batch, device=device) < 0.5, torch.randint(-2, 3, (2,)).tolist()
            x = torch.where(flip[:, None, None, None], x.flip(3), x).roll((dy, dx), (2, 3))
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[i],
                                   label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def moment_points(features: Tensor) -> Tensor:
    """2D points (2D, D) with the mean and the covariance of features (N, D): all that a Fréchet distance knows of them.

    >>> from dashkit.method.quality import frechet_distance
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> frechet_distance(moment_points(x), x) < 1e-6
    True
    """
    values, vectors = torch.linalg.eigh(torch.cov(features.double().T).reshape(features.shape[1], -1))
    steps = (vectors * values.clamp(min=0).sqrt()).T * (len(values) - 0.5) ** 0.5
    return (features.double().mean(0) + torch.cat([steps, -steps])).to(features)
