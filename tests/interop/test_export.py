"""Exported networks are loaded by diffusers itself."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.utils import dynamic_modules_utils
from safetensors.torch import load_file, save_file

from dashkit import cli
from dashkit.experiments import campaign
from dashkit.experiments import run as experiments_run
from dashkit.experiments.networks import load_student
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.training import get_students, get_teacher
from dashkit.interop import export
from dashkit.interop.schedules import read_scheduler, same
from dashkit.method import guidance
from dashkit.method.images import to_uint8
from dashkit.method.sampling import sample
from dashkit.method.schedule import cosine_schedule
from dashkit.method.unet import UNet
from dashkit.storage import store

CONFIGS = {"student32": PROFILES["cifar10"].student, "teacher8": PROFILES["digits"].teacher,
           "proof": PROFILES["cifar10_proof"].student}


def net(config):
    torch.manual_seed(0)
    return UNet(config).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_diffusers_gives_the_same_eps_and_the_way_back_the_same_weights(config, tmp_path, generator):
    ours = net(config)
    export.write(ours, tmp_path / "net")
    theirs = UNet2DModel.from_pretrained(tmp_path / "net", local_files_only=True).eval()
    x = torch.randn((2, config.channels, config.size, config.size), generator=generator)
    t, y = torch.tensor([3, 871]), torch.tensor([1, ours.null_label])
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, t, class_labels=y).sample, ours(x, t, y), rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    for folder in ("net", "again"):
        back = export.read(tmp_path / folder)
        assert back.config == config
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in back.state_dict().items())


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Loads a pipeline as a user does; diffusers copies its file into a cache, here a temporary one."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))

    def load(folder, **how):
        pipe = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, trust_remote_code=True, **how)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


Y = torch.tensor([0, 3, 9, 3])


@pytest.fixture
def exported(tmp_path, loaded):
    """A network with random weights, and the pipeline that diffusers makes of it."""
    ours = net(PROFILES["smoke"].student)
    export.write_pipeline(ours, tmp_path / "out", T=1000)
    return ours, loaded(tmp_path / "out")


def drawn(pipe, **how):
    """Images (B, C, H, W) in [-1, 1] of the classes Y."""
    start = torch.Generator().manual_seed(3)
    settings = {"class_labels": Y.tolist(), "generator": start, "num_inference_steps": 50, "output_type": "pt"} | how
    return pipe(**settings).images


def expected(model, T=1000, steps=50, **how):
    start = torch.Generator().manual_seed(3)
    cfg = model.config
    x_T = torch.randn((len(Y), cfg.channels, cfg.size, cfg.size), generator=start)
    return sample(model, cosine_schedule(T), Y, x_T=x_T, steps=steps, **how)


@pytest.mark.parametrize("w", [0.0, 1.0, 1.5, 4.0])
def test_the_pipeline_gives_our_samples(exported, w):
    ours, pipe = exported
    found, wanted = drawn(pipe, guidance_scale=w), expected(ours, w=w)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert (wanted - expected(ours, w=2.5)).abs().max() > 0.01              # the scale does something


@pytest.mark.parametrize(("T", "steps"), [(1000, 30), (1000, 7), (250, 50), (64, 64), (1000, 1)])
def test_it_does_for_any_number_of_steps_and_timesteps(tmp_path, loaded, T, steps):
    ours = net(PROFILES["smoke"].student)
    export.write_pipeline(ours, tmp_path / "out", T=T)
    found = drawn(loaded(tmp_path / "out"), guidance_scale=1.5, num_inference_steps=steps)
    torch.testing.assert_close(found, expected(ours, T, steps, w=1.5), rtol=0, atol=1e-4)


def test_it_takes_a_guidance_table_and_noise(exported):
    ours, pipe = exported
    table, x_T = guidance.tag(1000), torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    found = drawn(pipe, guidance_scale=table, generator=None, latents=x_T)
    wanted = sample(ours, cosine_schedule(1000), Y, x_T=x_T, w=table, steps=50)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_the_scheduler_beside_it_has_our_betas_and_samples_alike(exported):
    """So does a loop of one's own with diffusers' scheduler, if it is asked to recompute eps."""
    ours, pipe = exported
    wanted = cosine_schedule(1000).alphas_cumprod
    torch.testing.assert_close(pipe.scheduler.alphas_cumprod, wanted, rtol=1e-4, atol=1e-6)
    x = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    pipe.scheduler.set_timesteps(50)
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            eps = pipe.unet(x, t, class_labels=Y).sample
            x = pipe.scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(x, expected(ours, w=1.0), rtol=0, atol=1e-4)


def test_a_colour_network_with_named_classes_gives_pictures(tmp_path, loaded):
    ours, names = net(PROFILES["cifar10_proof"].student), [f"kind {i}" for i in range(10)]
    export.write_pipeline(ours, str(tmp_path / "out"), T=1000, names=names)
    pipe = loaded(tmp_path / "out", custom_pipeline=str(tmp_path / "out"))
    how = {"num_inference_steps": 2, "guidance_scale": 1.5}
    pictures = drawn(pipe, class_labels=[names[i] for i in Y], output_type="pil", **how)
    arrays = drawn(pipe, output_type="np", **how)
    wanted = to_uint8(expected(ours, steps=2, w=1.5)).permute(0, 2, 3, 1).int()
    for picture, array, x in zip(pictures, arrays, wanted, strict=True):
        assert picture.size == (32, 32) and picture.mode == "RGB"
        assert (torch.from_numpy(array * 255) - x).abs().max() < 0.51
    for labels in (["kind 7", 2], torch.tensor([7, 2]), np.array([7, 2]), (7, np.int8(2))):
        assert pipe.get_label_ids(labels) == [7, 2]
    assert pipe.get_label_ids("kind 7") == pipe.get_label_ids(7) == [7]
    assert pipe.config.id2label["9"] == "kind 9"
    pipe.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["id2label"]["9"] == "kind 9"


@pytest.mark.parametrize(("how", "message"), [
    ({"class_labels": [11]}, r"no class 11; there are 0 to 9 \(0 0, .*\), and 10 for no class"),
    ({"class_labels": ["cat"]}, "no class 'cat'"), ({"guidance_scale": 21}, r"number in \[0, 20\], or 1000"),
    ({"guidance_scale": [1.0, 2.0]}, "or 1000 of them"), ({"num_inference_steps": 0}, r"in 1 \.\. 1000"),
    ({"class_labels": []}, "at least one class"), ({"class_labels": None}, "no class None"),
    ({"class_labels": [0.7]}, r"no class 0\.7"), ({"class_labels": [True]}, "no class True"),
    ({"class_labels": torch.tensor(0.5)}, "no class tensor"), ({"guidance_scale": None}, r"number in \[0, 20\]"),
    ({"guidance_scale": "2"}, r"number in \[0, 20\]"), ({"guidance_scale": float("nan")}, r"number in \[0, 20\]"),
    ({"num_inference_steps": "ten"}, r"whole number in 1 \.\. 1000, not 'ten'"),
    ({"num_inference_steps": 2.7}, "whole"), ({"num_inference_steps": None}, "whole number in"),
    ({"output_type": "latent"}, "pil, np or pt"), ({"latents": torch.zeros(3, 1, 8, 8)}, r"shape \(4, 1, 8, 8\)"),
])  # fmt: skip
def test_the_pipeline_refuses_what_makes_no_sense(exported, how, message):
    with pytest.raises(ValueError, match=message):
        drawn(exported[1], **how)


def test_both_layouts_are_read_and_no_network_is_named(tmp_path):
    ours = net(PROFILES["smoke"].student)
    export.write(ours, tmp_path / "bare")
    export.write_pipeline(ours, tmp_path / "whole", T=1000)
    for folder in (tmp_path / "bare", tmp_path / "whole", str(tmp_path / "whole" / "unet")):
        back = export.read(folder)
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in back.state_dict().items())
    with pytest.raises(FileNotFoundError, match="holds no network"):
        export.read(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    ({"names": ("cat", "dog")}, "10 classes need as many names"), ({"names": "0123456789"}, "10 classes need as many"),
    ({"names": [*"012345678", None]}, "all of them different texts"), ({"names": [*"0123456788"]}, "different texts"),
    ({"names": None}, "10 classes need as many names.* not None"), ({"names": range(10)}, "different texts"),
    ({"T": "1000"}, "T must be a positive integer, not '1000'"), ({"T": 0}, "T must be a positive integer"),
    ({"folder": None}, "folder must be a path"), ({"folder": 7}, "folder must be a path, as a text or a Path, not 7"),
])  # fmt: skip
def test_what_makes_no_pipeline_is_refused_before_anything_is_written(tmp_path, change, message):
    given = {"folder": tmp_path, "T": 1000} | change
    with pytest.raises(ValueError, match=message):
        export.write_pipeline(net(PROFILES["smoke"].student), given.pop("folder"), **given)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_a_trained_student(swept, tmp_path, loaded, monkeypatch, capsys):
    run = swept
    monkeypatch.setattr(experiments_run, "start_run", lambda *a, **k: run)
    assert cli.main(["export", "dash", str(tmp_path / "out"), "--profile", "smoke"]) == 0
    other = read_scheduler({"_class_name": "DDPMScheduler", "beta_schedule": "linear"}).schedule
    with monkeypatch.context() as patch:
        patch.setitem(vars(run), "schedule", other)
        assert cli.main(["export", "dash", str(tmp_path / "linear"), "--profile", "smoke"]) == 0
    written = store.read_json(tmp_path / "linear" / export.SCHEDULER)
    assert same(read_scheduler(written).schedule, other)
    saved = load_student(run, "dash", run.seed).state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in export.read(tmp_path / "out").state_dict().items())
    found = drawn(loaded(tmp_path / "out"), guidance_scale=1.5)
    student = load_student(run, "dash", run.seed)
    torch.testing.assert_close(found, expected(student, run.profile.T, w=1.5), rtol=0, atol=1e-4)


def test_the_command_exports_what_a_campaign_trained(tiny, tmp_path, monkeypatch, capsys):
    run = tiny()
    plan = campaign.Plan(10.0, 4, 3, 20, 40.0)
    store.write_json(campaign.plan_path(run), {"plan": plan._asdict(), "fid_samples": 20})
    monkeypatch.setattr(experiments_run, "start_run", lambda *a, **k: run)
    command = ["export", "dash", str(tmp_path / "out"), "--profile", "smoke"]
    assert cli.main(command) == 2 and "dash of profile smoke, seed 1, is not trained yet" in capsys.readouterr().err
    begun = campaign.with_plan(run, plan)
    get_students(begun, get_teacher(begun))
    assert cli.main(command) == 0 and not run.is_trained("dash", 1)
    saved = load_student(begun, "dash", 1).state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in export.read(tmp_path / "out").state_dict().items())


@pytest.mark.parametrize(("key", "value", "message"), [
    ("freq_shift", 0, "freq_shift is 0"), ("num_class_embeds", None, "no network of this kit"),
    ("block_out_channels", [8, 24], "no network of this kit"),
])  # fmt: skip
def test_networks_of_another_family_are_refused(tmp_path, key, value, message):
    export.write(net(PROFILES["smoke"].student), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=message):
        export.read(tmp_path)


@pytest.mark.parametrize("key", export._FIXED)
def test_a_config_without_a_key_is_refused_as_diffusers_would_take_its_own_default(tmp_path, key):
    export.write(net(PROFILES["smoke"].student), tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    del config[key]
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"net: {key} is missing"):
        export.read(tmp_path / "net")


def test_only_plain_networks_are_exported(tmp_path):
    with pytest.raises(ValueError, match="only a plain UNet"):
        export.write(torch.nn.Linear(1, 1), tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    ({"block_out_channels": [2**24, 2**24]}, "no network of this kit"), ({"layers_per_block": 10**9}, "need more than"),
    ({"block_out_channels": [0, 0]}, "no network of this kit"), ({"block_out_channels": []}, "no network of this kit"),
    ({"down_block_types": [1, 2]}, "no network of this kit"), ({"sample_size": -8}, "size must be a positive integer"),
])  # fmt: skip
def test_a_config_that_asks_for_more_than_its_weights_costs_nothing_and_is_named(tmp_path, change, message):
    export.write(net(PROFILES["smoke"].student), tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=rf"net holds no network of this kit.*{message}|net holds {message}"):
        export.read(tmp_path / "net")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda w: w.fill_(float("nan")), "holds NaN"), (lambda w: w.long(), "is torch.int64"),
])  # fmt: skip
def test_weights_that_are_no_numbers_are_refused_and_half_precision_is_not(tmp_path, spoil, message):
    model = net(PROFILES["smoke"].student)
    export.write(model, tmp_path)
    path = tmp_path / export.WEIGHTS
    weights = {k: v.clone() for k, v in load_file(path).items()}       # not a view of the file that is written over
    save_file({k: v.half() for k, v in weights.items()}, path)
    assert export.read(tmp_path).conv_in.weight.dtype == torch.float32
    save_file(weights | {"conv_in.weight": spoil(weights["conv_in.weight"])}, path)
    with pytest.raises(ValueError, match=message):
        export.read(tmp_path)
