"""From two networks and a folder of pictures to one page, or to one sentence."""

import argparse
import re

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from scipy import stats as scipy_stats
from torch import nn

from dashkit import cli, environment
from dashkit.analysis import readings
from dashkit.analysis.readings import gap_intervals
from dashkit.analysis.statistics import Interval
from dashkit.experiments import evaluation, own
from dashkit.experiments.profiles import PROFILES
from dashkit.interop import export
from dashkit.method import quality
from dashkit.method.calibration import gap_stats
from dashkit.method.guidance import Branches
from dashkit.method.unet import UNet, UNetConfig
from dashkit.publishing import student_report
from dashkit.storage import paths, store
from dashkit.storage import tables as storage_tables

QUICK = ["--set", "samples=12", "--set", "states=40", "--set", "sample_steps=2", "--set", "ws=1,1.5", "--device", "cpu"]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Where `measure` keeps samples."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def pictures(folder, classes=3, each=6, size=(8, 8), mode="L"):
    rng = np.random.default_rng(0)
    for k in range(classes):
        place = folder / f"kind {k:04d}"
        place.mkdir(parents=True)
        for i in range(each):
            shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def network(folder, seed=0, names=(), **changes):
    torch.manual_seed(seed)
    config = UNetConfig(**PROFILES["smoke"].student.asdict() | {"num_classes": 3} | changes)
    export.write_pipeline(UNet(config).eval(), folder, T=1000, names=names)
    return folder


@pytest.fixture
def pair(tmp_path):
    return network(tmp_path / "T", ch=16, groups=2), network(tmp_path / "S", seed=1)


def measure(tmp_path, teacher, student, images, *more):
    out = tmp_path / "report.html"
    return cli.main(["measure", "--teacher", str(teacher), "--student", str(student), "--images", str(images), "--out",
                     str(out), *QUICK, *more]), out


def test_two_folders_and_pictures_become_one_page(tmp_path, pair, capsys):
    done, out = measure(tmp_path, *pair, pictures(tmp_path / "I"))
    assert done == 0 and capsys.readouterr().out.strip().endswith("report.html")
    page = out.read_text()
    assert page.count("data:image/png;base64,") == 6 and not re.search(r'(src|href)="(?!data:|https://arxiv)', page)
    for said in ("kind 0002", "15 to learn from, 3 held out (a network from elsewhere may have learned from them)",
                 "Size of the gap", "fewer parameters", "E|g", "--set samples=12 --set", "All measure"):
        assert said in page
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in re.findall(r"<img [^>]*>", page))
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower().split("all measurements")[0]


@pytest.mark.parametrize(("fewest", "said"), [(2, True), (6, False)])
def test_a_floor_of_fewer_pictures_than_samples_is_said(tmp_path, pair, fewest, said):
    images = pictures(tmp_path / "I")
    for file in sorted((images / "kind 0002").iterdir())[fewest:]:
        file.unlink()
    done, out = measure(tmp_path, *pair, images)
    assert done == 0 and ("here 1 is not as good as real" in out.read_text()) is said


def test_pictures_get_the_labels_that_the_teacher_knows_them_by(tmp_path):
    names = ("kind 0002", "kind 0000", "kind 0001")
    teacher, student = network(tmp_path / "T", names=names), network(tmp_path / "S", seed=1)
    images = pictures(tmp_path / "I")
    plain, *_ = own.comparison(student, {"student": student}, images, device="cpu")
    run, *_ = own.comparison(teacher, {"student": student}, images, device="cpu")
    assert run.images.names == names and plain.images.names == tuple(sorted(names))
    assert torch.equal(run.images.pixels, plain.images.pixels)
    assert [names[k] for k in run.images.labels] == [plain.images.names[k] for k in plain.images.labels]
    other = network(tmp_path / "other", names=tuple(sorted(names)))
    with pytest.raises(ValueError, match="the student and the teacher know the same classes in another order"):
        own.comparison(teacher, {"student": other}, images, device="cpu")


