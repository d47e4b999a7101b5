"""What a comparison of a student with its teacher says, in sentences that are computed from its numbers."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dashkit.analysis.statistics import Interval, expanded_tail
from dashkit.experiments.evaluation import BY_BETA
from dashkit.experiments.run import SAMPLING_SEED, Run
from dashkit.method.calibration import all_branches, held_out_states
from dashkit.method.guidance import Branches, corrected_w
from dashkit.method.students import compared

YES, NO, OPEN, PLAIN = "calibrated", "not calibrated", "undecided", ""
BOUNDS = {"rho": (0.9, 1.1), "slope": (0.9, 1.1), "cos": (0.9, 1.0), "r2": (0.8, 1.0)}
"""Between which values a statistic of the gap counts as calibrated; its whole interval must lie there."""
BIN_BOUNDS = (0.8, 1.25)
"""The same for the size of the gap in one tenth of the timesteps."""
BINS = 10
MIN_PICTURES = 10        # with fewer there is no interval, and nothing is decided
SMALL_GAP = 0.02         # of the noise: a teacher's gap below it is hardly there
ALIKE = 2.0
"""Two distances of n samples count as alike if their ratio, or its inverse, is below 1 + ALIKE / sqrt(n): another draw
of labels and noise changes a distance about as much."""


class Reading(NamedTuple):
    """One sentence of a report."""

    topic: str
    verdict: str      # calibrated, not calibrated, undecided; or nothing, for a plain fact
    text: str


class Gap(NamedTuple):
    """The gap of one student on held-out states, with intervals over the pictures."""

    whole: dict[str, Interval]                   # by statistic
    bins: dict[int, dict[str, Interval]]         # the same by the middle timestep of each bin of enough pictures
    share: float                                 # E|teacher's gap| / E|teacher's prediction|
    states: int


def gap_intervals(student: Branches, teacher: Branches, groups: Tensor, *, draws: int = 2000,
                  seed: int = 0) -> dict[str, Interval]:
    """`gap_stats` with 95% intervals over the pictures that the states are made of, by name of the statistic.

    `groups` (B,) is the number of each state's picture: states of one picture are drawn together (the expanded
    percentile interval, see `statistics.bootstrap`).  The ends are NaN for fewer than `MIN_PICTURES` pictures.  The
    intervals are those of these two networks.  Another training seed is not in them.
    """
    s, t = student.gap.flatten(1).double(), teacher.gap.flatten(1).double()
    dot, s_norm, t_norm = (s * t).sum(1), s.norm(dim=1), t.norm(dim=1)
    has_gap = (t_norm > 1e-6 * t_norm.mean()).double()
    cos = has_gap * dot / (s_norm * t_norm).clamp(min=1e-30)
    parts = torch.stack([s_norm, t_norm, s_norm**2, t_norm**2, dot, (s - t).square().sum(1), cos, has_gap,
                         torch.full_like(dot, s.shape[1])], 1).cpu()
    _, place = groups.cpu().unique(return_inverse=True)
    n = int(place.max()) + 1
    sums = parts.new_zeros(n, parts.shape[1]).index_add_(0, place, parts)
    index = torch.from_numpy(np.random.default_rng(seed).integers(n, size=(draws, n)))
    counts = parts.new_zeros(draws, n).scatter_add_(1, index, parts.new_ones(draws, n))

    def statistics(x: Tensor) -> dict[str, Tensor]:
        a, b, aa, bb, ab, error, angle, known, size = x.unbind(-1)
        return {"rho": a / b, "slope": ab / bb, "beta": ab / aa, "cos": angle / known, "r2": 1 - error / bb,
                "mse": error / size}

    drawn, value = statistics(counts @ sums), statistics(sums.sum(0))
    if n < MIN_PICTURES:
        return {name: Interval(value[name].item(), math.nan, math.nan, n) for name in value}
    ends = torch.tensor([expanded_tail(n), 1 - expanded_tail(n)]).double()
    return {name: Interval(value[name].item(), *drawn[name].quantile(ends).tolist(), n) for name in value}


def measure_gap(run: Run, teacher: nn.Module, student: nn.Module) -> Gap:
    """The gap of a student beside its teacher's on the run's held-out states."""
    states = held_out_states(run.schedule, run.images, run.profile.states, seed=SAMPLING_SEED)
    own, target = (all_branches(compared(net, teacher), states) for net in (student, teacher))
    numbers = _different(run.images.test_pixels[: len(states.t)])
    picture = numbers[torch.arange(len(states.t)) % len(numbers)]
    index = (states.t * BINS // run.profile.T).cpu()
    bins = {}
    for b in range(BINS):
        here = index == b
        if len(picture[here].unique()) >= MIN_PICTURES:
            pairs = (Branches(p.cond[here.to(p.cond.device)], p.uncond[here.to(p.cond.device)]) for p in (own, target))
            bins[_middle(b, run.profile.T)] = gap_intervals(*pairs, picture[here])
    share = (target.gap.flatten(1).norm(dim=1).mean() / target.cond.flatten(1).norm(dim=1).mean()).item()
    return Gap(gap_intervals(own, target, picture), bins, share, len(states.t))


def _middle(b: int, T: int) -> int:
    return int((b + 0.5) * T / BINS)


def _different(pictures: Tensor) -> Tensor:
    """A number (N,) for each picture; those of the same pixels have the same one, and count once."""
    numbers: dict[bytes, int] = {}
    return torch.tensor([numbers.setdefault(p.numpy().tobytes(), len(numbers)) for p in pictures.cpu()])


def verdict(found: Interval, low: float, high: float) -> str:
    """Whether an interval lies inside the bounds, outside, or on both sides; without an interval nothing is decided."""
    if low <= found.lo and found.hi <= high:
        return YES
    return NO if found.hi < low or found.lo > high else OPEN


def readings(run: Run, gap: Gap, results: pd.DataFrame, arm: str) -> list[Reading]:
    """The sentences about one student, from its gap and from the tidy table of measurements.

    `gap` is that of the network of the run's seed.  If the table has networks of more seeds, "calibrated" is said only
    where all of them are, and each sentence about the gap names their range.
    """
    seeds = seed_values(results, arm)
    values = seeds.loc[run.seed].dropna()
    teacher = results[results.arm == "teacher"].set_index("metric").value
    size, direction, whole, timesteps, _ = gap_readings(run, gap)
    found = [*(_of_all(reading, seeds[[name]], *BOUNDS[name])
               for name, reading in (("rho", size), ("cos", direction), ("r2", whole))),
             _of_all(timesteps, seeds[[n for n in seeds if n.startswith("rho@t=")]], *BIN_BOUNDS)]
    found.append(_knob(gap, max(run.profile.ws), seeds, seed=run.seed, samples=run.profile.samples))
    if "rho_visited" in values:
        found.append(_visited(values))
    found.append(_samples(run, values, teacher))
    found.append(_limits(run, gap, seeds))
    return found


def seed_values(results: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The measurements of an arm with one row a training seed and one column a metric."""
    return results[results.arm == arm].pivot(index="seed", columns="metric", values="value")


