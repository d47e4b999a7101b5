import dataclasses
import shutil

import pytest
import torch
from steps_helpers import ARMS, equal, final

from dashkit.experiments import budget, checkpoints, studies, training
from dashkit.experiments.networks import load_student, stale
from dashkit.experiments.run import CHECKPOINT, FINAL
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import _dropout, distil, get_students, get_teacher, train_teacher
from dashkit.method import distillation
from dashkit.method.losses import total
from dashkit.method.sampling import sample
from dashkit.storage import store


def test_a_stopped_teacher_goes_on_bit_for_bit(tiny):
    whole, broken = tiny("whole"), tiny("broken")
    list(train_teacher(whole))
    for step in train_teacher(broken):
        if step.number == 2:
            break
    assert [s.number for s in train_teacher(broken)] == [3, 4, 5, 6]
    assert equal(final(whole, "teacher", 1), final(broken, "teacher", 1))
    assert list(train_teacher(broken)) == []
    assert [p.name for p in broken.folder("teacher", 1).iterdir() if "checkpoint" in p.name] == []


def test_a_teacher_can_begin_with_the_averaged_weights_of_another(tiny, tmp_path):
    first = tiny("first")
    list(train_teacher(first))
    there = shutil.copytree(first.folder("teacher", 1), tmp_path / "carried" / "teacher")
    on = tiny("on", teacher_start=str(first.folder("teacher", 1)), teacher_lr=1e-8, warmup=0)
    carried = tiny("on", teacher_start=str(there), teacher_lr=1e-8, warmup=0)
    assert on.folder("teacher", 1) == carried.folder("teacher", 1) != first.folder("teacher", 1)    # weights, no path
    assert on.teacher_settings()["start"] == first.weights("teacher", 1)
    list(train_teacher(on))
    before, after = final(first, "teacher", 1), final(on, "teacher", 1)
    assert all(torch.allclose(before[k], after[k], atol=1e-5) for k in before if k != "losses")
    assert after["losses"][0] < before["losses"][0]


@pytest.mark.parametrize("wrong", ["nowhere", "students"])
def test_a_start_that_is_none_is_refused_before_anything_is_written(tiny, wrong):
    first = tiny("first", arms=("dash",))
    sweep(first)
    folder = first.folder("dash", 1) if wrong == "students" else "nowhere"
    run = tiny("on", teacher_start=str(folder))
    said = {"nowhere": (FileNotFoundError, "teacher_start: there is no trained teacher in nowhere"),
            "students": (ValueError, "is of another network than this profile's teacher")}[wrong]
    with pytest.raises(said[0], match=said[1]):
        train_teacher(run)
    assert not run.root.exists()


@pytest.mark.parametrize("order", [1, -1])
def test_stopped_students_go_on_bit_for_bit_in_whichever_order_they_are_named(trained, order):
    run, teacher = trained
    other = dataclasses.replace(run, root=run.root.with_name("other"))
    list(distil(run, teacher, ARMS, 1))
    for step in distil(other, teacher, ARMS, 1):
        if step.number == 3:
            break
    assert len(list(distil(other, teacher, ARMS[::order], 1))) == 3
    assert all(equal(final(run, a, 1), final(other, a, 1)) for a in ARMS)


def test_an_arm_gets_the_same_weights_whichever_others_train_beside_it(trained):
    run, teacher = trained
    alone = dataclasses.replace(run, root=run.root.with_name("alone"))
    list(distil(run, teacher, ARMS, 1))
    list(distil(alone, teacher, ["multi_w"], 1))
    assert equal(final(run, "multi_w", 1), final(alone, "multi_w", 1))
    assert not equal(final(run, "multi_w", 1), final(run, "dash", 1))


def test_a_finished_arm_is_not_trained_again_and_a_changed_setting_is(trained):
    run, teacher = trained
    list(distil(run, teacher, ["dash"], 1))
    stamp = (run.folder("dash", 1) / "final.safetensors").stat().st_mtime_ns
    list(distil(run, teacher, ["dash", "cond_only"], 1))
    assert (run.folder("dash", 1) / "final.safetensors").stat().st_mtime_ns == stamp
    other = dataclasses.replace(run, profile=dataclasses.replace(run.profile, student_lr=1e-3))
    assert other.folder("dash", 1) != run.folder("dash", 1) and other.folder("teacher", 1) == run.folder("teacher", 1)


def test_students_may_have_a_batch_of_their_own(trained, monkeypatch):
    """The teacher stays the same network; without the setting, so do students trained before there was one."""
    run, teacher = trained
    same, other = (dataclasses.replace(run, profile=dataclasses.replace(run.profile, student_batch=n)) for n in (0, 7))
    assert same.folder("dash", 1) == run.folder("dash", 1) != other.folder("dash", 1)
    assert other.folder("teacher", 1) == run.folder("teacher", 1)
    seen, plain = [], training.draw_states
    monkeypatch.setattr(training, "draw_states", lambda images, schedule, batch, **more: seen.append(batch) or plain(
        images, schedule, batch, **more))
    for one in (run, other):
        next(distil(one, teacher, ["cond_only"], 3))
    assert seen == [run.profile.batch, 7]
    with pytest.raises(ValueError, match="student_batch must be at least 2, or 0 for as many as batch"):
        dataclasses.replace(run.profile, student_batch=1)


