"""`dashkit shrink`: from a profile of one's own to a pipeline that samples, and its report."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from test_student_report import pictures

from dashkit import cli
from dashkit.experiments import budget, evaluation, training
from dashkit.experiments.new import Wish, write_profile
from dashkit.interop import networks
from dashkit.interop.networks import EpsModel
from dashkit.storage import paths

FEW = {"teacher_steps": 4, "student_steps": 4, "samples": 12, "states": 40, "sample_steps": 2, "ws": "1,1.5",
       "batch": 8}
SET = [a for k, v in FEW.items() for a in ("--set", f"{k}={v}")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of pictures, and a machine whose speed is known."""
    monkeypatch.setattr(budget, "rates", lambda run: budget.Rates(0.1, 0.05, 0.02, 0.01, 0.02))
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    pictures(tmp_path / "pics")
    return tmp_path


def teacher(folder):
    torch.manual_seed(0)
    UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
                block_out_channels=(16, 32), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=4).save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    return folder


def test_a_teacher_from_elsewhere_becomes_a_student_and_a_report(place, capsys):
    profile = write_profile(place / "my.toml", Wish(str(place / "pics"), str(teacher(place / "T"))), device="cpu").path
    capsys.readouterr()
    assert cli.main(["shrink", str(profile), "--device", "cpu", "--seed", "43", *SET]) == 0
    out, said = place / "my_student", capsys.readouterr().out
    assert "Still to do here: students about" in said and str(out / "report.html") in said
    found = networks.load(out)
    assert isinstance(found.model, EpsModel) and found.diffusion.prediction == "v_prediction"
    assert found.names == ("kind 0000", "kind 0001", "kind 0002")
    page = (out / "report.html").read_text()
    assert "dash" in page and "scratch" in page and page.count("Size of the gap") == 2
    assert "dash and scratch side by side, 4 steps of 8 pictures, seed 43" in page and "--seed 43" in page
    assert "3 held out from the students (a teacher from elsewhere may have learned from them)" in page
    assert "# A profile for pics" in page and "teacher, dash and scratch, one column" in page
    again = {p: p.stat().st_mtime_ns for p in place.rglob("final.safetensors")}
    assert cli.main(["shrink", str(profile), "--device", "cpu", "--seed", "43", *SET]) == 0    # nothing anew
    assert again == {p: p.stat().st_mtime_ns for p in place.rglob("final.safetensors")} and len(again) == 2


def test_without_a_teacher_one_is_trained(place):
    profile = write_profile(place / "own.toml", Wish(str(place / "pics"), factor=4), device="cpu").path
    # as wide as a test has time for
    profile.write_text(profile.read_text().replace("ch = 32", "ch = 8").replace("groups = 8", "groups = 2"))
    assert cli.main(["shrink", str(profile), "--device", "cpu", "--out", str(place / "out"), *SET]) == 0
    assert (place / "out" / "model_index.json").is_file() and len(list(place.rglob("final.safetensors"))) == 3


def test_a_student_is_kept_where_measuring_fails(place, capsys, monkeypatch):
    profile = write_profile(place / "my.toml", Wish(str(place / "pics"), str(teacher(place / "T"))), device="cpu").path

    def short(*args, **kwargs):
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(evaluation, "get_results", short)
    assert cli.main(["shrink", str(profile), "--device", "cpu", *SET]) == 2
    assert "not enough memory" in capsys.readouterr().err
    assert networks.load(place / "my_student").names == ("kind 0000", "kind 0001", "kind 0002")


def _never(*args, **kwargs):
    raise AssertionError("training began")


@pytest.mark.parametrize("arms", ["cond_only_icg,dash", "single_head,dash"])
def test_a_student_that_no_pipeline_holds_is_refused_before_any_training(place, capsys, monkeypatch, arms):
    profile = write_profile(place / "my.toml", Wish(str(place / "pics"), None), device="cpu").path
    monkeypatch.setattr(training, "get_teacher", _never)
    assert cli.main(["shrink", str(profile), "--device", "cpu", "--set", f"arms={arms}", *SET]) == 2
    assert f"{arms.partition(',')[0]} is no network that diffusers could sample from" in capsys.readouterr().err


