"""Each exercise: right answers, the usual wrong ones, and answers that are no answers; what was done is kept."""

import inspect
import itertools
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from dashkit.analysis.statistics import shapley
from dashkit.classroom import checks, journal
from dashkit.classroom.checks import check, hint, my_progress, recall
from dashkit.classroom.exercises import EXERCISES
from dashkit.classroom.notebooks import notebook_paths
from dashkit.method.arms import OBJECTIVES
from dashkit.method.calibration import gap_stats
from dashkit.method.curriculum import TIRT, min_snr, published, uniform
from dashkit.method.guidance import Branches, corrected_w, drop_labels
from dashkit.method.losses import distil_terms, total
from dashkit.method.schedule import cosine_schedule


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """How fast a machine is decides nothing; where an answer must not come back, the test says how long to wait."""
    monkeypatch.setattr(checks, "PATIENCE", 600.0)


def x0(x, e, a):
    return (x - (1 - a) ** 0.5 * e) / a**0.5


def mse(a, b):
    return ((a - b) ** 2).mean((1, 2, 3))


def twin(c, u, gap, w):
    u2 = u + w * (c - u) - w * gap
    return u2 + gap, u2


def ddim(x, e, a, b, clip=1.0):
    start = x0(x, e, a).clamp(-clip, clip)
    return (b / a) ** 0.5 * a**0.5 * start + ((1 - b) / (1 - a)) ** 0.5 * (x - a**0.5 * start)


def gaussian_distance(m1, c1, m2, c2):
    root = scipy.linalg.sqrtm((c1 @ c2).numpy())
    return (m1 - m2).square().sum() + (c1 + c2).trace() - 2 * root.trace()


def norms(v):
    return v.flatten(1).norm(dim=1)


def weighted(terms, lam):
    return torch.stack([c * terms[k] for k, c in lam.items()]).sum(0)


def flops_of(module, x):
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops()


