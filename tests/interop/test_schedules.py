"""Schedules of diffusers, held against diffusers' own."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from dashkit.interop.schedules import Diffusion, read_scheduler, same, scheduler_config, to_eps
from dashkit.method.schedule import Schedule, cosine_schedule

CONFIGS = [{"beta_schedule": "linear"}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
           {"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "sigmoid", "num_train_timesteps": 200},
           {"trained_betas": [0.01, 0.02, 0.3]}]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.get("beta_schedule", "trained"))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_schedule_is_the_schedulers_own(config, prediction):
    theirs = DDPMScheduler(**config, prediction_type=prediction)
    found = read_scheduler(dict(theirs.config))
    assert torch.equal(found.schedule.alphas_cumprod, theirs.alphas_cumprod) and found.prediction == prediction


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_terminal_snr_is_taken_and_said(prediction):
    theirs = DDPMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True, prediction_type=prediction)
    found = read_scheduler(dict(theirs.config))
    assert "zero terminal SNR" in found.note
    torch.testing.assert_close(found.schedule.alphas_cumprod[:-1], theirs.alphas_cumprod[:-1], rtol=1e-3, atol=1e-6)
    x0, eps = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.full((4,), 999)
    x_t = found.schedule.add_noise(x0, t, eps)
    scales = found.schedule.scales(t, x0)
    output = scales[0] * eps - scales[1] * x0 if prediction == "v_prediction" else x0
    back = found.schedule.predict_x0(x_t, t, to_eps(output, x_t, scales, prediction))
    torch.testing.assert_close(back, x0, rtol=0, atol=5e-3)


@pytest.mark.parametrize(("config", "message"), [
    ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "zero terminal SNR and the network predicts epsilon"),
    ({"beta_schedule": "karras"}, "this kit reads linear, scaled_linear"), ({}, "beta_schedule None"),
    ({"beta_schedule": "linear", "prediction_type": "flow"}, "must be one of epsilon, v_prediction, sample"),
    ({"beta_schedule": "linear", "num_train_timesteps": 1}, "num_train_timesteps"),
    ({"trained_betas": [0.1, 1.5]}, r"inside \(0, 1\)"), ({"trained_betas": [0.1]}, "list of numbers"),
])  # fmt: skip
def test_what_is_no_discrete_diffusion_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        read_scheduler(config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.get("beta_schedule", "trained"))
def test_an_exported_scheduler_noises_alike(config):
    config = dict(DDPMScheduler(**config, prediction_type="v_prediction").config)
    found = read_scheduler(config)
    written = scheduler_config(found.schedule, found.prediction, config)
    theirs = DDIMScheduler.from_config(written)
    torch.testing.assert_close(theirs.alphas_cumprod, found.schedule.alphas_cumprod, rtol=1e-4, atol=1e-6)
    assert theirs.config.prediction_type == "v_prediction" and theirs.config.clip_sample


def test_the_kits_own_schedule_is_exported_by_name_and_latents_are_not_clamped():
    assert scheduler_config(cosine_schedule(1000), "epsilon")["beta_schedule"] == "squaredcos_cap_v2"
    latent = Schedule(cosine_schedule(1000).alphas_cumprod, None)
    assert scheduler_config(latent, "epsilon")["clip_sample"] is False


def test_schedules_are_the_same_up_to_rounding_alone():
    theirs = read_scheduler({"beta_schedule": "squaredcos_cap_v2"}).schedule
    linear = read_scheduler({"beta_schedule": "linear"}).schedule
    assert same(cosine_schedule(1000), theirs) and not same(linear, theirs)
    assert not same(cosine_schedule(1000), cosine_schedule(500))
    assert Diffusion(theirs, "epsilon").note == ""
