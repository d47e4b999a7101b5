import pytest
import torch

from dashkit.datasets import sources
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.sampling import sample

POINTS = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.3, -2.0]])
LABELS = torch.tensor([0, 0, 1, 2])


@pytest.fixture(scope="module")
def teacher(cosine):
    return ExactTeacher(cosine, POINTS, LABELS, bandwidth=0.2)


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_eps_is_the_score_of_the_noised_mixture(teacher, cosine, generator, label):
    x = torch.randn((32, 2), generator=generator, dtype=torch.float64).requires_grad_()
    t = torch.randint(5, 995, (32,), generator=generator)
    abar = cosine.alphas_cumprod[t].double()[:, None]
    variance = abar * 0.2**2 + 1 - abar
    chosen = POINTS if label == 3 else POINTS[label == LABELS]
    distance = (x[:, None] - abar.sqrt()[:, None] * chosen.double()).square().sum(-1)
    log_density = torch.logsumexp(-distance / (2 * variance), 1)
    [score] = torch.autograd.grad(log_density.sum(), x)
    expected = -(1 - abar).sqrt() * score
    eps = teacher(x.detach().float(), t, torch.full((32,), label))
    torch.testing.assert_close(eps.double(), expected, rtol=1e-3, atol=1e-3)


def test_bayes_consistency_the_gaps_average_to_nothing(teacher, generator):
    x, t = torch.randn((64, 2), generator=generator), torch.randint(1000, (64,), generator=generator)
    posterior = teacher.posterior(x, t)
    null = teacher(x, t, torch.full((64,), teacher.null_label))
    gaps = torch.stack([teacher(x, t, torch.full((64,), k)) - null for k in range(3)], 1)
    torch.testing.assert_close(posterior.sum(1), torch.ones(64))
    assert (posterior[:, :, None] * gaps).sum(1).abs().max() < 1e-4


def test_ddim_with_the_exact_teacher_lands_on_the_mixture(teacher, cosine, generator):
    y = torch.arange(3).repeat(100)
    x_T = torch.randn((len(y), 2), generator=generator)
    x = sample(teacher, cosine, y, x_T=x_T, w=1.0, steps=100, x0_clip=None)
    distance = torch.cdist(x, POINTS)
    distance[y[:, None] != LABELS] = torch.inf
    nearest = distance.min(1)
    assert (nearest.values < 5 * 0.2).float().mean() > 0.98
    assert nearest.values.square().mean().sqrt().item() == pytest.approx(0.2 * 2**0.5, rel=0.15)
    of_class_0 = nearest.indices[y == 0]
    assert 25 < (of_class_0 == 0).sum() < 75                  # both centres of class 0 are found


def test_keeping_eps_after_the_clamp_turns_guidance_against_itself(cosine, generator):
    images = sources.load_images("digits")
    digits = ExactTeacher(cosine, images.x0, images.labels, bandwidth=0.1)
    y = torch.arange(60) % 10
    x_T = torch.randn((60, 1, 8, 8), generator=generator)

    def right(**settings):
        x = sample(digits, cosine, y, x_T=x_T, w=4.0, steps=25, **settings)
        nearest = torch.cdist(x.flatten(1), images.x0.flatten(1)).argmin(1)
        return (images.labels[nearest] == y).float().mean().item()

    assert right() > 0.95
    assert right(recompute_eps=False) < 0.3


def test_bad_mixtures_are_refused(cosine):
    with pytest.raises(ValueError, match="same non-zero length"):
        ExactTeacher(cosine, POINTS, LABELS[:2], bandwidth=0.1)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        ExactTeacher(cosine, POINTS, LABELS, bandwidth=0.0)
    with pytest.raises(ValueError, match="no point has label 1"):
        ExactTeacher(cosine, POINTS, torch.tensor([0, 0, 2, 2]), bandwidth=0.1)