RIGHT = {     # written differently from the module's own where there is another way
    "00.1": [lambda w, rho: w / rho, lambda w, rho: torch.tensor(w) / rho, lambda w, rho: np.divide(w, rho)],
    "00.2": [1, 1.0, torch.tensor(1.0), lambda: 1],
    "01.1": [x0, lambda x, e, a: ((x - (1 - a) ** 0.5 * e) / a**0.5).float(), lambda *v: x0(*v).numpy()],
    "01.2": [lambda c, u, w: w * c + (1 - w) * u, lambda c, u, w: c + (w - 1) * (c - u)],
    "01.3": [lambda x, e, a: (x - a**0.5 * x0(x, e, a).clamp(-1, 1)) / (1 - a) ** 0.5],
    "01.4": [ddim, lambda *v: ddim(*v).numpy()],
    "02.1": [lambda y, null, p, g: drop_labels(y, null, p=p, generator=g)],
    "02.2": [lambda a, n, d: a + (1 - d) * (n - a), lambda a, n, d: torch.lerp(n, a, d)],
    "02.3": [lambda s, t, o: (o * mse(s, t)).mean(), lambda s, t, o: o @ mse(s, t) / len(o),
             lambda s, t, o: np.average(((s - t) ** 2).numpy().reshape(len(o), -1).mean(1), weights=o) * o.mean()],
    "03.1": [twin, lambda *v: torch.stack(twin(*v)), lambda *v: list(twin(*v))],
    "03.2": [lambda w: (w - 1, w), lambda w: [-5 * (1 - w), 5 * w], lambda w: (torch.tensor(1 - 1 / w), 1)],
    "03.3": [1.25, torch.tensor(1.25), lambda: 1.25],
    "04.1": [lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=4.0), OBJECTIVES["dash"].lam, o),
             lambda s, t, e, o: (o * (mse(s.cond, t.cond) + mse(s.uncond, t.uncond) + mse(s.cond, e) / 10)).mean()],
    "04.2": [lambda s, t: (s * t).sum((1, 2, 3)).mean() / t.square().sum((1, 2, 3)).mean(),
             lambda s, t: gap_stats(Branches(s, 0 * s), Branches(t, 0 * t)).slope],
    "04.3": [total, lambda terms, lam, o: o @ weighted(terms, lam) / len(o),
             lambda terms, lam, o: sum(c * (o * terms[k]).mean() for k, c in lam.items())],
    "04.4": [lambda s, t: gap_stats(Branches(s, 0 * s), Branches(t, 0 * t)).rho,
             lambda s, t: s.square().sum((1, 2, 3)).sqrt().sum() / t.square().sum((1, 2, 3)).sqrt().sum()],
    "05.1": [lambda s, g: torch.where(s > g, g / s, 1.0) / torch.where(s > g, g / s, 1.0).mean()],
    "05.2": [lambda o, t: (o / o.mean())[t], lambda o, t: o[t] * len(o) / o.sum()],
    "06.1": [lambda s, t: 2 * (s * t).sum() / (t * t).sum() - (s * s).sum() / (t * t).sum(),
             lambda s, t: gap_stats(Branches(s, 0 * s), Branches(t, 0 * t)).r2],
    "06.2": [lambda gap, a: x0(0, gap, a), lambda gap, a: -gap * (1 / a - 1) ** 0.5],
    "06.3": [lambda w, s, t: corrected_w(w, gap_stats(Branches(s, 0 * s), Branches(t, 0 * t)).beta),
             lambda w, s, t: 1 + (w - 1) * (s * t).mean() / (s**2).mean()],
    "07.1": [lambda *v: shapley({frozenset(k): x for k, x in zip(("", "a", "b", "ab"), v, strict=True)}, "ab")["a"]],
    "07.2": [lambda a, b: ((a - b).var() / len(a)).sqrt(), lambda a, b: np.std((a - b).numpy(), ddof=1) / 6**0.5,
             lambda a, b: (a - b).std(ddof=1) / len(a) ** 0.5, lambda a, b: np.std(a - b, ddof=1) / len(a) ** 0.5,
             lambda a, b: pd.Series(a).sub(pd.Series(b)).sem(), lambda a, b: (a - b).sem()],
    "07.3": [lambda d, i: np.quantile(d[i].mean(axis=1), [0.025, 0.975]),
             lambda d, i: pd.Series(d[i].mean(1)).quantile([0.025, 0.975]),
             lambda d, i: np.percentile(d.numpy()[i.numpy()].mean(1), [2.5, 97.5])],
    "08.1": [lambda ci, co, k, h, w: flops_of(torch.nn.Conv2d(ci, co, k), torch.zeros(1, ci, h + k - 1, w + k - 1))],
    "08.2": [lambda n, w: n * len({0, 1} - {1 - w})],
    "08.3": [lambda m, k: torch.where(m.abs().flatten().argsort().argsort().reshape(m.shape) >= m.numel() - k, m, 0)],
    "09.1": [lambda lo, hi, at: int(lo > at) - int(hi < at),
             lambda lo, hi, at: (np.sign(lo - at) + np.sign(hi - at)) / 2],
    "10.1": [lambda m1, s1, m2, s2: torch.dist(torch.cat([m1, s1]), torch.cat([m2, s2])) ** 2,
             lambda m1, s1, m2, s2: gaussian_distance(m1, s1.diag() ** 2, m2, s2.diag() ** 2)],
    "10.2": [lambda a, b: b - (a - b), lambda a, b: np.polyval(np.polyfit([1, 0.5], [a, b], 1), 0)],
    "11.1": [lambda b: (1 - b).log().cumsum(0).exp(), lambda b: np.cumprod(1 - b.numpy())],
    "11.2": [lambda v, x, a: (x - a**0.5 * (a**0.5 * x - (1 - a) ** 0.5 * v)) / (1 - a) ** 0.5],
    "05.3": [lambda o, s, x: o * (1 - s) * (x / o.sum() - (o * x).sum() / o.sum() ** 2)],
}
WRONG = {     # name: answers with a piece of the reply they must get
    "00.1": [(lambda w, rho: w * rho, "other way round"), (lambda w, rho: 1 + (w - 1) / rho, "conditional branch"),
             (lambda w, rho: w - rho, "subtract"), (lambda w, rho: w / rho**2, "once"), (lambda w, rho: w, "itself"),
             (lambda w, rho: rho / w, "Upside down"), (lambda w, rho: w + 1 / rho, "off by"),
             (lambda w, rho: (w, rho), "shape"), (3.0, "function")],
    "00.2": [(0, "the wrong one"), (1.5, "still counts"), (2, "in full"), (0.5, "one half"), (-1, "twice"),
             (4, "off by"), ((0, 1), "shape"), ("one", "str arrived")],
    "01.1": [(lambda x, e, a: (x - (1 - a) * e) / a, "square root"),
             (lambda x, e, a: x - (1 - a) ** 0.5 * e, "divide")],
    "01.2": [(lambda c, u, w: c + w * (c - u), "w - 1"), (lambda c, u, w: c + w * (u - c), "Swapped")],
    "01.3": [(lambda x, e, a: e, "nothing was clamped"), (lambda x, e, a: e.clamp(-1, 1), "clamp x0")],
    "01.4": [(lambda *v: ddim(*v, clip=100.0), "clamped"),
             (lambda x, e, a, b: b**0.5 * x0(x, e, a).clamp(-1, 1) + (1 - b) ** 0.5 * e, "recompute"),
             (lambda x, e, a, b: ddim(x, e, b, a), "Swapped"), (lambda x, e, a, b: x0(x, e, a), "off by")],
    "02.1": [
        (lambda y, null, p, g: y if torch.rand((), generator=g) > p else torch.full_like(y, null), "whole batch"),
        (lambda y, null, p, g: drop_labels(y, null, p=1 - p, generator=g), "Swapped"),
        (lambda y, null, p, g: drop_labels(y, null - 1, p=p, generator=g), "null label"),
        (lambda y, null, p, g: torch.where(torch.arange(len(y)) < p * len(y), null, y), "generator"),
        (lambda y, null, p, g: y.masked_fill_(torch.rand(y.shape, generator=g) < p, null), "changed the labels"),
        (lambda y, null, p, g: drop_labels(y, null, p=p / 2, generator=g), "dropped"),
    ],
    "02.2": [(lambda a, n, d: (1 - d) * a + d * n, "Swapped"), (lambda a, n, d: d * a + n, "add up to 1")],
    "02.3": [(lambda s, t, o: o.mean() * ((s - t) ** 2).mean(), "batch mean"),
             (lambda s, t, o: ((s - t) ** 2).mean(), "omega_t"),
             (lambda s, t, o: (o * (s - t).flatten(1).norm(dim=1) ** 2).mean(), "squared norm"),
             (lambda s, t, o: o[:, None, None, None] * (s - t) ** 2, "shape ()")],
    "03.1": [(lambda c, u, gap, w: (u + gap, u), "must move too"), (lambda *v: twin(*v)[::-1], "Swapped")],
    "03.2": [(lambda w: (w, w), "forgot w - 1"), (lambda w: (w, w - 1), "Swapped"), (lambda w: (1 - w, w), "sign"),
             (lambda w: (0, 0), "Not both 0"), (lambda w: (1.0, 0.3), "off by")],
    "03.3": [(5 / 3, "n - 1"), (1.25**0.5, "standard deviation"), (7, "off by")],
    "04.1": [(lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=1.0), OBJECTIVES["dash"].lam, 1.0), "omega_t"),
             (lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=1.0), {"im": 1, "un": 1, "an": 1}, o), "0.1"),
             (lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=1.0), {"im": 1, "an": 0.1}, o), "unconditional"),
             (lambda s, t, e, o: e[0].numel() * total(distil_terms(s, t, eps=e, w=1.0), OBJECTIVES["dash"].lam, o),
              "squared norms")],
    "04.2": [(lambda s, t: s.flatten(1).norm(dim=1).mean() / t.flatten(1).norm(dim=1).mean(), "rho"),
             (lambda s, t: (s * t).sum() / s.square().sum(), "teacher's")],
    "04.3": [(lambda terms, lam, o: (o * sum(terms[k] for k in lam)).mean(), "coefficients"),
             (lambda terms, lam, o: o.mean() * weighted(terms, lam).mean(), "batch mean"),
             (lambda terms, lam, o: (o * sum(lam[k] * v for k, v in terms.items())).mean(), "KeyError"),
             (lambda terms, lam, o: total(terms, lam, 1.0), "omega_t")],
    "04.4": [(lambda s, t: (s**2).sum() / (t**2).sum(), "squared norms"),
             (lambda s, t: s.norm() / t.norm(), "each image"), (lambda s, t: t.norm() / s.norm(), "off by")],
    "05.1": [(lambda s, g: s.clamp(max=g) / s.clamp(max=g).mean(), "published"),
             (lambda s, g: s.clamp(max=g) / s, "mean")],
    "05.2": [(lambda o, t: o[t] / o[t].mean(), "batch"), (lambda o, t: o[t], "normalise")],
    "06.1": [(lambda s, t: (s * t).sum() / (t * t).sum(), "slope"),
             (lambda s, t: 1 - (s - t).square().sum() / s.square().sum(), "teacher's")],
    "06.2": [(lambda gap, a: gap * (1 / a - 1) ** 0.5, "sign"), (lambda gap, a: gap * (1 - 1 / a), "square root")],
    "06.3": [(lambda w, s, t: w * (s * t).mean() / (s * s).mean(), "above 1"),
             (lambda w, s, t: 1 + (w - 1) / ((s * t).sum() / (t * t).sum()), "divides by the slope")],
    "07.1": [(lambda v0, va, vb, vab: vab - vb, "leave-one-out"), (lambda v0, va, vb, vab: va - v0, "one-in")],
    "07.2": [(lambda a, b: (a.var() / 6 + b.var() / 6).sqrt(), "Unpaired"),
             (lambda a, b: np.std((a - b).numpy()) / 6**0.5, "ddof")],
    "07.3": [(lambda d, i: torch.quantile(d, torch.tensor([0.025, 0.975]).double()), "average each draw"),
             (lambda d, i: np.percentile(d.numpy()[i.numpy()].mean(1), [97.5, 2.5]), "Swapped")],
    "08.1": [(lambda ci, co, k, h, w: ci * co * k * k * h * w, "multiply-add"),
             (lambda ci, co, k, h, w: co * ci * k**2, "weights")],
    "08.2": [(lambda n, w: 2 * n, "not used"), (lambda n, w: n, "both branches")],
    "08.3": [(lambda m, k: m * (m >= m.flatten().sort().values[-k]), "negative"),
             (lambda m, k: (m.abs() >= m.abs().flatten().sort().values[-k]).double(), "mask")],
    "09.1": [(lambda lo, hi, at: 1 if (lo + hi) / 2 > at else -1, "middle"),
             (lambda lo, hi, at: 1 if hi > at else -1, "nearer"), (lambda lo, hi, at: lo > at, "no 0"),
             (lambda lo, hi, at: 1 if lo > at else -1, "no -1"), (lambda lo, hi, at: np.sign(at - lo), "off by"),
             (lambda lo, hi, at: int(hi < at) - int(lo > at), "sign"), (lambda lo, hi, at: "holds", "str arrived")],
    "10.1": [(lambda m1, s1, m2, s2: torch.dist(m1, m2) ** 2, "spreads"),
             (lambda m1, s1, m2, s2: torch.dist(torch.cat([m1, s1]), torch.cat([m2, s2])), "no root"),
             (lambda m1, s1, m2, s2: ((m1 - m2) ** 2 + (s1 - s2) ** 2).mean(), "do not average"),
             (lambda m1, s1, m2, s2: ((m1 - m2) ** 2 + (s1**0.5 - s2**0.5) ** 2).sum(), "variances")],
    "10.2": [(lambda a, b: 2 * a - b, "Swapped"), (lambda a, b: a - b, "left at 2n"), (lambda a, b: b, "half"),
             (lambda a, b: (a + b) / 2, "mean"), (lambda a, b: 3 * b, "off by")],
    "05.3": [(lambda o, s, x: o * (1 - s) / o.sum() * ((o * x).sum() / o.sum() - x), "sign"),
             (lambda o, s, x: o / o.sum() * (x - (o * x).sum() / o.sum()), "1 - sigma")],
    "11.1": [(lambda b: b.cumprod(0), "product of the betas"), (lambda b: 1 - b.cumsum(0), "multiply"),
             (lambda b: 1 - b, "one step"), (lambda b: 1 - (1 - b).cumprod(0), "noise's share"),
             (lambda b: (1 - b).cumprod(0).sqrt(), "square root")],
    "11.2": [(lambda v, x, a: a**0.5 * x - (1 - a) ** 0.5 * v, "x0"), (lambda v, x, a: v, "noise itself"),
             (lambda v, x, a: (1 - a) ** 0.5 * v + a**0.5 * x, "swapped"),
             (lambda v, x, a: a**0.5 * v - (1 - a) ** 0.5 * x, "sign"),
             (lambda v, x, a: a * v + (1 - a) * x, "square root")],
}

