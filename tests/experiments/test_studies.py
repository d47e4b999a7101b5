import dataclasses

import pytest

from dashkit.analysis.rules import asked_for, claim_rules, study_rows
from dashkit.analysis.tables import STUDY_RULES
from dashkit.experiments import studies
from dashkit.experiments.evaluation import measure
from dashkit.experiments.networks import load_student, load_teacher
from dashkit.experiments.studies import STUDIES, study
from dashkit.interop import networks
from dashkit.method.arms import OBJECTIVES, objective, quadratic
from dashkit.method.quality import frechet_distance


def small(name, **changes):
    return {"widths": (4, 8), "teachers": 2, "seeds": 1, "ws": (1.0, 1.5)} | changes


def test_a_study_is_a_tidy_table_of_every_width_and_teacher_and_goes_on(tiny, monkeypatch):
    run = tiny()
    plan = small("null_row", arms=("dash", "kd_drop"))
    table = study(run, "null_row", **plan)
    assert set(table.profile) == {"null_row"} and table[table.arm == "dash"].seed.nunique() == 2
    wanted = {f"{m}@ch={c}" for m in ("r2", "rho", "frechet@w=1.5", "accuracy@w=1", "uncond_error") for c in (4, 8)}
    assert wanted <= set(table[table.arm == "kd_drop"].metric) and "r2" not in set(table[table.arm == "dash"].metric)
    own = table[table.arm == "teacher"]
    assert {"r2", "frechet@w=1.5"} <= set(own.metric) and own.groupby("metric").size().eq(2).all()
    assert not table.duplicated(["arm", "seed", "metric"])[table.arm != "real"].any()
    monkeypatch.setattr(studies, "_measure", lambda *a: pytest.fail("measured again"))
    assert study(run, "null_row", **plan).equals(table)


def test_what_another_judge_measures_is_kept_apart(tiny):
    run, plan = tiny(), STUDIES["null_row"]
    others = [dataclasses.replace(run, profile=dataclasses.replace(run.profile, **change))
              for change in ({"classifier": "colour"}, {"sampling_sets": 2}, {"samples": 11})]
    assert len({studies._path(one, "dash", 1, plan) for one in (run, *others)}) == 4


def test_a_student_from_elsewhere_has_no_width_to_change(tiny):
    run = tiny()
    profile = dataclasses.replace(run.profile, student=networks.Source(8, 1, 10, "my_nets:plain"))
    with pytest.raises(ValueError, match="a study changes the width of this kit's own students; those of"):
        study(dataclasses.replace(run, profile=profile), "null_row")


def test_several_processes_find_what_one_finds(tiny):
    run = tiny()
    plan = small("null_row", arms=("dash", "cond_only"), widths=(4,))
    shared = study(run, "null_row", jobs=2, **plan)
    alone = study(tiny("alone"), "null_row", **plan)
    gaps = [t[t.metric.str.match("r2|mse|cond_error")].set_index(["arm", "seed", "metric"]).value.sort_index()
            for t in (shared, alone)]                    # other processes judge pictures by another classifier
    assert len(gaps[0]) == 3 * 2 * (2 + 1) and gaps[0].index.equals(gaps[1].index)
    assert gaps[0].to_numpy() == pytest.approx(gaps[1].to_numpy(), rel=1e-3)


def test_corrections_are_measured_beside_the_uncorrected_student(tiny):
    run, plan = tiny(), small("correction", arms=("cond_only",), widths=(8,), teachers=1)
    table = study(run, "correction", **plan)
    found = table[table.arm == "cond_only"].set_index("metric").value
    assert {"frechet_teacher@none,w=1.5@ch=8", "frechet_teacher@projected,w=1.5@ch=8"} <= set(found.index)
    fitted = {f"frechet@{k}:{where},w=1.5@ch=8" for k in ("beta", "beta_t", "mix_t") for where in ("noised", "path")}
    assert fitted <= set(found.index)
    assert {"frechet_teacher@teacher_u,w=1.5@ch=8", "frechet@weaker,w=1.5@ch=8"} <= set(found.index)
    assert found["frechet@none,w=1@ch=8"] == pytest.approx(found["frechet@weaker,w=1@ch=8"], rel=1e-3)
    assert found["frechet@none,w=1@ch=8"] == pytest.approx(found["frechet@beta:noised,w=1@ch=8"], rel=1e-3)
    assert found["frechet@none,w=1.5@ch=8"] != found["frechet@beta:noised,w=1.5@ch=8"]
    narrow = studies._of_width(run, 8)
    nets = load_student(narrow, "cond_only", run.seed), load_teacher(run).model
    for w in plan["ws"]:                            # the teacher's samples are those at the same scale
        own, target = (measure(narrow, net, w).features for net in nets)
        assert found[f"frechet_teacher@none,w={w:g}@ch=8"] == pytest.approx(frechet_distance(own, target), rel=1e-3)


@pytest.mark.parametrize("name", STUDIES)
def test_every_registered_rule_asks_for_what_its_study_measures(name):
    """A rule about a name that nothing measures would stay silent."""
    plan = STUDIES[name]
    arms, widths = set(plan.arms), {f"ch={c}" for c in plan.widths}
    about = [r for r in claim_rules(w=1.5, w_max=4.0, path=STUDY_RULES) if r.claim[0] == dict(
        zip(STUDIES, "ABD", strict=True))[name]]
    assert len({r.claim for r in about if r.rank == "primary"}) >= 3
    for rule in about:
        for arm, metric in asked_for(rule.metric, rule.expression).values():
            assert arm in arms and metric.rpartition("@")[2] in widths, rule.measure
            w = metric.partition("w=")[2].partition("@")[0]
            assert not w or float(w) in plan.ws, rule.measure
    assert all(objective(a) for a in arms)


def test_rules_decide_on_a_made_up_table_both_ways():
    """Where kappa helps the gap the claim holds, where it harms it is contradicted."""
    import pandas as pd

    from dashkit.storage.tables import COLUMNS

    def table(sign):
        rows = [("gap_loss", arm, seed, f"r2@ch={c}", sign * k / 100 + 0.001 * seed, 9, "cpu-1", "c")
                for arm in STUDIES["gap_loss"].arms for k in [int(arm.rpartition("_")[2])] for seed in range(5)
                for c in (8, 16, 24)]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    for sign, verdict in ((1, "holds"), (-1, "contradicted")):
        rows = study_rows(table(sign))
        assert set(rows[rows.claim == "A1"].verdict) == {verdict} and set(rows.claim) == {"A1", "A3"}


def test_dash_is_one_of_the_quadratic_losses():
    assert quadratic(0.5, 0.25).lam == {"comp": 2.0, "gap": 0.5} and quadratic(4.0, 0.0).lam == {"comp": 2 / 25}
    assert objective("quadratic_50_25") == quadratic(0.5, 0.25) and objective("dash") == OBJECTIVES["dash"]
    for name in ("quadratic", "quadratic_1.5_0", "quadratic_2500_0", "quadratic_-1_0"):
        with pytest.raises(ValueError, match=r"unknown arm|guidance scale"):
            objective(name)


def test_an_unknown_study_is_refused(tiny):
    with pytest.raises(ValueError, match="one of gap_loss, null_row, correction, not 'kappa'"):
        study(tiny(), "kappa")
    assert all(dataclasses.is_dataclass(plan) for plan in STUDIES.values())
