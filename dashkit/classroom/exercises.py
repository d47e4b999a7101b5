"""The exercises: for each a right answer, the usual mistakes by name, three hints and a solution.

`checks.check` holds a learner's answer against them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dashkit.method.guidance import Branches
from dashkit.method.losses import composite_metric, distil_terms, total


class WrongAnswer(Exception):
    """What is wrong with an answer, in a sentence."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: a right answer to compare with, and wrong ones by the sentence that names their mistake.

    `inputs` draws the arguments; it is None where the answer is a number.  `view` is applied to every answer before it
    is compared, for tasks with many right answers; `check_answer`, if given, replaces the comparison.  `solution` is
    Python.
    """

    task: str
    right: Callable
    inputs: Callable[[torch.Generator], tuple] | None
    mistakes: Mapping[str, Callable]
    hints: tuple[str, str, str]
    solution: str
    view: Callable[[Tensor], Tensor] = field(default=lambda answer: answer)
    check_answer: Callable[[Callable], None] | None = None


def as_numbers(value: object, shape: tuple[int, ...]) -> Tensor:
    """An answer as a finite float64 tensor, where `shape` is wanted; WrongAnswer says what came instead."""
    if value is None:
        raise WrongAnswer("No answer yet: your function returned None. (Is there a `return`?)")
    try:
        out = as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = f"Numbers of shape {tuple(shape)} are" if len(shape) else "One number is"
        raise WrongAnswer(f"{wanted} wanted, but {describe_value(value)} arrived.") from error
    bad = int((~out.isfinite()).sum())
    if bad:
        raise WrongAnswer(f"Your result holds NaN or infinity: {bad} of its {out.numel()} numbers.")
    return out.reshape(shape) if len(shape) == 0 and out.numel() == 1 else out


def as_tensor(value: object) -> Tensor:
    """Numbers, arrays, tensors on any device, and tuples or lists of them, as one float64 tensor."""
    if isinstance(value, tuple | list):
        return torch.stack([as_tensor(v) for v in value])
    out = torch.as_tensor(value if isinstance(value, Tensor) or not hasattr(value, "__array__") else np.asarray(value))
    if out.is_complex():
        raise TypeError("complex numbers")
    return out.detach().to_dense().cpu().double()


def describe_value(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f" on {value.device.type}"
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}{place}"
    return f"a {type(value).__name__}" + (f" of length {len(value)}" if isinstance(value, tuple | list | dict) else "")


# ------------------------------------------------------------------------------------------------------------ inputs


def _fields(n: int) -> Callable[[torch.Generator], tuple]:
    """Inputs: n random fields (5, 3) and a scale w."""
    def draw(g: torch.Generator) -> tuple:
        w = 1.5 + 3 * float(torch.rand((), generator=g))
        return (*(torch.randn(5, 3, generator=g, dtype=torch.float64) for _ in range(n)), w)
    return draw


def _noise(g: torch.Generator) -> tuple:
    """Inputs: x_t and eps (5, 3), and abar."""
    x_t, eps, _ = _fields(2)(g)
    return x_t, eps, 0.1 + 0.8 * float(torch.rand((), generator=g))


def _step(g: torch.Generator) -> tuple:
    """Inputs: x_t and eps (5, 3), abar_t, and abar_s of an earlier, less noisy timestep."""
    x_t, eps, _ = _fields(2)(g)
    a, b = torch.rand(2, generator=g).tolist()
    return x_t, eps, 0.1 + 0.4 * a, 0.55 + 0.4 * b


def _predictions(g: torch.Generator) -> tuple:
    """Inputs: eps_hat and eps (6, 1, 4, 4), and omega_t (6,)."""
    eps_hat, eps = torch.randn(2, 6, 1, 4, 4, generator=g, dtype=torch.float64)
    return eps_hat, eps, 0.1 + 2 * torch.rand(6, generator=g, dtype=torch.float64)


def _terms(g: torch.Generator) -> tuple:
    """Inputs: four loss terms by name, each (6,), coefficients of three of them, and omega_t (6,)."""
    values = torch.rand(5, 6, generator=g, dtype=torch.float64) + 0.1
    lam = dict(zip(("im", "un", "an"), (0.2 + 2 * torch.rand(3, generator=g)).tolist(), strict=True))
    return dict(zip(("im", "un", "an", "gap"), values[:4], strict=True)), lam, 2 * values[4]


def _scale(g: torch.Generator) -> tuple:
    """Inputs: a scale w above 1."""
    return (1.2 + 3 * float(torch.rand((), generator=g)),)


def _weights(g: torch.Generator) -> tuple:
    """Inputs: omega (20,) with a mean that is not 1, and timesteps t (6,)."""
    return 0.1 + 2 * torch.rand(20, generator=g, dtype=torch.float64), torch.randint(20, (6,), generator=g)


def _gaps(g: torch.Generator) -> tuple:
    """Inputs: two fields (7, 1, 4, 4) that have something in common, each sample of its own size."""
    a, b = torch.randn(2, 7, 1, 4, 4, generator=g, dtype=torch.float64)
    size = torch.randn(7, 1, 1, 1, generator=g, dtype=torch.float64).exp()
    return a + 0.5 * size * b, size * b


def _scaled(g: torch.Generator) -> tuple:
    """Inputs: a gap (5, 3), and abar."""
    return torch.randn(5, 3, generator=g, dtype=torch.float64), 0.1 + 0.8 * float(torch.rand((), generator=g))


def _scales(g: torch.Generator) -> tuple:
    """Inputs: w above 1, and a slope."""
    a, b = torch.rand(2, generator=g).tolist()
    return 1.2 + 3 * a, 0.2 + b


def _coalitions(g: torch.Generator) -> tuple:
    """Inputs: the values of {}, {a}, {b} and {a, b}."""
    return tuple(torch.rand(4, generator=g).double().tolist())


def _paired(g: torch.Generator) -> tuple:
    """Inputs: results (6,) of two arms that share their seeds' luck."""
    luck, a, b = torch.randn(3, 6, generator=g, dtype=torch.float64)
    return luck + 0.3 * a, luck + 0.3 * b


