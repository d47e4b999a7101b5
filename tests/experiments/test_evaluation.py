import os

import pandas as pd
import pytest
import torch
from steps_helpers import retrained

from dashkit.analysis.tables import calibration_table
from dashkit.classroom import plots
from dashkit.experiments import evaluation
from dashkit.experiments.evaluation import (
    BY_BETA,
    TeacherReference,
    _difficulty,
    _evaluation_path,
    _teacher_features,
    evaluate_all,
    get_results,
    is_measured,
    measure,
    other_null_rows,
    rank_of_difficulty,
    read_results,
    results_path,
)
from dashkit.experiments.networks import load_teacher
from dashkit.experiments.run import FINAL
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import distil, get_students, get_teacher, train_teacher
from dashkit.method.calibration import all_branches, held_out_states, measure_calibration
from dashkit.method.distillation import seeded
from dashkit.method.guidance import W_MAX, Branches, branches
from dashkit.method.sampling import sample
from dashkit.method.unet import UNet
from dashkit.storage import provenance, store
from dashkit.storage import tables as storage_tables


def test_cond_only_is_measured_with_other_null_rows(trained):
    run, _ = trained
    net = seeded(0, lambda: UNet(run.profile.student)).requires_grad_(False)
    copies = other_null_rows(net)
    assert not copies["0"].class_table.weight[-1].any() and copies["2"].class_table.weight[-1].std() > 1.5
    torch.testing.assert_close(copies["mean"].class_table.weight[-1], net.class_table.weight[:-1].mean(0))
    assert all(torch.equal(c.class_table.weight[:-1], net.class_table.weight[:-1]) for c in copies.values())


def test_rank_of_difficulty_is_spearmans_correlation_over_bins(generator):
    t = torch.randint(1000, (4000,), generator=generator)
    base, rising = torch.ones(1000), torch.linspace(0.5, 1.5, 1000)
    assert rank_of_difficulty(rising, base, t.float() ** 2, t) == pytest.approx(1)
    assert rank_of_difficulty(rising, base, -t.float(), t) == pytest.approx(-1)
    assert rank_of_difficulty(rising, rising.flip(0), t.float(), t) == pytest.approx(1)