MORE_WRONG = {     # further plausible mistakes: of sign, order, shape, norm, mean and type
    "00.1": [], "00.2": [],
    "01.1": [(lambda x, e, a: (x - a**0.5 * e) / (1 - a) ** 0.5, "Swapped"),
             (lambda x, e, a: (x + (1 - a) ** 0.5 * e) / a**0.5, "sign"),
             (lambda x, e, a: x - e, "off by"), (lambda x, e, a: x0(x, e, a).clamp(-1, 1), "off by")],
    "01.2": [(lambda c, u, w: u + (w - 1) * (c - u), "w gaps"), (lambda c, u, w: (1 + w) * c - w * u, "w - 1"),
             (lambda c, u, w: w * c + u, "off by"), (lambda c, u, w: w * (c - u), "off by")],
    "01.3": [(lambda x, e, a: x0(x, e, a).clamp(-1, 1), "turn it back"),
             (lambda x, e, a: x - a**0.5 * x0(x, e, a).clamp(-1, 1), "did not divide"),
             (lambda x, e, a: (x - a * x0(x, e, a).clamp(-1, 1)) / (1 - a), "off by")],
    "01.4": [(lambda x, e, a, b: x, "old timestep"), (lambda x, e, a, b: x0(x, e, a).clamp(-1, 1), "That is x0")],
    "02.1": [
        (lambda y, null, p, g: torch.where(torch.rand(y.shape) < p, null, y), "same state"),
        (lambda y, null, p, g: drop_labels(y, null, p=p, generator=torch.Generator().manual_seed(0)), "goes on"),
        (lambda y, null, p, g: drop_labels(y, null, p=p, generator=g).double(), "whole numbers"),
        (lambda y, null, p, g: torch.where(torch.randperm(len(y), generator=g) < p * len(y), null, y), "same number"),
        (lambda y, null, p, g: y[torch.rand(y.shape, generator=g) >= p], "shape"),
        (lambda y, null, p, g: torch.where(torch.rand(10, generator=g)[y] < p, null, y), "for a class"),
    ],
    "02.2": [(lambda a, n, d: (a + n) / 2, "plain mean"), (lambda a, n, d: n, "off by"),
             (lambda a, n, d: a - (1 - d) * n, "off by")],
    "02.3": [(lambda s, t, o: (o * mse(s, t)).sum() / o.sum(), "sum of the batch"),
             (lambda s, t, o: (o * mse(s, t)).sum(), "sum over the batch"),
             (lambda s, t, o: o * mse(s, t), "one loss a sample"),
             (lambda s, t, o: (o * (s - t).abs().mean((1, 2, 3))).mean(), "off by")],
    "03.1": [(lambda c, u, gap, w: (c + (w - 1) * gap, u + w * gap), "change of the gap"),
             (lambda c, u, gap, w: (c - (w - 1) * (c - u - gap), u - w * (c - u - gap)), "sign"),
             (lambda c, u, gap, w: (c, c - gap), "off by"), (lambda c, u, gap, w: u + w * gap, "shape")],
    "03.2": [(lambda w: (w, 1 - w), "factors"), (lambda w: w, "shape"), (lambda w: (1, 0), "off by"),
             (lambda w: (1, -1), "off by")],
    "03.3": [(2.5, "mean of w"), (7.5, "squares"), ((1, 2, 3, 4), "shape")],
    "04.1": [(lambda s, t, e, o: (o * (mse(s.cond, t.cond) + mse(s.uncond, t.uncond) + mse(s.uncond, e) / 10)).mean(),
              "conditional branch"),
             (lambda s, t, e, o: o * (mse(s.cond, t.cond) + mse(s.uncond, t.uncond) + mse(s.cond, e) / 10),
              "shape ()")],
    "04.2": [(lambda s, t: (s * t).sum() / t.norm(), "its square"), (lambda s, t: (s * t).mean(), "off by"),
             (lambda s, t: 1 - (s - t).square().sum() / t.square().sum(), "R^2"),
             (lambda s, t: ((s * t).sum((1, 2, 3)) / t.square().sum((1, 2, 3))).mean(), "mean of ratios"),
             (lambda s, t: torch.cosine_similarity(s.flatten(1), t.flatten(1)).mean(), "cosine")],
    "04.3": [(lambda terms, lam, o: (o * sum(c * v for c, v in zip(lam.values(), terms.values(), strict=False))).mean(),
              "by their names"),
             (lambda terms, lam, o: (o * weighted(terms, lam)).sum(), "sum over the batch"),
             (lambda terms, lam, o: o * weighted(terms, lam), "one number a sample")],
    "04.4": [(lambda s, t: norms(t).mean() / norms(s).mean(), "Upside down"),
             (lambda s, t: (norms(s) / norms(t)).mean(), "mean of ratios"),
             (lambda s, t: (s * t).sum() / (t * t).sum(), "slope")],
    "05.1": [(lambda s, g: s.clamp(max=g) / s / (s.clamp(max=g) / s).sum(), "sum is 1"),
             (lambda s, g: (g / s) / (g / s).mean(), "minimum"),
             (lambda s, g: s.clamp(min=g) / s / (s.clamp(min=g) / s).mean(), "max instead"),
             (lambda s, g: torch.full_like(s, g), "off by")],
    "05.2": [(lambda o, t: o[t] / o.sum(), "sum"), (lambda o, t: o / o.mean(), "whole table"),
             (lambda o, t: o[t] / o.max(), "largest")],
    "05.3": [(lambda o, s, x: s * (1 - s) / o.sum() * (x - (o * x).sum() / o.sum()), "sigma (1 - sigma)"),
             (lambda o, s, x: o * s * (1 - s) / o.sum() * (x - (o * x).sum() / o.sum()), "sigma already"),
             (lambda o, s, x: o * (1 - s) * (x - (o * x).sum() / o.sum()), "sum of omega"),
             (lambda o, s, x: (o * x).sum() / o.sum(), "shape")],
    "06.1": [(lambda s, t: 1 - norms(s - t).mean() / norms(t).mean(), "squared"),
             (lambda s, t: (s - t).square().sum() / t.square().sum(), "1 -"),
             (lambda s, t: 1 - (mse(s, t) / mse(t, 0)).mean(), "mean of ratios")],
    "06.2": [(lambda gap, a: -gap * (a / (1 - a)) ** 0.5, "Upside down"),
             (lambda gap, a: -gap * (1 - a) ** 0.5, "sqrt(abar)"), (lambda gap, a: gap, "off by")],
    "06.3": [(lambda w, s, t: (w - 1) * (s * t).sum() / s.square().sum(), "1 in front"),
             (lambda w, s, t: w, "itself"),
             (lambda w, s, t: 1 + (w - 1) * (s * t).sum() / (t * t).sum(), "the student's"),
             (lambda w, s, t: 1 + (w - 1) * norms(t).mean() / norms(s).mean(), "off by")],
    "07.1": [(lambda v0, va, vb, vab: ((va - v0) + (vab - vb)) / 2 / (vab - v0), "fraction"),
             (lambda v0, va, vb, vab: (va + vab - vb) / 2, "nobody"),
             (lambda v0, va, vb, vab: ((vb - v0) + (vab - va)) / 2, "b's"), (0.5, "function")],
    "07.2": [(lambda a, b: (a - b).std() / 8**0.5, "len(a)"), (lambda a, b: (a - b).std(), "standard deviation"),
             (lambda a, b: (a.std() - b.std()) / len(a) ** 0.5, "seed by seed"),
             (lambda a, b: (a - b).std(ddof=0) / len(a) ** 0.5, "ddof"), (lambda a, b: (a - b).mean(), "off by")],
    "07.3": [(lambda d, i: torch.quantile(d[i].mean(1), torch.tensor([0.05, 0.95]).double()), "90%"),
             (lambda d, i: torch.quantile(d[i].mean(0), torch.tensor([0.025, 0.975]).double()), "over the seeds"),
             (lambda d, i: (d.mean() - 2 * d.std() / len(d) ** 0.5, d.mean() + 2 * d.std() / len(d) ** 0.5), "off by"),
             (lambda d, i: d[i].mean(1), "shape")],
    "08.1": [(lambda ci, co, k, h, w: 2 * ci * co * k * h * w, "k * k"),
             (lambda ci, co, k, h, w: 2 * co * k * k * h * w, "input channels"),
             (lambda ci, co, k, h, w: 2 * ci * co * k * k * (h - k + 1) * (w - k + 1), "h * w"),
             (lambda ci, co, k, h, w: (2 * ci * k * k - 1) * co * h * w, "off by")],
    "08.2": [(lambda n, w: n if w == 1 else 2 * n, "unconditional"),
             (lambda n, w: n if w == 0 else 2 * n, "conditional"),
             (lambda n, w: n + 1 if w not in (0, 1) else n, "one more"), (lambda n, w: n * w, "off by")],
    "08.3": [(lambda m, k: m * (m.abs() > m.abs().flatten().topk(k).values[-1]), "too few"),
             (lambda m, k: m * (m.abs() < m.abs().flatten().topk(k).values[-1]), "kept the rest"),
             (lambda m, k: m.abs() * (m.abs() >= m.abs().flatten().topk(k).values[-1]), "signs"),
             (lambda m, k: m.abs().flatten().topk(k).values, "shape")],
    "09.1": [],
    "10.1": [(lambda m1, s1, m2, s2: ((s1 - s2) ** 2).sum(), "means"),
             (lambda m1, s1, m2, s2: (m1 - m2) ** 2 + (s1 - s2) ** 2, "shape")],
    "10.2": [],
    "11.1": [(lambda b: (1 - b).flip(0).cumprod(0), "")],
    "11.2": [(lambda v, x, a: x - v, "")],
}