def _after_a_first(run, **settings):
    profile = dataclasses.replace(run.profile, student_first=(7, 4, 2e-3), **settings)
    return dataclasses.replace(run, profile=profile)


def test_students_begin_with_the_averaged_weights_of_a_first_training(trained):
    run, teacher = trained
    alone = dataclasses.replace(run, root=run.root.with_name("alone"))
    shutil.copytree(run.root, alone.root)
    on = _after_a_first(run, student_lr=1e-8, warmup=0)
    steps = run.profile.student_steps
    assert training.steps_of(on, ARMS, 1) == 4 + steps
    assert [s.number for s in distil(on, teacher, ARMS, 1)] == [*range(1, 5), *range(1, steps + 1)]
    assert training.steps_of(on, ARMS, 1) == 0 == len(list(distil(on, teacher, ARMS, 1)))
    first = _after_a_first(alone).first
    assert (first.profile.student_batch, first.profile.student_steps, first.profile.student_lr) == (7, 4, 2e-3)
    list(distil(first, teacher, ARMS, 1))                                # the same as if it had been asked for itself
    for arm in ARMS:
        before, after = final(first, arm, 1), final(on, arm, 1)
        assert equal(before, final(on.first, arm, 1)) and len(before["losses"]) == 4 and len(after["losses"]) == steps
        assert all(torch.allclose(before[k], after[k], atol=1e-5) for k in before if k != "losses")
        assert len({run.folder(arm, 1), on.folder(arm, 1), on.first.folder(arm, 1)}) == 3
    assert on.folder("teacher", 1) == run.folder("teacher", 1)
    assert on.profile.student_images == 7 * 4 + run.profile.batch * steps


def test_a_training_that_goes_on_sees_other_noise(tiny, trained, monkeypatch):
    run, teacher = trained
    on = dataclasses.replace(run, profile=dataclasses.replace(
        run.profile, student_first=(run.profile.batch, run.profile.student_steps, run.profile.student_lr)))
    seen, real = [], distillation.student_terms
    monkeypatch.setattr(distillation, "student_terms", lambda parts, row, drawn: seen.append(
        drawn.state.batch.eps.sum().item()) or real(parts, row, drawn))
    list(distil(on, teacher, ["dash"], 1))
    assert len(set(seen)) == len(seen) == 2 * run.profile.student_steps
    first = tiny("first")
    teachers = [], training.noised
    monkeypatch.setattr(training, "noised", lambda *a, **k: teachers[0].append(teachers[1](*a, **k)) or teachers[0][-1])
    for one in (first, tiny("on", teacher_start=str(first.folder("teacher", 1)))):
        list(train_teacher(one))
    assert len({batch.eps.sum().item() for batch in teachers[0]}) == len(teachers[0])


def test_a_weaker_copy_has_no_first_training(tiny):
    assert studies._weaker(tiny(student_first=(7, 4, 2e-3))).first is None


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_training_after_a_first_one_goes_on_bit_for_bit(trained, stop):
    run, teacher = trained
    whole, broken = (dataclasses.replace(_after_a_first(run), root=run.root.with_name(name)) for name in ("a", "b"))
    for one in (whole, broken):
        shutil.copytree(run.root, one.root)
    list(distil(whole, teacher, ARMS, 1))
    for n, _ in enumerate(distil(broken, teacher, ARMS, 1), 1):
        if n == stop:
            break
    assert len(list(distil(broken, teacher, ARMS, 1))) == 4 + run.profile.student_steps - stop
    assert all(equal(final(whole, arm, 1), final(broken, arm, 1)) for arm in ARMS)


@pytest.mark.parametrize(("value", "said"), [
    ((7, 4), "student_first must be batch, steps and learning rate, as in"),
    ((1, 4, 1e-3), "student_first: student_batch must be at least 2"),
    ((7.5, 4, 1e-3), "student_first: student_batch must be an integer"),
    ((7, 0, 1e-3), "student_first: student_steps must be an integer"),
    ((7, 4, 2), "student_first: student_lr must be a number"),
    ("three", "student_first must be a list of numbers")])
def test_a_first_training_that_is_none_is_refused(tiny, value, said):
    with pytest.raises(ValueError, match=said):
        tiny(student_first=value)


def test_a_changed_setting_is_named_and_the_old_network_left_alone(tiny, capsys):
    run = tiny(arms=("dash",))
    sweep(run)
    changed = dataclasses.replace(run, profile=dataclasses.replace(run.profile, student_lr=1e-3, batch=9))
    assert stale(run, "dash", 1) == []
    sweep(changed)
    said = capsys.readouterr().out
    assert "dash, seed 1: trained before with another student_lr, teacher.batch, teacher_weights; trained again" in said
    assert run.is_trained("dash", 1) and changed.is_trained("dash", 1)