def test_a_student_that_teaches_itself_where_it_can_still_learn_has_rank_one(trained):
    """`spearman_reducible` does not count the noise that no student predicts."""
    run, teacher = trained
    states = held_out_states(run.schedule, run.images, 2000, seed=0)
    target = all_branches(teacher.model, states)
    late = (states.t / run.profile.T)[:, None, None, None]
    own = Branches(target.cond + 0.1 * late, target.uncond)                       # worst where noise is strong
    rising = run.base * torch.linspace(0.5, 1.5, run.profile.T)
    reference = TeacherReference(teacher, states, target, {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "load_curriculum", lambda *a: rising)
        found = {r["metric"]: r["value"] for r in _difficulty(run, "dash_relearned", 1, own, reference)}
    assert found["spearman_reducible"] > 0.95 > found["spearman"]


def test_results_are_tidy_complete_and_reused(trained):
    run, teacher = trained
    assert read_results(run) is None
    students = get_students(run, teacher)
    table = get_results(run, teacher, students)
    assert tuple(table.columns) == storage_tables.COLUMNS and set(table.arm) == {"real", "teacher", "dash", "cond_only"}
    wanted = {"rho", "slope", "beta", "cos", "r2", "mse", f"frechet_teacher@{BY_BETA}",
              "frechet@w=1.5", "accuracy@w=1", "parameters", "flops"}
    assert all(wanted <= set(table[table.arm == a].metric) for a in ("teacher", "dash", "cond_only"))
    own = table[(table.arm == "teacher")].set_index("metric").value
    assert own.rho == pytest.approx(1) and own.cond_error == pytest.approx(0)
    again = measure(run, teacher.model, 1.5)       # drawn once for all, and told from the features alone
    assert own["frechet@w=1.5"] == pytest.approx(again.frechet) and own["accuracy@w=1.5"] == again.accuracy
    assert get_results(run, teacher, students).equals(table)
    pd.testing.assert_frame_equal(read_results(run), table)
    card = calibration_table(table, w=1.5)
    assert list(card.index) == ["teacher", "dash", "cond_only"] and card.seeds.eq(1).all()
    for draw in (plots.plot_w_curve(table), plots.plot_calibration(card), plots.plot_by_timestep(table)):
        assert plots.png(draw.get_figure()).startswith(b"\x89PNG")


def test_what_is_trained_and_measured_can_be_shared_by_those_who_may_not_write(swept, monkeypatch):
    run, table = swept, read_results(swept)

    def refuse(path, *arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(provenance, "commit", lambda: "another")           # real digits are measured anew
    monkeypatch.setattr(store, "write_bytes", refuse)
    for change in ("unlink", "mkdir", "rmdir", "write_bytes", "replace", "touch"):
        monkeypatch.setattr(type(run.root), change, refuse)
    assert list(train_teacher(run)) == [] and sweep(run).equals(table)
    os.rename(results_path(run), run.root / "away")                   # noqa: PTH104 (Path may not)
    with pytest.raises(PermissionError, match="results-s"):
        sweep(run)


def test_calibration_is_measured_on_the_same_states(trained):
    run, teacher = trained
    states = held_out_states(run.schedule, run.images, 30, seed=0)
    whole = all_branches(teacher.model, states, batch=7)
    with torch.no_grad():
        direct = branches(teacher.model, states.x_t, states.t, states.y)
    torch.testing.assert_close(whole.gap, direct.gap, rtol=1e-3, atol=1e-5)
    own = measure_calibration(whole, whole, states, T=1000)
    assert own.gap.rho == pytest.approx(1, abs=1e-4) and own.uncond_error < 1e-9


def test_a_teacher_in_train_mode_is_neither_measured_nor_distilled(trained):
    run, teacher = trained
    states = held_out_states(run.schedule, run.images, 4, seed=0)
    teacher.model.train()
    for work in (lambda: all_branches(teacher.model, states), lambda: measure(run, teacher.model, 1.0),
                 lambda: list(distil(run, teacher, ["dash"], 1))):
        with pytest.raises(ValueError, match="the UNet is in train mode; call its eval"):
            work()


@pytest.mark.parametrize("label", [-1, 11])
def test_labels_out_of_range_are_refused(trained, label):
    run, teacher = trained
    states = held_out_states(run.schedule, run.images, 4, seed=0)
    y = torch.tensor([0, 1, 2, label])
    message = r"labels must be in 0 \.\. 9 \(10 for none\), not"
    with pytest.raises(ValueError, match=message):
        all_branches(teacher.model, states._replace(y=y))
    with pytest.raises(ValueError, match=message):
        sample(teacher.model, run.schedule, y, x_T=states.x_t, steps=2)


def test_measurements_of_another_commit_arm_or_seed_are_noticed(swept, capsys):
    run, teacher = swept, load_teacher(swept)
    students = get_students(run, teacher)
    table = get_results(run, teacher, students)
    assert "measurements were made" not in capsys.readouterr().out
    [path] = run.folder("dash", 1).glob("evaluation-*.csv")
    own = storage_tables.read_table(path)
    storage_tables.write_table(path, own.assign(commit="0123456789"))
    get_results(run, teacher, students)
    assert f"{len(own)} of {len(table)} measurements were made at commit 0123456789" in capsys.readouterr().out
    made = run.folder("cond_only", 1) / "manifest.json"
    store.write_json(made, store.read_json(made) | {"commit": "9876543210"})
    get_results(run, teacher, students)
    assert "1 of 3 networks were trained at commit 9876543210, this is" in capsys.readouterr().out
    for change in ({"arm": "cond_only"}, {"seed": 2}, {"profile": "digits"}):
        storage_tables.write_table(path, own.assign(**change))
        with pytest.raises(ValueError, match="must hold measurements of dash, seed 1, of smoke alone"):
            get_results(run, teacher, students)


def test_what_is_measured_is_true_of_the_weights_that_are_there(tiny, capsys):
    run = tiny(arms=("cond_only", "cond_only_icg"))
    teacher = get_teacher(run)
    whole = get_results(run, teacher, get_students(run, teacher))
    measured = {arm: _evaluation_path(run, arm, 1) for arm in ("teacher", *run.profile.arms)}
    retrained(run, "cond_only")
    assert read_results(run) is None
    assert [a for a in measured if is_measured(run, a, 1)] == ["teacher"]
    again = sweep(run)
    rows = [t[t.metric == "cond_error"].set_index("arm").value for t in (whole, again)]
    assert (rows[0] != rows[1]).loc[["cond_only", "cond_only_icg"]].all() and rows[0].teacher == rows[1].teacher
    (run.folder("cond_only", 1) / FINAL).unlink()
    assert sweep(run).equals(whole) and _evaluation_path(run, "cond_only", 1) == measured["cond_only"]


def test_a_damaged_table_of_results_is_written_again(swept):
    run, teacher = swept, load_teacher(swept)
    students = get_students(run, teacher)
    table = get_results(run, teacher, students)
    results_path(run).write_bytes(b"profile;arm\xff")
    assert get_results(run, teacher, students).equals(table) and read_results(run).equals(table)


def test_a_scale_below_one_is_measured_too(tiny):
    run = tiny(w=0.5, ws=(0.5,), arms=("dash",))
    table = sweep(run)
    assert table[table.metric == f"w_{BY_BETA}"].value.between(0, W_MAX).all()


def test_a_scale_that_no_adaptive_table_has_as_its_mean_is_left_out(tiny):
    """TAG stretched to a mean of 0 would go below 0, where no table may."""
    run = tiny(w=1.5, ws=(0.0, 1.5), arms=("dash",))
    assert "frechet@tag_best" in set(sweep(run).metric)
    run = tiny("none", w=0.0, ws=(0.0,), arms=("dash",))
    assert "frechet@tag_best" not in set(sweep(run).metric)


def test_features_of_other_samples_are_refused(trained):
    run, teacher = trained
    evaluate_all(run, teacher, {})
    [path] = run.folder("teacher", 1).glob("features-*")
    store.save_tensors(path, {"w=1": torch.zeros(3, 32)}, {})
    with pytest.raises(ValueError, match="does not hold the features of this profile's samples"):
        _teacher_features(run, teacher)
