"""Runs of a few steps: resume, pairing, reuse."""

import dataclasses
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch

from dashkit.analysis.tables import calibration_table
from dashkit.classroom import plots
from dashkit.datasets import sources
from dashkit.experiments import budget, checkpoints, evaluation
from dashkit.experiments import training as experiments_training
from dashkit.experiments.checkpoints import _finish
from dashkit.experiments.evaluation import (
    _evaluate,
    _evaluation_path,
    _teacher_features,
    evaluate_all,
    get_results,
    is_measured,
    measure,
    rank_of_difficulty,
    read_results,
    results_path,
)
from dashkit.experiments.networks import load_student, load_teacher, stale
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.run import CHECKPOINT, FINAL, Run
from dashkit.experiments.sweeps import LR_FACTORS, sweep, tune
from dashkit.experiments.training import _dropout, distil, get_students, get_teacher, train_teacher
from dashkit.method import distillation, guidance
from dashkit.method.calibration import all_branches, held_out_states, measure_calibration, other_null_rows
from dashkit.method.distillation import seeded
from dashkit.method.guidance import branches
from dashkit.method.losses import total
from dashkit.method.sampling import sample
from dashkit.method.unet import UNet
from dashkit.storage import paths, provenance, store
from dashkit.storage import tables as storage_tables

ARMS = ("dash", "cond_only", "multi_w")


