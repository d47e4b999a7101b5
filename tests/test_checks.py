"""Each exercise: a right answer, the usual wrong ones, and answers that are no answers."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dashkit.checks import EXERCISES, check, hint
from dashkit.claims import shapley
from dashkit.curriculum import TIRT, min_snr, published, uniform
from dashkit.guidance import Branches, drop_labels
from dashkit.metrics import gap_stats
from dashkit.objectives import OBJECTIVES, distil_terms, total
from dashkit.schedule import cosine


def x0(x, e, a):
    return (x - (1 - a) ** 0.5 * e) / a**0.5


def mse(a, b):
    return ((a - b) ** 2).mean((1, 2, 3))


def twin(c, u, gap, w):
    u2 = u + w * (c - u) - w * gap
    return u2 + gap, u2


def flops_of(module, x):
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops()


RIGHT = {     # written differently from the module's own where there is another way
    "01.1": [x0, lambda x, e, a: ((x - (1 - a) ** 0.5 * e) / a**0.5).float(), lambda *v: x0(*v).numpy()],
    "01.2": [lambda c, u, w: w * c + (1 - w) * u, lambda c, u, w: c + (w - 1) * (c - u)],
    "01.3": [lambda x, e, a: (x - a**0.5 * x0(x, e, a).clamp(-1, 1)) / (1 - a) ** 0.5],
    "02.1": [lambda y, null, p, g: drop_labels(y, null, p=p, generator=g)],
    "02.2": [lambda a, n, d: a + (1 - d) * (n - a), lambda a, n, d: torch.lerp(n, a, d)],
    "03.1": [twin, lambda *v: torch.stack(twin(*v)), lambda *v: list(twin(*v))],
    "03.2": [lambda w: (w - 1, w), lambda w: [-5 * (1 - w), 5 * w], lambda w: (torch.tensor(1 - 1 / w), 1)],
    "03.3": [1.25, torch.tensor(1.25), lambda: 1.25],
    "04.1": [lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=4.0), OBJECTIVES["dash"].lam, o),
             lambda s, t, e, o: (o * (mse(s.cond, t.cond) + mse(s.uncond, t.uncond) + mse(s.cond, e) / 10)).mean()],
    "04.2": [lambda s, t: (s * t).sum((1, 2, 3)).mean() / t.square().sum((1, 2, 3)).mean(),
             lambda s, t: gap_stats(Branches(s, 0 * s), Branches(t, 0 * t)).slope],
    "05.1": [lambda s, g: torch.where(s > g, g / s, 1.0) / torch.where(s > g, g / s, 1.0).mean()],
    "05.2": [lambda o, t: (o / o.mean())[t], lambda o, t: o[t] * len(o) / o.sum()],
    "06.1": [lambda s, t: 2 * (s * t).sum() / (t * t).sum() - (s * s).sum() / (t * t).sum(),
             lambda s, t: gap_stats(Branches(s, 0 * s), Branches(t, 0 * t)).r2],
    "06.2": [lambda gap, a: x0(0, gap, a), lambda gap, a: -gap * (1 / a - 1) ** 0.5],
    "06.3": [lambda w, s: (w - 1 + s) / s],
    "07.1": [lambda *v: shapley({frozenset(k): x for k, x in zip(("", "a", "b", "ab"), v, strict=True)}, "ab")["a"]],
    "07.2": [lambda a, b: ((a - b).var() / len(a)).sqrt(), lambda a, b: np.std((a - b).numpy(), ddof=1) / 6**0.5],
    "07.3": [lambda d, i: np.percentile(d.numpy()[i.numpy()].mean(1), [2.5, 97.5])],
    "08.1": [lambda ci, co, k, h, w: flops_of(torch.nn.Conv2d(ci, co, k), torch.zeros(1, ci, h + k - 1, w + k - 1))],
    "08.2": [lambda n, w: n * len({0, 1} - {1 - w})],
    "08.3": [lambda m, k: torch.where(m.abs().flatten().argsort().argsort().reshape(m.shape) >= m.numel() - k, m, 0)],
    "05.3": [lambda o, s, x: o * (1 - s) * (x / o.sum() - (o * x).sum() / o.sum() ** 2)],
}
WRONG = {     # name: answers with a piece of the reply they must get
    "01.1": [(lambda x, e, a: (x - (1 - a) * e) / a, "square root"),
             (lambda x, e, a: x - (1 - a) ** 0.5 * e, "divide")],
    "01.2": [(lambda c, u, w: c + w * (c - u), "w - 1"), (lambda c, u, w: c + w * (u - c), "Swapped")],
    "01.3": [(lambda x, e, a: e, "nothing was clamped"), (lambda x, e, a: e.clamp(-1, 1), "clamp x0")],
    "02.1": [
        (lambda y, null, p, g: y if torch.rand((), generator=g) > p else torch.full_like(y, null), "whole batch"),
        (lambda y, null, p, g: drop_labels(y, null, p=1 - p, generator=g), "Swapped"),
        (lambda y, null, p, g: drop_labels(y, null - 1, p=p, generator=g), "null label"),
        (lambda y, null, p, g: torch.where(torch.arange(len(y)) < p * len(y), null, y), "generator"),
        (lambda y, null, p, g: y.masked_fill_(torch.rand(y.shape, generator=g) < p, null), "changed the labels"),
        (lambda y, null, p, g: drop_labels(y, null, p=p / 2, generator=g), "dropped"),
    ],
    "02.2": [(lambda a, n, d: (1 - d) * a + d * n, "Swapped"), (lambda a, n, d: d * a + n, "add up to 1")],
    "03.1": [(lambda c, u, gap, w: (u + gap, u), "must move too"), (lambda *v: twin(*v)[::-1], "Swapped")],
    "03.2": [(lambda w: (w, w), "forgot w - 1"), (lambda w: (w, w - 1), "Swapped"), (lambda w: (1 - w, w), "sign"),
             (lambda w: (0, 0), "not both 0"), (lambda w: (1.0, 0.3), "still changes")],
    "03.3": [(5 / 3, "n - 1"), (1.25**0.5, "standard deviation"), (7, "off by")],
    "04.1": [(lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=1.0), OBJECTIVES["dash"].lam, 1.0), "omega_t"),
             (lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=1.0), {"im": 1, "un": 1, "an": 1}, o), "0.1"),
             (lambda s, t, e, o: total(distil_terms(s, t, eps=e, w=1.0), {"im": 1, "an": 0.1}, o), "unconditional")],
    "04.2": [(lambda s, t: s.flatten(1).norm(dim=1).mean() / t.flatten(1).norm(dim=1).mean(), "rho"),
             (lambda s, t: (s * t).sum() / s.square().sum(), "teacher's")],
    "05.1": [(lambda s, g: s.clamp(max=g) / s.clamp(max=g).mean(), "published"),
             (lambda s, g: s.clamp(max=g) / s, "mean")],
    "05.2": [(lambda o, t: o[t] / o[t].mean(), "batch"), (lambda o, t: o[t], "normalise")],
    "06.1": [(lambda s, t: (s * t).sum() / (t * t).sum(), "slope"),
             (lambda s, t: 1 - (s - t).square().sum() / s.square().sum(), "teacher's")],
    "06.2": [(lambda gap, a: gap * (1 / a - 1) ** 0.5, "sign"), (lambda gap, a: gap * (1 - 1 / a), "square root")],
    "06.3": [(lambda w, s: w / s, "above 1"), (lambda w, s: 1 + s * (w - 1), "Upside down")],
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
    "05.3": [(lambda o, s, x: o * (1 - s) / o.sum() * ((o * x).sum() / o.sum() - x), "sign"),
             (lambda o, s, x: o / o.sum() * (x - (o * x).sum() / o.sum()), "1 - sigma")],
}


def bad(*_):
    raise RuntimeError("no idea")


def test_every_exercise_is_tested_and_every_notebook_has_two():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert all(len(v) >= 2 for v in WRONG.values())
    assert all(sum(name.startswith(n) for name in EXERCISES) >= 2 for n in map("{:02d}".format, range(1, 9)))


@pytest.mark.parametrize(("name", "answer"), [(n, a) for n, answers in RIGHT.items() for a in answers])
def test_right_answers_pass(name, answer):
    result = check(name, answer)
    assert result, result
    assert repr(result) == "✓ Right."


@pytest.mark.parametrize(("name", "answer", "reply"), [(n, a, r) for n, rows in WRONG.items() for a, r in rows])
def test_wrong_answers_are_named(name, answer, reply):
    result = check(name, answer)
    assert not result
    assert reply in result.message, result


@pytest.mark.parametrize(("name", "answer", "mistake"), [
    (n, wrong, text) for n, e in EXERCISES.items() for text, wrong in e.mistakes.items()])
def test_every_listed_mistake_is_recognised(name, answer, mistake):
    assert check(name, answer).message == mistake


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [
    None, ..., "text", object(), [], {}, float("nan"), bad, lambda *_: None, lambda *_: "text",
    lambda *_: torch.zeros(3, 9), lambda *_: float("nan"), lambda: 1.0, lambda *_: (1, "a"), lambda *_: (),
    lambda *_: 10**400, lambda *_: 1j, lambda *v: v, torch.ones(2, 2), int])
def test_bad_answers_get_a_sentence_and_no_exception(name, answer):
    result = check(name, answer)
    assert not result
    assert len(result.message) > 15 and "✗" in repr(result)


def test_replies_say_what_arrived():
    assert "No answer yet" in check("01.2", None).message and "answer(c, u, w)" in check("01.2", None).message
    assert "a float arrived" in check("01.2", 3.0).message
    assert "returned None" in check("01.2", lambda c, u, w: None).message
    assert "(5, 3)" in check("01.2", lambda c, u, w: c[:2]).message
    assert "raised RuntimeError: no idea" in check("01.2", bad).message
    assert "NaN" in check("01.2", lambda c, u, w: c * float("nan")).message


def test_three_hints_then_the_solution():
    texts = [repr(hint("03.1")) for _ in range(5)]
    assert [t.split(":")[0] for t in texts] == ["Hint 1", "Hint 2", "Hint 3", "Solution", "Solution"]
    assert len(set(texts)) == 4


def test_unknown_exercise_names_the_known_ones():
    for function in (lambda: check("9.9", 1), lambda: hint("9.9")):
        with pytest.raises(ValueError, match=r"03\.1"):
            function()


def test_the_answers_agree_with_the_modules():
    schedule = cosine(50)
    assert torch.allclose(EXERCISES["05.1"].right(schedule.snr, 5.0), min_snr(schedule))
    assert not torch.allclose(published(schedule), min_snr(schedule))
    losses, tirt = torch.rand(50, generator=torch.Generator().manual_seed(0)), TIRT(uniform(schedule))
    (tirt() * losses).mean().backward()
    omega = tirt().detach()
    assert torch.allclose(tirt.lambda_t.grad, EXERCISES["05.3"].right(omega, torch.tensor(0.5), losses), atol=1e-7)