@pytest.fixture
def drawn(monkeypatch, poor_classifier):
    """The scales at which samples were drawn: a list that grows."""
    monkeypatch.setattr(quality, "train_classifier", poor_classifier)
    seen, plain = [], evaluation.measure

    def measure(run, model, w, *, n=None, **how):
        if n is None:
            seen.append(w)
        return plain(run, model, w, n=n, **how)
    monkeypatch.setattr(evaluation, "measure", measure)
    return seen


FEW = {"samples": 12, "states": 40, "sample_steps": 2, "ws": (1.0, 1.5), "device": "cpu"}


def others(teacher, student, images, **settings):
    run, loaded, students = own.comparison(teacher, {"student": str(student)}, images, **FEW | settings)
    return evaluation.evaluate_others(run, loaded, students)


def test_a_comparison_that_was_stopped_draws_only_what_is_left(tmp_path, pair, drawn, runs, monkeypatch):
    images, counted = pictures(tmp_path / "I"), evaluation.measure

    def stopped(run, model, w, **how):
        if "n" not in how and len(drawn) == 1:
            raise KeyboardInterrupt
        return counted(run, model, w, **how)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            others(*pair, images)
    assert "are not drawn again" in cli._outlook(argparse.Namespace(command="measure"))
    assert drawn == [1.0] and len(list(runs.rglob("features-*.safetensors"))) == 1
    went_on = others(*pair, images)
    left = drawn[1:]
    numbers = [w for w in left if isinstance(w, float)]
    assert numbers[0] == 1.5 and numbers.count(1.0) == 1              # the student's own, not the teacher's again
    drawn.clear()
    pd.testing.assert_frame_equal(others(*pair, images), went_on)
    assert drawn == []
    for file in runs.rglob("features-*.safetensors"):
        file.unlink()
    pd.testing.assert_frame_equal(others(*pair, images), went_on)
    assert len(drawn) == len(left) + 1


def test_other_networks_pictures_and_settings_have_samples_of_their_own(tmp_path, pair, drawn):
    images = pictures(tmp_path / "I")
    others(*pair, images)
    whole = len(drawn)

    def again(*given, **settings):
        drawn.clear()
        others(*given, **settings)
        return len(drawn)
    assert again(*pair, images, samples=15) == whole
    assert again(*pair, images, ws=(1.0, 1.5, 2.0)) < whole                        # scales that were not measured yet
    teacher, student = pair
    assert 0 < again(teacher, network(tmp_path / "S2", seed=2), images) < whole    # the teacher's are there
    assert again(network(tmp_path / "T2", seed=3, ch=16, groups=2), student, images) < whole
    file = next((images / "kind 0000").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    assert again(*pair, images) == whole


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_damaged_samples_are_drawn_again(tmp_path, pair, drawn, runs, damage):
    images = pictures(tmp_path / "I")
    first = others(*pair, images)
    files = sorted(runs.rglob("features-*.safetensors"))
    if damage is None:
        store.save_tensors(files[0], {"features": torch.zeros(3, 32)}, {})
    else:
        files[0].write_bytes(damage)
    drawn.clear()
    pd.testing.assert_frame_equal(others(*pair, images), first)
    assert len(drawn) == 1


def test_a_folder_for_the_page_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "pages").mkdir()
    assert cli.main(["measure", "--teacher", "no", "--student", "no", "--images", "no", "--out",
                     str(tmp_path / "pages")]) == 2
    assert "pages is a folder; --out is the page to write" in capsys.readouterr().err