def final(run, arm, seed):
    return store.load_tensors(run.folder(arm, seed) / "final.safetensors").tensors


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def two_threads():
    """Two seeds run side by side only where torch has two threads."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_a_stopped_teacher_goes_on_bit_for_bit(tiny):
    whole, broken = tiny("whole"), tiny("broken")
    list(train_teacher(whole))
    for step in train_teacher(broken):
        if step.number == 2:
            break
    assert [s.number for s in train_teacher(broken)] == [3, 4, 5, 6]
    assert equal(final(whole, "teacher", 1), final(broken, "teacher", 1))
    assert list(train_teacher(broken)) == []
    assert [p.name for p in broken.folder("teacher", 1).iterdir() if "checkpoint" in p.name] == []


@pytest.mark.parametrize("order", [1, -1])
def test_stopped_students_go_on_bit_for_bit_in_whichever_order_they_are_named(trained, order):
    run, teacher = trained
    other = dataclasses.replace(run, root=run.root.with_name("other"))
    list(distil(run, teacher, ARMS, 1))
    for step in distil(other, teacher, ARMS, 1):
        if step.number == 3:
            break
    assert len(list(distil(other, teacher, ARMS[::order], 1))) == 3
    assert all(equal(final(run, a, 1), final(other, a, 1)) for a in ARMS)


def test_an_arm_gets_the_same_weights_whichever_others_train_beside_it(trained):
    run, teacher = trained
    alone = dataclasses.replace(run, root=run.root.with_name("alone"))
    list(distil(run, teacher, ARMS, 1))
    list(distil(alone, teacher, ["multi_w"], 1))
    assert equal(final(run, "multi_w", 1), final(alone, "multi_w", 1))
    assert not equal(final(run, "multi_w", 1), final(run, "dash", 1))


def test_seeds_side_by_side_equal_seeds_in_turn(trained, two_threads):
    run, teacher = trained
    two = dataclasses.replace(run, profile=dataclasses.replace(run.profile, seeds=2))
    get_students(two, teacher)
    turn = dataclasses.replace(two, root=run.root.with_name("turn"))
    assert torch.get_num_threads() == 2                   # given back
    torch.set_num_threads(1)                               # what each of two jobs on two threads gets
    for seed in two.seeds:
        list(distil(turn, teacher, two.profile.arms, seed))
    assert all(equal(final(two, a, s), final(turn, a, s)) for a in two.profile.arms for s in two.seeds)
    assert not equal(final(two, "dash", 1), final(two, "dash", 2))


def test_a_finished_arm_is_not_trained_again_and_a_changed_setting_is(trained):
    run, teacher = trained
    list(distil(run, teacher, ["dash"], 1))
    stamp = (run.folder("dash", 1) / "final.safetensors").stat().st_mtime_ns
    list(distil(run, teacher, ["dash", "cond_only"], 1))
    assert (run.folder("dash", 1) / "final.safetensors").stat().st_mtime_ns == stamp
    other = dataclasses.replace(run, profile=dataclasses.replace(run.profile, student_lr=1e-3))
    assert other.folder("dash", 1) != run.folder("dash", 1) and other.folder("teacher", 1) == run.folder("teacher", 1)


def test_an_error_in_one_job_stops_the_others_and_keeps_their_checkpoints(trained, two_threads, monkeypatch):
    run, teacher = trained
    two = dataclasses.replace(run, profile=dataclasses.replace(run.profile, seeds=2, student_steps=2000))

    def broken(run, teacher, arms, seed):
        yield from () if seed == 1 else [None]
        raise FloatingPointError("planted")

    real = distil
    monkeypatch.setattr(experiments_training, "distil", lambda *a: (broken if a[3] == 2 else real)(*a))
    with pytest.raises(FloatingPointError, match="planted"):
        get_students(two, teacher)
    [checkpoint] = two.root.rglob("checkpoint.safetensors")
    assert 0 < int(store.load_tensors(checkpoint).tensors["dash/done"]) < 2000


def same_numbers(a, b):
    key = ["arm", "seed", "metric"]
    a, b = (t.sort_values(key).reset_index(drop=True)[[*key, "value"]] for t in (a, b))
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)


@pytest.mark.slow
def test_a_sweep_over_joblib_workers_equals_one_process(tiny, two_threads):
    whole = tiny("one", seeds=2, arms=("dash", "cond_only_icg"))
    workers = dataclasses.replace(whole, root=whole.root.with_name("workers"))
    same_numbers(sweep(whole), sweep(workers, jobs=2))


@pytest.mark.slow
def test_a_sweep_over_dask_equals_one_process(tiny, two_threads):
    import joblib
    from distributed import Client, LocalCluster

    whole = tiny("one", seeds=2, arms=("dash", "cond_only_icg"))
    table = sweep(whole)
    dask = dataclasses.replace(whole, root=whole.root.with_name("dask"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster), joblib.parallel_config(backend="dask"),
    ):
        same_numbers(table, sweep(dask, jobs=2))
    assert {p.name for p in dask.root.rglob("final.safetensors")} and dask.is_trained("cond_only", 2)


def test_a_stopped_sweep_repeats_nothing_and_ends_in_the_same_table(tiny, monkeypatch):
    whole = tiny("whole", arms=("dash", "cond_only", "label_drop"))
    table = sweep(whole)
    broken = dataclasses.replace(whole, root=whole.root.with_name("broken"))
    real, done = _evaluate, []

    def fail_at_the_third(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[1])
        return real(*arguments)

    monkeypatch.setattr(evaluation, "_evaluate", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sweep(broken)
    monkeypatch.setattr(evaluation, "_evaluate", lambda *a: done.append(a[1]) or real(*a))
    same_numbers(table, sweep(broken))
    assert sorted(done) == ["cond_only", "dash", "label_drop", "teacher"]


def test_a_changed_setting_is_named_and_the_old_network_left_alone(tiny, capsys):
    run = tiny(arms=("dash",))
    sweep(run)
    changed = dataclasses.replace(run, profile=dataclasses.replace(run.profile, student_lr=1e-3, batch=9))
    assert stale(run, "dash", 1) == []
    sweep(changed)
    said = capsys.readouterr().out
    assert "dash, seed 1: trained before with another student_lr, teacher.batch, teacher_weights; trained again" in said
    assert run.is_trained("dash", 1) and changed.is_trained("dash", 1)


def test_learning_rates_are_compared_on_images_that_the_results_never_see(tiny):
    held_out = sources.load_images("digits").test_pixels
    split = sources.load_images("digits_validation")
    assert len(split.pixels) + len(split.test_pixels) == 1797 - 500
    everything = torch.cat([split.pixels, split.test_pixels]).flatten(1).unique(dim=0)
    seen = (held_out.flatten(1)[:, None] == everything[None]).all(-1).any(1).double().mean()
    assert seen < 0.02                                      # a few digits are drawn alike
    run = tiny(arms=("dash", "composite"))
    table = tune(run)
    lr = run.profile.student_lr
    assert set(table.metric[table.arm == "dash"]) == {f"frechet@lr={lr * f:g}" for f in LR_FACTORS}
    assert set(table.metric[table.arm == "composite"]) == {f"frechet@lr={lr * f / 4:g}" for f in LR_FACTORS}


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


def test_guidance_tables_are_compared_at_equal_mean():
    tables = guidance.matched_tables(1000)
    assert set(tables) == {"tag", "constant", "interval"}
    assert all(v.mean().item() == pytest.approx(tables["tag"].mean().item(), abs=1e-4) for v in tables.values())
    assert tables["interval"][0] == 1 and tables["interval"][500] > 3


def test_missing_and_damaged_networks_are_explained(tiny):
    run = tiny()
    with pytest.raises(FileNotFoundError, match=r"teacher of profile smoke, seed 1, is not trained yet.*notebook 02"):
        load_teacher(run)
    with pytest.raises(FileNotFoundError, match="notebook 04"):
        load_student(run, "dash", 1)
    with pytest.raises(ValueError, match="unknown arm 'dosh'"):
        load_student(run, "dosh", 1)
    list(train_teacher(run))
    path = run.folder("teacher", 1) / "final.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load_teacher(run)


def test_a_loaded_teacher_is_frozen_with_a_curriculum_of_mean_one(trained):
    run, teacher = trained
    assert not any(p.requires_grad for p in teacher.model.parameters()) and not teacher.model.training
    assert teacher.omega.mean().item() == pytest.approx(1, abs=1e-5) and not teacher.omega.requires_grad
    assert not torch.equal(teacher.omega, run.base) and len(teacher.history) == 6
    manifest = json.loads((run.folder("teacher", 1) / "manifest.json").read_text())
    assert manifest["seed"] == 1 and manifest["settings"]["batch"] == 8


def test_results_are_tidy_complete_and_reused(trained):
    run, teacher = trained
    assert read_results(run) is None
    students = get_students(run, teacher)
    table = get_results(run, teacher, students)
    assert tuple(table.columns) == storage_tables.COLUMNS and set(table.arm) == {"real", "teacher", "dash", "cond_only"}
    wanted = {"rho", "slope", "cos", "r2", "mse", "frechet@w=1.5", "accuracy@w=1", "parameters", "flops"}
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


def test_data_that_does_not_fit_the_networks_is_refused(tiny):
    run = tiny()
    wrong = dataclasses.replace(run, profile=dataclasses.replace(PROFILES["cifar10"], dataset="digits"))
    with pytest.raises(ValueError, match=r"digits has images \(1, 8, 8\) in 10 classes"):
        _ = wrong.images


# ------------------------------------------------------------------------------------------------ planted wrong states


def test_a_diverged_run_names_arm_and_step_and_keeps_the_last_good_checkpoint(trained, monkeypatch):
    run, teacher = trained
    real, steps = total, []

    def diverge(*arguments):
        steps.append(0)
        loss = real(*arguments)
        return loss * float("nan") if len(steps) == 8 else loss      # two arms: the second, at step 4

    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(distillation, "total", diverge)
    stopping = "weights of cond_only are not finite at step 4|the loss of cond_only is nan at step 4"
    with pytest.raises(FloatingPointError, match=stopping):
        list(distil(run, teacher, ("dash", "cond_only"), 1))
    [checkpoint] = run.root.rglob(CHECKPOINT)
    assert int(store.load_tensors(checkpoint).tensors["dash/done"]) == 3
    monkeypatch.setattr(distillation, "total", real)
    assert [s.number for s in distil(run, teacher, ("dash", "cond_only"), 1)] == [4, 5, 6]
    assert run.is_trained("dash", 1) and not list(run.root.rglob(CHECKPOINT))


def test_a_teacher_in_train_mode_is_neither_measured_nor_distilled(trained):
    run, teacher = trained
    states = held_out_states(run.schedule, run.images, 4, seed=0)
    teacher.model.train()
    for work in (lambda: all_branches(teacher.model, states), lambda: measure(run, teacher.model, 1.0),
                 lambda: list(distil(run, teacher, ["dash"], 1))):
        with pytest.raises(ValueError, match="the UNet is in train mode; call its eval"):
            work()


def test_the_network_of_another_profile_is_refused_by_its_settings(trained):
    run, _ = trained
    other = dataclasses.replace(run, profile=dataclasses.replace(run.profile, gamma=4.0))
    other.folder("teacher", 1).mkdir()
    (run.folder("teacher", 1) / FINAL).rename(other.folder("teacher", 1) / FINAL)
    with pytest.raises(ValueError, match="is another network: its gamma differ from this run's"):
        load_teacher(other)


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


def retrained(run, arm):
    """Put other weights in the place of a network's, as another machine would make them from the same settings."""
    saved = store.load_tensors(run.folder(arm, 1) / FINAL)
    changed = {k: v + 1e-6 if k.startswith("ema.") else v for k, v in saved.tensors.items()}
    store.save_tensors(run.folder(arm, 1) / FINAL, changed, saved.meta)


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


