import pytest
import torch

from dashkit.method.arms import ARMS, OBJECTIVES, objective, pick_w
from dashkit.method.guidance import Branches
from dashkit.method.losses import distil_terms, total


def terms_of(student, teacher, w=4.0, eps=None):
    return distil_terms(student, teacher, eps=torch.zeros_like(student.cond) if eps is None else eps, w=w)


def test_published_rows_and_the_default_arms():
    assert OBJECTIVES["dash"].lam == {"im": 1.0, "un": 1.0, "an": 0.1}
    assert OBJECTIVES["dash_no_tirt"].lam == OBJECTIVES["dash"].lam
    assert OBJECTIVES["dash_no_tirt"].curriculum == "base"
    for part in ("im", "un", "an"):
        assert OBJECTIVES[f"dash_no_{part}"].lam == {k: v for k, v in OBJECTIVES["dash"].lam.items() if k != part}
    assert set(ARMS) <= set(OBJECTIVES)
    with pytest.raises(ValueError, match="unknown arm 'dsh'; choose from dash, "):
        objective("dsh")


def test_scales_are_drawn_evenly_from_the_row(generator):
    w = pick_w(OBJECTIVES["multi_w"], torch.rand(4000, generator=generator))
    values, counts = w.unique(return_counts=True)
    assert values.tolist() == [1, 2, 3, 4] and counts.min() > 900
    assert set(pick_w(OBJECTIVES["composite"], torch.rand(50, generator=generator)).tolist()) == {4.0}
    assert pick_w(OBJECTIVES["multi_w"], torch.empty(4, device="meta")).device.type == "meta"     # where the batch is


def test_only_the_branches_of_a_row_get_a_gradient(pair):
    teacher = pair()
    student = Branches(*(b.clone().requires_grad_() for b in pair()))
    total(terms_of(student, teacher), OBJECTIVES["cond_only"].lam, torch.ones(16)).backward()
    assert student.cond.grad.abs().sum() > 0 and (student.uncond.grad is None or student.uncond.grad.abs().sum() == 0)


DEFINED = {     # as the paper writes them
    "im + un + 0.1 an": ("dash", "dash_no_tirt", "dash_uniform", "dash_relearned", "dash_sliced", "pruning_dash"),
    "un + 0.1 an": ("dash_no_im",), "im + 0.1 an": ("dash_no_un", "im_an_base"),
    "im + un": ("dash_no_an", "im_un_base"),
    "im": ("im_base", "cond_only", "cond_only_icg"), "im + gap": ("gap_match",),
    "comp": ("multi_w", "composite", "composite_mild"), "comp + 0.1 an": ("composite_an",),
    "im + 0.1 hint": ("fitnets",), "0.9 im + 0.1 un + 0.1 hint": ("fitnets_drop",),
    "guided": ("single_head",),
    # label dropout in expectation: each share is the probability of its branch
    "0.9 an + 0.1 an_un": ("scratch", "pruning", "slicing"), "0.5 an + 0.5 an_un": ("scratch_half",),
    "0.5 im + 0.5 un_c": ("label_drop",),
    "0.9 im + 0.1 un_c": ("label_drop_10",), "0.9 im + 0.1 un": ("kd_drop",),
    "im + 0.1 an + 0.1 an_un": ("no_un_noise",),
}  # fmt: skip


def test_every_arm_weights_its_terms_as_it_is_defined():
    def parsed(formula):
        return {part.split()[-1]: float(part.split()[0]) if " " in part else 1.0 for part in formula.split(" + ")}

    defined = {arm: parsed(formula) for formula, arms in DEFINED.items() for arm in arms}
    assert {arm: row.lam for arm, row in OBJECTIVES.items()} == defined
    scales = {arm: row.w for arm, row in OBJECTIVES.items() if "comp" in row.lam}
    assert scales == {"multi_w": (1, 2, 3, 4), "composite": (4,), "composite_mild": (1.5,), "composite_an": (4,)}


@pytest.mark.parametrize("arm", ["kd_drop", "fitnets_drop", "no_un_noise", "scratch_half"])
def test_rivals_with_a_fair_null_row_train_it(arm, pair):
    student = Branches(*(b.clone().requires_grad_() for b in pair()))
    terms = terms_of(student, pair()) | {"hint": torch.zeros(16)}
    total(terms, OBJECTIVES[arm].lam, torch.ones(16)).backward()
    assert student.cond.grad.abs().sum() > 0 and student.uncond.grad.abs().sum() > 0


def test_arms_differ_in_what_their_names_say():
    begun = {arm: row.student for arm, row in OBJECTIVES.items() if row.student != "new"}
    assert begun == {"single_head": "single_head", "pruning": "pruned", "slicing": "sliced", "dash_sliced": "sliced",
                     "pruning_dash": "pruned"}
    kinds = {arm: row.curriculum for arm, row in OBJECTIVES.items() if row.curriculum != "transferred"}
    assert kinds == {"dash_uniform": "uniform", "dash_relearned": "relearned"} | dict.fromkeys(
        ("dash_no_tirt", "im_un_base", "im_an_base", "im_base", "pruning", "slicing", "scratch",
         "scratch_half"), "base")
    assert {arm: row.reuses for arm, row in OBJECTIVES.items() if row.reuses} == {"cond_only_icg": "cond_only"}
