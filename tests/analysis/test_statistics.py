
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dashkit.analysis.rules import UNDECIDED, Bound
from dashkit.analysis.statistics import (
    LEVELS,
    bootstrap,
    holm,
    nested_bootstrap,
    p_value,
    shapley,
    smallest,
    smallest_p,
)
from dashkit.method.arms import FACTORIAL


@pytest.mark.parametrize("n", [5, 8, 16])
@pytest.mark.parametrize("world", ["difference", "skewed", "share"])
def test_the_interval_covers_a_known_truth(n, world):
    """90 to 98% of 400 intervals, for a paired difference, for skewed numbers, and for a ratio of differences."""
    rng, hits = np.random.default_rng(n), 0
    for i in range(400):
        luck = rng.normal(size=n)
        if world == "difference":
            table = pd.DataFrame({"a": 1 + luck + 0.3 * rng.normal(size=n), "b": luck + 0.3 * rng.normal(size=n)})
            truth, statistic = 1.0, lambda m: m.a - m.b
        elif world == "skewed":
            table = pd.DataFrame({"a": rng.lognormal(0, 0.5, size=n)})
            truth, statistic = np.exp(0.125), lambda m: m.a
        else:
            table = pd.DataFrame({k: v + luck + 0.2 * rng.normal(size=n) for k, v in {"a": 3, "b": 1, "c": 0}.items()})
            truth, statistic = 2 / 3, lambda m: (m.a - m.b) / (m.a - m.c)
        found = bootstrap(table, statistic, draws=500, seed=i)
        hits += found.lo <= truth <= found.hi
    assert 0.90 <= hits / 400 <= 0.98


def test_the_interval_of_a_mean_is_about_students():
    values = np.random.default_rng(0).normal(size=12)
    found = bootstrap(pd.DataFrame({"a": values}), lambda m: m.a)
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / 12**0.5
    assert found.value == pytest.approx(values.mean())
    assert found.hi - found.lo == pytest.approx(2 * half, rel=0.1)


def test_pairing_is_kept():
    luck = np.random.default_rng(0).normal(size=8)
    found = bootstrap(pd.DataFrame({"a": luck + 1, "b": luck}), lambda m: m.a - m.b)
    assert found.lo == pytest.approx(1) and found.hi == pytest.approx(1)


def test_too_few_or_missing_seeds():
    few = bootstrap(pd.DataFrame({"a": [1.0, 2.0]}), lambda m: m.a)
    assert few.value == 1.5 and np.isnan(few.lo) and str(few) == "1.50 (n = 2)"
    assert Bound.read("> 0").verdict(few) == (UNDECIDED, "needs 5 training seeds, has 2")
    with pytest.raises(ValueError, match="no value for b of seed 43"):
        bootstrap(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, np.nan]}, index=[42, 43]), lambda m: m.a)


def test_shapley_is_the_mean_over_orders():
    rng, players = np.random.default_rng(1), "UAT"
    value = {c: rng.normal() for c in FACTORIAL}
    orders = [("U", "A", "T"), ("U", "T", "A"), ("A", "U", "T"), ("A", "T", "U"), ("T", "U", "A"), ("T", "A", "U")]
    for p in players:
        gains = [value[frozenset(o[: o.index(p) + 1])] - value[frozenset(o[: o.index(p)])] for o in orders]
        assert shapley(value, players)[p] == pytest.approx(np.mean(gains))
    assert sum(shapley(value, players).values()) == pytest.approx(value[frozenset("UAT")] - value[frozenset()])


def world(rng, teachers, sets, seeds, arms, *, sd=(0.3, 0.2, 0.2)):
    """Values with an effect of the teacher, of the sampling set and of the seed on every arm, and their index."""
    index = pd.MultiIndex.from_product([range(teachers), range(sets), range(seeds)], names=LEVELS)
    table = pd.DataFrame(index=index)
    for arm, mean in arms.items():
        own = [rng.normal(0, s, n) for s, n in zip(sd, (teachers, sets, (teachers, seeds)), strict=True)]
        table[arm] = mean + (own[0][:, None, None] + own[1][None, :, None] + own[2][:, None, :]
                             + rng.normal(0, 0.05, (teachers, sets, seeds))).ravel()
    return table


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize(("statistic", "truth"), [
    (lambda m: m.a - m.t, 3.0), (lambda m: (m.a - m.t) / (m.s - m.t), 0.5), (lambda m: np.minimum(m.a, m.b) - m.t, 3.0),
], ids=["difference", "ratio", "best over w"])
def test_the_nested_interval_covers_a_known_truth(teachers, statistic, truth):
    """Teachers, sampling sets and seeds all differ: the interval over seeds alone covers far less."""
    rng, hits, plain, n = np.random.default_rng(teachers), 0, 0, 150
    sd = (0.3 * (teachers > 1), 0.2, 0.2)            # one teacher: the interval is for this teacher
    for i in range(n):
        table = world(rng, teachers, 4, 5, {"t": 0.0, "a": 3.0, "b": 3.5, "s": 6.0}, sd=sd)
        found = nested_bootstrap(table, statistic, draws=200, seed=i)
        hits += found.lo <= truth <= found.hi
        alone = bootstrap(table.loc[0, 0], statistic, draws=200, seed=i)
        plain += alone.lo <= truth <= alone.hi
    assert 0.9 <= hits / n <= 1.0 and plain / n < 0.85 and found.n == 5 * teachers