def test_a_student_belongs_to_the_weights_of_its_teacher(swept, capsys):
    run = swept
    retrained(run, "teacher")
    assert not run.is_trained("dash", 1) and not is_measured(run, "teacher", 1)
    with pytest.raises(FileNotFoundError, match=r"not trained yet .*one that is there differs in teacher_weights\)"):
        load_student(run, "dash", 1)
    for again in (sweep, lambda run: get_students(run, get_teacher(run))):
        retrained(run, "teacher")
        capsys.readouterr()
        again(run)
        said = "dash, seed 1: trained before with another teacher_weights; trained again"
        assert capsys.readouterr().out.count(said) == 1


def test_a_network_that_was_replaced_since_it_was_loaded_is_neither_measured_nor_distilled(trained):
    run, teacher = trained
    students = get_students(run, teacher)
    retrained(run, "dash")
    with pytest.raises(ValueError, match="dash, seed 1, was replaced on disk since it was loaded; load it again"):
        get_results(run, teacher, students)
    retrained(run, "teacher")
    for work in (lambda: get_students(run, teacher), lambda: get_results(run, teacher, {})):
        with pytest.raises(ValueError, match="teacher, seed 1, was replaced on disk since it was loaded"):
            work()
    assert not list(run.root.rglob("evaluation-*")) and not run.is_trained("dash", 1)


