import math

import numpy as np
import pytest
import torch
from fetched import needs
from PIL import Image

from dashkit.datasets import sources
from dashkit.experiments import fid
from dashkit.method.quality import frechet_distance
from dashkit.storage import store

N = 40       # images a side: enough to tell wrong features from right ones


@pytest.fixture(scope="module")
def real():
    path = needs("npm", "cifar10")
    return sources.load_images("cifar10", cache=path.parent).pixels[: 2 * N]


@pytest.fixture(scope="module")
def weights():
    return needs("sh", "inception")


def torch_fidelitys_weights(weights, folder):
    """The weights as the file that torch-fidelity takes."""
    state = dict(store.load_tensors(weights).tensors)
    torch.save(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, folder / "w.pt")
    return str(folder / "w.pt")


def test_features_are_torch_fidelitys(real, weights, tmp_path):
    """Held against torch-fidelity's own extractor, image by image, and of more images than are taken at once."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = torch_fidelitys_weights(weights, tmp_path)
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=path)
    images = real[:5]
    with torch.no_grad():
        wanted = torch.cat([theirs(image[None])[0] for image in images])
    found = fid.Inception(weights, batch=3)(images)
    assert found.shape == (5, 2048) and found.std() > 0.1 and wanted.std(0).mean() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_distances_are_torch_fidelitys(generator):
    """Held against torch-fidelity's metrics, on features narrow enough for their matrix square root to be quick."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = torch.randn((2, N, 64), generator=generator) @ torch.rand((64, 64), generator=generator) / 8
    a, real = a + 0.1, fid.statistics(b)
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)
    assert fid.fid(a, real) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=N, verbose=False)
    assert fid.kid(a, real) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_fid_and_kid_of_folders_of_images_are_torch_fidelitys(real, weights, tmp_path):
    """Held against torch-fidelity's own entry point, on folders of PNG files."""
    from torch_fidelity import calculate_metrics

    for part, images in (("a", real[:N]), ("b", real[N:])):
        (tmp_path / part).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / part / f"{i:03d}.png")
    theirs = calculate_metrics(
        input1=str(tmp_path / "a"), input2=str(tmp_path / "b"), cuda=False, save_cpu_ram=True,
        fid=True, kid=True, kid_subsets=1, kid_subset_size=N, cache=False, verbose=False,
        feature_extractor_weights_path=torch_fidelitys_weights(weights, tmp_path))
    extract = fid.Inception(weights)
    a, b = extract(real[:N]), fid.statistics(extract(real[N:]))
    assert a.shape == (N, 2048) and a.std() > 0.1
    assert fid.fid(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert fid.kid(a, b) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)


def test_an_inception_score_is_torch_fidelitys_and_needs_the_real_classifier(weights, generator):
    from torch_fidelity.metric_isc import isc_features_to_metric

    assert fid.Inception(weights).classifier is None               # the package's file has none
    features = torch.rand((500, 2048), generator=generator)
    with pytest.raises(ValueError, match="needs the classifier of torch-fidelity's own weights"):
        fid.inception_score(features, None)
    classifier = torch.randn((1008, 2048), generator=generator) * 0.1
    theirs = isc_features_to_metric(features @ classifier.T, splits=1, shuffle=False)["inception_score_mean"]
    found = fid.inception_score(features, classifier, splits=1)
    assert found == pytest.approx(theirs, rel=1e-5) and 1.5 < found < 1008
    assert fid.inception_score(features, classifier) < found       # few images a part: biased downwards
    with pytest.raises(ValueError, match="needs at least 10 images, not 9"):
        fid.inception_score(features[:9], classifier)


def test_missing_weights_and_wrong_images_are_explained(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match="dashkit fetch inception"):
        fid.Inception(tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="uint8 colour images"):
        fid.Inception(weights)(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def features(n, shift=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn((n, 16), generator=g) * torch.linspace(0.5, 2, 16) + shift


def test_fid_is_the_frechet_distance_and_has_a_floor():
    a, b = features(300, 0.3), features(400, seed=1)
    found = fid.statistics(b)
    assert fid.fid(a, found) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert 0 < found.floor < 2 and found.n == 400
    # the bias goes as 1/N: halves of N have twice that of two N; one pair varies by about a sixth of it, the mean of
    # thirty by a thirtieth, their ratio by a twentieth
    floors = [fid.statistics(features(1000, seed=s)).floor for s in range(30)]
    whole = [fid.fid(features(1000, seed=100 + s), fid.statistics(features(1000, seed=s))) for s in range(30)]
    assert np.mean(floors) / np.mean(whole) == pytest.approx(2, rel=0.15)


def test_kid_is_unbiased():
    found = [fid.kid(features(60, seed=2 * s), fid.statistics(features(60, seed=2 * s + 1))) for s in range(40)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(40)
    assert fid.kid(features(60, 1.0), fid.statistics(features(60, seed=1))) > 10 * np.std(found)


def test_the_reference_is_computed_once_for_the_same_images(tmp_path):
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    calls = []

    def make():
        calls.append(1)
        return lambda x: x.flatten(1).float()

    first, again = (fid.reference(images, make, tmp_path) for _ in range(2))
    assert len(calls) == 1 and torch.equal(first.cov, again.cov) and first.floor == again.floor
    fid.reference(images.flip(3), make, tmp_path)
    assert len(calls) == 2


@pytest.mark.parametrize("spoil", [
    lambda t, m: t.pop("cov"), lambda t, m: t.update(other=t["cov"]), lambda t, m: t.update(mean=t["mean"].float()),
    lambda t, m: t.update(features=t["features"][:3]), lambda t, m: m.update(n=7), lambda t, m: m.pop("floor"),
])  # fmt: skip
def test_a_kept_reference_that_is_none_is_refused_and_named(tmp_path, spoil):
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    def make():
        return lambda x: x.flatten(1).float()
    fid.reference(images, make, tmp_path)
    path = next(tmp_path.glob("fid-reference-*"))
    tensors, meta = store.load_tensors(path)
    spoil(tensors, meta)
    store.save_tensors(path, tensors, meta)
    with pytest.raises(ValueError, match=rf"{path.name} holds no statistics of these images"):
        fid.reference(images, make, tmp_path)


def test_weights_of_another_network_are_refused_and_named(tmp_path):
    store.save_tensors(tmp_path / "w.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match=r"w\.safetensors does not fit Inception"):
        fid.Inception(tmp_path / "w.safetensors")


def test_the_distances_are_computed_where_the_features_are():
    """On a meta device nothing is computed, but everything must be there: a CPU tensor among them would raise."""
    real = fid.statistics(features(50))
    moved = real.to("meta")
    assert {v.device.type for v in moved if isinstance(v, torch.Tensor)} == {"meta"} and moved.n == 50
    assert fid.fid(features(40, 0.1), real) == fid.fid(features(40, 0.1), real.to("cpu"))