def _of_all(reading: Reading, values: pd.DataFrame, low: float, high: float) -> Reading:
    """A sentence about one network, with what those of all training seeds have in one or several metrics.

    If one of them is outside the bounds, the student of another training would not be calibrated: it is open.
    """
    if len(values) < 2 or values.empty:
        return reading
    within = ((low <= values) & (values <= high)).all(axis=1)
    lowest, highest = np.nanmin(values), np.nanmax(values)
    what = "sizes of the gap there are" if values.shape[1] > 1 else "value is"
    said = (f" Over the {len(values)} training seeds the {what} {lowest:.2f} to {highest:.2f}: "
            f"{'all' if within.all() else f'{within.sum()} of {len(values)}'} within the bounds.")
    kind = OPEN if reading.verdict == YES and not within.all() else reading.verdict
    return Reading(reading.topic, kind, reading.text + said)


def gap_readings(run: Run, gap: Gap) -> list[Reading]:
    """The sentences that the gap alone gives: size, direction, the whole, every timestep, and the knob."""
    return [_size(gap), _direction(gap), _whole(gap), _timesteps(gap, run.profile.T), _knob(gap, max(run.profile.ws))]


def summary(found: list[Reading]) -> str:
    """One sentence over all: what is calibrated, what is not, what is open."""
    topics = {kind: [r.topic.lower() for r in found if r.verdict == kind] for kind in (YES, NO, OPEN)}
    return " ".join(f"{kind.capitalize()}: {', '.join(named)}." for kind, named in topics.items() if named)