def bad(*_):
    raise RuntimeError("no idea")


FOREVER, STOP = itertools.repeat(0), threading.Event()


def loops(*_):
    for _ in FOREVER:
        pass


def sleeps(*_):
    STOP.wait(60)


ONE_CASE = {     # right on inputs of one channel, with the names, labels or numbers that one draw has
    "02.1": [(lambda y, null, p, g: torch.where(torch.rand(y.shape, generator=g) < p, 10, y), "null label, here 100"),
             (lambda y, null, p, g: drop_labels(y, int(y.max()) + 1, p=p, generator=g), "null label, here 100")],
    "02.3": [(lambda s, t, o: (o * mse(s[:, :1], t[:, :1])).mean(), "off by"),
             (lambda s, t, o: (o * ((s - t) ** 2).sum(1).mean((1, 2))).mean(), "off by"),
             (lambda s, t, o: (o * ((s - t) ** 2).mean(-1).sum((1, 2)) / s.shape[-1]).mean(), "off by")],
    "04.1": [(lambda s, t, e, o: (o * sum(k * ((a - b) ** 2).sum(1).mean((1, 2)) for k, a, b in (
                  (1, s.cond, t.cond), (1, s.uncond, t.uncond), (0.1, s.cond, e)))).mean(), "off by")],
    "04.2": [(lambda s, t: (s * t)[:, 0].sum() / t[:, 0].square().sum(), "off by")],
    "04.3": [(lambda terms, lam, o: (o * sum(lam[k] * terms[k] for k in ("im", "un", "an"))).mean(), "KeyError"),
             (lambda terms, lam, o: (o * sum(lam.get(k, 0) * terms[k] for k in ("im", "un", "an"))).mean(), "off by")],
    "04.4": [(lambda s, t: s.norm(dim=(2, 3)).mean() / t.norm(dim=(2, 3)).mean(), "off by"),
             (lambda s, t: norms(s[:, :1]).mean() / norms(t[:, :1]).mean(), "off by")],
    "05.1": [(lambda s, g: s.clamp(max=5.0) / s / (s.clamp(max=5.0) / s).mean(), "off by")],
    "06.1": [(lambda s, t: 1 - (s - t)[:, 0].square().sum() / t[:, 0].square().sum(), "off by")],
    "06.3": [(lambda w, s, t: 1 + (w - 1) * (s * t)[:, 0].sum() / s[:, 0].square().sum(), "off by")],
    "11.2": [(lambda v, x, a: a**0.5 * v[:, :1] + (1 - a) ** 0.5 * x[:, :1], "shape")],
}
WRONG = {name: answers + MORE_WRONG.get(name, []) + ONE_CASE.get(name, []) for name, answers in WRONG.items()}


