
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dashkit.analysis.rules import OPEN, Bound
from dashkit.method.arms import FACTORIAL
from dashkit.method.statistics import bootstrap, shapley


@pytest.mark.parametrize("n", [8, 16])
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
    assert Bound(0.0).verdict(few) == (OPEN, "needs 5 training seeds, has 2")
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
