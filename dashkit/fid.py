"""Canonical FID: the 2048 features of Inception-2015-12-05, by torch-fidelity.  Layer 2."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashkit import fetch, runs
from dashkit.metrics import frechet_distance

KID_IMAGES = 5000      # of the reference are kept for KID

Extractor = Callable[[Tensor], Tensor]
"""uint8 images (N, 3, H, W) to features (N, 2048) on the CPU."""


class Statistics(NamedTuple):
    """What samples are held against, computed once from real images."""

    mean: Tensor       # (2048,) float64
    cov: Tensor        # (2048, 2048) float64
    features: Tensor   # (at most KID_IMAGES, 2048)
    n: int
    floor: float       # FID of one half of the real images to the other


def inception(weights: Path) -> nn.Module:
    """torch-fidelity's feature extractor with the fetched weights.

    They have no classifier: its entries are NaN, so that an Inception Score from this network is NaN and not a number.

    FileNotFoundError says what to fetch, ImportError what to install.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is not there: dashkit fetch inception")
    state = dict(runs.load_tensors(weights).tensors)
    state |= {"fc.weight": torch.full((1008, 2048), torch.nan), "fc.bias": torch.full((1008,), torch.nan)}
    with tempfile.TemporaryDirectory() as folder:          # torch-fidelity takes a path, and only this format
        path = Path(folder) / "weights.pt"
        torch.save(state, path)
        try:
            return fetch.inception_network(path)
        except ImportError as error:
            raise ImportError("FID needs torch-fidelity: pip install 'dashkit[scale]'") from error


def extractor(weights: Path, device: torch.device | str = "cpu", *, batch: int = 64) -> Extractor:
    """The features of images, `batch` at a time."""
    network = inception(weights).to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"FID is of uint8 colour images (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        return torch.cat([network(part.to(device))[0].float().cpu() for part in images.split(batch)])
    return features


def statistics(features: Tensor) -> Statistics:
    """The statistics of real features (N, 2048), in an order that is not that of their classes."""
    n = len(features)
    if n < 4:
        raise ValueError(f"statistics need at least four images, not {n}")
    shuffled = features[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    wide = features.double()
    floor = frechet_distance(shuffled[: n // 2], shuffled[n // 2 :])
    return Statistics(wide.mean(0), torch.cov(wide.T), shuffled[:KID_IMAGES].clone(), n, floor)


def reference(images: Tensor, extract: Callable[[], Extractor], cache: Path) -> Statistics:
    """`statistics` of uint8 images, kept in `cache` under their hash; `extract` makes the extractor if it is needed."""
    digest = hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest()
    path = cache / f"fid-reference-{digest[:16]}-{len(images)}.safetensors"
    if not path.is_file():
        found = statistics(extract()(images))
        runs.save_tensors(path, {"mean": found.mean, "cov": found.cov, "features": found.features},
                          {"n": found.n, "floor": found.floor, "sha256": digest})
    saved = runs.load_tensors(path)
    if saved.meta["sha256"] != digest:
        raise ValueError(f"{path} belongs to other images; delete it")
    return Statistics(**saved.tensors, n=saved.meta["n"], floor=saved.meta["floor"])


def fid(features: Tensor, real: Statistics) -> float:
    """The Fréchet distance of features (N, 2048) to real ones; biased upwards by about 1/N, so name N beside it."""
    if features.ndim != 2 or features.shape[1] != len(real.mean) or len(features) < 2:
        raise ValueError(f"features must be (N, {len(real.mean)}) with N >= 2, not {tuple(features.shape)}")
    wide = features.double()
    cov = torch.cov(wide.T)
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt()                  # cov = root root^T
    cross = torch.linalg.eigvalsh(root.T @ real.cov @ root).clamp(min=0).sqrt().sum()
    return ((wide.mean(0) - real.mean).square().sum() + cov.trace() + real.cov.trace() - 2 * cross).item()


def kid(features: Tensor, real: Statistics) -> float:
    """Unbiased kernel distance, (x.y/D + 1)^3 (Bińkowski et al., 2018); 0 on average for real images, and may be < 0.

    Uses at most KID_IMAGES features.
    """
    x, y = (f[:KID_IMAGES].double() for f in (features, real.features))
    if min(len(x), len(y)) < 2:
        raise ValueError("KID needs at least two images on either side")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))
    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()