def test_every_exercise_is_tested_and_every_notebook_has_three():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert all(len(answers) >= 5 for answers in WRONG.values())
    assert all(3 <= sum(name.startswith(n) for name in EXERCISES) <= 6 for n in map("{:02d}".format, range(1, 9)))


@pytest.mark.parametrize(("name", "answer"), [(n, a) for n, answers in RIGHT.items() for a in answers])
def test_right_answers_pass(name, answer):
    result = check(name, answer)
    assert result, result
    assert repr(result) == "✓ Right."


FORMS = {"float32": lambda v: v.float(), "array": lambda v: v.numpy(),
         "Series": lambda v: pd.Series(v.numpy()) if v.ndim == 1 else v.numpy(), "list": lambda v: v.tolist(),
         "with gradients": lambda v: v.clone().requires_grad_(), "sparse": lambda v: v.to_sparse() if v.ndim else v,
         "one entry": lambda v: v if v.ndim else v[None]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [n for n, e in EXERCISES.items() if not e.check_answer])
def test_a_right_answer_may_have_any_form(name, form):
    def answer(*case):
        value = EXERCISES[name].right(*case)
        if isinstance(value, tuple):
            value = torch.stack([torch.as_tensor(v) for v in value])
        return FORMS[form](torch.as_tensor(value, dtype=torch.float64))

    result = check(name, answer if EXERCISES[name].inputs else answer())
    assert result, result


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_that_hint_shows_passes_with_what_its_notebook_imports(name):
    [path] = notebook_paths([name[:2]])
    scope = {"torch": torch} if '"import torch' in path.read_text() else {}
    exec(EXERCISES[name].solution, scope)
    assert check(name, scope["answer"])