def test_a_damaged_table_of_results_is_written_again(swept):
    run, teacher = swept, load_teacher(swept)
    students = get_students(run, teacher)
    table = get_results(run, teacher, students)
    results_path(run).write_bytes(b"profile;arm\xff")
    assert get_results(run, teacher, students).equals(table) and read_results(run).equals(table)


def test_locks_of_processes_that_died_when_their_work_was_done_go(swept):
    run = swept
    places = [run.folder("teacher", 1), run.folder("dash", 1), run.lockstep(run.profile.arms, 1)]
    locks = [place / ".lock" for place in places]
    for lock in locks:
        lock.parent.mkdir(exist_ok=True)
        lock.write_text("process 1 on a machine")
    sweep(run)
    assert not list(run.root.rglob(".lock")) and not locks[-1].parent.exists()


def test_a_finished_arm_is_left_alone_by_a_lockstep_that_was_begun_before(trained, monkeypatch):
    run, teacher = trained
    begun = distil(run, teacher, ARMS, 1)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    [next(begun) for _ in range(3)]
    begun.close()
    list(distil(run, teacher, ["dash"], 1))
    path = run.folder("dash", 1) / FINAL
    before = path.stat().st_mtime_ns, path.read_bytes()
    list(distil(run, teacher, ARMS, 1))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before and run.is_trained("cond_only", 1)


