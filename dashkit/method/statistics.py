"""Intervals over training seeds, and shares of a gain.

Training seeds are resampled, for all arms together: the arms of one seed share their batches and noise, so their
differences are paired.
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


def bootstrap(values: "pd.DataFrame", statistic: Statistic, *, draws: int = 10_000, seed: int = 0) -> Interval:
    """The expanded percentile interval (Hesterberg, 2015) of a statistic of seed means.

    values has one row a training seed and one column an arm (or a metric); `statistic` maps a table of means with these
    columns to one number a row.  The percentiles are widened so that the interval of a mean of few normal values is as
    long as Student's.  ValueError for missing values.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"scratch": [3.0, 3.5, 3.1, 3.3, 3.2], "dash": [2.0, 2.4, 2.2, 2.1, 2.3]})
    >>> print(bootstrap(table, lambda m: m.scratch - m.dash))
    1.02 [0.90, 1.18]
    """
    if values.isna().any().any():
        missing = [f"{c} of seed {s}" for c in values for s in values.index[values[c].isna()]]
        raise ValueError(f"no value for {', '.join(missing[:3])}: an interval needs every arm for every seed")
    from scipy import stats  # takes longer to import than this takes to compute

    n, x = len(values), values.to_numpy(dtype=float)
    value = float(statistic(values.mean().to_frame().T).iloc[0])
    if n < MIN_SEEDS:
        return Interval(value, np.nan, np.nan, n)
    index = np.random.default_rng(seed).integers(n, size=(draws, n))
    drawn = statistic(type(values)(x[index].mean(axis=1), columns=values.columns)).to_numpy()
    tail = NormalDist().cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
    lo, hi = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(lo), float(hi), n)


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