@pytest.mark.parametrize(("name", "answer", "reply"), [(n, a, r) for n, rows in WRONG.items() for a, r in rows])
def test_wrong_answers_are_named(name, answer, reply):
    result = check(name, answer)
    assert not result
    assert reply in result.message, result


@pytest.mark.parametrize(("name", "answer", "mistake"), [
    (n, wrong, text) for n, e in EXERCISES.items() for text, wrong in e.mistakes.items()])
def test_every_listed_mistake_is_recognised(name, answer, mistake):
    assert check(name, answer).message == mistake


def frozen(right, k):
    """A right answer that keeps to the k-th argument of its first call."""
    first = []

    def answer(*case):
        first[:] = first or [case[k]]
        return right(*case[:k], *first, *case[k + 1 :])

    return answer


def arguments(name):
    """How many arguments an exercise's answer takes."""
    scope = {"torch": torch}
    exec(EXERCISES[name].solution, scope)
    return len(inspect.signature(scope["answer"]).parameters)


@pytest.mark.parametrize(("name", "k"), [(n, k) for n, e in EXERCISES.items() if e.inputs for k in range(arguments(n))])
def test_an_answer_that_ignores_how_an_argument_varies_is_refused(name, k):
    right = EXERCISES[name].right if EXERCISES[name].check_answer is None else RIGHT[name][0]
    assert not check(name, frozen(right, k))


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [
    None, ..., "text", object(), [], {}, float("nan"), bad, lambda *_: None, lambda *_: "text",
    lambda *_: torch.zeros(3, 9), lambda *_: float("nan"), lambda: 12.5, lambda *_: (1, "a"), lambda *_: (),
    lambda *_: 10**400, lambda *_: 1j, lambda *v: v, torch.ones(2, 2), int])
