"""A teacher that is misread is noticed before anything is trained."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import nn

from dashkit.datasets import files
from dashkit.experiments import own, trial
from dashkit.experiments.new import Wish, write_profile
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.ready import check_run
from dashkit.experiments.run import Run
from dashkit.interop.networks import Source
from dashkit.interop.schedules import PREDICTIONS, from_eps, read_scheduler, to_eps
from dashkit.method.exact_teacher import ExactTeacher
from dashkit.method.images import to_float
from dashkit.method.schedule import cosine_schedule

SMALL = dataclasses.replace(PROFILES["smoke"].student, size=4, num_classes=4, ch_mult=(1,), attention=())
ZERO = read_scheduler(dict(DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction").config)).schedule


def pictures(path, latent=False):
    """Noisy copies of four pictures, one a class; as latents they are 1.2 times the floats, and far from whole."""
    g = torch.Generator().manual_seed(0)
    centres = torch.rand((4, 1, 4, 4), generator=g) * 180 + 40
    x = (centres[torch.arange(160) % 4] + 20 * torch.randn((160, 1, 4, 4), generator=g)).clamp(0, 255).round().byte()
    x = (3 * to_float(x) + 0.01 * torch.rand(x.shape, generator=g)).numpy() if latent else x.numpy()
    np.savez(path, pixels=x, labels=np.arange(160) % 4)
    return path


class Exact(nn.Module):
    """The best network that there is for the pictures in a file; what it says of itself may be wrong."""

    null_label = 4

    def __init__(self, path, predicts="epsilon", said=None, *, schedule=None, shift=0):
        super().__init__()
        torch.manual_seed(0)
        images, self.schedule = files.from_npz(path), schedule or cosine_schedule(100)
        self.eps = ExactTeacher(self.schedule, images.x0, images.labels, bandwidth=0.15)
        self.predicts, self.prediction_type, self.shift = predicts, said or predicts, shift
        self.alphas_cumprod = self.schedule.alphas_cumprod
        self.anything = nn.Linear(300, 300)      # larger than its student

    def forward(self, x_t, t, y):
        y = torch.where(y == 4, y, (y + self.shift) % 4)
        return from_eps(self.eps(x_t, t, y), x_t, self.schedule.scales(t, x_t), self.predicts)


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """A run of a teacher that a function makes."""
    def made(path, make):
        monkeypatch.setitem(sys.modules, "my_exact", type(sys)("my_exact"))
        sys.modules["my_exact"].net = make
        source = Source(4, 1, 4, "my_exact:net")
        return Run(dataclasses.replace(PROFILES["smoke"], dataset=str(path), teacher=source, student=SMALL,
                                       T=len(make().alphas_cumprod), arms=("dash",)), root=tmp_path / "runs")
    return made


@pytest.mark.parametrize("said", PREDICTIONS)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_a_teacher_of_another_prediction_is_refused_by_its_own(tmp_path, run_of, predicts, said):
    path = pictures(tmp_path / "p.npz")
    run = run_of(path, lambda: Exact(path, predicts, said))
    if predicts == said:
        assert trial.doubts(run) == []
        return
    with pytest.raises(ValueError, match=f"is said to predict {said}, and denoises these pictures better as {predicts} "
                                         rf".*: set its prediction_type to {predicts}"):
        trial.doubts(run)


def test_latents_and_a_last_timestep_without_signal_are_read_as_they_are(tmp_path, run_of):
    latents, plain = pictures(tmp_path / "l.npz", latent=True), pictures(tmp_path / "p.npz")
    assert trial.doubts(run_of(latents, lambda: Exact(latents))) == []
    zero = run_of(plain, lambda: Exact(plain, "v_prediction", schedule=ZERO))
    assert zero.schedule.T == 1000 and trial.doubts(zero) == []
    arrays = dict(np.load(latents))
    np.savez(latents, **arrays | {"pixels": 5 * arrays["pixels"]})
    assert "The latents have a standard deviation of 6" in trial.doubts(run_of(latents, lambda: Exact(latents)))[0]


def test_classes_in_another_order_and_another_range_are_said(tmp_path, run_of):
    path, other = pictures(tmp_path / "p.npz"), tmp_path / "o.npz"
    said = trial.doubts(run_of(path, lambda: Exact(path, shift=1)))
    assert len(said) == 1 and "no better with their class than without" in said[0]
    arrays = dict(np.load(path))
    np.savez(other, **arrays | {"pixels": 255 - arrays["pixels"]})
    said = trial.doubts(run_of(other, lambda: Exact(path)))
    assert len(said) == 1 and "does not denoise these pictures" in said[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_untrained_teacher_is_no_refusal(tmp_path, run_of, prediction, seed):
    path = pictures(tmp_path / "p.npz")

    def made():
        torch.manual_seed(seed)
        net = UNet2DModel(sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
                          block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                          up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=5)
        net.alphas_cumprod, net.prediction_type = cosine_schedule(100).alphas_cumprod, prediction
        return net
    said = trial.doubts(run_of(path, made))
    assert len(said) == 1 and "Is it trained" in said[0]


def test_every_command_tries_the_teacher_first(tmp_path, run_of, capsys):
    path = pictures(tmp_path / "p.npz")
    wrong = run_of(path, lambda: Exact(path, "sample", "v_prediction"))
    with pytest.raises(ValueError, match="better as sample"):
        check_run(wrong)
    with pytest.raises(ValueError, match="better as sample"):
        own.comparison("my_exact:net", {}, path, device="cpu")
    with pytest.raises(ValueError, match="better as sample"):
        write_profile(tmp_path / "my.toml", Wish(str(path), "my_exact:net", "ours"), device="cpu")
    assert not (tmp_path / "my.toml").exists()
    for _ in range(2):
        run_of(path, lambda: Exact(path, shift=2))
        own.comparison("my_exact:net", {}, path, device="cpu")
    assert capsys.readouterr().out.count("no better with their class") == 1          # once in a process


def test_a_prediction_is_read_back_as_it_was_meant():
    x_t, eps = torch.randn((2, 3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    scales = cosine_schedule(100).scales(torch.tensor([0, 50, 98]), x_t)
    for prediction in PREDICTIONS:
        back = to_eps(from_eps(eps, x_t, scales, prediction), x_t, scales, prediction)
        torch.testing.assert_close(back, eps, rtol=1e-3, atol=1e-3)
