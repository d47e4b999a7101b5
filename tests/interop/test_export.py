"""Exported networks are loaded by diffusers itself."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from dashkit import cli
from dashkit.experiments import campaign
from dashkit.experiments import run as experiments_run
from dashkit.experiments.networks import load_student
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.training import get_students, get_teacher
from dashkit.interop import export
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


def test_diffusers_samples_from_it(tmp_path, generator):
    export.write(net(PROFILES["smoke"].student), tmp_path)
    theirs, scheduler = UNet2DModel.from_pretrained(tmp_path, local_files_only=True), DDIMScheduler()
    scheduler.set_timesteps(3)
    x = torch.randn((2, 1, 8, 8), generator=generator)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(theirs(x, t, class_labels=torch.tensor([0, 10])).sample, t, x).prev_sample
    assert x.isfinite().all()


def test_the_command_exports_a_trained_student(swept, tmp_path, monkeypatch, capsys):
    run = swept
    monkeypatch.setattr(experiments_run, "start_run", lambda *a, **k: run)
    assert cli.main(["export", "dash", str(tmp_path / "out"), "--profile", "smoke"]) == 0
    saved = load_student(run, "dash", run.seed).state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in export.read(tmp_path / "out").state_dict().items())


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