def test_bad_answers_get_a_sentence_and_no_exception(name, answer):
    result = check(name, answer)
    assert not result
    assert len(result.message) > 15 and "✗" in repr(result)


@pytest.mark.parametrize(("answer", "piece"), [
    (None, "No answer yet"), (None, "answer(c, u, w)"), (3.0, "a float arrived"),
    (torch.ones(2), "a tensor of float32 of shape (2,)"), ([1, 2], "a list of length 2"),
    (lambda c, u, w: None, "returned None"), (lambda c, u, w: c[:2], "yours has shape (2, 3)"),
    (bad, "raised RuntimeError: no idea"), (lambda c, u, w: c * float("nan"), "NaN or infinity: 15 of its 15"),
    (lambda c: c, "raised TypeError"), (lambda *_: sys.exit(), "raised SystemExit"),
    (lambda c, u, w: torch.empty(5, 3, device="meta"), "a tensor of float32 of shape (5, 3) on meta arrived"),
    (lambda c, u, w: c * 1j, "a tensor of complex128"), (lambda c, u, w: (i for i in c), "a generator arrived"),
    (lambda c, u, w: {"c": c}, "a dict of length 1 arrived")])  # fmt: skip
def test_replies_say_what_arrived(answer, piece):
    assert piece in check("01.2", answer).message


