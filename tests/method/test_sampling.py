"""DDIM against diffusers' scheduler, step by step."""

import pytest
import torch
from diffusers import DDIMScheduler

from dashkit.experiments.profiles import PROFILES
from dashkit.method.guidance import branches, interval, tag
from dashkit.method.sampling import Sampling, ddim, sample
from dashkit.method.unet import UNet


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return UNet(PROFILES["smoke"].student).eval()


Y = torch.tensor([0, 3, 7])
NOISE = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("w", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clamp", ["recompute", "keep", "off"])
def test_every_step_equals_diffusers(net, cosine, generator, w, steps, clamp):
    theirs = DDIMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", clip_sample=clamp != "off",
                           clip_sample_range=1.0, timestep_spacing="leading", set_alpha_to_one=True)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == cosine.grid(steps).tolist()
    x = torch.randn((3, 1, 8, 8), generator=generator)
    ours = ddim(net, cosine, Y, x, Sampling(w, steps, x0_clip=None if clamp == "off" else 1.0,
                                            recompute_eps=clamp == "recompute"))
    for t, mine in zip(theirs.timesteps, ours, strict=True):
        with torch.no_grad():
            eps = branches(net, x, t.repeat(3), Y).guided(w)
        x = theirs.step(eps, t, x, use_clipped_model_output=clamp == "recompute").prev_sample
        torch.testing.assert_close(mine, x, rtol=2e-3, atol=2e-3)
        x = mine                                          # follow one path, compare every step


@pytest.mark.parametrize("steps", [1, 7, 30])
def test_exactly_as_many_states_as_steps(net, cosine, steps):
    states = list(ddim(net, cosine, Y, NOISE, Sampling(steps=steps)))
    assert len(states) == steps and states[-1].shape == (3, 1, 8, 8) and states[-1].abs().max() <= 1


def test_the_same_seed_gives_the_same_samples_and_batches_do_not_matter(net, cosine):
    def draw(seed, **more):
        g = torch.Generator().manual_seed(seed)
        return sample(net, cosine, Y, x_T=torch.randn((3, 1, 8, 8), generator=g), w=2.0, steps=5, **more)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    torch.testing.assert_close(draw(1), draw(1, batch=2), rtol=1e-3, atol=1e-4)


def test_a_table_of_w_is_followed(net, cosine, generator):
    x = torch.randn((3, 1, 8, 8), generator=generator)

    def end(w):
        return sample(net, cosine, Y, x_T=x, w=w, steps=8)

    torch.testing.assert_close(end(torch.full((1000,), 2.0)), end(2.0))
    assert not torch.allclose(end(tag(1000)), end(interval(1000, 4.0)))


def test_one_pass_a_step_where_one_branch_is_enough(net, cosine):
    passes = []
    handle = net.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    for w in (0.0, 1.0, 1.5):
        sample(net, cosine, Y, x_T=NOISE, w=w, steps=2)
    handle.remove()
    assert passes == [3, 3, 3, 3, 6, 6]


def test_sampling_leaves_gradients_to_the_caller(net, cosine):
    for _ in ddim(net, cosine, Y, NOISE, Sampling(steps=2)):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(("bad", "message"), [
    ({"w": -1.0}, "guidance scale w"), ({"steps": 0}, "steps must be"), ({"x0_clip": 0.0}, "x0_clip must be positive"),
])
def test_bad_input_is_refused_before_the_first_step(net, cosine, bad, message):
    with pytest.raises(ValueError, match=message):
        ddim(net, cosine, Y, NOISE, Sampling(**bad))
    with pytest.raises(ValueError, match=message):
        sample(net, cosine, Y, x_T=NOISE, **bad)


def test_sampling_refuses_noise_for_other_labels_and_unknown_settings(net, cosine):
    with pytest.raises(ValueError, match="same length"):
        ddim(net, cosine, Y, NOISE[:2], Sampling())
    with pytest.raises(ValueError, match="batch must be positive"):
        sample(net, cosine, Y, x_T=NOISE, batch=0)
    with pytest.raises(TypeError, match="stepz"):
        sample(net, cosine, Y, x_T=NOISE, stepz=3)


def test_a_batch_that_memory_cannot_hold_is_halved(cosine):
    largest = []

    class Net:
        null_label, most = 10, 6

        def __call__(self, x, t, y):
            if len(x) > self.most:
                raise torch.OutOfMemoryError("too many")
            largest.append(len(x))
            return 0.1 * x

    y = torch.arange(20) % 10
    x_T = torch.randn((20, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    found = sample(Net(), cosine, y, x_T=x_T, steps=2)
    assert found.shape == (20, 1, 4, 4) and max(largest) == 5           # a quarter of twenty
    Net.most = 20
    torch.testing.assert_close(found, sample(Net(), cosine, y, x_T=x_T, steps=2))
    Net.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        sample(Net(), cosine, y, x_T=x_T, steps=2)
