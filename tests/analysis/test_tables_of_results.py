
from dataclasses import replace

import pandas as pd
import pytest

from dashkit.analysis.statistics import bootstrap
from dashkit.analysis.tables import (
    RESULTS,
    by_seed,
    by_unit,
    checked,
    intervals,
    published_results,
    published_study,
    scales_of,
    source_of,
    with_beta,
    write_published,
)
from dashkit.experiments.profiles import PROFILES
from dashkit.method.arms import FACTORIAL, OBJECTIVES
from dashkit.storage import tables


def tidy(arms=("dash", "scratch"), seeds=(1, 2, 3, 4, 5), **values):
    end = (9, "cpu-1", "c")
    rows = [("p", "real", 1, "frechet", 2.0, *end), ("p", "teacher", 1, "frechet@w=1.5", 1.0, *end)]
    for i, arm in enumerate(arms):
        rows += [("p", arm, s, "frechet@w=1.5", 2 + i + 0.01 * s + 0.02 * (s * (i + 1) % 3), *end) for s in seeds]
    return pd.DataFrame(rows, columns=list(tables.COLUMNS)).assign(**values)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda t: t.rename(columns={"value": "val"}), "columns must be profile, arm"),
    (lambda t: pd.concat([t, t.assign(profile="q")]), "several profiles must not be mixed: p, q"),
    (lambda t: pd.concat([t, t.tail(1)]), "frechet@w=1.5 of scratch, seed 5, is there twice"),
    (lambda t: t.drop(index=t.index[-1]), "scratch has no results for seed 5"),
    (lambda t: pd.concat([t, t.tail(1).assign(metric="rho")]), "scratch has fewer measurements for some seeds"),
])
def test_a_table_that_is_not_whole_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        checked(spoil(tidy()))
    assert len(checked(tidy())) == 12


def test_several_commits_are_marked():
    assert source_of(tidy()) == "p, commit c"
    mixed = tidy()
    mixed.loc[1, "commit"] = "d"
    assert source_of(mixed) == "p, MIXED commits c, d"
    again = tidy()
    again.loc[0, "commit"] = "d"                     # of `real`: no network was touched
    assert source_of(again) == "p, commit c, real images measured at d"


def test_beta_follows_from_the_slope_and_r2_of_an_older_table():
    end = (9, "cpu-1", "c")
    old = pd.DataFrame([("p", "dash", 1, m, v, *end) for m, v in
                        {"slope": 0.5, "r2": 0.25, "slope_x0": 1.0, "r2_x0": 1.0, "slope@t=50": 3.0}.items()],
                       columns=list(tables.COLUMNS))
    new = with_beta(old)
    assert new[new.metric.str.startswith("beta")].set_index("metric").value.to_dict() == {
        "beta": 0.5 / 0.75, "beta_x0": 1.0}
    assert with_beta(new) is new and with_beta(tidy()).equals(tidy())


@pytest.mark.parametrize(("settings", "scales"), [
    ({}, (1.5, 4.0)), ({"w": 2.2, "ws": (1, 2.2, 3)}, (1.5, 4.0)), ({"w": 1.0, "ws": (1.0, 2.0)}, (1.0, 2.0)),
    ({"w": 1.0, "ws": (1.0, 2.2)}, (1.5, 4.0)),
])  # fmt: skip
def test_published_results_are_read_at_scales_that_they_were_measured_at(settings, scales):
    found = published_results("digits").table
    assert scales_of(found, replace(PROFILES["smoke"], **settings)) == scales
    by_seed(found, f"frechet_teacher@w={scales[1]:g}")
    own = found.assign(profile="own")
    with pytest.raises(ValueError, match="results of own were not measured at the scales"):
        scales_of(own, replace(PROFILES["smoke"], w=2.2, ws=(1, 2.2)))


def test_by_seed_divides_by_the_floor_and_repeats_the_teacher():
    table = by_seed(tidy(), "fd@w=1.5")
    assert list(table.teacher) == [0.5] * 5 and table.dash[1] == pytest.approx(2.03 / 2)
    assert by_seed(tidy(), "fd@best").equals(table)
    with pytest.raises(KeyError, match="rho"):
        by_seed(tidy(), "rho")



def of_two_teachers(sets=1):
    parts = [tidy(seeds=range(t + 1, t + 6)) for t in (0, 100)]
    parts = [part.assign(seed=part.seed.replace(1, t + 1)) for part, t in zip(parts, (0, 100), strict=True)]
    table = pd.concat(parts, ignore_index=True)
    table.loc[(table.arm == "teacher") & (table.seed == 101), "value"] = 1.4
    more = [table[table.arm != "real"].assign(metric=f"set{k}:frechet@w=1.5", value=lambda d, k=k: d.value + 0.1 * k)
            for k in range(1, sets)]
    return pd.concat([table, *more], ignore_index=True)