@pytest.mark.parametrize("answer", [loops, sleeps])
def test_a_function_without_an_end_is_left_behind(answer, monkeypatch):
    monkeypatch.setattr(checks, "PATIENCE", 0.2)
    before = threading.active_count()
    assert "No answer after 0.2 seconds" in check("01.2", answer).message
    STOP.set()
    until = time.monotonic() + 600
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    STOP.clear()
    assert threading.active_count() == before         # the loop was stopped, too
    assert check("01.2", RIGHT["01.2"][0])


def unspeakable(kind, said):
    """A function that raises a `kind` of error, whose text is made by `said`."""
    def answer(*_):
        raise type("Odd", (kind,), {"__str__": said})

    return answer


@pytest.mark.parametrize("kind", [Exception, BaseException])
@pytest.mark.parametrize(("said", "message"), [
    (bad, "Your function raised Odd"), (lambda _: sys.exit(), "Your function raised Odd"),
    (lambda _: None, "Your function raised Odd"), (sleeps, "No answer after 0.2 seconds")])  # fmt: skip
def test_an_error_that_cannot_be_shown_is_named_all_the_same(kind, said, message, monkeypatch):
    if said is sleeps:
        monkeypatch.setattr(checks, "PATIENCE", 0.2)
    try:
        assert check("01.2", unspeakable(kind, said)).message.startswith(message)
    finally:
        STOP.set(), STOP.clear()


def test_a_mistake_is_named_though_the_answer_changes_its_inputs():
    def careless(s, t, eps, omega_t):
        out = total(distil_terms(s, t, eps=eps, w=1.0), OBJECTIVES["dash"].lam, 1.0)
        t.cond.zero_(), omega_t.zero_()
        return out

    assert check("04.1", careless).message == "You forgot omega_t."


def test_three_hints_then_the_solution():
    texts = [repr(hint("03.1")) for _ in range(5)]
    assert [t.split(":")[0] for t in texts] == ["Hint 1", "Hint 2", "Hint 3", "Solution", "Solution"]
    assert len(set(texts)) == 4


def test_unknown_exercise_names_the_known_ones():
    for function in (lambda: check("9.9", 1), lambda: hint("9.9")):
        with pytest.raises(ValueError, match=r"03\.1"):
            function()


def test_the_answers_agree_with_the_modules():
    schedule = cosine_schedule(50)
    assert torch.allclose(EXERCISES["05.1"].right(schedule.snr, 5.0), min_snr(schedule))
    assert not torch.allclose(published(schedule), min_snr(schedule))
    losses, tirt = torch.rand(50, generator=torch.Generator().manual_seed(0)), TIRT(uniform(schedule))
    (tirt() * losses).mean().backward()
    omega = tirt().detach()
    assert torch.allclose(tirt.lambda_t.grad, EXERCISES["05.3"].right(omega, torch.tensor(0.5), losses), atol=1e-7)


# -------------------------------------------------------------------------------------------------- what is kept


def test_a_passed_exercise_is_kept_with_its_source_and_stays_passed():
    assert "No answer" in recall("01.2")
    check("01.2", lambda c, u, w: c)
    assert "lambda c, u, w: c" in recall("01.2") and "01: 0 of 4" in my_progress()
    check("01.2", RIGHT["01.2"][0])
    right = recall("01.2")
    assert "w * c" in right and "01: 1 of 4" in my_progress()
    check("01.2", bad)
    assert recall("01.2") == right and "01: 1 of 4" in my_progress()
    assert journal.kept(journal.ANSWERS)["01.2"]["tries"] == 3


def test_no_answer_is_no_try():
    check("01.2", None)
    assert journal.kept(journal.ANSWERS) == {}


def test_an_answer_that_cannot_be_shown_is_kept_all_the_same():
    class Shy:
        def __repr__(self):
            raise RuntimeError

        def __call__(self, c, u, w):
            return u + w * (c - u)

    assert check("01.2", Shy())
    assert recall("01.2") == "a Shy"


def test_a_folder_that_cannot_be_written_is_said_and_the_check_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(journal, "PATH", tmp_path / "file" / "work.json")
    result = check("01.2", RIGHT["01.2"][0])
    assert result and "not saved" in result.message