def test_the_command_on_the_page_is_one_that_a_reader_can_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = student_report.command_line("measure", "--images", tmp_path / "my pictures", "--teacher", "other/T")
    start = f"{paths.PYTHON} run.py dashkit" if paths.IS_PROJECT else "dashkit"
    assert typed == f"{start} measure --images 'my pictures' --teacher other/T"
    monkeypatch.setattr(environment, "WINDOWS", True)
    typed = student_report.command_line("measure", "--images", tmp_path / "my pictures", "--set", "ws=1,4")
    assert typed == f'{start} measure --images "my pictures" --set "ws=1,4"'
    monkeypatch.setattr(paths, "IS_PROJECT", False)
    assert student_report.command_line("shrink", "my.toml") == "dashkit shrink my.toml"


@pytest.mark.parametrize(("change", "message"), [
    ({"num_classes": 4}, "has 3 rows|knows 4 classes and the pictures have 3|3 classes"),
    ({"size": 16, "attention": (8,)}, "takes pictures of 16 x 16, and .* has 8 x 8"),
])  # fmt: skip
def test_a_teacher_that_does_not_take_the_pictures_is_named(tmp_path, capsys, change, message):
    teacher, student = network(tmp_path / "T", **change), network(tmp_path / "S")
    done, out = measure(tmp_path, teacher, student, pictures(tmp_path / "I"))
    said = capsys.readouterr().err
    assert done == 2 and re.search(message, said) and said.count("\n") == 1 and not out.is_file()


def test_labels_beyond_the_teachers_classes_are_named(tmp_path, capsys):
    teacher, student = network(tmp_path / "T", num_classes=2), network(tmp_path / "S", num_classes=2)
    done, _ = measure(tmp_path, teacher, student, pictures(tmp_path / "I"))
    said = capsys.readouterr().err
    assert done == 2 and "knows 2 classes and the pictures have 3: labels beyond the teacher's" in said


def test_grey_pictures_for_a_teacher_of_colour_are_named(tmp_path, capsys):
    colour = [network(tmp_path / name, channels=3) for name in "TS"]
    done, _ = measure(tmp_path, *colour, pictures(tmp_path / "I"))
    said = capsys.readouterr().err
    assert done == 2 and "takes 3 channels, and 18 of the pictures in" in said and said.count("\n") == 1


def test_pictures_of_one_class_are_named(tmp_path, pair, capsys):
    done, _ = measure(tmp_path, *pair, pictures(tmp_path / "I", classes=1))
    said = capsys.readouterr().err
    assert done == 2 and "I has one class (kind 0000): guidance is the difference" in said and said.count("\n") == 1


def test_a_student_of_another_schedule_or_other_classes_or_without_labels_is_named(tmp_path, pair, capsys):
    images = pictures(tmp_path / "I")
    torch.manual_seed(0)
    net = UNet(UNetConfig(**PROFILES["smoke"].student.asdict() | {"num_classes": 3})).eval()
    export.write_pipeline(net, tmp_path / "other", T=500)
    done, _ = measure(tmp_path, pair[0], tmp_path / "other", images)
    assert done == 2 and "different noise schedules (T = 500 and 1000)" in capsys.readouterr().err
    done, _ = measure(tmp_path, pair[0], network(tmp_path / "more", num_classes=5), images)
    assert done == 2 and "of 5 classes, and the teacher" in capsys.readouterr().err
    net.class_table.weight.data[:] = 1.0
    export.write_pipeline(net, tmp_path / "mute", T=1000)
    done, _ = measure(tmp_path, pair[0], tmp_path / "mute", images)
    assert done == 2 and "ignores its label" in capsys.readouterr().err