def _size(gap: Gap) -> Reading:
    rho = gap.whole["rho"]
    kind = verdict(rho, *BOUNDS["rho"])
    than = {YES: "the guidance scale pushes as far as the teacher's",
            NO: "the scale pushes less far than it says" if rho.value < 1 else "the scale pushes farther than it says",
            OPEN: "more pictures would be needed to tell whether the scale pushes as far as the teacher's"}[kind]
    return Reading("Size of the gap", kind, f"On average the guidance gap is {rho} times as long as the teacher's: "
                                            f"{than}.")


def _direction(gap: Gap) -> Reading:
    cos = gap.whole["cos"]
    kind = verdict(cos, *BOUNDS["cos"])
    partly = "partly " if cos.lo > 0 else ""
    than = {YES: "guidance pushes where the teacher's does",
            NO: f"guidance pushes {partly}somewhere else, and no scale repairs that",
            OPEN: "more pictures would be needed to tell whether that is close enough"}[kind]
    return Reading("Direction of the gap", kind, f"The cosine with the teacher's gap is {cos}: {than}.")


def _whole(gap: Gap) -> Reading:
    r2 = gap.whole["r2"]
    kind = verdict(r2, *BOUNDS["r2"])
    said = (f"The student reproduces the teacher's gap with R² = {r2}, where 1 is the same gap, and 0 is as good as no "
            "gap at all")
    return Reading("Gap as a whole", kind, said + (": it is worse than none." if r2.hi < 0 else "."))


def _timesteps(gap: Gap, T: int) -> Reading:
    kinds = {t: verdict(stats["rho"], *BIN_BOUNDS) for t, stats in gap.bins.items()}
    low, high = BIN_BOUNDS
    bounds = f"{low:g} to {high:g} times the teacher's"
    out, unsure = (_tenths(T, [t for t, k in kinds.items() if k == kind], gap) for kind in (NO, OPEN))
    few = _tenths(T, [t for t in (_middle(b, T) for b in range(BINS)) if t not in kinds])
    text = (f"The size of the gap is outside {bounds} at timesteps {out}." if out else
            f"No tenth of the timesteps is surely outside {bounds}; open are {unsure}." if unsure else
            f"In every tenth of the timesteps the size of the gap is {bounds}." if not few else
            f"Where it was measured, the size of the gap is {bounds}." if kinds else "")
    if few:
        text += f" At timesteps {few} there are fewer than {MIN_PICTURES} pictures: too few to tell."
    return Reading("Every timestep", NO if out else OPEN if unsure or few else YES, text.strip())


def _tenths(T: int, middles: Sequence[int], gap: Gap | None = None) -> str:
    """Tenths of the timesteps by their middles, as people read them; with the size of the gap there."""
    half = T / BINS / 2
    return ", ".join(f"{t - half:.0f} to {t + half:.0f}" + (f" ({gap.bins[t]['rho'].value:.2f})" if gap else "")
                     for t in middles)


