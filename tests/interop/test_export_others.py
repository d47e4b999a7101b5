"""Students of diffusers' own classes, exported: diffusers loads them and samples as we do."""

from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils import dynamic_modules_utils
from safetensors.torch import load_file
from test_foreign_networks import SHAPE, Plain, dit, unet, write

from dashkit.interop import export, networks
from dashkit.interop.pipeline import GuidedPipeline
from dashkit.method.sampling import sample
from dashkit.method.schedule import Schedule
from dashkit.method.unet import UNet, UNetConfig

Y = torch.tensor([0, 3, 9])
CASES = {
    "v": (unet, DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction"), {}),
    "x0": (unet, DDPMScheduler(beta_schedule="scaled_linear", prediction_type="sample"), {}),
    "null_first": (unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2"), {"null_label": 0}),
    "sigmoid": (unet, DDPMScheduler(beta_schedule="sigmoid"), {}),
    "dit": (dit, DDPMScheduler(beta_schedule="linear"), {}),
    "zero_snr": (unet, DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction",
                                     rescale_betas_zero_snr=True), {}),
    # what a config leaves open, or says in another way
    "size_twice": (partial(unet, sample_size=(8, 8)), DDPMScheduler(beta_schedule="linear"), {}),
    "no_size": (partial(unet, sample_size=None, out_channels=2), DDPMScheduler(beta_schedule="linear"), {}),
    "no_table": (partial(unet, class_embed_type="timestep", num_class_embeds=None),
                 DDPMScheduler(beta_schedule="linear"), {"null_label": 10}),
    "no_table_null_first": (partial(unet, class_embed_type="timestep", num_class_embeds=None, sample_size=[8, 8]),
                            DDPMScheduler(beta_schedule="linear", prediction_type="sample"), {"null_label": 0}),
}


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))

    def load(folder):
        pipe = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, trust_remote_code=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("clip", [1.0, None])
def test_an_exported_student_samples_in_diffusers_as_here(name, clip, tmp_path, loaded):
    make, scheduler, how = CASES[name]
    found = networks.load(write(tmp_path / "T", make(), scheduler, "transformer" if make is dit else "unet"),
                          images=SHAPE, **how)
    student = found.model.config.changed({}).make().eval()
    schedule = Schedule(found.diffusion.schedule.alphas_cumprod, clip)
    names = tuple(f"kind {k}" for k in range(10))
    assert networks.write(student, tmp_path / "S", schedule=schedule, names=names, scheduler=found.diffusion.config)
    pipe = loaded(tmp_path / "S")
    x_T = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    for w in (1.5, 0.0):
        theirs = pipe(class_labels=[names[int(k)] for k in Y], guidance_scale=w, num_inference_steps=10, latents=x_T,
                      output_type="pt").images
        ours = sample(student, schedule, Y, x_T=x_T, w=w, steps=10)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4 * max(1.0, float(ours.abs().max())))
    back = networks.load(tmp_path / "S")                     # and the folder says everything that reading it needs
    assert back.names == names and back.model.config.rows == found.model.config.rows
    with torch.no_grad():
        t = torch.tensor([5, 500, 900])
        torch.testing.assert_close(back.model(x_T, t, Y), student(x_T, t, Y), rtol=1e-4, atol=1e-4)


def test_a_student_of_ours_keeps_its_teachers_schedule(tmp_path, loaded):
    found = networks.load(write(tmp_path / "T", unet()), images=SHAPE)
    torch.manual_seed(0)
    student = UNet(UNetConfig(8, 1, 10, ch=8, ch_mult=(1, 2), blocks=1, groups=2, attention=(4,))).eval()
    networks.write(student, tmp_path / "S", schedule=found.diffusion.schedule, scheduler=found.diffusion.config)
    pipe = loaded(tmp_path / "S")
    assert pipe.scheduler.config.beta_schedule == "linear" and pipe.scheduler.config.prediction_type == "epsilon"
    x_T = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    theirs = pipe(Y.tolist(), guidance_scale=1.5, num_inference_steps=10, latents=x_T, output_type="pt").images
    ours = sample(student, found.diffusion.schedule, Y, x_T=x_T, w=1.5, steps=10)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    assert type(networks.load(tmp_path / "S").model) is UNet


def test_of_a_users_module_the_weights_are_written(tmp_path, monkeypatch):
    import sys
    module = type(sys)("my_nets")
    module.plain = Plain
    monkeypatch.setitem(sys.modules, "my_nets", module)
    found = networks.load("my_nets:plain", images=SHAPE)
    assert not networks.write(found.model, tmp_path, schedule=found.diffusion.schedule)
    weights = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in found.model.net.state_dict().items())
    assert not (tmp_path / export.INDEX).exists()


def test_a_student_of_latents_draws_no_pictures_and_says_what_to_do(tmp_path, loaded):
    found = networks.load(write(tmp_path / "T", dit(in_channels=4, out_channels=8), part="transformer"))
    schedule = Schedule(found.diffusion.schedule.alphas_cumprod, None)
    networks.write(found.model.config.changed({}).make().eval(), tmp_path / "S", schedule=schedule,
                   scheduler=found.diffusion.config)
    pipe = loaded(tmp_path / "S")
    for how in ({}, {"output_type": "np"}):
        with pytest.raises(ValueError, match=r'draws latents, not pictures: take output_type="pt".*decode them'):
            pipe([0], num_inference_steps=1, **how)
    drawn = [pipe([0, 3], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type=kind).images
             for kind in ("pt", "latent")]
    assert drawn[0].shape == (2, 4, 8, 8) and torch.equal(*drawn)


def test_a_folder_that_cannot_be_opened_again_is_named(tmp_path, monkeypatch):
    found = networks.load(write(tmp_path / "T", unet()), images=SHAPE)
    monkeypatch.setattr(GuidedPipeline, "__call__", lambda *a, **k: 1 + None)
    with pytest.raises(ValueError, match=r"S was written, and cannot be opened again \(TypeError"):
        networks.write(found.model.config.changed({}).make().eval(), tmp_path / "S", schedule=found.diffusion.schedule)


def test_a_function_may_return_a_network_of_diffusers(tmp_path, monkeypatch):
    """It is called as what it is, however it was named, and written as a pipeline."""
    import sys
    module = type(sys)("my_unets")
    module.small = partial(unet, block_out_channels=(4, 8))
    module.other = lambda: Own(**unet().config)
    monkeypatch.setitem(sys.modules, "my_unets", module)
    diffusion = networks.load(write(tmp_path / "T", unet()), images=SHAPE).diffusion
    for name, whole in (("small", True), ("other", False)):
        student = networks.described(networks.Source(8, 1, 10, f"my_unets:{name}"), diffusion).make().eval()
        assert not networks.ignores_label(student)
        with torch.no_grad():
            assert student(torch.ones(3, 1, 8, 8), torch.tensor([5, 6, 7]), Y).shape == (3, 1, 8, 8)
        assert networks.write(student, tmp_path / name, schedule=diffusion.schedule) is whole
    assert networks.load(tmp_path / "small").model.config.num_classes == 10


class Own(UNet2DModel):
    null_label = 10
