import pytest
import torch

from dashkit.method.guidance import Branches
from dashkit.method.losses import TERMS, composite_metric, distil_terms, total


def terms_of(student, teacher, w=4.0, eps=None):
    return distil_terms(student, teacher, eps=torch.zeros_like(student.cond) if eps is None else eps, w=w)


def twin(teacher, v, w):
    """Another student with the same guided output at w: moved along the kernel ((w - 1) v, w v)."""
    return Branches(teacher.cond + (w - 1) * v, teacher.uncond + w * v)


@pytest.mark.parametrize("w", [1.5, 4.0])
def test_the_twin_has_no_composite_loss_and_another_gap(pair, w):
    teacher, v = pair(), pair().cond
    terms = terms_of(twin(teacher, v, w), teacher, w)
    assert terms["comp"].max() < 1e-9 * w**2 or terms["comp"].max() < 1e-8
    assert terms["un"].min() > 0.1 and terms["gap"].min() > 0.05
    torch.testing.assert_close(twin(teacher, v, w).gap, teacher.gap - v)


def test_the_collapsed_twin_has_no_gap_at_all(pair):
    teacher = pair()
    assert twin(teacher, teacher.gap, 4.0).gap.abs().max() < 1e-5
    assert terms_of(twin(teacher, teacher.gap, 4.0), teacher)["comp"].max() < 1e-8


def test_dash_is_the_composite_loss_averaged_over_w_0_and_1(pair):
    student, teacher = pair(), pair()
    terms = terms_of(student, teacher)
    mean = (terms_of(student, teacher, 0.0)["comp"] + terms_of(student, teacher, 1.0)["comp"]) / 2
    torch.testing.assert_close((terms["im"] + terms["un"]) / 2, mean)


def test_each_term_is_what_it_says(pair):
    student, teacher, eps = pair(), pair(), pair().cond

    def error(a, b):
        return ((a - b) ** 2).mean(dim=(1, 2, 3))

    s, t = student, teacher
    expected = {
        "im": error(s.cond, t.cond), "un": error(s.uncond, t.uncond), "an": error(s.cond, eps),
        "an_un": error(s.uncond, eps), "un_c": error(s.uncond, t.cond),
        "comp": error(4 * s.cond - 3 * s.uncond, 4 * t.cond - 3 * t.uncond),
        "gap": error(s.cond - s.uncond, t.cond - t.uncond),
    }  # fmt: skip
    assert tuple(expected) == TERMS
    for name, value in terms_of(student, teacher, eps=eps).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scales", "condition"), [((1, 2, 3, 4), 95), ((1, 4), 73), ((0, 1), 1)])
def test_conditioning_of_the_composite_metric(scales, condition):
    w = torch.tensor(scales, dtype=torch.float64)
    m = composite_metric(w)
    assert torch.linalg.cond(m).item() == pytest.approx(condition, rel=0.01)
    assert torch.linalg.det(m).item() == pytest.approx(w.var(correction=0).item())
    assert torch.linalg.matrix_rank(composite_metric(w[:1])).item() == 1


def test_the_metric_is_that_of_the_loss(pair):
    student, teacher, scales = pair(), pair(), [1.0, 2.0, 4.0]
    loss = sum(terms_of(student, teacher, w)["comp"] for w in scales) / 3
    e = torch.stack([(student.cond - teacher.cond).flatten(1), (student.uncond - teacher.uncond).flatten(1)], 1)
    m = composite_metric(torch.tensor(scales))
    torch.testing.assert_close(torch.einsum("bip,ij,bjp->b", e, m, e) / e.shape[2], loss, rtol=1e-4, atol=1e-5)


def test_total_weights_terms_and_timesteps(pair):
    terms, omega_t = terms_of(pair(), pair()), torch.rand(16)
    expected = (omega_t * (terms["im"] + 0.1 * terms["an"])).sum() / 16
    torch.testing.assert_close(total(terms, {"im": 1.0, "an": 0.1}, omega_t), expected)
    with pytest.raises(ValueError, match="unknown loss term imm, unn; known: im, un"):
        total(terms, {"imm": 1.0, "unn": 1.0}, omega_t)
