import dataclasses

import pytest
import torch

from dashkit.experiments import pruning
from dashkit.experiments.networks import load_curriculum, load_student
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import distil, get_students, get_teacher
from dashkit.method.arms import OBJECTIVES
from dashkit.method.distillation import seeded
from dashkit.method.unet import UNet, n_parameters

DIGITS = PROFILES["digits"]
ARMS = ("dash", "dash_relearned", "fitnets", "single_head", "pruning", "slicing", "cond_only_icg", "label_drop",
        "fitnets_drop", "pruning_dash")


@pytest.fixture(scope="module")
def teacher():
    return seeded(0, lambda: UNet(DIGITS.teacher))


def test_every_kind_of_student_trains_resumes_and_loads(tiny):
    run = tiny("whole")
    run = dataclasses.replace(run, profile=dataclasses.replace(run.profile, arms=ARMS))
    teacher = get_teacher(run)
    get_students(run, teacher)
    broken = dataclasses.replace(run, root=run.root.with_name("broken"))
    for step in distil(broken, teacher, ARMS, 1):
        if step.number == 3:
            break
    assert len(list(distil(broken, teacher, ARMS, 1))) == 3
    for arm in ARMS:
        whole, again = load_student(run, arm, 1), None
        if not OBJECTIVES[arm].reuses:
            again = load_student(broken, arm, 1)
            assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        assert not any(p.requires_grad for p in whole.parameters())
    for arm in ("pruning", "pruning_dash"):
        assert pruning.n_nonzero(load_student(run, arm, 1)) == n_parameters(UNet(run.profile.student))
    omega = load_curriculum(run, "dash_relearned", 1)
    assert omega.mean().item() == pytest.approx(1, abs=1e-5) and not torch.equal(omega, run.base)


def test_an_exact_teacher_refuses_what_needs_a_network_and_teaches_the_rest(tiny):
    exact = dataclasses.replace(tiny("exact").profile, exact_bandwidth=0.2)
    for arm in ("pruning", "pruning_dash", "slicing", "dash_sliced", "fitnets", "fitnets_drop"):
        with pytest.raises(ValueError, match=f"{arm} needs a teacher that is a network"):
            dataclasses.replace(tiny(), profile=dataclasses.replace(exact, arms=(arm,)))
    run = dataclasses.replace(tiny("exact"), profile=dataclasses.replace(exact, arms=("dash", "single_head")))
    table = sweep(run)
    assert set(table.arm) == {"real", "teacher", "dash", "single_head"}
    assert "spearman" not in set(table.metric)        # it has learned no weights whose rank there could be
    assert table[(table.arm == "teacher") & (table.metric == "rho")].value.item() == pytest.approx(1)
