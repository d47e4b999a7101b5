import pytest
import torch

from dashkit.method.guidance import Branches
from dashkit.method.losses import TERMS, composite_metric, distil_terms, gap_loss, total


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


@pytest.mark.parametrize("scales", [(4.0,), (1.0, 2.0, 3.0, 4.0), (0.0, 1.0), (0.5, 7.0)])
def test_a_composite_loss_is_its_mean_scale_and_its_variance(pair, scales):
    student, teacher, w = pair(), pair(), torch.tensor(scales)
    loss = sum(terms_of(student, teacher, s)["comp"] for s in scales) / len(scales)
    e_u, e_g = student.uncond - teacher.uncond, student.gap - teacher.gap
    found = gap_loss(composite_metric(w))
    assert found.w == pytest.approx(w.mean().item()) and found.kappa == pytest.approx(
        w.var(correction=0).item(), abs=1e-5)
    split = (e_u + found.w * e_g).square() + found.kappa * e_g.square()
    torch.testing.assert_close(split.flatten(1).mean(1), loss, rtol=1e-3, atol=1e-4)


def test_the_two_numbers_of_every_gap_loss_do_not_depend_on_the_axes():
    forms = {"dash": [[1.0, 0.0], [0.0, 1.0]], "gap_match": [[2.0, -1.0], [-1.0, 1.0]],
             "kd_drop": [[0.9, 0.0], [0.0, 0.1]]}
    found = {name: gap_loss(torch.tensor(m)) for name, m in forms.items()}
    assert {n: f[:2] for n, f in found.items()} == {
        "dash": pytest.approx((0.5, 0.25)), "gap_match": pytest.approx((1, 1)), "kd_drop": pytest.approx((0.9, 0.09))}
    multi_w = gap_loss(composite_metric(torch.tensor([1.0, 2.0, 3.0, 4.0])))
    shares = [found["gap_match"].share, found["dash"].share, multi_w.share]
    assert shares == pytest.approx([1 / 3, 1 / 4, 0.1136], abs=1e-4)                # the order of gap errors on digits
    turn = torch.tensor([[1.0, 1.0], [0.0, 1.0]])        # (gap, u) to (c, u): the condition number is another one
    conditions = [torch.linalg.cond(m).item() for m in (torch.eye(2), turn.T @ torch.eye(2) @ turn)]
    assert conditions == pytest.approx([1, 6.85], abs=0.01)
    with pytest.raises(ValueError, match="does not see a shift of both branches"):
        gap_loss(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_the_badly_seen_direction_of_several_scales_is_the_common_shift_and_not_the_gap():
    e = torch.linalg.eigh(composite_metric(torch.tensor([1.0, 2.0, 3.0, 4.0]).double())).eigenvectors[:, 0]
    common, gap = torch.tensor([1.0, 1.0]).double() / 2**0.5, torch.tensor([1.0, -1.0]).double() / 2**0.5
    assert abs(e @ common).item() == pytest.approx(0.98, abs=0.01)
    assert abs(e @ gap).item() == pytest.approx(0.19, abs=0.01)