def test_a_student_stands_beside_its_own_teacher():
    table = by_seed(checked(of_two_teachers()), "fd@w=1.5")
    assert table.index.names == ["teacher", "seed"] and list(table.index) == [
        (t, s) for t in (1, 101) for s in range(t, t + 5)]
    assert list(table.teacher) == [0.5] * 5 + [0.7] * 5 and table.dash[101, 103] == pytest.approx(
        of_two_teachers().query("arm == 'dash' and seed == 103").value.item() / 2)


def test_teachers_and_sampling_sets_widen_an_interval():
    one, two = (by_unit(of_two_teachers(sets), "fd@w=1.5") for sets in (1, 3))
    assert set(two.index.names) == {"sampling_set", "teacher", "seed"} and len(two) == 3 * len(one) == 30
    widths = []
    for table in (by_seed(tidy(), "fd@w=1.5"), one, two):
        found = bootstrap(table, lambda m: m.dash - m.teacher)
        widths.append(found.hi - found.lo)
    assert widths[0] < widths[1] and found.n == 10
    assert intervals(of_two_teachers(3), "fd@w=1.5").loc["dash", "n"] == 10


def test_published_tables_are_whole_and_have_enough_seeds():
    there = {p.parent.name for p in RESULTS.glob("*/results.csv")}
    assert "digits" in there
    for profile, (teachers, seeds) in {"digits": (5, 5), "exact": (1, 16)}.items():
        if profile not in there:
            continue
        table = published_results(profile).table
        assert table[table.arm == "dash"].seed.nunique() >= seeds
        assert table[table.arm == "teacher"].seed.nunique() >= teachers
    assert set(FACTORIAL.values()) <= set(published_results("digits").table.arm)


def test_every_arm_has_the_learning_rate_that_tuning_chose():
    table = tables.read_table(RESULTS / "tuning" / "results.csv")
    untuned = {"composite_mild", "composite_an", "kd_drop", "no_un_noise", "fitnets_drop", "pruning_dash",
               "scratch_half"}                                                       # added after that table was made
    assert set(table.arm) == {a for a, row in OBJECTIVES.items() if not row.reuses} - untuned
    for arm, part in table.groupby("arm"):
        chosen = float(part.metric[part.value.idxmin()].removeprefix("frechet@lr="))
        assert PROFILES["digits"].student_lr * OBJECTIVES[arm].lr == pytest.approx(chosen)


def test_the_wider_search_has_every_best_rate_inside():
    table = tables.read_table(RESULTS / "rates" / "results.csv")
    rates = table.assign(lr=table.metric.str.removeprefix("frechet@lr=").astype(float))
    assert rates.groupby(["arm", "lr"]).seed.nunique().min() >= 2
    for arm, row in rates.groupby(["arm", "lr"]).value.mean().groupby("arm"):
        found = row.droplevel("arm")
        assert found.index.min() < found.idxmin() < found.index.max(), arm
        assert PROFILES["digits"].student_lr * OBJECTIVES[arm].lr in found.index


def test_counts_are_published_in_full_and_measurements_with_six_digits(tmp_path):
    table = tidy().assign(profile="digits")
    table["value"] = [1003137.0, 1234.56789, -0.000123456789, *table.value[3:]]
    write_published(table, {}, tmp_path / "digits")
    assert published_results("digits", tmp_path).table.value[:3].tolist() == [1003137, 1234.57, -0.000123457]


def test_a_table_says_what_it_is_of(tmp_path):
    write_published(tidy().assign(profile="digits"), {"device": "cpu-1"}, tmp_path / "digits")
    said = published_results("digits", tmp_path).source
    assert said.startswith("published results of digits, commit c: 2 arms, 5 training seeds, 10 students, on")


@pytest.mark.parametrize(("widths", "said"), [((8, 16), "2 arms in 2 widths, 5 training seeds, 20 students"),
                                              ((16,), "2 arms, 5 training seeds, 10 students")])
def test_students_of_several_widths_are_counted(tmp_path, widths, said):
    table = tidy().assign(profile="gap_loss")
    own = ~table.arm.isin(["real", "teacher"])
    wide = [table[own].assign(metric=table.metric[own] + f"@ch={c}") for c in widths]
    write_published(pd.concat([table[~own], *wide], ignore_index=True), {}, tmp_path / "studies" / "gap_loss")
    assert said in published_study("gap_loss", tmp_path).source


def test_a_published_table_that_was_changed_by_hand_is_refused(tmp_path):
    write_published(tidy().assign(profile="digits"), {"device": "cpu-1"}, tmp_path / "digits")
    path = tmp_path / "digits" / "results.csv"
    path.write_text(path.read_text().replace("2.03", "1.03"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        published_results("digits", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no published results of exact \(published: digits\)"):
        published_results("exact", tmp_path)


def test_fid_of_one_seed_is_no_gap_in_a_table():
    table = tidy()
    of_one = table[(table.arm == "scratch") & (table.seed == table.seed.max())].tail(1).assign(metric="fid@w=1.5")
    assert len(checked(pd.concat([table, of_one]))) == len(table) + 1
    with pytest.raises(ValueError, match="scratch has fewer measurements"):
        checked(pd.concat([table, of_one.assign(metric="frechet@tag")]))
