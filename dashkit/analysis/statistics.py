"""Intervals over training seeds, teachers and sampling noise, and shares of a gain.

All resampling is joint across arms: the arms of one seed share their randomness, so their differences are paired.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial, isfinite
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MIN_SEEDS = 5
FEW = 8        # for fewer seeds the quantiles of a bootstrap cannot be widened enough: see `bootstrap`


class Interval(NamedTuple):
    """An estimate with its 95% interval over n training seeds; the ends are NaN for fewer than `MIN_SEEDS`."""

    value: float
    lo: float
    hi: float
    n: int

    def __str__(self) -> str:
        if not isfinite(self.lo):
            return f"{self.value:.2f} (n = {self.n})"
        width = self.hi - self.lo
        d = min(max(2, 1 - math.floor(math.log10(width))), 4) if width > 0 else 2      # two digits of the width
        return f"{self.value:.{d}f} [{self.lo:.{d}f}, {self.hi:.{d}f}]"


Statistic = Callable[["pd.DataFrame"], "pd.Series"]
"""A function of the seed means of several columns, row by row."""


def bootstrap(values: "pd.DataFrame", statistic: Statistic, *, draws: int = 10_000, seed: int = 0,
              level: float = 0.95) -> Interval:
    """The expanded percentile interval (Hesterberg, 2015) of a statistic of seed means.

    values has one row a training seed and one column an arm (or a metric); `statistic` maps a table of means with these
    columns to one number a row.  The percentiles are widened so that the interval of a mean of normal values is as long
    as Student's.  Fewer than `FEW` seeds, whose extreme resamples are too near to each other for that, and values with
    several levels of an index, go to `nested_bootstrap`.  ValueError for missing values.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"scratch": [3.0, 3.5, 3.1, 3.3, 3.2], "dash": [2.0, 2.4, 2.2, 2.1, 2.3]})
    >>> print(bootstrap(table, lambda m: m.scratch - m.dash))
    1.02 [0.86, 1.18]
    """
    if values.index.nlevels > 1:
        return nested_bootstrap(values, statistic, draws=min(draws, 2000), seed=seed, level=level)
    if values.isna().any().any():
        missing = [f"{c} of seed {s}" for c in values for s in values.index[values[c].isna()]]
        raise ValueError(f"no value for {', '.join(missing[:3])}: an interval needs every arm for every seed")
    n, value = len(values), _of_means(values, statistic)
    if n < MIN_SEEDS:
        return Interval(value, np.nan, np.nan, n)
    if n < FEW:
        return nested_bootstrap(values.set_axis(range(n)).rename_axis("seed"), statistic, seed=seed, level=level)
    drawn = _resampled(values, statistic, draws=draws, seed=seed)
    tail = expanded_tail(n, level=level)
    lo, hi = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(lo), float(hi), n)


def expanded_tail(n: int, *, level: float = 0.95) -> float:
    """The share of resamples to leave out at each end, so that the interval of a mean of n normal values is as long as
    Student's: less than (1 - level) / 2, above all for few values."""
    from scipy import stats  # takes longer to import than this takes to compute

    return NormalDist().cdf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1))


def _resampled(values: "pd.DataFrame", statistic: Statistic, *, draws: int, seed: int) -> np.ndarray:
    """The statistic of the means of `draws` resamples of the rows, (draws,)."""
    x, n = values.to_numpy(dtype=float), len(values)
    index = np.random.default_rng(seed).integers(n, size=(draws, n))
    means = x[index].mean(axis=1)
    return statistic(type(values)(means, columns=values.columns)).to_numpy()


class _Spread(NamedTuple):
    """How far a statistic may be from its truth: what an interval and a p value are made of."""

    value: float
    below: float     # one standard error downwards
    above: float     # and upwards
    df: float        # degrees of freedom


LEVELS = ("teacher", "sampling_set", "seed")
"""The names that levels of an index may have: teachers, each with students of several seeds, and draws of noise and
labels that all models are sampled with."""


def _of_means(values: "pd.DataFrame", statistic: Statistic) -> float:
    return float(statistic(values.mean().to_frame().T).iloc[0])


def smallest(values: "pd.DataFrame", parts: Sequence[Statistic]) -> Interval:
    """The interval of the smallest of several statistics, from an interval of each.

    The smallest of estimates is too small an estimate of the smallest, and resampling makes it smaller still.  So the
    lower end is the lowest of the parts' (all must lie above a bound, or else one does not).  The upper end is the
    lowest of the parts' intervals at level 1 - 0.05 / m: one of m parts lies below a bound, though it was picked.
    """
    found = [bootstrap(values, part) for part in parts]
    wide = [bootstrap(values, part, level=1 - 0.05 / len(parts)) for part in parts] if len(parts) > 1 else found
    value, lo, hi = (min(ends) for ends in ((i.value for i in found), (i.lo for i in found), (i.hi for i in wide)))
    return Interval(value, lo, hi, found[0].n)


def smallest_p(values: "pd.DataFrame", parts: Sequence[Statistic], *, at: float = 0.0) -> float:
    """The p value of the hypothesis that the smallest of several statistics is `at`: see `smallest`."""
    found = [(_of_means(values, part), p_value(values, part, at=at)) for part in parts]
    below = [p for value, p in found if value <= at]
    return min(1.0, len(parts) * min(below)) if below else max(p for _, p in found)