def test_a_schedule_that_a_student_of_ours_cannot_say_is_refused_before_any_training(place, capsys, monkeypatch):
    folder = teacher(place / "T")
    wish = Wish(str(place / "pics"), str(folder), "ours")
    profile = write_profile(place / "my.toml", wish, device="cpu").path
    DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction", rescale_betas_zero_snr=True).save_pretrained(
        folder / "scheduler")
    monkeypatch.setattr(training, "get_students", _never)
    assert cli.main(["shrink", str(profile), "--device", "cpu", *SET]) == 2
    said = capsys.readouterr().err
    assert "the student predicts the noise, and its teacher's schedule has zero terminal SNR" in said
    with pytest.raises(ValueError, match=r"the student predicts the noise, .* \(--student teacher\)"):
        write_profile(place / "again.toml", wish, device="cpu")
    assert not (place / "again.toml").exists()
    write_profile(place / "again.toml", wish._replace(student="teacher"), device="cpu")


@pytest.mark.parametrize(("text", "message"), [
    ('source = "./gone"', "there is no folder"), ("T = 1000 ", "has 1000 timesteps, but the profile has T = 500"),
])  # fmt: skip
def test_what_is_wrong_is_one_sentence_before_any_training(place, capsys, text, message):
    profile = write_profile(place / "my.toml", Wish(str(place / "pics"), str(teacher(place / "T"))), device="cpu").path
    old = 'source = "./T"' if "source" in text else "T = 1000 "
    profile.write_text(profile.read_text().replace(old, text if "source" in text else "T = 500 "))
    assert cli.main(["shrink", str(profile), "--device", "cpu", "--set", "sample_steps=2"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not list(place.rglob("*.safetensors"))[2:]


LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
          "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
          "-m", "dashkit"]


def listening():
    """A shell's background jobs ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def shrink_in_two(place, profile, *more, stop=False):
    """The command in two processes; with `stop` Ctrl-C is typed once they train.  Its exit code, output and errors."""
    environment = {**os.environ, "DASHKIT_RUNS": str(place / "two"), "DASHKIT_PROGRESS": "1",
                   "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        process = subprocess.Popen(
            [*LAUNCH, "shrink", str(profile), "--device", "cpu", *SET, *more], cwd=place, env=environment, stdout=out,
            stderr=err, start_new_session=True, preexec_fn=listening if stop else None)
        while stop and process.poll() is None and not re.search(r" [3-9]/\d+ \[", (place / "err").read_text()):
            time.sleep(0.1)
        if stop:
            os.killpg(process.pid, signal.SIGINT)
        code = process.wait(timeout=3600)
        return code, (place / "out").read_text(), (place / "err").read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C to a group of processes is another thing there")
def test_two_processes_that_were_stopped_go_on(place):
    profile = write_profile(place / "my.toml", Wish(str(place / "pics"), str(teacher(place / "T"))), device="cpu").path
    steps = ["--set", "student_steps=200"]
    code, _, said = shrink_in_two(place, profile, *steps, stop=True)
    assert code != 0 and "dashkit: stopped; the same command goes on from here" in said, said[-3000:]
    assert list((place / "two").rglob("checkpoint*")) and not list((place / "two").rglob("final.safetensors"))
    code, said, failed = shrink_in_two(place, profile, *steps)
    assert code == 0 and said.count("report.html") == 1, failed[-3000:]
    assert len(list((place / "two").rglob("final.safetensors"))) == 2
    assert 0 < max(map(int, re.findall(r" (\d+)/200 \[", failed))) < 200        # the steps before were not done again


@pytest.mark.slow
def test_two_processes_shrink_together_and_train_what_is_missing(place):
    profile = write_profile(place / "my.toml", Wish(str(place / "pics"), str(teacher(place / "T"))), device="cpu").path
    code, said, failed = shrink_in_two(place, profile, "--set", "arms=dash")
    assert code == 0 and said.count("report.html") == 1, failed[-3000:]
    trained = next((place / "two").rglob("dash-s42-*/final.safetensors")).stat().st_mtime_ns
    code, _, failed = shrink_in_two(place, profile)            # dash is there, and scratch is trained now
    assert code == 0, failed[-3000:]
    assert next((place / "two").rglob("dash-s42-*/final.safetensors")).stat().st_mtime_ns == trained
    alone = cli.main(["shrink", str(profile), "--device", "cpu", *SET])
    assert alone == 0
    from dashkit.storage import store
    one, two = (store.load_tensors(next((place / name).rglob("dash-s42-*/final.safetensors"))).tensors
                for name in ("runs", "two"))
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-3, atol=0)
