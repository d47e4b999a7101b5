"""The estimate of what is still to be done, against runs whose costs are known."""

import dataclasses

import pytest
import torch

from dashkit.experiments import budget
from dashkit.experiments.budget import Budget
from dashkit.experiments.evaluation import get_results
from dashkit.experiments.training import get_students, get_teacher
from dashkit.method.schedule import noised


def test_it_counts_what_is_left_and_nothing_else(tiny):
    run = tiny()
    before = budget.remaining(run)
    assert all(seconds > 0 for seconds in before)
    teacher = get_teacher(run)
    assert budget.remaining(run).teacher == 0
    students = get_students(run, teacher)
    assert budget.remaining(run)[:2] == (0, 0) and budget.remaining(run).evaluation > 0
    get_results(run, teacher, students)
    assert str(budget.remaining(run)) == "Nothing left to train or to measure."


def test_it_multiplies_what_it_times_by_the_numbers_of_the_profile(tiny, monkeypatch):
    monkeypatch.setattr(budget, "seconds_of", lambda work, device: 1.0)
    settings = {"teacher_steps": 7, "student_steps": 5, "batch": 10, "samples": 20, "sample_steps": 3, "seeds": 2}
    found = budget.remaining(tiny(**settings, arms=("dash", "cond_only", "cond_only_icg"), ws=(1.0, 1.5)))
    assert found.teacher == 7
    assert found.students == 5 * (2 + 4)                       # two teacher passes a step, two students each
    assert found.evaluation == (2 + 1) * 20 * 3 / 10 * (6 + 1)
    assert budget.remaining(tiny(exact_bandwidth=0.2)).teacher == 0


def test_a_batch_of_the_students_own_costs_what_it_is_larger(tiny, monkeypatch):
    monkeypatch.setattr(budget, "seconds_of", lambda work, device: 1.0)
    same, more = (budget.remaining(tiny(batch=10, student_batch=n, arms=("dash",))) for n in (0, 40))
    assert more.students == 4 * same.students and more[::2] == same[::2]


def test_a_first_training_is_counted_where_it_is_missing(tiny, monkeypatch):
    monkeypatch.setattr(budget, "seconds_of", lambda work, device: 1.0)
    run = tiny(student_steps=5, student_first=(2 * tiny().profile.batch, 3, 1e-3), arms=("dash",), seeds=2)
    alone = budget.remaining(run)
    get_students(dataclasses.replace(run.first, profile=dataclasses.replace(run.first.profile, seeds=1)),
                 get_teacher(run))
    half = budget.remaining(run)
    get_students(run.first, get_teacher(run))
    assert (alone.students, half.students, budget.remaining(run).students) == (2 * 2 * (5 + 6), 2 * (5 + 5 + 6), 20)


def test_it_leaves_torch_as_it_was(tiny):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    budget.remaining(tiny())
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("left, text", [
    (Budget(30, 0, 0), "Still to do here: teacher about 30 s."),
    (Budget(0, 600, 100.2), "Still to do here: students about 10 min, evaluation about 2 min."),
])
def test_it_is_told_in_one_line(left, text):
    assert str(left) == text


def test_a_batch_of_large_pictures_is_timed_by_a_part_of_it_and_a_slow_piece_once(tiny, monkeypatch):
    run, timed, sizes = tiny(batch=32), [], []
    monkeypatch.setattr(budget, "seconds_of", lambda work, device: timed.append(work) or 1.0)
    monkeypatch.setattr(budget, "noised", lambda schedule, x0, *rest, **more: sizes.append(len(x0)) or noised(
        schedule, x0, *rest, **more))
    whole = budget.rates(run)
    monkeypatch.setattr(budget, "ENOUGH_PIXELS", 8 * run.profile.teacher.size**2)
    part = budget.rates(run)
    assert sizes == [32, 8] and part.teacher_update == 4 * whole.teacher_update == 4 and len(timed) == 2 * 5 * 3
    monkeypatch.setattr(budget, "SLOW", 0.5)
    budget.rates(run)
    assert len(timed) == 2 * 5 * 3 + 5
