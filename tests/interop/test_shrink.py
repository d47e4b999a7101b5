"""A smaller network of the teacher's class."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DModel

from dashkit.interop import networks
from dashkit.interop.shrink import shrunk, shrunk_unet
from dashkit.method.unet import UNetConfig, n_parameters


def described(net, folder, part):
    net.save_pretrained(folder / part)
    DDPMScheduler(beta_schedule="linear").save_pretrained(folder / "scheduler")
    return networks.load(folder, images=networks.Shape(1, 8, 10)).model.config


@pytest.fixture
def unet(tmp_path):
    return described(UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(24, 48),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, num_class_embeds=11), tmp_path / "unet", "unet")


@pytest.fixture
def dit(tmp_path):
    return described(DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=1, out_channels=2, num_layers=5, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10), tmp_path / "dit", "transformer")


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize("factor", [2, 6])
def test_the_student_has_about_the_wished_share_and_runs(kind, factor, request):
    teacher = request.getfixturevalue(kind)
    student = teacher.changed(shrunk(teacher, factor)).make()
    assert 0.7 * factor < n_parameters(teacher.make()) / n_parameters(student) < 1.4 * factor
    out = student(torch.zeros(2, 1, 8, 8), torch.tensor([0, 999]), torch.tensor([1, 10]))
    assert out.shape == (2, 1, 8, 8) and bool(out.isfinite().all())
    assert not networks.ignores_label(student)


def test_of_a_transformer_both_depth_and_width_shrink(dit):
    changes, config = shrunk(dit, 6), json.loads(dit.settings)
    assert changes["num_layers"] < config["num_layers"]
    assert changes["num_attention_heads"] * changes["attention_head_dim"] < 64


def test_a_users_module_is_not_shrunk(dit):
    own = networks.Other(8, 1, 10, "my_nets:big", "{}", dit.rows, dit.diffusion)
    with pytest.raises(ValueError, match=r"module of your own, which this kit cannot shrink.*--student ours"):
        shrunk(own, 6)


@pytest.mark.parametrize("parameters", [20_000, 100_000, 3e6])
def test_a_network_of_this_kit_of_a_wished_size(parameters):
    found = shrunk_unet(UNetConfig(32, 3, 10, ch=64, ch_mult=(1, 2, 2), blocks=2, groups=16), parameters)
    with torch.device("meta"):
        assert 0.6 < n_parameters(found.make()) / parameters < 1.6