def test_the_best_student_of_a_teacher_with_a_random_null_label_is_calibrated(tmp_path, monkeypatch, poor_classifier):
    monkeypatch.setattr(quality, "train_classifier", poor_classifier)
    torch.manual_seed(0)
    net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
                      block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                      up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=3)
    net.save_pretrained(tmp_path / "T" / "unet")
    DDPMScheduler(beta_schedule="linear").save_pretrained(tmp_path / "T" / "scheduler")
    run, teacher, _ = own.comparison(tmp_path / "T", {}, pictures(tmp_path / "I"), null_label="random", device="cpu",
                                     samples=12, states=60, sample_steps=2, ws=(1.0, 1.5))

    class Mean(nn.Module):
        null_label, config = 3, teacher.model.config

        def __init__(self):
            super().__init__()
            self.inside = teacher.model

        def forward(self, x_t, t, y):
            of = torch.stack([self.inside(x_t, t, torch.full_like(y, k)) for k in range(3)])
            return torch.where((y == 3)[:, None, None, None], of.mean(0), of[y.clamp(max=2), torch.arange(len(y))])
    best = Mean().eval()
    gap = readings.measure_gap(run, teacher.model, best)
    assert gap.whole["r2"].value == pytest.approx(1, abs=1e-4) and gap.whole["cos"].value == pytest.approx(1, abs=1e-4)
    table = evaluation.evaluate_others(run, teacher, {"best": best})
    table = table.pivot(index="metric", columns="arm", values="value")
    for metric in ("r2", "rho", "rho_visited", "r2_visited", "slope_x0"):
        assert list(table.loc[metric, ["best", "teacher"]]) == pytest.approx([1, 1], abs=1e-4)
    assert "mean over 3 of its 3 classes" in student_report._facts(run, ["best"])["without a class"]
    key = evaluation._evaluation_key(run, "teacher", run.seed)         # what was measured otherwise is not taken for it
    monkeypatch.setitem(vars(run), "given", run.given._replace(model=teacher.model.net))
    assert evaluation._evaluation_key(run, "teacher", run.seed) != key


# --------------------------------------------------------------------------------------------------- the sentences


def test_intervals_hold_the_statistics_and_states_of_one_picture_go_together(pair_of_branches):
    own, target = pair_of_branches
    groups = torch.arange(64) % 16
    found, stats = gap_intervals(own, target, groups), gap_stats(own, target)
    for name, interval in found.items():
        assert interval.lo <= interval.value <= interval.hi and interval.n == 16
        assert interval.value == pytest.approx(getattr(stats, name), rel=1e-9)
    alone = gap_intervals(own, target, torch.arange(64))
    assert alone["rho"].n == 64
    same = gap_intervals(target, target, groups)
    assert (same["r2"].lo, same["rho"].hi) == pytest.approx((1.0, 1.0), abs=1e-12)


@pytest.fixture
def pair_of_branches(pair_maker):
    target, noise = pair_maker(64), pair_maker(64)
    return type(target)(*(t + 0.3 * n for t, n in zip(target, noise, strict=True))), target


@pytest.fixture
def pair_maker(generator):
    return lambda n: Branches(*torch.randn((2, n, 1, 4, 4), generator=generator))


@pytest.mark.parametrize(("lo", "hi", "wanted"), [
    (0.95, 1.05, "calibrated"), (0.2, 0.5, "not calibrated"), (1.2, 1.4, "not calibrated"), (0.85, 0.95, "undecided"),
])  # fmt: skip
def test_a_verdict_asks_for_the_whole_interval(lo, hi, wanted):
    assert readings.verdict(Interval((lo + hi) / 2, lo, hi, 50), *readings.BOUNDS["rho"]) == wanted


def factors(n, repeats, generator, *, states=12, size=0.8, spread=0.3):
    """Branches of n pictures with `states` each; the gap of each picture has a size of its own, `size` on average."""
    for _ in range(repeats):
        groups = torch.arange(n * states) % n
        factor = size + spread * torch.randn(n, generator=generator)
        target = torch.randn(n * states, 4, generator=generator)
        target = target / target.norm(dim=1, keepdim=True)
        yield tuple(Branches(x, torch.zeros_like(x)) for x in (factor[groups, None] * target, target)), groups, factor