@pytest.mark.parametrize(("m", "margin"), [(3, 0.1), (8, 0.1), (8, 0.5)])
def test_the_smallest_of_many_true_margins_is_rarely_said_to_be_below_zero(m, margin):
    """Picking the smallest of many estimates makes it too small: that alone must contradict no claim."""
    rng, worlds = np.random.default_rng(m), 150
    parts = [lambda t, k=k: t[k] for k in range(m)]
    below = sum(smallest(pd.DataFrame(margin + rng.normal(size=(5, m))), parts).hi < 0 for _ in range(worlds))
    assert below <= 0.07 * worlds
    false = pd.DataFrame(np.array([2.0] * (m - 1) + [-3.0]) + rng.normal(size=(5, m)))
    assert smallest(false, parts).hi < 0 and smallest_p(false, parts) < 0.05
    true = pd.DataFrame(3 + rng.normal(size=(5, m)))
    assert smallest(true, parts).lo > 0 and smallest_p(true, parts) < 0.05


def test_an_interval_of_five_seeds_is_students_and_agrees_with_its_p_value():
    rng, ratios = np.random.default_rng(5), []
    for _ in range(60):
        values = pd.DataFrame({"a": rng.normal(size=5) + 1})
        found, p = bootstrap(values, lambda m: m.a), p_value(values, lambda m: m.a)
        half = values.a.std(ddof=1) / 5**0.5 * stats.t.ppf(0.975, 4)
        ratios.append((found.hi - found.lo) / (2 * half))
        assert (found.lo > 0 or found.hi < 0) == (p < 0.05)
    assert 0.95 < np.mean(ratios) < 1.05


def test_the_nested_interval_of_one_teacher_and_one_set_is_that_of_seeds():
    seeds = pd.DataFrame({"a": np.random.default_rng(0).normal(size=8)})
    nested = seeds.set_axis(pd.MultiIndex.from_product([[0], range(8)], names=["sampling_set", "seed"]))
    one, other = bootstrap(seeds, lambda m: m.a), bootstrap(nested, lambda m: m.a)
    assert other.value == one.value and other.hi - other.lo == pytest.approx(one.hi - one.lo, rel=0.15)


def test_a_nested_table_must_be_whole():
    table = world(np.random.default_rng(0), 2, 2, 3, {"a": 0.0})
    for broken in (table.iloc[1:], table.assign(a=[np.nan] + [1.0] * 11)):
        with pytest.raises(ValueError, match="an interval needs"):
            nested_bootstrap(broken, lambda m: m.a)
    with pytest.raises(ValueError, match="must be among teacher, sampling_set, seed"):
        nested_bootstrap(table.rename_axis(["x", "y", "z"]), lambda m: m.a)


@pytest.mark.parametrize(("students", "sets"), [(3, 2), (4, 3), (2, 9)])
def test_sampling_sets_of_too_few_students_give_neither_an_interval_nor_a_p_value(students, sets):
    index = pd.MultiIndex.from_product([range(sets), range(students)], names=["sampling_set", "seed"])
    values = pd.DataFrame({"a": np.random.default_rng(0).normal(1, 0.1, len(index))}, index=index)
    found = bootstrap(values, lambda m: m.a)
    assert found.n == students and np.isnan(found.lo) and np.isnan(p_value(values, lambda m: m.a))


def test_p_values_are_students_and_those_of_many_claims_are_corrected():
    values = pd.DataFrame({"a": np.random.default_rng(3).normal(0.8, 1, size=12)})
    expected = stats.ttest_1samp(values.a, 0).pvalue
    assert p_value(values, lambda m: m.a) == pytest.approx(expected, rel=0.3)
    assert np.isnan(p_value(values.head(3), lambda m: m.a))
    p = np.random.default_rng(0).uniform(size=6) ** 3
    steps = np.sort(p) * np.arange(6, 0, -1)
    assert sorted(holm(list(p))) == pytest.approx(np.maximum.accumulate(steps).clip(max=1))
