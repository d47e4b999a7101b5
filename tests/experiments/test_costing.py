"""A campaign's time: divided by what was measured, kept on a clock that the tests move."""

from collections import deque
from dataclasses import replace

import pytest
import torch

from dashkit import cli
from dashkit.experiments import campaign, costing, fid, turns
from dashkit.experiments.costing import Costs, Division, divide, expected
from dashkit.experiments.profiles import PROFILES
from dashkit.experiments.training import distil, get_teacher
from dashkit.experiments.turns import Stage, Used
from dashkit.method.training import Learner
from dashkit.method.unet import UNet
from dashkit.storage import store

MOST = Division(10**7, 10**7, 10**7)
COSTS = [
    Costs(18, 0.015, 20, 0.1, 90, 2e-3, 20, 1), Costs(1, 0.3, 1, 0.5, 60, 0.2, 5, 0.2),
    Costs(0, 1e-3, 0, 1e-3, 1, 1e-4, 0, 0),
]  # fmt: skip


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self, monkeypatch):
        self.seconds = 0.0
        for module in (turns, costing, campaign):
            monkeypatch.setattr(module, "now", lambda: self.seconds)

        def seconds_of(work, device):
            began = self.seconds
            work()
            return self.seconds - began

        monkeypatch.setattr(costing, "seconds_of", seconds_of)

    def charge(self, monkeypatch, owner, name, price):
        """Let `price(*arguments)` seconds pass in each call of a function."""
        real = getattr(owner, name)

        def charged(*arguments, **keywords):
            self.seconds += price(*arguments)
            return real(*arguments, **keywords)

        monkeypatch.setattr(owner, name, charged)


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("seconds", [600.0, 720.0, 1440.0])
@pytest.mark.parametrize("wanted", [costing.STAGES, ("teacher",), ("students", "evaluation"), ("teacher", "fid")])
def test_the_time_is_filled_and_not_exceeded(costs, seconds, wanted):
    found = divide(seconds, costs, MOST, seeds=2, wanted=wanted)
    planned = sum(expected(found, costs, seeds=2, wanted=wanted).values())
    assert 0.9 * seconds < planned <= seconds


def test_what_a_stage_does_not_need_goes_to_the_next():
    costs, few = Costs(teacher_step=1.0, students_step=1.0, fid_sample=1.0), Division(10, 10**6, 10**6)
    found = divide(1000.0, costs, few, seeds=1)
    assert found.teacher_steps == 10
    assert found.student_steps == pytest.approx(960 * 0.25 / 0.47, abs=2) and sum(found) == pytest.approx(970, abs=3)


def test_where_evaluation_does_not_fit_it_waits_and_half_of_the_time_is_for_training():
    costs = Costs(teacher_step=0.1, students_step=0.1, fid_sample=0.1, evaluation=100)
    found = divide(60.0, costs, MOST, seeds=1)
    assert found == pytest.approx(divide(30.0 / 0.97, costs._replace(evaluation=0), MOST, seeds=1), abs=2)
    assert divide(-5.0, costs, MOST, seeds=1) == (1, 1, 20)                          # no time is left at all
    assert divide(60.0, Costs(), Division(7, 8, 9), seeds=1) == (7, 8, 9)            # nothing costs anything