def test_intervals_of_few_pictures_hold_the_truth_as_often_as_they_say(generator):
    for n in (readings.MIN_PICTURES, 2 * readings.MIN_PICTURES):
        hit, width = [], []
        for pair, groups, factor in factors(n, 250, generator):
            found = gap_intervals(*pair, groups)["slope"]
            hit.append(found.lo <= 0.8 <= found.hi)
            width.append((found.hi - found.lo) / (2 * scipy_stats.t.ppf(0.975, n - 1) * factor.std().item() / n**0.5))
        assert np.mean(hit) > 0.91 and np.mean(width) == pytest.approx(1, abs=0.05)        # as long as Student's


def test_fewer_pictures_than_that_decide_nothing(generator):
    n = readings.MIN_PICTURES - 1
    for pair, groups, _ in factors(n, 3, generator, states=200, size=1.0, spread=0.0):
        found = readings.Gap(gap_intervals(*pair, groups), {}, 0.3, len(groups))
        assert found.whole["rho"].value == pytest.approx(1) and found.whole["rho"].n == n
        said = readings.gap_readings(type("Run", (), {"profile": PROFILES["digits"]})(), found)
        assert [r.verdict for r in said[:4]] == ["undecided"] * 4
        assert not any("nan" in r.text for r in said)


def test_the_same_picture_counts_once():
    pictures = torch.arange(12, dtype=torch.uint8).reshape(6, 1, 1, 2)[[0, 1, 2, 0, 4, 1]]
    assert readings._different(pictures).tolist() == [0, 1, 2, 0, 3, 1]


def test_tenths_of_the_timesteps_that_were_not_measured_are_named_and_open():
    inside = {"rho": Interval(1.0, 0.95, 1.05, 40)}
    middles = range(25, 500, 50)
    whole = readings.Gap({}, dict.fromkeys(middles, inside), 0.3, 100)
    assert readings._timesteps(whole, 500).verdict == "calibrated"
    part = readings._timesteps(whole._replace(bins=dict.fromkeys([25, 125, 475], inside)), 500)
    assert part.verdict == "undecided" and "50 to 100, 150 to 200" in part.text and "0 to 50," not in part.text
    none = readings._timesteps(whole._replace(bins={}), 500)
    assert none.verdict == "undecided" and none.text.startswith("At timesteps 0 to 50, 50 to 100")
    outside = {"rho": Interval(2.0, 1.9, 2.1, 40)}
    bad = readings._timesteps(whole._replace(bins={25: inside, 75: outside}), 500)
    assert bad.verdict == "not calibrated" and "at timesteps 50 to 100 (2.00)" in bad.text and "too few" in bad.text


def gap(**values):
    base = {"rho": 1.0, "slope": 1.0, "beta": 1.0, "cos": 0.95, "r2": 0.9}
    whole = {k: Interval(v, v - 0.01, v + 0.01, 40) for k, v in (base | values).items()}
    return readings.Gap(whole, {50: whole, 950: whole}, 0.3, 100)


def test_sentences_follow_from_the_numbers():
    good, weak = gap(), gap(rho=0.5, slope=0.4, cos=0.6, r2=-0.3, beta=0.7)
    assert [readings._size(g).verdict for g in (good, weak)] == ["calibrated", "not calibrated"]
    assert "0.50" in readings._size(weak).text and "less far than it says" in readings._size(weak).text
    assert "worse than none" in readings._whole(weak).text and "no scale repairs" in readings._direction(weak).text
    assert "timesteps -450 to" in readings._timesteps(weak, 10_000).text or "timesteps" in readings._timesteps(
        weak, 1000).text
    assert "w = 3.10" in readings._knob(weak, 4.0).text
    said = readings.summary([readings._size(good), readings._whole(weak)])
    assert said == "Calibrated: size of the gap. Not calibrated: gap as a whole."


def distances(corrected, plain, w=3.0, **more):
    return pd.Series({"frechet_teacher@corrected_by_beta": corrected, f"frechet_teacher@w={w:g}": plain} | more)