def _knob(gap: Gap, w: float, seeds: pd.DataFrame | None = None, *, seed: int = 0, samples: int = 0) -> Reading:
    """Whether another scale than w brings the student nearer to the teacher at w: as its samples say, if there are.

    `seeds` has one row a training seed and one column a metric; the student is that of `seed`.
    """
    beta = gap.whole["beta"].value
    other = corrected_w(w, beta)
    scale = f"w = {other:.2f} (1 + (w - 1) beta, beta = {beta:.2f})"
    names = [f"frechet_teacher@{BY_BETA}", f"frechet_teacher@w={w:g}"]
    if not math.isfinite(beta):
        text = "The student has no gap, so its scale changes nothing."
    elif abs(other - w) < 0.005:
        text = f"The gap asks for no other scale than the teacher's w = {w:g}: 1 + (w - 1) beta is {other:.2f}."
    elif seeds is None or not {*names} <= {*seeds}:
        text = (f"If the student's prediction with the class is right, {scale} has the smallest squared error from the "
                f"teacher's guided prediction at w = {w:g}. Its samples need not be nearer to the teacher's there.")
    else:
        ratios, alike = seeds[names[0]] / seeds[names[1]], _alike(seeds.loc[seed], w, samples)
        advice = (f": to come near to it, set the student to w = {other:.2f}" if (ratios < 1 / alike).all() else
                  ": leave the student's scale as it is" if ratios[seed] > alike else
                  ", and which of the two is nearer is undecided: leave the student's scale as it is")
        text = (f"At {scale} the student's samples are {ratios[seed]:.2f} times as far from those of the teacher at "
                f"w = {w:g} as they are at w = {w:g}{advice}.")
        if len(ratios) > 1:
            text += f" Over the {len(ratios)} training seeds it is {ratios.min():.2f} to {ratios.max():.2f} times."
    return Reading("The guidance knob", PLAIN, text)


def _alike(values: pd.Series, w: float, samples: int) -> float:
    """Up to which ratio two distances count as alike; other sets of samples, where there are any, can only raise it."""
    own = values[f"frechet_teacher@w={w:g}"]
    others = values.filter(regex=rf"^set\d+:frechet_teacher@w={re.escape(f'{w:g}')}$")
    return max([1 + ALIKE / math.sqrt(samples), *(max(v / own, own / v) for v in others)])


def _visited(values: pd.Series) -> Reading:
    return Reading("While sampling", PLAIN, "On the states that the student's own sampling visits, its gap is "
                                            f"{values['rho_visited']:.2f} times as long as the teacher's there, with "
                                            f"cosine {values['cos_visited']:.2f}.")


def _samples(run: Run, values: pd.Series, teacher: pd.Series) -> Reading:
    own, other = (v.filter(regex="^frechet@w=") for v in (values, teacher))
    best = {name: float(v.idxmin().removeprefix("frechet@w=")) for name, v in (("student", own), ("teacher", other))}
    ratio = own.min() / other.min()
    where = "the same scale" if best["student"] == best["teacher"] else "another scale"
    return Reading("Samples", PLAIN, f"At its best scale the student's samples are {ratio:.2f} times as far from real "
                                     f"{'latents' if run.images.latent else 'pictures'} as the teacher's at its own "
                                     f"best (w = {best['student']:g} and {best['teacher']:g}: {where}).")


def _limits(run: Run, gap: Gap, seeds: pd.DataFrame) -> Reading:
    pictures = gap.whole["rho"].n
    said = (f"Gaps are compared on {gap.states:,} noised states of {pictures:,} held-out "
            f"{'latents' if run.images.latent else 'pictures'}; intervals are 95%, over these.")
    said += (" One network was measured: a student of another training seed may differ by more." if len(seeds) == 1 else
             f" They are of the network of seed {run.seed} alone, and so is what is said of samples. {len(seeds)} "
             f"networks were measured, and a student of another training seed may differ by more: the calibration card "
             "has each.")
    if pictures < MIN_PICTURES:
        said += f" Fewer than {MIN_PICTURES} pictures are too few for an interval, so nothing is decided."
    if gap.share < SMALL_GAP:
        said += (f" The teacher's own gap is only {100 * gap.share:.1f}% of its prediction: there is little guidance "
                 "to hand on, and its statistics are noisy.")
    return Reading("How sure", PLAIN, said)
