import dataclasses
import math

import pandas as pd
import pytest
import torch

from dashkit.analysis.rules import _columns, claim_rules
from dashkit.datasets import sources
from dashkit.experiments import evaluation, sweeps
from dashkit.experiments import run as experiments_run
from dashkit.experiments.evaluation import (
    _evaluate,
)
from dashkit.experiments.networks import load_teacher
from dashkit.experiments.sweeps import LR_FACTORS, sweep, tune
from dashkit.method.arms import OBJECTIVES


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
def test_teachers_in_processes_of_their_own_equal_one_process(tiny):
    whole = tiny("one", seeds=1, arms=("dash",))
    workers = dataclasses.replace(whole, root=whole.root.with_name("workers"))
    tables = [table[table.metric.str.match("r2|mse|cond_error")] for table in (
        sweep(whole, teachers=2), sweep(workers, jobs=2, teachers=2))]     # pictures have another judge there
    assert set(tables[0].seed) == {whole.seed, whole.seed + sweeps.TEACHERS_APART}
    same_numbers(*tables)


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


def test_every_metric_that_a_rule_names_is_measured(tiny):
    """Of the arms that are trained here; else a claim stays "not measured" whatever one computes."""
    run = tiny(arms=("dash", "dash_relearned", "cond_only", "composite", "scratch"))
    table, missing = sweep(run), {}
    for rule in claim_rules(w=run.profile.w, w_max=max(run.profile.ws)):
        try:
            _columns(table, rule.metric, rule.expression)
        except KeyError as error:
            missing[rule.measure] = error.args[0].rpartition(" of ")[2]
    old = {name for name, what in missing.items() if what.endswith("@corrected")}
    assert len(old) == 1 and {w for n, w in missing.items() if n not in old} <= set(OBJECTIVES) - set(run.profile.arms)
    best = table[(table.arm == "dash") & table.metric.str.fullmatch("frechet@(w=.*|constant_best|tag_best)")]
    values = best.set_index("metric").value
    assert values.pop("frechet@constant_best") == values.drop("frechet@tag_best").min()


def test_several_teachers_have_students_of_their_own(tiny):
    run = tiny(arms=("dash",), seeds=2)
    table = sweep(run, teachers=2)
    seeds = [run.seed, run.seed + 1]
    assert sorted(table[table.arm == "dash"].seed.unique()) == seeds + [s + sweeps.TEACHERS_APART for s in seeds]
    own = table[(table.arm == "teacher") & (table.metric == f"frechet@w={run.profile.w:g}")].set_index("seed").value
    assert list(own.index) == [run.seed, run.seed + sweeps.TEACHERS_APART] and own.nunique() == 2
    same_numbers(table[table.seed < sweeps.TEACHERS_APART], sweep(run))
    second = sweeps.of_teacher(run, 1)                    # which has labels and noise of its own, too
    by_set = [evaluation.measure(one, load_teacher(second).model, run.profile.w).frechet
              for one in (second, dataclasses.replace(second, sampling_set=0))]
    assert own.iloc[1] == pytest.approx(by_set[0], rel=1e-6) and by_set[0] != by_set[1]
    with pytest.raises(ValueError, match="with several teachers there may be at most 100 seeds, not 101"):
        sweep(dataclasses.replace(run, profile=dataclasses.replace(run.profile, seeds=101)), teachers=2)


def test_learning_rates_are_compared_on_images_that_the_results_never_see(tiny, monkeypatch):
    held_out = sources.load_images("digits").test_pixels
    split = sources.load_images("digits_validation")
    assert len(split.pixels) + len(split.test_pixels) == 1797 - 500
    everything = torch.cat([split.pixels, split.test_pixels]).flatten(1).unique(dim=0)
    seen = (held_out.flatten(1)[:, None] == everything[None]).all(-1).any(1).double().mean()
    assert seen < 0.02                                      # a few digits are drawn alike
    run, judges = tiny(arms=("dash", "composite")), []
    made = experiments_run.make_image_reference
    monkeypatch.setattr(experiments_run, "make_image_reference", lambda *a, **k: judges.append(0) or made(*a, **k))
    table = tune(run)
    assert len(judges) == 1                                 # one classifier judges every rate
    lr = run.profile.student_lr
    for arm, own in (("dash", 1.0), ("composite", 0.25)):
        part = table[table.arm == arm].groupby("metric").value.mean()
        assert {f"frechet@lr={lr * f * own:g}" for f in LR_FACTORS} <= set(part.index)
    pd.testing.assert_frame_equal(tune(run), table)            # nothing is trained or measured twice


@pytest.mark.parametrize(("best", "wanted"), [
    (1.0, [0.5, 1, 2]), (4.0, [0.5, 1, 2, 4, 8]), (0.25, [0.125, 0.25, 0.5, 1, 2]),
    (1e9, [2.0**i for i in range(-1, 7)])])
def test_rates_are_widened_until_the_best_is_inside(best, wanted):
    tried = list(LR_FACTORS)
    while more := sweeps._beyond({f: abs(math.log(f / best)) for f in tried}):
        tried += more
    assert sorted(tried) == wanted