@pytest.mark.parametrize(("values", "samples", "said"), [
    (distances(11.0, 7.4), 500, "are 1.49 times as far .* leave the student's scale as it is"),
    (distances(3.0, 6.0), 500, "are 0.50 times as far .* set the student to w = 2.40"),
    (distances(6.2, 6.0), 500, "are 1.03 times .* undecided"),
    (distances(4.4, 6.0), 12, "are 0.73 times .* undecided"),                    # of so few that it may be luck
    (distances(4.4, 6.0), 500, "are 0.73 times .* set the student"),
    (distances(4.4, 6.0, **{"set1:frechet_teacher@w=3": 9.0}), 500, "undecided"),        # another set says as much
    (distances(4.4, 6.0, **{"set1:frechet_teacher@w=1": 9.0}), 500, "set the student"),
])  # fmt: skip
def test_another_scale_is_named_only_if_samples_were_nearer_there(values, samples, said):
    text = readings._knob(gap(beta=0.7), 3.0, values.to_frame(0).T, samples=samples).text
    assert re.search(said, text) and "beta = 0.70" in text and ("set the student to" in text) is ("set the st" in said)


def test_without_samples_nothing_is_said_about_them():
    text = readings._knob(gap(beta=0.7), 3.0).text
    assert "w = 2.40" in text and "samples need not be nearer" in text and "set " not in text
    same = distances(3e-11, 6e-11)                                                      # noise over noise
    assert "no other scale" in readings._knob(gap(), 3.0, same.to_frame(0).T, samples=500).text
    none = gap()._replace(whole=gap().whole | {"beta": Interval(np.nan, np.nan, np.nan, 40)})
    assert "no gap" in readings._knob(none, 3.0, distances(6.0, 6.0).to_frame(0).T, samples=500).text


def test_the_report_leaves_the_scale_of_students_whose_samples_it_would_spoil():
    table = storage_tables.read_table(paths.ROOT / "data" / "results" / "cifar16" / "results.csv")
    samples = int(table[table.metric == "frechet_teacher@w=4"].n.iloc[0])

    def said(arm):
        seeds = readings.seed_values(table, arm)
        return [readings._knob(gap(beta=v), 4.0, seeds, seed=s, samples=samples).text for s, v in seeds.beta.items()]
    assert all("leave the student's scale" in text and "5 training seeds" in text for text in said("dash"))
    assert all("set the student to" in text for text in said("cond_only"))


def test_another_draw_of_noise_changes_a_distance_by_less_than_what_counts_as_alike():
    table = storage_tables.read_table(paths.ROOT / "data" / "results" / "cifar16" / "results.csv")
    values = table[~table.arm.isin(["teacher", "real"])].pivot(index=["arm", "seed"], columns="metric", values="value")
    for w in ("1", "2", "4"):
        ratio = values[f"frechet_teacher@w={w}"] / values[f"set1:frechet_teacher@w={w}"]
        n = int(table[table.metric == f"frechet_teacher@w={w}"].n.iloc[0])
        assert 0.9 < (np.maximum(ratio, 1 / ratio) < 1 + readings.ALIKE / n**0.5).mean() < 1


class Pictures:
    latent = False


def test_the_best_scale_is_of_the_first_set_of_samples():
    run = type("Run", (), {"images": Pictures()})()
    found = pd.Series({"frechet@w=1": 3.0, "frechet@w=4": 2.0, "set1:frechet@w=4": 0.1, "set1:frechet@w=1": 0.2})
    said = readings._samples(run, found, found * 0.5).text
    assert "2.00 times" in said and "(w = 4 and 4: the same scale)" in said


def test_one_seed_and_a_small_gap_are_admitted():
    run = type("Run", (), {"images": Pictures()})()
    one = pd.DataFrame({"rho": [1.0]}, index=[1])
    assert "another training seed" in readings._limits(run, gap(), one).text
    small = gap()._replace(share=0.001)
    assert "only 0.1% of its prediction" in readings._limits(run, small, one).text