def _resampled(g: torch.Generator) -> tuple:
    """Inputs: differences (6,), and the seeds of 200 draws (200, 6)."""
    return torch.randn(6, generator=g, dtype=torch.float64), torch.randint(6, (200, 6), generator=g)


def _quantiles(values: Tensor, low: float, high: float) -> Tensor:
    return torch.stack([torch.quantile(values, q) for q in (low, high)])


def _convolution(g: torch.Generator) -> tuple:
    """Inputs: channels in and out, kernel size, height and width."""
    ci, co, k, h, w = torch.randint(2, 9, (5,), generator=g).tolist()
    return ci, co, k, h, w


def _steps(g: torch.Generator) -> tuple:
    """Inputs: a number of steps and a scale; 0, 1, and two others in turn."""
    n = int(torch.randint(5, 60, (), generator=g))
    return n, {0: 1, 1: 0, 2: 1.5, 3: 4.0}[g.initial_seed() % 4]


def _matrix(g: torch.Generator) -> tuple:
    """Inputs: a matrix (6, 5), and how many entries to keep."""
    return torch.randn(6, 5, generator=g, dtype=torch.float64), int(torch.randint(3, 12, (), generator=g))


def _gaussians(g: torch.Generator) -> tuple:
    """Inputs: means (6,) and standard deviations (6,) of two Gaussians: m1, s1, m2, s2."""
    m, s = torch.randn(2, 2, 6, generator=g, dtype=torch.float64)
    s = 0.2 + s.abs()
    return m[0], s[0], m[1], s[1]


def _distances(g: torch.Generator) -> tuple:
    """Inputs: a distance from n images and a smaller one from 2n."""
    end, bias = (1 + 9 * torch.rand(2, generator=g, dtype=torch.float64)).tolist()
    return end + bias, end + bias / 2


def _students(g: torch.Generator) -> tuple:
    """Inputs: a student's and a teacher's Branches, eps (7, 1, 4, 4), and omega_t (7,)."""
    return Branches(*_gaps(g)), Branches(*_gaps(g)), _gaps(g)[0], 0.1 + torch.rand(7, generator=g, dtype=torch.float64)


def _check_drop(answer: Callable) -> None:
    y, g = torch.arange(4000) % 10, torch.Generator().manual_seed(0)
    for p in (0.0, 1.0, 0.1):
        kept = y.clone()
        out = as_numbers(answer(kept, 10, p, g), y.shape)
        if out.shape != y.shape:
            raise WrongAnswer(f"Labels of shape {tuple(y.shape)} are wanted; yours have shape {tuple(out.shape)}.")
        if not torch.equal(kept, y):
            raise WrongAnswer("Your function changed the labels it was given; make a new tensor (torch.where).")
        if not bool(((out == 10) | (out == y)).all()):
            raise WrongAnswer("Every label must either stay as it is or become the null label.")
        share = float((out == 10).double().mean())
        if p == 0.1 and share in (0, 1):
            raise WrongAnswer("You draw one number for the whole batch; draw one for each sample.")
        if abs(share - (1 - p)) < 0.03:
            raise WrongAnswer("Swapped: you keep a label with probability p instead of dropping it.")
        if abs(share - p) > 0.03:
            raise WrongAnswer(f"With p = {p:g} a share of {share:.2g} was dropped.")
    if torch.equal(as_tensor(answer(y, 10, 0.5, g)), as_tensor(answer(y, 10, 0.5, g))):
        raise WrongAnswer("Two calls dropped the same samples: draw from `generator`.")