@pytest.mark.parametrize("costs", COSTS)
def test_used_is_planned_where_the_machine_is_steady(monkeypatch, costs):
    clock, seconds = Clock(monkeypatch), 720.0
    plan = divide(seconds, costs, MOST, seeds=1)
    planned = expected(plan, costs, seeds=1)

    def items(start, n, each):
        clock.seconds += start
        for _ in range(n):
            clock.seconds += each
            yield

    parts = max(1, plan.fid_samples // 1000)
    used = turns.work({
        "teacher": Stage(lambda: items(costs.teacher_start, *plan[:1], costs.teacher_step), plan.teacher_steps, True),
        "students": Stage(lambda: items(costs.students_start, plan[1], costs.students_step), plan.student_steps, True),
        "evaluation": Stage(lambda: items(0, 10, costs.evaluation / 10), 10, False),
        "fid": Stage(lambda: items(costs.fid_fixed, parts, costs.fid_sample * plan.fid_samples / parts), parts, False),
    }, seconds)
    assert all(u.done for u in used) and clock.seconds <= seconds
    assert sum(u.seconds for u in used) == pytest.approx(seconds, rel=0.15)
    for u in used:
        assert u.seconds == pytest.approx(planned[u.name], rel=0.15, abs=3)


def test_a_turn_ends_before_an_item_that_does_not_fit(monkeypatch):
    clock, closed = Clock(monkeypatch), []

    def items():
        try:
            for _ in range(100):
                clock.seconds += 10
                yield
        finally:
            closed.append(clock.seconds)

    stages = {"one": Stage(items, 100, True), "two": Stage(items, 100, True)}
    used = turns.work(stages, 55.0)
    assert used == [Used("one", 5, 50.0, False), Used("two", 0, 0.0, False)] and closed == [50.0]
    assert turns.left_out(used) == "left for another turn: one after 5 of its steps, two"
    assert turns.work(stages, 0.0)[0].ticks == 1                       # every turn gets on
    assert turns.left_out([Used("one", 5, 1.0, True)]) == ""


def test_a_stage_with_more_items_than_were_counted_stops_in_time_too(monkeypatch):
    clock = Clock(monkeypatch)

    def items():
        for _ in range(100):
            clock.seconds += 1
            yield

    assert turns.work({"one": Stage(items, 3, True)}, 10.0) == [Used("one", 10, 10.0, False)]


@pytest.mark.parametrize("worked", [True, False])
def test_every_process_asks_as_often_whatever_it_did_itself(monkeypatch, worked):
    """A question that one process asks and another does not is never answered."""
    asked = []
    monkeypatch.setattr(turns.processes, "agree", lambda late: asked.append(late) or late)
    monkeypatch.setattr(turns.processes, "size", lambda: 2)

    def items(n):
        yield from range(n)

    turns.work({"one": Stage(lambda: items(int(worked)), 1, False), "two": Stage(lambda: items(0), 1, False)},
               float("inf"))
    assert len(asked) == 6                                      # three a stage


def test_a_stage_is_not_begun_that_has_no_time_for_its_first_item(monkeypatch):
    clock = Clock(monkeypatch)

    def items(n):
        for _ in range(n):
            clock.seconds += 10
            yield

    def used(deadline, expected):
        clock.seconds = 0.0
        stages = {"one": Stage(lambda: items(3), 3, True), "two": Stage(lambda: items(3), 3, True, expected)}
        return [u.ticks for u in turns.work(stages, deadline)]

    assert used(29.0, 0.0) == [2, 0] and used(30.0, 0.0) == [3, 1]
    assert used(45.0, 30.0) == [3, 1] and used(45.0, 60.0) == [3, 0]


def raw(images):
    return images.flatten(1).float()


def test_a_whole_campaign_takes_what_was_planned(tiny, monkeypatch):
    """Updates and passes cost made-up seconds; planning finds them out, and what is used then is what was planned."""
    clock = Clock(monkeypatch)
    clock.charge(monkeypatch, Learner, "move", lambda *_: 1.0)
    clock.charge(monkeypatch, UNet, "forward", lambda net, x, t, y: 0.0 if torch.is_grad_enabled() else 2e-4 * len(x))
    run = tiny(teacher_steps=10**5, student_steps=10**5)
    extract = type("Raw", (), {"distances": ("fid", "kid"), "classifier": None, "__call__": lambda self, x: raw(x)})()
    clock.charge(monkeypatch, type(extract), "__call__", lambda self, x: 0.01 * len(x))
    real = fid.statistics(raw(run.images.pixels))
    plan = campaign.make_plan(run, 0.1, fid_samples=50_000, of=campaign.fid_of(run, extract, real))
    seconds, planned = 360 - clock.seconds, campaign.expected_seconds(run)
    assert 20 < plan.teacher_steps < 200 and 20 <= plan.fid_samples < 50_000
    used = campaign.run_turn(campaign.with_plan(run, plan), plan, planned, seconds=seconds, extract=extract,
                             reference=real)
    assert all(u.done for u in used) and clock.seconds <= 360
    assert clock.seconds == pytest.approx(360, rel=0.15)
    for u in used:
        assert u.seconds == pytest.approx(planned[u.name], rel=0.15, abs=2), used
    assert "teacher" in campaign.used_beside_expected(used, planned)


def test_stages_are_planned_when_their_turn_comes(tiny, monkeypatch):
    monkeypatch.setattr(costing, "measured", lambda run, of, wanted: Costs(teacher_step=1.0, students_step=1.0))
    run = tiny(teacher_steps=10**5, student_steps=10**5)
    with pytest.raises(ValueError, match="no campaign of smoke is planned yet: begin with --stages teacher"):
        campaign.make_plan(run, 1.0, wanted=("evaluation",))
    first = campaign.make_plan(run, 0.1, wanted=("teacher",))
    assert first.teacher_steps == pytest.approx(0.97 * 360, abs=3)
    second = campaign.make_plan(run, 0.2, wanted=("students",))
    assert second.teacher_steps == first.teacher_steps
    assert second.student_steps == pytest.approx(0.97 * 720, abs=6)
    assert campaign.make_plan(run, 0.2, wanted=("students",)) == second
    assert campaign.planned_hours(run, ("fid",)) is None and campaign.planned_hours(run, ("teacher",)) == 0.2


def test_the_command_works_through_stages_and_says_what_it_left(tiny, monkeypatch, capsys):
    run = tiny(teacher_steps=4, student_steps=3)
    monkeypatch.setattr(cli, "_start", lambda options: run)
    monkeypatch.setattr(costing, "measured", lambda run, of, wanted: Costs(teacher_step=1.0, students_step=1.0))
    assert cli.main(["campaign", "--stages", "teacher,students", "--minutes", "0"]) == 0
    said = capsys.readouterr().out
    assert "left for another turn: teacher after 1 of its steps, students; the same command goes on" in said
    monkeypatch.setattr(turns, "seconds_since_start", lambda: 0.0)
    assert cli.main(["campaign", "--stages", "teacher,students", "--minutes", "24"]) == 0
    said = capsys.readouterr().out
    assert "planned" in said and "left for another" not in said and "of 24 minutes are used" in said
    used = store.read_json(campaign.plan_path(run))["used"]
    assert all(used[name]["done"] and used[name]["seconds"] >= 0 for name in ("teacher", "students"))
    assert cli.main(["campaign", "--stages", "teacher,students2"]) == 2
    assert "unknown stage students2; choose from teacher, students, evaluation, fid" in capsys.readouterr().err
    assert cli.main(["campaign", "--minutes", "-1"]) == 2


def test_a_command_counts_from_the_start_of_its_process():
    first = turns.seconds_since_start()
    assert 0 <= first <= turns.seconds_since_start()


def test_the_published_hours_are_counted_and_nothing_is_computed(monkeypatch):
    paper = PROFILES["cifar10"]
    run = type("Run", (), {"profile": replace(paper, arms=("dash", "scratch"))})
    costing.operations(paper.teacher)
    hours = costing.published_hours(run, Costs(teacher_step=0.5))
    teacher, student = (costing.operations(c) for c in (paper.teacher, paper.student))
    step = 0.5 * (2 * teacher + 2 * 6 * student) / (3 * teacher)
    assert hours == pytest.approx((391_000 * 0.5 + 234_000 * step) / 3600)
    assert costing.published_hours(run, Costs(students_step=step)) == pytest.approx(hours)
    assert costing.published_hours(run, Costs()) == 0


def test_operations_are_those_of_a_network_with_weights():
    from dashkit.experiments.cost import flops
    config = PROFILES["smoke"].student
    assert costing.operations(config) == flops(UNet(config))


@pytest.mark.parametrize(("compiled_step", "chosen"), [(0.5, True), (2.0, False)])
def test_training_is_compiled_where_a_step_is_faster_then(tiny, monkeypatch, capsys, compiled_step, chosen):
    clock, seen = Clock(monkeypatch), []

    def timed(run, stage):
        seen.append((run.compile, stage))
        clock.seconds += 40
        return (30.0, compiled_step if run.compile else 1.0, 0.1)

    monkeypatch.setattr(costing, "_timed", timed)
    run = replace(tiny(), compile=True)
    assert costing.faster(run, ("teacher", "students", "evaluation")).compile is chosen
    assert seen == [(False, "teacher"), (False, "students"), (True, "teacher"), (True, "students")]
    said = capsys.readouterr().out
    assert f"a step takes 2e+03 ms; compiled {2000 * compiled_step:.3g} ms, after 80 s for" in said
    assert said.rstrip().endswith("training is compiled" if chosen else "training is not compiled")


def test_later_turns_keep_what_was_found_faster(tiny, monkeypatch):
    monkeypatch.setattr(costing, "measured", lambda run, of, wanted: Costs(teacher_step=1.0, students_step=1.0))
    run, tried = replace(tiny(), compile=True), []
    monkeypatch.setattr(costing, "faster", lambda run, wanted: tried.append(wanted) or replace(run, compile=False))
    assert campaign.quicker(replace(run, compile=False)) == replace(run, compile=False)      # nobody asked
    assert campaign.quicker(run, ("evaluation",)) == run and not tried                       # nothing is trained
    campaign.make_plan(campaign.quicker(run), 0.01, wanted=("teacher",))
    assert not campaign.quicker(run, ("teacher",)).compile and len(tried) == 1
    monkeypatch.setattr(costing, "faster", lambda run, wanted: run)
    campaign.make_plan(campaign.quicker(run, ("students",)), 0.01, wanted=("students",))
    campaign.make_plan(replace(run, compile=False), 0.01, wanted=("evaluation",))            # compiles nothing
    assert campaign.quicker(run, ("students",)).compile and campaign.was_compiled(run)


def test_measuring_leaves_nothing_behind(tiny):
    run = tiny()
    real = fid.statistics(raw(run.images.pixels))
    extract = type("Raw", (), {"__call__": lambda self, x: raw(x)})()
    costs = costing.measured(run, campaign.fid_of(run, extract, real))
    assert all(v > 0 for k, v in costs._asdict().items() if not k.endswith("start")) and not run.root.exists()


def test_a_planned_run_keeps_what_is_loaded(tiny):
    run = tiny()
    images, judge = run.images, run.image_reference
    same = costing.kept(run, profile=replace(run.profile, teacher_steps=3))
    assert same.images is images and same.image_reference is judge and same.profile.teacher_steps == 3
    other = costing.kept(run, profile=replace(run.profile, samples=30))
    assert "image_reference" not in vars(other)


def test_a_plan_counts_a_first_training_where_it_is_missing(tiny, monkeypatch):
    monkeypatch.setattr(costing, "_timed", lambda run, stage: (1.0, 2.0, 0.0))
    run = tiny(student_first=(2 * tiny().profile.batch, 3, 1e-3), arms=("dash",), seeds=2)
    teacher = get_teacher(run)
    found = [costing.measured(run, wanted=("students",)).students_start]
    for seed in run.seeds:
        deque(distil(run.first, teacher, ["dash"], seed), maxlen=0)
        found.append(costing.measured(run, wanted=("students",)).students_start)
    assert found == [1 + 6 * 2, 1 + 6 * 2 / 2, 1]
