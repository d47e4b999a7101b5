import pytest
import torch

from dashkit.experiments.correction import CORRECTIONS, Corrected, GuidedBy, equal_bins, fit_correction
from dashkit.method.calibration import gap_stats
from dashkit.method.guidance import Branches, branches, corrected_w
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule

BINS = equal_bins(100)


class Toy(torch.nn.Module):
    """Two branches that are linear in x, and different in each half of the timesteps."""

    null_label = 3

    def __init__(self, size=1.0):
        super().__init__()
        self.size = size
        self.eval()

    def forward(self, x, t, y):
        size = torch.where(t < 50, self.size, 1.0)[:, None, None, None]
        return 0.1 * x + torch.where(y == 3, 0.0, size[:, 0, 0, 0] * (1.0 + y))[:, None, None, None] * torch.cos(x)


@pytest.fixture
def states(generator):
    x = torch.randn(300, 1, 4, 4, generator=generator)
    return x, torch.randint(100, (300,), generator=generator), torch.randint(3, (300,), generator=generator)


def outputs(model, states):
    return branches(model, *states)


def error(model, teacher, states, w):
    return (model.guided(*states, w) - outputs(teacher, states).guided(w)).square().mean().item()


def test_a_gap_of_another_size_in_half_of_the_timesteps_is_mended_by_timestep(states):
    student, teacher = Toy(0.5), Toy()
    errors = {}
    for kind in CORRECTIONS:
        pairs = outputs(student, states), outputs(teacher, states)
        fitted = fit_correction(kind, *pairs, states[1], w=3.0, bins=equal_bins(100, 4))
        errors[kind] = error(Corrected(student, fitted), teacher, states, 3.0)
    assert errors["beta_t"] > 1e-3 * errors["none"]                # the c branch is wrong, too, and stays so
    assert errors["mix_t"] < 1e-9 < errors["beta_t"] < errors["beta"] < errors["none"]


def test_one_factor_is_the_scale_that_notebook_06_teaches(states):
    student, teacher = outputs(Toy(0.5), states), outputs(Toy(), states)
    fitted = fit_correction("beta", student, teacher, states[1], w=4.0, bins=BINS)
    expected = corrected_w(4.0, gap_stats(student, teacher).beta)
    assert fitted.cond.unique().tolist() == pytest.approx([expected])
    assert fitted.uncond.unique().tolist() == pytest.approx([1 - expected])


def test_nothing_to_correct_changes_nothing(states):
    model = Toy()
    for kind in ("none", "beta", "beta_t", "mix_t"):
        fitted = fit_correction(kind, outputs(model, states), outputs(model, states), states[1], w=2.1, bins=BINS)
        assert error(Corrected(model, fitted), model, states, 2.1) < 1e-10, kind
    schedule, y = cosine_schedule(100), torch.arange(3)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample(Corrected(model, fitted), schedule, y, x_T=x, w=2.1, steps=5),
                               sample(model, schedule, y, x_T=x, w=2.1, steps=5))


def test_projection_guides_along_what_is_left_of_c_beside_u(states):
    model = Toy()
    fitted = fit_correction("projected", outputs(model, states), outputs(model, states), states[1], w=2.5, bins=BINS)
    c, u = (v.flatten(1) for v in outputs(model, states))
    scaled = u * ((c * u).sum(1) / (u * u).sum(1))[:, None]
    assert ((c - scaled) * u).sum(1).abs().max() < 1e-3
    found = Corrected(model, fitted).guided(*states, 2.5).flatten(1)
    torch.testing.assert_close(found, scaled + 2.5 * (c - scaled), atol=1e-4, rtol=1e-4)


def test_a_bin_without_states_and_a_gap_of_zero_stay_as_they_are(states):
    t = states[1]
    early = [Branches(*(v[t < 50] for v in outputs(model, states))) for model in (Toy(0.5), Toy())]
    fitted = fit_correction("beta_t", *early, t[t < 50], w=3.0, bins=equal_bins(100, 2))
    assert (fitted.cond[50:] == 3).all() and (fitted.cond[:50] != 3).all()
    none = Branches(early[0].cond, early[0].cond)
    assert (fit_correction("beta", none, early[1], t[t < 50], w=3.0, bins=BINS).cond == 3).all()


def test_what_cannot_be_fitted_or_was_not_is_refused(states):
    pair = outputs(Toy(), states)
    with pytest.raises(ValueError, match="one of none, beta, beta_t, mix_t, projected, not 'gamma'"):
        fit_correction("gamma", pair, pair, states[1], w=2.0, bins=BINS)
    with pytest.raises(ValueError, match="guidance scale"):
        fit_correction("beta", pair, pair, states[1], w=-1.0, bins=BINS)
    with pytest.raises(ValueError, match="fitted for w = 2, not 3"):
        Corrected(Toy(), fit_correction("beta", pair, pair, states[1], w=2.0, bins=BINS)).guided(*states, 3.0)


def test_a_guide_stands_in_for_the_null_row(states):
    student, teacher = Toy(0.5), Toy()
    plain = outputs(teacher, states)
    own = GuidedBy(teacher, teacher).guided(*states, 3.0)
    torch.testing.assert_close(own, plain.guided(3.0))                         # guided by itself: as always
    by_teacher = GuidedBy(student, teacher).guided(*states, 3.0)
    torch.testing.assert_close(by_teacher, Branches(outputs(student, states).cond, plain.uncond).guided(3.0))
    weaker = GuidedBy(teacher, student, labelled=True)
    torch.testing.assert_close(weaker.guided(*states, 1.0), plain.cond)        # nothing is added at w = 1
    torch.testing.assert_close(weaker.guided(*states, 2.0), 2 * plain.cond - outputs(student, states).cond)
    assert not weaker.training and weaker.null_label == 3