def of_seeds(**values):
    """A run and the table of a student with one value a training seed from 7 on."""
    run = type("Run", (), {"images": Pictures(), "profile": PROFILES["smoke"], "seed": 7})()
    base = {"rho": 1.0, "cos": 0.95, "r2": 0.9, "beta": 1.0, "rho@t=50": 1.0, "rho@t=950": 1.0, "frechet@w=1": 2.0}
    n = max(map(len, values.values()))
    rows = [("dash", 7 + i, k, v[i]) for k, v in ({k: [v] * n for k, v in base.items()} | values).items()
            for i in range(n)]
    return run, pd.DataFrame([*rows, ("teacher", 7, "frechet@w=1", 1.0)], columns=["arm", "seed", "metric", "value"])


@pytest.mark.parametrize(("values", "topic", "verdict", "said"), [
    ({"r2": [0.9, 0.3, 0.2]}, "Gap as a whole", "undecided", "3 training seeds the value is 0.20 to 0.90: 1 of 3"),
    ({"r2": [0.9, 0.85]}, "Gap as a whole", "calibrated", "2 training seeds the value is 0.85 to 0.90: all"),
    ({"rho": [1.0, 1.3]}, "Size of the gap", "undecided", "1.00 to 1.30: 1 of 2"),
    ({"cos": [0.95, float("nan")]}, "Direction of the gap", "undecided", "0.95 to 0.95: 1 of 2"),
    ({"rho@t=950": [1.0, 1.5, 1.0]}, "Every timestep", "undecided", "1.00 to 1.50: 2 of 3"),
    ({"r2": [0.9]}, "Gap as a whole", "calibrated", ""),
])  # fmt: skip
def test_a_student_is_calibrated_if_those_of_all_training_seeds_are(values, topic, verdict, said):
    run, table = of_seeds(**values)
    whole = gap()._replace(bins=dict.fromkeys(range(50, 1000, 100), gap().whole))
    found = {r.topic: r for r in readings.readings(run, whole, table, "dash")}
    assert found[topic].verdict == verdict and said in found[topic].text
    assert ("training seeds" in found[topic].text) == bool(said)
    assert [r.topic for r in found.values() if r.verdict not in ("", "calibrated", verdict)] == []
    assert ("of seed 7 alone" in found["How sure"].text) == bool(said)
    assert "another training seed may differ" in found["How sure"].text


def test_a_network_that_is_not_calibrated_is_not_excused_by_its_sisters():
    run, table = of_seeds(r2=[0.1, 0.9, 0.9])
    found = {r.topic: r for r in readings.readings(run, gap(r2=0.1), table, "dash")}["Gap as a whole"]
    assert found.verdict == "not calibrated" and "2 of 3 within" in found.text


def test_the_card_has_every_training_seed():
    run, table = of_seeds(r2=[0.9, 0.3], slope=[1.0, 0.5], cond_error=[0.1, 0.2], uncond_error=[0.1, 0.2])
    card = student_report._card(run, table, {"dash": gap()})
    assert list(card.index) == ["dash, seed 7", "dash, seed 8"]
    assert list(card["R²"]) == ["0.900\n[0.890, 0.910]", "0.30"]
    one = table[table.seed == 7]
    assert list(student_report._card(run, one, {"dash": gap()}).index) == ["dash"]


def test_classes_that_are_called_otherwise_are_named(tmp_path):
    names = ("kind 0000", "kind 0001", "kind 0002")
    other, plain = network(tmp_path / "O", names=("kind 0000", "sort 1", "kind 0002")), network(tmp_path / "P")
    images = pictures(tmp_path / "I")
    with pytest.raises(ValueError, match="it knows sort 1, and the pictures have kind 0001; rename the folders"):
        own.comparison(other, {"student": plain}, images, device="cpu")
    with pytest.raises(ValueError, match=r"know other classes \(sort 1 and kind 0001 are in only one\)"):
        own.comparison(network(tmp_path / "T", names=names), {"student": other}, images, device="cpu")