def nested_bootstrap(values: "pd.DataFrame", statistic: Statistic, *, draws: int = 2000, seed: int = 0,
                     level: float = 0.95) -> Interval:
    """The interval of a statistic of means over teachers, sampling sets and student seeds.

    `values` has an index with some of `LEVELS`, complete (every student under every sampling set), and one column an
    arm.  Student seeds are nested in their teacher, sampling sets are crossed with both.  The variance is that of
    resampling whole teachers (whole students, where there is one teacher) plus that of resampling sampling sets, each
    enlarged by n / (n - 1), with Satterthwaite's degrees of freedom; skewness is that of resampling all levels at once.
    A level of one unit is not counted: the interval is then for this teacher, or for this noise.  The ends are NaN for
    fewer than `MIN_SEEDS` students.  ValueError for missing values.
    """
    from scipy import stats

    x = _grid(values)
    found = _nested_spread(values, statistic, draws=draws, seed=seed)
    n = x.shape[0] * x.shape[2]
    if n < MIN_SEEDS:
        return Interval(found.value, np.nan, np.nan, n)
    t = stats.t.ppf((1 + level) / 2, found.df)
    return Interval(found.value, found.value - t * found.below, found.value + t * found.above, n)


def _grid(values: "pd.DataFrame") -> np.ndarray:
    """The values as (teachers, sampling sets, seeds, columns); ValueError unless all are there."""
    names = list(values.index.names)
    if not set(names) <= set(LEVELS):
        raise ValueError(f"the levels of the index must be among {', '.join(LEVELS)}, not {', '.join(map(str, names))}")
    units = values.index.to_frame(index=False).assign(**{level: 0 for level in LEVELS if level not in names})
    teachers, sets = units.teacher.nunique(), units.sampling_set.nunique()
    seeds = units.groupby(list(LEVELS[:2])).size()
    if (seeds.nunique() != 1 or len(seeds) != teachers * sets or units.duplicated().any()
            or values.isna().any().any()):
        raise ValueError("an interval needs every arm and seed under every teacher and sampling set")
    order = units.sort_values(list(LEVELS)).index
    return values.to_numpy(dtype=float)[order].reshape(teachers, sets, -1, values.shape[1])


def _nested_spread(values: "pd.DataFrame", statistic: Statistic, *, draws: int, seed: int) -> _Spread:
    x, rng = _grid(values), np.random.default_rng(seed)
    teachers, sets, seeds, _ = x.shape

    def drawn(levels: set[str]) -> np.ndarray:
        def pick(name: str, n: int, *shape: int) -> np.ndarray:
            index = np.broadcast_to(np.arange(n), (draws, *shape, n))
            return rng.integers(n, size=index.shape) if name in levels and n > 1 else index
        t, k, s = pick("teacher", teachers), pick("sampling_set", sets), pick("seed", seeds, teachers)
        means = x[t[:, :, None, None], k[:, None, :, None], s[:, :, None, :]].mean(axis=(1, 2, 3))
        return statistic(type(values)(means, columns=values.columns)).to_numpy()

    value = float(statistic(type(values)([x.mean(axis=(0, 1, 2))], columns=values.columns)).iloc[0])
    top, n_top = ("teacher", teachers) if teachers > 1 else ("seed", seeds)
    counted = [(level, n) for level, n in ((top, n_top), ("sampling_set", sets)) if n > 1]
    parts = [(drawn({level}).var() * n / (n - 1), n - 1) for level, n in counted]
    variance = sum(v for v, _ in parts)
    df = variance**2 / sum(v**2 / d for v, d in parts) if variance > 0 else 1.0
    low, high = np.quantile(drawn(set(LEVELS)), [0.1587, 0.8413])
    half = (high - low) / 2
    scale = math.sqrt(variance) / half if half > 0 else 0.0
    return _Spread(value, max(value - low, 0.0) * scale, max(high - value, 0.0) * scale, df)


def p_value(values: "pd.DataFrame", statistic: Statistic, *, at: float = 0.0) -> float:
    """The two-sided p value of the hypothesis that a statistic of means is `at`, by Student's distribution with the
    bootstrap's standard error on that side; NaN for fewer than `MIN_SEEDS` seeds.

    Percentiles of a few thousand draws cannot give the small p values that Holm's correction asks for.
    """
    from scipy import stats

    n = len(values)
    if values.index.nlevels > 1:                         # students, and not the sampling sets of each
        x = _grid(values)
        n = x.shape[0] * x.shape[2]
    if n < MIN_SEEDS:
        return np.nan
    if values.index.nlevels > 1:
        found = _nested_spread(values, statistic, draws=2000, seed=0)
    elif n < FEW:
        found = _nested_spread(values.set_axis(range(n)).rename_axis("seed"), statistic, draws=2000, seed=0)
    else:
        value = _of_means(values, statistic)
        low, high = np.quantile(_resampled(values, statistic, draws=10_000, seed=0), [0.1587, 0.8413])
        factor = math.sqrt(n / (n - 1))
        found = _Spread(value, (value - low) * factor, (high - value) * factor, n - 1)
    error = found.below if found.value > at else found.above
    if not error > 0:
        return float(found.value == at)
    return float(2 * stats.t.sf(abs(found.value - at) / error, found.df))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979): the chance of one false claim among all stays as it was.

    >>> [round(v, 3) for v in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order, adjusted, least = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def shapley(value: Mapping[frozenset, float], players: Sequence[str]) -> dict[str, float]:
    """Each player's Shapley share of value(all) - value(none), from the value of every coalition.

    >>> v = {frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 5.0}
    >>> shapley(v, "ab")
    {'a': 2.0, 'b': 3.0}
    """
    n, shares = len(players), {}
    for p in players:
        others = [q for q in players if q != p]
        shares[p] = sum(
            factorial(k) * factorial(n - k - 1) / factorial(n) * (value[frozenset(s) | {p}] - value[frozenset(s)])
            for k in range(n) for s in combinations(others, k)
        )
    return shares
