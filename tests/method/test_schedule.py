import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from dashkit.method.schedule import Schedule, cosine_schedule, noised


def test_cosine_equals_diffusers():
    theirs = DDIMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(cosine_schedule(1000).alphas_cumprod, theirs, rtol=2e-5, atol=1e-9)


def test_cosine_is_computed_in_double_precision():
    u = np.arange(1001) / 1000
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    exact = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    found = cosine_schedule(1000).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(found, exact, rtol=2**-24)                    # rounding to float


@pytest.mark.parametrize("steps", [1, 7, 30, 50, 300, 333, 999, 1000])
def test_grid_has_exactly_the_steps_asked_for(steps, cosine):
    grid = cosine.grid(steps)
    assert len(grid) == steps and grid[-1] == 0
    assert (grid.diff() < 0).all() and grid[0] < 1000


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "50", True])
def test_grid_refuses_other_steps_and_names_the_range(steps, cosine):
    with pytest.raises(ValueError, match=r"steps must be an integer in 1 \.\. 1000"):
        cosine.grid(steps)


def test_x0_and_eps_predictions_invert_the_noising(cosine, generator):
    x0, y = torch.randn((8, 3, 4, 4), generator=generator), torch.zeros(8, dtype=torch.long)
    b = noised(cosine, x0, y, generator=generator)
    b = b._replace(t=b.t.clamp(max=900))
    x_t = cosine.add_noise(b.x0, b.t, b.eps)
    torch.testing.assert_close(cosine.predict_x0(x_t, b.t, b.eps), b.x0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cosine.predict_eps(x_t, b.t, b.x0), b.eps, rtol=1e-3, atol=1e-3)


def test_noising_keeps_unit_variance_at_every_timestep(cosine, generator):
    x0 = torch.randn((1000, 1, 8, 8), generator=generator)
    b = noised(cosine, x0, torch.zeros(1000, dtype=torch.long), generator=generator)
    assert b.x_t.var().item() == pytest.approx(1, abs=0.02)
    assert b.t.min() < 20 and b.t.max() > 980 and b.eps.mean().abs() < 0.02


def test_one_generator_state_gives_one_batch(cosine):
    x0, y = torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    a, b = (noised(cosine, x0, y, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a.x_t, b.x_t) and torch.equal(a.t, b.t)
    assert a.x0 is x0 and a.y is y
    assert noised(cosine, x0.double(), y, generator=torch.Generator()).eps.dtype == torch.float64


def test_a_schedule_moves_as_it_is(cosine):
    assert torch.equal(cosine.to("cpu").alphas_cumprod, cosine.alphas_cumprod)


def test_impossible_tables_are_refused():
    with pytest.raises(ValueError, match=r"^alphas_cumprod must be a 1-D tensor with every entry inside \(0, 1\)$"):
        Schedule(torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="positive integer"):
        cosine_schedule(0)


def test_a_table_that_rises_is_refused_and_one_that_rests_is_not():
    falling = torch.linspace(0.9, 0.1, 20)
    for table in (falling.flip(0), torch.cat([falling, falling]), 1 - cosine_schedule(50).alphas_cumprod):
        with pytest.raises(ValueError, match=r"must fall from the first timestep, .* to the last, almost noise; this"):
            Schedule(table)
    assert Schedule(torch.tensor([0.5, 2.0**-24, 2.0**-24])).T == 3       # a zero SNR that was rounded up


def test_snr_is_signal_over_noise_in_power(cosine):
    t = torch.tensor([0, 10, 500, 999])
    signal, noise = cosine.scales(t, torch.zeros(4))
    torch.testing.assert_close(cosine.snr[t], signal**2 / noise**2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("abar", [[1.0, 0.5], [0.5, 0.0], [0.5, -0.1], [1.1, 0.5]])
def test_a_schedule_lies_strictly_between_0_and_1_and_stays(abar, cosine):
    with pytest.raises(ValueError):
        Schedule(torch.tensor(abar))
    with pytest.raises(AttributeError):
        cosine.alphas_cumprod = torch.ones(3)


def test_a_thousand_timesteps_unless_told_and_at_least_one():
    assert cosine_schedule().T == 1000 and cosine_schedule(1).T == 1
    for T in (0, -3, 2.0):
        with pytest.raises(ValueError, match="T must be a positive integer"):
            cosine_schedule(T)
