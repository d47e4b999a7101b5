"""Canonical FID: the 2048 features of Inception-2015-12-05, by torch-fidelity."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dashkit import environment
from dashkit.datasets import fetch
from dashkit.method.quality import frechet_distance, gaussian_distance
from dashkit.storage import store

KID_IMAGES = 5000      # of the reference are kept for KID


class Statistics(NamedTuple):
    """What samples are held against, computed once from real images."""

    mean: Tensor       # (2048,) float64
    cov: Tensor        # (2048, 2048) float64
    features: Tensor   # (at most KID_IMAGES, 2048)
    n: int
    floor: float       # FID of one half of the real images to the other

    def to(self, device: torch.device | str) -> "Statistics":
        return Statistics(*(v.to(device) if isinstance(v, Tensor) else v for v in self))


class Inception:
    """The 2048 features of uint8 images (N, 3, H, W), `batch` at a time: calling it gives (N, 2048) on its device.

    `batch` None is 256 images on a GPU, and 64 on a CPU.

    `classifier` (1008, 2048) is what an Inception Score needs, or None: only torch-fidelity's own file has it, the
    package does not.  FileNotFoundError says what to fetch, ImportError what to install.
    """

    distances = ("fid", "kid")

    def __init__(self, weights: Path, device: torch.device | str = "cpu", *, batch: int | None = None) -> None:
        weights = Path(weights)
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} is not there; type: {environment.kit('fetch inception')}")
        state = dict(store.load_tensors(weights).tensors)
        self.device, self.classifier = torch.device(device), state.get("fc.weight")
        self.batch = batch or (256 if self.device.type == "cuda" else 64)
        state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)} | state      # not used by features
        with tempfile.TemporaryDirectory() as folder:          # torch-fidelity takes a path, and only this format
            path = Path(folder) / "weights.pt"
            torch.save(state, path)
            try:
                network = fetch.inception_network(path)
            except RuntimeError as error:
                said = " ".join(str(error).split())[:160]
                raise ValueError(f"{weights} does not fit Inception ({said} …); delete it and fetch it") from error
        self.network = network.to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"FID is of uint8 colour images (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        return torch.cat([self.network(part.to(self.device))[0].float() for part in images.split(self.batch)])


Extractor = Callable[[Tensor], Tensor]
"""uint8 images (N, C, H, W) to features (N, D), with `classifier` and the names of its two `distances`."""


def statistics(features: Tensor) -> Statistics:
    """The statistics of real features (N, 2048), in an order that is not that of their classes."""
    n = len(features)
    if n < 4:
        raise ValueError(f"statistics need at least four images, not {n}")
    shuffled = features[torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(features.device)]
    wide = features.double()
    floor = frechet_distance(shuffled[: n // 2], shuffled[n // 2 :])
    return Statistics(wide.mean(0), torch.cov(wide.T), shuffled[:KID_IMAGES].clone(), n, floor)


def reference(images: Tensor, extract: Callable[[], Extractor], cache: Path) -> Statistics:
    """`statistics` of uint8 images, kept in `cache` under their hash; `extract` makes the extractor if it is needed."""
    digest = hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest()
    path = Path(cache) / f"fid-reference-{digest[:16]}-{len(images)}.safetensors"
    if not path.is_file():
        found = statistics(extract()(images))
        store.save_tensors(path, {"mean": found.mean, "cov": found.cov, "features": found.features},
                          {"n": found.n, "floor": found.floor, "sha256": digest})
    saved = store.load_tensors(path)
    if saved.meta.get("sha256") != digest:
        raise ValueError(f"{path} belongs to other images; delete it")
    n, floor = len(images), saved.meta.get("floor")
    width = saved.tensors["mean"].shape[-1:] if "mean" in saved.tensors else ()
    wanted = {"mean": (torch.float64, (*width,)), "cov": (torch.float64, (*width, *width)),
              "features": (torch.float32, (min(n, KID_IMAGES), *width))}
    if {k: (v.dtype, tuple(v.shape)) for k, v in saved.tensors.items()} != wanted or not width or (
            saved.meta.get("n") != n or type(floor) is not float):
        raise ValueError(f"{path} holds no statistics of these images; delete it")
    return Statistics(**saved.tensors, n=n, floor=floor)


def fid(features: Tensor, real: Statistics) -> float:
    """The Fréchet distance of features (N, 2048) to real ones; biased upwards by about 1/N, so name N beside it.

    Computed in float64 on the device of the features, where `real` is moved to.
    """
    if features.ndim != 2 or features.shape[1] != len(real.mean) or len(features) < 2:
        raise ValueError(f"features must be (N, {len(real.mean)}) with N >= 2, not {tuple(features.shape)}")
    wide, real = features.double(), real.to(features.device)
    return gaussian_distance(wide.mean(0), torch.cov(wide.T), real.mean, real.cov)


def kid(features: Tensor, real: Statistics) -> float:
    """Unbiased kernel distance, (x.y/D + 1)^3 (Bińkowski et al., 2018); 0 on average for real images, and may be < 0.

    Uses at most KID_IMAGES features.
    """
    x, y = (f[:KID_IMAGES].to(features.device).double() for f in (features, real.features))
    if min(len(x), len(y)) < 2:
        raise ValueError("KID needs at least two images on either side")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))
    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()


def inception_score(features: Tensor, classifier: Tensor | None, *, splits: int = 10) -> float:
    """exp of the mean divergence of p(y | x) from p(y), over features (N, 2048); the mean of `splits` parts of them.

    Salimans et al. (2016), with the classifier's bias left out as in the original code.  ValueError without the real
    classifier (1008, 2048): any other gives another number, and none can be compared.
    """
    if classifier is None:
        raise ValueError("an Inception Score needs the classifier of torch-fidelity's own weights; those that were "
                         "fetched from a package have none: take FID, or fetch inception where its source is in reach")
    if len(features) < splits:
        raise ValueError(f"an Inception Score in {splits} parts needs at least {splits} images, not {len(features)}")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).to(features.device)
    log_p = (features[order].double() @ classifier.to(features.device).double().T).log_softmax(1)
    scores = []
    for part in log_p.tensor_split(splits):
        marginal = part.exp().mean(0, keepdim=True)
        scores.append((part.exp() * (part - marginal.log())).sum(1).mean().exp())
    return torch.stack(scores).mean().item()