def test_networks_of_another_data_file_are_not_taken(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    digits, path = sources.load_images("digits"), tmp_path / "cifar10.npz"
    names = ("pixels", "labels", "test_pixels", "test_labels")
    profile = dataclasses.replace(tiny().profile, dataset="cifar10_mirrored")
    folders = []
    for change in (lambda pixels: pixels, lambda pixels: 255 - pixels):
        arrays = {name: getattr(digits, name).numpy() for name in names}
        np.savez(path, **arrays | {"pixels": change(arrays["pixels"])})
        run = Run(profile, seed=1, root=tmp_path / "runs")
        assert not run.is_trained("teacher", 1)
        get_teacher(run)
        folders += [run.folder("teacher", 1), run.folder("dash", 1)]
        assert stale(run, "teacher", 1) == []
    assert len(set(folders)) == 4 and "data" not in tiny().teacher_settings()


def test_a_run_belongs_to_the_images_that_it_has_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    digits, path = sources.load_images("digits"), tmp_path / "cifar10.npz"
    arrays = {name: getattr(digits, name).numpy() for name in ("pixels", "labels", "test_pixels", "test_labels")}
    run = Run(dataclasses.replace(tiny().profile, dataset="cifar10"), seed=1, root=tmp_path / "runs")
    empty = run.folder("teacher", 1)                        # asked for before the data was fetched
    with pytest.raises(FileNotFoundError, match="dashkit fetch cifar10"):
        _ = run.images
    np.savez(path, **arrays)
    assert run.folder("teacher", 1) != empty
    _ = run.images
    read = run.folder("teacher", 1)
    np.savez(path, **arrays | {"pixels": 255 - arrays["pixels"]})
    assert run.folder("teacher", 1) == read != Run(run.profile, seed=1, root=run.root).folder("teacher", 1)
    other = Run(run.profile, seed=1, root=run.root)
    load = sources.load_images
    monkeypatch.setattr(sources, "load_images", lambda *a, **k: (load(*a, **k), np.savez(path, **arrays))[0])
    with pytest.raises(ValueError, match=r"cifar10\.npz was changed while it was read; start again"):
        _ = other.images


def test_a_scale_below_one_is_measured_too(tiny):
    run = tiny(w=0.5, ws=(0.5,), arms=("dash",))
    table = sweep(run)
    assert table[table.metric == "w_corrected"].value.between(0, 1).all()


def test_a_death_between_two_final_files_loses_and_leaves_nothing(trained, monkeypatch):
    run, teacher = trained
    whole = dataclasses.replace(run, root=run.root.with_name("whole"))
    list(distil(whole, teacher, ARMS, 1))
    real, written = _finish, []

    def die(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments[1])
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_finish", die)
    with pytest.raises(KeyboardInterrupt):
        list(distil(run, teacher, ARMS, 1))
    monkeypatch.setattr(checkpoints, "_finish", real)
    assert [s.number for s in distil(run, teacher, ARMS, 1)] == [6]
    assert all(equal(final(run, a, 1), final(whole, a, 1)) for a in ARMS)
    assert not list(run.root.rglob("*lockstep*")) and not list(run.root.rglob(".*"))
    stray = run.lockstep(ARMS, 1) / CHECKPOINT
    store.write_bytes(stray, b"x")                           # died between the last file and the checkpoint's removal
    assert list(distil(run, teacher, ARMS, 1)) == [] and not stray.parent.exists()


def test_features_of_other_samples_are_refused(trained):
    run, teacher = trained
    evaluate_all(run, teacher, {})
    [path] = run.folder("teacher", 1).glob("features-*")
    store.save_tensors(path, {"w=1": torch.zeros(3, 32)}, {})
    with pytest.raises(ValueError, match="does not hold the features of this profile's samples"):
        _teacher_features(run, teacher)


def with_dropout(run):
    p = run.profile
    return dataclasses.replace(run, profile=dataclasses.replace(
        p, teacher=dataclasses.replace(p.teacher, dropout=0.5)))


def test_dropout_follows_the_seed_and_a_stopped_teacher_goes_on_bit_for_bit(tiny):
    whole, broken, plain = with_dropout(tiny("whole")), with_dropout(tiny("broken")), tiny("plain")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    list(train_teacher(whole))
    assert torch.equal(torch.get_rng_state(), state)                  # the caller's own random numbers are left alone
    torch.manual_seed(6)
    for step in train_teacher(broken):
        if step.number == 2:
            break
    torch.manual_seed(7)
    list(train_teacher(broken))
    list(train_teacher(plain))
    assert equal(final(whole, "teacher", 1), final(broken, "teacher", 1))
    assert not torch.equal(final(whole, "teacher", 1)["losses"], final(plain, "teacher", 1)["losses"])


def test_dropout_masks_are_anothers_for_another_seed_and_step(tiny):
    drawn = []
    for seed, step in ((1, 3), (2, 3), (1, 4), (1 + 2**30, 3), (1, 3 + 2**32)):
        with _dropout(with_dropout(tiny(seed=seed)), step):
            drawn.append(tuple(torch.rand(4).tolist()))
    assert len(set(drawn)) == 5


def test_bfloat16_trains_float32_weights_with_nearly_the_same_losses(tiny):
    full, half = tiny("full"), tiny("half", precision="bfloat16")
    for run in (full, half):
        get_students(run, get_teacher(run))
    for arm in ("teacher", "dash"):
        a, b = final(full, arm, 1), final(half, arm, 1)
        assert {v.dtype for v in b.values()} == {torch.float32} and not torch.equal(a["losses"], b["losses"])
        torch.testing.assert_close(a["losses"], b["losses"], rtol=0.02, atol=0)      # bfloat16 has 8 bits: 0.4%
    assert full.folder("dash", 1).name != half.folder("dash", 1).name


def test_the_teachers_pass_is_split_where_memory_is_short(tiny, monkeypatch, capsys):
    arms = ("dash", "fitnets")
    wide, narrow = tiny("wide", arms=arms), tiny("narrow", arms=arms)
    teacher = get_teacher(wide)
    list(distil(wide, teacher, arms, 1))

    class Small(type(teacher.model)):
        def forward(self, x_t, t, y):
            if len(y) > 6:
                raise torch.OutOfMemoryError("too many")
            return super().forward(x_t, t, y)

    teacher.model.__class__ = Small
    list(distil(narrow, teacher, arms, 1))
    assert "the teacher sees batches of 8 in 4 parts from now on" in capsys.readouterr().out
    for arm in arms:
        torch.testing.assert_close(final(wide, arm, 1)["losses"], final(narrow, arm, 1)["losses"], rtol=1e-4, atol=0)


def test_what_cannot_be_compiled_is_refused(tiny):
    with pytest.raises(ValueError, match="fitnets looks inside its networks, and cannot be compiled"):
        dataclasses.replace(tiny(arms=("dash", "fitnets")), compile=True)


@pytest.mark.slow
def test_a_compiled_run_trains_as_a_plain_one(tiny, monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **k: compiler(net, backend="aot_eager", fullgraph=True, **k))
    plain, compiled = tiny("plain"), dataclasses.replace(tiny("compiled"), compile=True)
    for run in (plain, compiled):
        get_students(run, get_teacher(run))
    for arm in ("teacher", "dash", "cond_only"):
        torch.testing.assert_close(final(plain, arm, 1), final(compiled, arm, 1), rtol=1e-3, atol=2e-5)
    assert min(budget.rates(compiled)) > 0
    net = load_student(plain, "dash", 1)
    y, x_T = torch.arange(4), torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    samples = [sample(one, plain.schedule, y, x_T=x_T, w=1.5, steps=3) for one in (net, compiled.compiled(net))]
    torch.testing.assert_close(*samples, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("tensors", "meta"), [
    ({"history": torch.ones(2, 3)}, {}), ({"history": torch.ones(())}, {}), ({"history": torch.ones(9, 1)}, {}),
    ({"history": torch.ones(2, 1).double()}, {}),
    ({}, {"seconds": 10**400}), ({}, {"seconds": -1}), ({}, {"seconds": []}),
])  # fmt: skip
def test_a_checkpoint_with_a_strange_history_is_refused_and_named(tiny, tensors, meta):
    run = tiny()
    training = train_teacher(run)
    next(training), next(training)
    training.close()
    path = run.folder("teacher", 1) / CHECKPOINT
    saved = store.load_tensors(path)
    store.save_tensors(path, saved.tensors | tensors, saved.meta | meta)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors cannot be resumed"):
        next(train_teacher(run))


def test_weights_that_do_not_fit_and_manifests_without_settings_are_named(tiny):
    run = tiny()
    get_teacher(run)
    home = run.folder("teacher", 1)
    saved = store.load_tensors(home / FINAL)
    odd = {"lacks the losses": {"losses": torch.ones(())}, "does not fit": {"ema.x": torch.ones(1)}}
    for message, tensors in odd.items():
        store.save_tensors(home / FINAL, saved.tensors | tensors, saved.meta)
        with pytest.raises(ValueError, match=rf"final\.safetensors {message}"):
            load_teacher(run)
    store.write_json(home / "manifest.json", {"settings": [1]})
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        stale(run, "teacher", 1)
