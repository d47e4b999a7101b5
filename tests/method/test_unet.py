"""The network against an independent implementation with the same weights."""

import dataclasses

import pytest
import torch
from oracles import diffusers_twin

from dashkit.experiments.cost import flops
from dashkit.experiments.profiles import PROFILES
from dashkit.method.unet import Stage, UNet, UNetConfig, n_parameters

ROLES = ("teacher", "student")
NETS = {f"{p}-{role}": getattr(PROFILES[p], role) for p in ("cifar10", "digits", "smoke") for role in ROLES}


@pytest.mark.parametrize("config", NETS.values(), ids=NETS)
def test_eps_equals_diffusers_with_the_same_weights(config, generator):
    torch.manual_seed(0)
    net = UNet(config).eval()
    theirs = diffusers_twin(net)
    assert n_parameters(net) == theirs.num_parameters()
    x = torch.randn((2, config.channels, config.size, config.size), generator=generator)
    t, y = torch.tensor([3, 871]), torch.tensor([1, net.null_label])
    with torch.no_grad():
        torch.testing.assert_close(net(x, t, y), theirs(x, t, class_labels=y).sample, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("config", "count"), [
    (PROFILES["cifar10"].teacher, 35_751_939),
    (PROFILES["cifar10"].student, 6_082_627),
    (UNetConfig(8, 1, 10, ch=64, ch_mult=(1, 2), blocks=2, attention=(4,)), 3_992_833),
    (UNetConfig(8, 1, 10, ch=32, ch_mult=(1, 2), blocks=1, attention=(4,)), 702_753),
])  # fmt: skip
def test_parameter_counts_are_exact(config, count):
    with torch.device("meta"):
        assert n_parameters(UNet(config)) == count


@pytest.mark.parametrize(("role", "gflop"), [("teacher", 12.44), ("student", 2.15)])
def test_operations_of_the_cifar_networks(role, gflop):
    assert flops(UNet(getattr(PROFILES["cifar10"], role))) / 1e9 == pytest.approx(gflop, rel=0.015)


def test_imagenet_networks_have_the_published_sizes():
    with torch.device("meta"):
        sizes = [n_parameters(UNet(getattr(PROFILES["imagenet64"], r))) / 1e6 for r in ("teacher", "student")]
    assert sizes == pytest.approx([116.5, 22.3], abs=0.06)


def test_the_class_and_the_timestep_matter_and_samples_do_not_mix(generator):
    net = UNet(PROFILES["smoke"].student).eval()
    x = torch.randn((3, 1, 8, 8), generator=generator)
    t, y = torch.tensor([10, 10, 10]), torch.tensor([1, 1, 1])
    base = net(x, t, y)
    assert not torch.allclose(base, net(x, t + 500, y)) and not torch.allclose(base, net(x, t, y + 1))
    torch.testing.assert_close(base[:1], net(x[:1], t[:1], y[:1]), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(generator):
    net = UNet(PROFILES["smoke"].student)
    x, t = torch.randn((11, 1, 8, 8), generator=generator), torch.arange(11) * 90
    net(x, t, torch.arange(11)).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    assert any(isinstance(m, Stage) for m in net.modules())


@pytest.mark.parametrize(("change", "message"), [
    ({"ch": 0}, "ch must be a positive integer"), ({"groups": 7}, "multiple of groups"), ({"size": 7}, "halved"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"), ({"ch_mult": ()}, "ch_mult must be positive integers"),
])  # fmt: skip
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PROFILES["smoke"].student, **change)


def test_images_of_another_shape_are_refused():
    net = UNet(PROFILES["smoke"].student)
    with pytest.raises(ValueError, match=r"x_t must have shape \(B, 1, 8, 8\)"):
        net(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