def test_a_diverged_run_names_arm_and_step_and_keeps_the_last_good_checkpoint(trained, monkeypatch):
    run, teacher = trained
    real, steps = total, []

    def diverge(*arguments):
        steps.append(0)
        loss = real(*arguments)
        return loss * float("nan") if len(steps) == 8 else loss      # two arms: the second, at step 4

    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(distillation, "total", diverge)
    stopping = "weights of cond_only are not finite at step 4|the loss of cond_only is nan at step 4"
    with pytest.raises(FloatingPointError, match=stopping):
        list(distil(run, teacher, ("dash", "cond_only"), 1))
    [checkpoint] = run.root.rglob(CHECKPOINT)
    assert int(store.load_tensors(checkpoint).tensors["dash/done"]) == 3
    monkeypatch.setattr(distillation, "total", real)
    assert [s.number for s in distil(run, teacher, ("dash", "cond_only"), 1)] == [4, 5, 6]
    assert run.is_trained("dash", 1) and not list(run.root.rglob(CHECKPOINT))


def test_a_finished_arm_is_left_alone_by_a_lockstep_that_was_begun_before(trained, monkeypatch):
    run, teacher = trained
    begun = distil(run, teacher, ARMS, 1)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    [next(begun) for _ in range(3)]
    begun.close()
    list(distil(run, teacher, ["dash"], 1))
    path = run.folder("dash", 1) / FINAL
    before = path.stat().st_mtime_ns, path.read_bytes()
    list(distil(run, teacher, ARMS, 1))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before and run.is_trained("cond_only", 1)


def with_dropout(run):
    p = run.profile
    return dataclasses.replace(run, profile=dataclasses.replace(
        p, teacher=dataclasses.replace(p.teacher, dropout=0.5)))


def test_dropout_follows_the_seed_and_a_stopped_teacher_goes_on_bit_for_bit(tiny):
    whole, broken, plain = with_dropout(tiny("whole")), with_dropout(tiny("broken")), tiny("plain")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    list(train_teacher(whole))
    assert torch.equal(torch.get_rng_state(), state)                  # the caller's own random numbers are left alone
    torch.manual_seed(6)
    for step in train_teacher(broken):
        if step.number == 2:
            break
    torch.manual_seed(7)
    list(train_teacher(broken))
    list(train_teacher(plain))
    assert equal(final(whole, "teacher", 1), final(broken, "teacher", 1))
    assert not torch.equal(final(whole, "teacher", 1)["losses"], final(plain, "teacher", 1)["losses"])


def test_dropout_masks_are_anothers_for_another_seed_and_step(tiny):
    drawn = []
    for seed, step in ((1, 3), (2, 3), (1, 4), (1 + 2**30, 3), (1, 3 + 2**32)):
        with _dropout(with_dropout(tiny(seed=seed)), step):
            drawn.append(tuple(torch.rand(4).tolist()))
    assert len(set(drawn)) == 5


def test_bfloat16_trains_float32_weights_with_nearly_the_same_losses(tiny):
    full, half = tiny("full"), tiny("half", precision="bfloat16")
    for run in (full, half):
        get_students(run, get_teacher(run))
    for arm in ("teacher", "dash"):
        a, b = final(full, arm, 1), final(half, arm, 1)
        assert {v.dtype for v in b.values()} == {torch.float32} and not torch.equal(a["losses"], b["losses"])
        torch.testing.assert_close(a["losses"], b["losses"], rtol=0.02, atol=0)      # bfloat16 has 8 bits: 0.4%
    assert full.folder("dash", 1).name != half.folder("dash", 1).name


def test_the_teachers_pass_is_split_where_memory_is_short(tiny, monkeypatch, capsys):
    arms = ("dash", "fitnets")
    wide, narrow = tiny("wide", arms=arms), tiny("narrow", arms=arms)
    teacher = get_teacher(wide)
    list(distil(wide, teacher, arms, 1))

    class Small(type(teacher.model)):
        def forward(self, x_t, t, y):
            if len(y) > 6:
                raise torch.OutOfMemoryError("too many")
            return super().forward(x_t, t, y)

    teacher.model.__class__ = Small
    list(distil(narrow, teacher, arms, 1))
    assert "the teacher sees batches of 8 in 4 parts from now on" in capsys.readouterr().out
    for arm in arms:
        torch.testing.assert_close(final(wide, arm, 1)["losses"], final(narrow, arm, 1)["losses"], rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_compiled_run_trains_as_a_plain_one(tiny, monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **k: compiler(net, backend="aot_eager", fullgraph=True, **k))
    plain, compiled = tiny("plain"), dataclasses.replace(tiny("compiled"), compile=True)
    for run in (plain, compiled):
        get_students(run, get_teacher(run))
    for arm in ("teacher", "dash", "cond_only"):
        torch.testing.assert_close(final(plain, arm, 1), final(compiled, arm, 1), rtol=1e-3, atol=2e-5)
    assert min(budget.rates(compiled)) > 0
    net = load_student(plain, "dash", 1)
    y, x_T = torch.arange(4), torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    samples = [sample(one, plain.schedule, y, x_T=x_T, w=1.5, steps=3) for one in (net, compiled.compiled(net))]
    torch.testing.assert_close(*samples, rtol=1e-3, atol=1e-4)