def _direction(d: Tensor) -> Tensor:
    """A pair without its length and sign."""
    return d if d.shape != (2,) else d / d.norm().clamp(min=1e-12) * (-1.0 if d[1] < 0 else 1.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _norm(v: Tensor) -> Tensor:
    return v.flatten(1).norm(dim=1)


def _dash(s: Branches, t: Branches, eps: Tensor, omega_t: Tensor, **lam: float) -> Tensor:
    return total(distil_terms(s, t, eps=eps, w=1.0), {"im": 1.0, "un": 1.0, "an": 0.1} | lam, omega_t)


def _loss(s: Tensor, t: Tensor, omega_t: Tensor) -> Tensor:
    return (omega_t * (s - t).square().flatten(1).mean(1)).mean()


def _sum(terms: Mapping[str, Tensor], lam: Mapping[str, float]) -> Tensor:
    return sum(c * terms[k] for k, c in lam.items())


def _x0(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    return (x - (1 - abar) ** 0.5 * eps) / abar**0.5


def _ddim(x: Tensor, eps: Tensor, a: float, b: float, *, clip: float = 1.0) -> Tensor:
    x0 = _x0(x, eps, a).clamp(-clip, clip)
    return b**0.5 * x0 + (1 - b) ** 0.5 * (x - a**0.5 * x0) / (1 - a) ** 0.5


def _twin(c: Tensor, u: Tensor, gap: Tensor, w: float) -> tuple[Tensor, Tensor]:
    u2 = u + w * (c - u) - w * gap
    return u2 + gap, u2


def _mean_one(omega: Tensor) -> Tensor:
    return omega / omega.mean()


# ------------------------------------------------------------------------------------------------ the exercises

EXERCISES = {
    "01.1": Exercise(
        "Write answer(x_t, eps, abar) that returns x0.",
        _x0, _noise,
        {"You forgot the square roots: abar is a variance, the formula mixes standard deviations.":
            lambda x, e, a: (x - (1 - a) * e) / a,
         "You removed the noise but did not divide by sqrt(abar).": lambda x, e, a: x - (1 - a) ** 0.5 * e,
         "Swapped: sqrt(abar) belongs to the signal, sqrt(1 - abar) to the noise.":
            lambda x, e, a: (x - a**0.5 * e) / (1 - a) ** 0.5},
        ("Start from x_t = sqrt(abar) x0 + sqrt(1 - abar) eps.", "Solve it for x0.", "Subtract, then divide."),
        "def answer(x_t, eps, abar):\n    return (x_t - (1 - abar) ** 0.5 * eps) / abar ** 0.5"),
    "01.2": Exercise(
        "Write answer(c, u, w) that returns the guided prediction.",
        lambda c, u, w: u + w * (c - u), _fields(2),
        {"Swapped branches: w = 1 must give c.": lambda c, u, w: c + w * (u - c),
         "You forgot w - 1: starting from c, only w - 1 gaps are added (or start from u).":
            lambda c, u, w: c + w * (c - u)},
        ("w = 0 gives u and w = 1 gives c.", "It is a straight line through u and c.", "Start at u, add w gaps."),
        "def answer(c, u, w):\n    return u + w * (c - u)"),
    "01.3": Exercise(
        "Write answer(x_t, eps, abar) that returns the eps that belongs to x_t and to x0 clamped to [-1, 1].",
        lambda x, e, a: (x - a**0.5 * _x0(x, e, a).clamp(-1, 1)) / (1 - a) ** 0.5, _noise,
        {"That is the eps you started from: nothing was clamped.": lambda x, e, a: e,
         "That is the clamped x0; turn it back into eps.": lambda x, e, a: _x0(x, e, a).clamp(-1, 1),
         "You clamped eps itself; clamp x0.": lambda x, e, a: e.clamp(-1, 1)},
        ("Three steps: eps to x0, clamp, x0 to eps.", "x_t stays what it is; x0 and eps must add up to it.",
         "eps = (x_t - sqrt(abar) x0) / sqrt(1 - abar)."),
        "def answer(x_t, eps, abar):\n"
        "    x0 = ((x_t - (1 - abar) ** 0.5 * eps) / abar ** 0.5).clamp(-1, 1)\n"
        "    return (x_t - abar ** 0.5 * x0) / (1 - abar) ** 0.5"),
    "01.4": Exercise(
        "Write answer(x_t, eps, abar_t, abar_s): one DDIM step down to abar_s, with x0 clamped and eps recomputed.",
        _ddim, _step,
        {"You kept the eps that was predicted; recompute it after the clamp.":
            lambda x, e, a, b: b**0.5 * _x0(x, e, a).clamp(-1, 1) + (1 - b) ** 0.5 * e,
         "Nothing was clamped.": lambda *v: _ddim(*v, clip=1e9),
         "That is x0; mix it with eps again, at the new timestep.": lambda x, e, a, b: _x0(x, e, a).clamp(-1, 1),
         "You mixed with the old timestep's factors, which leads back to x_t.": lambda x, e, a, b: x,
         "Swapped: x_t has abar_t, the result has abar_s.": lambda x, e, a, b: _ddim(x, e, b, a)},
        ("Three steps you have written before: x0, clamp, the eps that belongs to it.",
         "Then noise that x0 with that eps, at the new timestep.", "sqrt(abar_s) x0 + sqrt(1 - abar_s) eps."),
        "def answer(x_t, eps, abar_t, abar_s):\n"
        "    x0 = ((x_t - (1 - abar_t) ** 0.5 * eps) / abar_t ** 0.5).clamp(-1, 1)\n"
        "    eps = (x_t - abar_t ** 0.5 * x0) / (1 - abar_t) ** 0.5\n"
        "    return abar_s ** 0.5 * x0 + (1 - abar_s) ** 0.5 * eps"),
    "02.1": Exercise(
        "Write answer(y, null_label, p, generator) that drops each label of y by itself with probability p.",
        lambda *_: None, lambda g: (), {},
        ("Draw one uniform number for each sample.", "torch.rand(y.shape, generator=generator) < p is a mask.",
         "torch.where(mask, null_label, y)."),
        "def answer(y, null_label, p, generator):\n"
        "    return torch.where(torch.rand(y.shape, generator=generator) < p, null_label, y)",
        check_answer=_check_drop),
    "02.2": Exercise(
        "Write answer(average, new, decay) that returns the updated moving average.",
        lambda a, n, d: d * a + (1 - d) * n, _noise,
        {"Swapped: a decay near 1 must keep most of the old average.": lambda a, n, d: (1 - d) * a + d * n,
         "The shares do not add up to 1: the new value needs the factor 1 - decay.": lambda a, n, d: d * a + n},
        ("decay = 1 changes nothing.", "decay = 0 forgets everything.", "Two shares that add up to 1."),
        "def answer(average, new, decay):\n    return decay * average + (1 - decay) * new"),
    "02.3": Exercise(
        "Write answer(eps_hat, eps, omega_t), images (B, C, H, W) and weights (B,): the teacher's loss, one number.",
        _loss, _predictions,
        {"You forgot omega_t.": lambda s, t, o: _loss(s, t, torch.ones_like(o)),
         "Weight each sample before averaging over the batch, not after: this is the batch mean of omega_t times the "
         "batch mean of the error.": lambda s, t, o: o.mean() * _loss(s, t, torch.ones_like(o)),
         "That is the squared norm, a sum over the pixels; take their mean.":
            lambda s, t, o: s[0].numel() * _loss(s, t, o),
         "That is the norm; the error is squared.": lambda s, t, o: (o * _norm(s - t)).mean(),
         "That is one loss a sample; average over the batch.":
            lambda s, t, o: o * (s - t).square().flatten(1).mean(1),
         "That is the sum over the batch; take the mean.": lambda s, t, o: len(o) * _loss(s, t, o)},
        ("Square the difference, then average over everything but the batch: (B,).", "Multiply by omega_t (B,).",
         "Then .mean()."),
        "def answer(eps_hat, eps, omega_t):\n"
        "    return (omega_t * ((eps_hat - eps) ** 2).mean(dim=(1, 2, 3))).mean()"),
    "03.1": Exercise(
        "Write answer(c, u, gap, w): a pair (c', u') with the guided output of (c, u) at w, but with this gap.",
        _twin, _fields(3),
        {"The gap is right, the guided output is not: u' must move too.": lambda c, u, gap, w: (u + gap, u),
         "You forgot w - 1: from the guided output to c' it is w - 1 gaps, to u' w gaps.":
            lambda c, u, gap, w: (u + w * (c - u) - w * gap, u + w * (c - u) - (w + 1) * gap),
         "Swapped: first c', then u'.": lambda c, u, gap, w: _twin(c, u, gap, w)[::-1]},
        ("Two equations for two unknowns: u' + w gap = guided, and c' - u' = gap.", "Solve the first for u'.",
         "Then c' = u' + gap."),
        "def answer(c, u, gap, w):\n    u2 = u + w * (c - u) - w * gap\n    return u2 + gap, u2"),
    "03.2": Exercise(
        "Write answer(w): a pair (d_c, d_u), not both 0, by which c and u can move unseen by a composite loss at w.",
        lambda w: (w - 1, w), _scale,
        {"Not both 0: a direction is wanted.": lambda w: (0.0, 0.0),
         "You forgot w - 1: moving both branches alike moves the guided output, too.": lambda w: (w, w),
         "Swapped: this is (w, w - 1), but it is the conditional branch that moves by w - 1.": lambda w: (w, w - 1),
         "The sign: w d_c + (1 - w) d_u must vanish, and 1 - w is negative here.": lambda w: (1 - w, w)},
        ("The guided output is w c + (1 - w) u.", "w d_c + (1 - w) d_u = 0.", "Try d_u = w."),
        "def answer(w):\n    return w - 1, w", view=_direction),
    "03.3": Exercise(
        "What is det M for a composite loss that averages over the scales 1, 2, 3 and 4? Give a number.",
        lambda: torch.linalg.det(composite_metric(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))), None,
        {"Divide by n, not by n - 1: the loss is a plain mean over the scales.": lambda: 5 / 3,
         "That is the standard deviation; det M is the variance.": lambda: 1.25**0.5},
        ("There is no need for a matrix.", "det M = Var(w).", "The mean is 2.5; average the squared distances."),
        "answer = (2 * 1.5 ** 2 + 2 * 0.5 ** 2) / 4"),
    "04.1": Exercise(
        "Write answer(s, t, eps, omega_t): the DASH loss, a scalar, coefficients 1, 1 and 0.1; s and t are Branches.",
        _dash, _students,
        {"You forgot omega_t.": lambda s, t, e, o: _dash(s, t, e, torch.ones_like(o)),
         "The anchor's coefficient is 0.1.": lambda *v: _dash(*v, an=1.0),
         "You forgot the anchor.": lambda *v: _dash(*v, an=0.0),
         "You forgot the unconditional branch.": lambda *v: _dash(*v, un=0.0),
         "The anchor belongs to the conditional branch.": lambda *v: _dash(*v, an=0.0, an_un=0.1),
         "Weight each sample before averaging over the batch, not after.":
            lambda s, t, e, o: o.mean() * _dash(s, t, e, torch.ones_like(o)),
         "Those are squared norms, sums over the pixels; take their mean.":
            lambda s, t, e, o: e[0].numel() * _dash(s, t, e, o),
         "That is the sum over the batch; take the mean.": lambda s, t, e, o: len(o) * _dash(s, t, e, o)},
        ("per_sample(s.cond, t.cond) is L_im, one number a sample; likewise L_un with .uncond.",
         "The anchor is per_sample(s.cond, eps).", "Add with coefficients, multiply by omega_t, then .mean()."),
        "def answer(s, t, eps, omega_t):\n"
        "    im, un, an = (((a - b) ** 2).mean(dim=(1, 2, 3))\n"
        "                  for a, b in ((s.cond, t.cond), (s.uncond, t.uncond), (s.cond, eps)))\n"
        "    return (omega_t * (im + un + 0.1 * an)).mean()"),
    "04.2": Exercise(
        "Write answer(gap_s, gap_t), both (B, C, H, W): the slope E<gS, gT> / E||gT||^2, one number.",
        lambda s, t: (s * t).sum() / t.square().sum(), _gaps,
        {"That is rho, a ratio of sizes; it cannot see directions.": lambda s, t: _norm(s).mean() / _norm(t).mean(),
         "That is the cosine; the slope is not divided by the student's size.":
            lambda s, t: (_dot(s, t) / (_norm(s) * _norm(t))).mean(),
         "You divided by the student's power; divide by the teacher's.": lambda s, t: (s * t).sum() / s.square().sum(),
         "That is a mean of ratios; take the ratio of the means.": lambda s, t: (_dot(s, t) / _dot(t, t)).mean()},
        ("It is a regression of the student's gap on the teacher's, through zero.", "Sum the products gS gT.",
         "Divide by the sum of gT squared."),
        "def answer(gap_s, gap_t):\n    return (gap_s * gap_t).sum() / gap_t.square().sum()"),
    "04.3": Exercise(
        "Write answer(terms, lam, omega_t): mean over the batch of omega_t * (the sum of lam[k] * terms[k]), a scalar.",
        total, _terms,
        {"You forgot the coefficients.": lambda terms, lam, o: (o * sum(terms[k] for k in lam)).mean(),
         "Only the terms that lam names are wanted, not all of them.":
            lambda terms, lam, o: (o * _sum(terms, dict.fromkeys(terms, 1.0) | lam)).mean(),
         "You forgot omega_t.": lambda terms, lam, o: _sum(terms, lam).mean(),
         "Weight each sample before averaging over the batch, not after: this is the batch mean of omega_t times the "
         "batch mean of the terms.": lambda terms, lam, o: o.mean() * _sum(terms, lam).mean(),
         "That is the sum over the batch; take the mean.": lambda terms, lam, o: (o * _sum(terms, lam)).sum(),
         "That is one number a sample; average over the batch.": lambda terms, lam, o: o * _sum(terms, lam),
         "The coefficients are no shares: do not divide by their sum.":
            lambda terms, lam, o: total(terms, lam, o) / sum(lam.values())},
        ("Loop over lam.items(): a name and its coefficient.", "Add up coefficient times terms[name]: (B,).",
         "Multiply by omega_t (B,), then .mean()."),
        "def answer(terms, lam, omega_t):\n"
        "    return (omega_t * sum(c * terms[k] for k, c in lam.items())).mean()"),
    "04.4": Exercise(
        "Write answer(gap_s, gap_t), both (B, C, H, W): rho = E||gS|| / E||gT||, a norm for each image, one number.",
        lambda s, t: _norm(s).mean() / _norm(t).mean(), _gaps,
        {"Those are squared norms; rho has the norms themselves.": lambda s, t: s.square().sum() / t.square().sum(),
         "You averaged the squares and took one root (or one norm of the whole batch); take the norm of each image.":
            lambda s, t: s.norm() / t.norm(),
         "That is a mean of ratios; take the ratio of the means.": lambda s, t: (_norm(s) / _norm(t)).mean(),
         "Upside down: the teacher's size belongs below.": lambda s, t: _norm(t).mean() / _norm(s).mean(),
         "That is the slope, which sees directions; rho is a ratio of sizes.":
            lambda s, t: (s * t).sum() / t.square().sum()},
        ("gap.flatten(1).norm(dim=1) has one number an image.", "Average it over the batch, for each network.",
         "Divide the student's mean by the teacher's."),
        "def answer(gap_s, gap_t):\n"
        "    return gap_s.flatten(1).norm(dim=1).mean() / gap_t.flatten(1).norm(dim=1).mean()"),
    "05.1": Exercise(
        "Write answer(snr, gamma): the Min-SNR weights (T,) of an eps loss, with mean 1.",
        lambda s, g: _mean_one(s.clamp(max=g) / s), lambda g: (4 * torch.randn(30, generator=g).double().exp(), 5.0),
        {"You forgot to divide by the snr: this is the published form, and fits an x0 loss.":
            lambda s, g: _mean_one(s.clamp(max=g)),
         "Right shape, but its mean is not 1.": lambda s, g: s.clamp(max=g) / s,
         "max instead of min: the cap bounds the weights from above.": lambda s, g: _mean_one(s.clamp(min=g) / s)},
        ("min(snr, gamma) is snr.clamp(max=gamma).", "On an eps loss it is min(snr, gamma) / snr.",
         "Then divide by the mean of the whole table."),
        "def answer(snr, gamma):\n    omega = snr.clamp(max=gamma) / snr\n    return omega / omega.mean()"),
    "05.2": Exercise(
        "Write answer(omega, t): the weights (B,) at timesteps t (B,); the table omega (T,) has no mean of 1 yet.",
        lambda o, t: o[t] / o.mean(), _weights,
        {"You divided by the mean of the batch; divide by the mean of the table.": lambda o, t: o[t] / o[t].mean(),
         "You forgot to normalise.": lambda o, t: o[t],
         "You divided by the sum; divide by the mean.": lambda o, t: o[t] / o.sum()},
        ("Normalise first, look up afterwards.", "A sample's weight must not depend on its batch-mates.",
         "omega.mean() runs over all T entries."),
        "def answer(omega, t):\n    return omega[t] / omega.mean()"),
    "05.3": Exercise(
        "Write answer(omega, sigma, losses): dJ/dlambda (T,), J = sum(omega losses) / sum(omega), omega = base sigma.",
        lambda o, s, x: o * (1 - s) / o.sum() * (x - (o * x).sum() / o.sum()),
        lambda g: tuple(torch.rand(3, 12, generator=g, dtype=torch.float64) + 0.05),
        {"The sign: weight on a timestep of above-average loss raises J.":
            lambda o, s, x: o * (1 - s) / o.sum() * ((o * x).sum() / o.sum() - x),
         "You forgot 1 - sigma, the slope of the logistic.":
            lambda o, s, x: o / o.sum() * (x - (o * x).sum() / o.sum()),
         "You forgot that the weights are normalised: subtract J.": lambda o, s, x: o * (1 - s) / o.sum() * x,
         "J is the weighted mean of the losses, not the plain one.":
            lambda o, s, x: o * (1 - s) / o.sum() * (x - x.mean())},
        ("d sigma / d lambda = sigma (1 - sigma), so d omega / d lambda = omega (1 - sigma).",
         "Differentiate a quotient: the sum of omega depends on lambda, too.", "The bracket is losses - J."),
        "def answer(omega, sigma, losses):\n"
        "    J = (omega * losses).sum() / omega.sum()\n"
        "    return omega * (1 - sigma) / omega.sum() * (losses - J)"),
    "06.1": Exercise(
        "Write answer(gap_s, gap_t), both (B, C, H, W): R^2 of the gap, 1 - E||gS - gT||^2 / E||gT||^2.",
        lambda s, t: 1 - (s - t).square().sum() / t.square().sum(), _gaps,
        {"You forgot 1 -: this is the part that is not explained.":
            lambda s, t: (s - t).square().sum() / t.square().sum(),
         "That is a mean of ratios; take the ratio of the means.":
            lambda s, t: 1 - (_dot(s - t, s - t) / _dot(t, t)).mean(),
         "You divided by the student's power; divide by the teacher's.":
            lambda s, t: 1 - (s - t).square().sum() / s.square().sum(),
         "That is the slope; R^2 also pays for what is not in the teacher's direction.":
            lambda s, t: (s * t).sum() / t.square().sum(),
         "The norms are squared.": lambda s, t: 1 - _norm(s - t).mean() / _norm(t).mean()},
        ("The squared error of the gap is (gap_s - gap_t) squared.", "Divide its sum by the sum of gap_t squared.",
         "A perfect gap has 1, no gap 0, a wrong one less than 0."),
        "def answer(gap_s, gap_t):\n    return 1 - (gap_s - gap_t).square().sum() / gap_t.square().sum()"),
    "06.2": Exercise(
        "Write answer(gap, abar): what a gap of eps is as a gap of the x0 prediction (not clamped).",
        lambda g, a: -((1 - a) ** 0.5) * g / a**0.5, _scaled,
        {"The sign: more predicted noise is less image.": lambda g, a: ((1 - a) / a) ** 0.5 * g,
         "You forgot the square root.": lambda g, a: -(1 - a) / a * g,
         "Upside down: this leads from x0 to eps.": lambda g, a: -((a / (1 - a)) ** 0.5) * g,
         "You forgot to divide by sqrt(abar).": lambda g, a: -((1 - a) ** 0.5) * g},
        ("x0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar), for each branch.", "Subtract the two; x_t cancels.",
         "What is left is the gap of eps times a negative number."),
        "def answer(gap, abar):\n    return -((1 - abar) / abar) ** 0.5 * gap"),
    "06.3": Exercise(
        "A gap is a pure multiple of the teacher's, slope s. Write answer(w, s): the scale w' that guides like w.",
        lambda w, s: 1 + (w - 1) / s, _scales,
        {"w = 1 needs no gap: only the part of w above 1 is divided.": lambda w, s: w / s,
         "Upside down: a gap that is too small needs a larger scale.": lambda w, s: 1 + (w - 1) * s,
         "You forgot the 1 in front: guided = cond + (w - 1) gap.": lambda w, s: (w - 1) / s},
        ("Write the guided output as cond + (w - 1) gap.", "The student's gap is s times the teacher's.",
         "(w' - 1) s = w - 1."),
        "def answer(w, s):\n    return 1 + (w - 1) / s"),
    "07.1": Exercise(
        "Two players a and b. Write answer(v0, va, vb, vab), the values of the coalitions: a's Shapley share.",
        lambda v0, va, vb, vab: ((va - v0) + (vab - vb)) / 2, _coalitions,
        {"That is leave-one-out: what is lost when a leaves last.": lambda v0, va, vb, vab: vab - vb,
         "That is one-in: what a brings when it comes first.": lambda v0, va, vb, vab: va - v0,
         "That is b's share.": lambda v0, va, vb, vab: ((vb - v0) + (vab - va)) / 2,
         "Add both orders, then halve.": lambda v0, va, vb, vab: (va - v0) + (vab - vb)},
        ("a may come first or second.", "First it brings va - v0, second it brings vab - vb.",
         "Shapley's share is the mean over the orders."),
        "def answer(v0, va, vb, vab):\n    return ((va - v0) + (vab - vb)) / 2"),
    "07.2": Exercise(
        "Write answer(a, b), results (S,) of two arms on the same seeds: the standard error of the mean difference.",
        lambda a, b: (a - b).std() / len(a) ** 0.5, _paired,
        {"Unpaired: the seeds are common, so subtract first.":
            lambda a, b: ((a.var() + b.var()) / len(a)) ** 0.5,
         "ddof = 1: divide by S - 1, the mean was estimated too.":
            lambda a, b: (a - b).std(correction=0) / len(a) ** 0.5,
         "That is the standard deviation; the error of a mean is smaller by sqrt(S).": lambda a, b: (a - b).std(),
         "sqrt(S), not S.": lambda a, b: (a - b).std() / len(a)},
        ("Differences first: a - b, one a seed.", "Their standard deviation has ddof = 1 (torch's default).",
         "Divide by the square root of the number of seeds."),
        "def answer(a, b):\n    return (a - b).std() / len(a) ** 0.5"),
    "07.3": Exercise(
        "Write answer(d, index): d (S,) are paired differences, index (draws, S) resampled seeds. Return the "
        "percentile interval of the mean: its 2.5% and 97.5% quantiles.",
        lambda d, i: _quantiles(d[i].mean(1), 0.025, 0.975), _resampled,
        {"Those are quantiles of the differences; average each draw first.":
            lambda d, i: _quantiles(d, 0.025, 0.975),
         "That is a 90% interval.": lambda d, i: _quantiles(d[i].mean(1), 0.05, 0.95),
         "You averaged over the draws; average over the seeds of each draw.":
            lambda d, i: _quantiles(d[i].mean(0), 0.025, 0.975),
         "Swapped: the lower end comes first.": lambda d, i: _quantiles(d[i].mean(1), 0.975, 0.025)},
        ("d[index] has shape (draws, S): one resampled experiment a row.", "Its mean over dimension 1 is (draws,).",
         "means.quantile(0.025), and the same at 0.975."),
        "def answer(d, index):\n    means = d[index].mean(1)\n"
        "    return means.quantile(0.025), means.quantile(0.975)"),
    "08.1": Exercise(
        "Write answer(cin, cout, k, h, w): operations of a k x k convolution with output h x w, 2 a multiply-add.",
        lambda ci, co, k, h, w: 2 * ci * co * k * k * h * w, _convolution,
        {"A multiply-add counts as 2.": lambda ci, co, k, h, w: ci * co * k * k * h * w,
         "Those are its weights; each is used at every output position.": lambda ci, co, k, h, w: ci * co * k * k,
         "The kernel has k * k positions.": lambda ci, co, k, h, w: 2 * ci * co * k * h * w},
        ("Each output number is a sum over cin * k * k products.", "There are cout * h * w output numbers.",
         "A product and its addition are 2 operations."),
        "def answer(cin, cout, k, h, w):\n    return 2 * cin * cout * k * k * h * w"),
    "08.2": Exercise(
        "Write answer(steps, w): how many network passes an image costs with classifier-free guidance at scale w.",
        lambda n, w: n if w in (0, 1) else 2 * n, _steps,
        {"At w = 1 and w = 0 one branch is not used.": lambda n, w: 2 * n,
         "Guidance needs both branches.": lambda n, w: n,
         "At w = 0 only the unconditional branch is used.": lambda n, w: n if w == 1 else 2 * n,
         "At w = 1 only the conditional branch is used.": lambda n, w: n if w == 0 else 2 * n},
        ("guided = u + w (c - u): when does c or u drop out?", "At w = 1 it is c, at w = 0 it is u.",
         "Otherwise both are needed at every step."),
        "def answer(steps, w):\n    return steps if w in (0, 1) else 2 * steps"),
    "08.3": Exercise(
        "Write answer(weight, keep): the matrix with all but its `keep` largest entries in absolute value set to 0.",
        lambda m, k: m * (m.abs() >= m.abs().flatten().topk(k).values[-1]), _matrix,
        {"In absolute value: a large negative weight matters, too.":
            lambda m, k: m * (m >= m.flatten().topk(k).values[-1]),
         "Those are the smallest.": lambda m, k: m * (m.abs() <= m.abs().flatten().topk(k, largest=False).values[-1]),
         "That is the mask; multiply by it.": lambda m, k: m.abs() >= m.abs().flatten().topk(k).values[-1]},
        ("weight.abs().flatten().topk(keep).values[-1] is the smallest size that stays.",
         "Compare weight.abs() with it.", "Multiply by the mask."),
        "def answer(weight, keep):\n    bar = weight.abs().flatten().topk(keep).values[-1]\n"
        "    return weight * (weight.abs() >= bar)"),
    "10.1": Exercise(
        "Write answer(m1, s1, m2, s2): the squared Fréchet distance of two Gaussians of independent features, from "
        "means (D,) and standard deviations (D,).",
        lambda m1, s1, m2, s2: ((m1 - m2) ** 2 + (s1 - s2) ** 2).sum(), _gaussians,
        {"The spreads count, too.": lambda m1, s1, m2, s2: ((m1 - m2) ** 2).sum(),
         "The formula has no root: it is the squared distance.":
            lambda m1, s1, m2, s2: ((m1 - m2) ** 2 + (s1 - s2) ** 2).sum().sqrt(),
         "Sum over the features, do not average.": lambda m1, s1, m2, s2: ((m1 - m2) ** 2 + (s1 - s2) ** 2).mean(),
         "C holds variances, s standard deviations: the root of C1 C2 is s1 s2.":
            lambda m1, s1, m2, s2: ((m1 - m2) ** 2 + s1 + s2 - 2 * (s1 * s2).sqrt()).sum()},
        ("A diagonal matrix is handled entry by entry.", "C1 + C2 - 2 (C1 C2)^(1/2) is s1^2 + s2^2 - 2 s1 s2 there.",
         "That is (s1 - s2)^2."),
        "def answer(m1, s1, m2, s2):\n    return ((m1 - m2) ** 2 + (s1 - s2) ** 2).sum()"),
    "10.2": Exercise(
        "Write answer(at_n, at_2n): where a distance ends for infinitely many images if its error goes as 1 / N.",
        lambda a, b: 2 * b - a, _distances,
        {"Swapped: the measurement from more images is the one to start from.": lambda a, b: 2 * a - b,
         "That is the error that is left at 2n; take it off the distance at 2n.": lambda a, b: a - b,
         "Their mean has an error as well.": lambda a, b: (a + b) / 2,
         "From n to 2n half of the error goes away, not all of it.": lambda a, b: b},
        ("Write at_n = end + c / n and at_2n = end + c / (2n).", "at_n - at_2n is c / (2n).",
         "Subtract that from at_2n."),
        "def answer(at_n, at_2n):\n    return 2 * at_2n - at_n"),
}
"""Every exercise; the first two digits are its notebook's."""
