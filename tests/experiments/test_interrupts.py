"""Training that is interrupted at any moment goes on from there, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from small import small_run

from dashkit import cli
from dashkit.experiments import training as experiments_training
from dashkit.experiments.checkpoints import whole_step
from dashkit.experiments.run import CHECKPOINT, CPU, FINAL, Run
from dashkit.experiments.training import distil, get_students, get_teacher, is_begun, train_teacher
from dashkit.method import distillation, training
from dashkit.method.distillation import student_terms
from dashkit.method.training import Learner
from dashkit.storage import paths, store

ARMS = ("dash", "cond_only", "multi_w")


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """A shell that starts tests in the background lets them ignore SIGINT, and their processes too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def final(run, arm, seed=1):
    return store.load_tensors(run.folder(arm, seed) / FINAL).tensors


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def interrupt(monkeypatch, name, step, *, by, times=1):
    """Interrupt the loss of learner `name` in its step `step`, `times` times; says how often it has."""
    real, done = Learner.differentiate, []

    def differentiate(learner, parts, average):
        def interrupted():
            for part in parts:
                if learner.name == name and learner.done == step - 1 and len(done) < times:
                    done.append(step)
                    by()
                yield part
        return real(learner, interrupted(), average)

    real_fit = training.fit

    def fit(learners, *arguments, **more):
        for key, learner in learners.items():
            learner.name = key
        return real_fit(learners, *arguments, **more)

    monkeypatch.setattr(Learner, "differentiate", differentiate)
    for module in (experiments_training, distillation):
        monkeypatch.setattr(module, "fit", fit)
    return done


def raised():
    raise KeyboardInterrupt


def signalled():
    signal.raise_signal(signal.SIGINT)


def checkpoints(run):
    return sorted(run.root.rglob(CHECKPOINT))


@pytest.mark.parametrize("step", [1, 2, 4, 6])
@pytest.mark.parametrize("by", [raised, signalled])
def test_an_interrupted_teacher_goes_on_bit_for_bit(trained, tiny, monkeypatch, by, step):
    (whole, _), broken = trained, tiny("broken")
    with monkeypatch.context() as patch:
        done = interrupt(patch, "teacher", step, by=by)
        with pytest.raises(KeyboardInterrupt):
            get_teacher(broken)
        assert done == [step]
    kept = step if by is signalled else step - 1           # a signal waits for the end of its step
    assert len(checkpoints(broken)) == (0 < kept < 6) and broken.is_trained("teacher", 1) == (kept == 6)
    assert is_begun(broken) == (kept > 0)
    assert [s.number for s in train_teacher(broken)] == list(range(kept + 1, 7))
    assert equal(final(whole, "teacher"), final(broken, "teacher"))


@pytest.fixture(scope="module")
def students_once(tmp_path_factory, trained_once):
    """The folder of a tiny run with its teacher and a student of every arm, none of them interrupted."""
    run = small_run(tmp_path_factory.mktemp("students") / "runs", arms=ARMS)
    shutil.copytree(trained_once, run.root)
    get_students(run, get_teacher(run))
    return run.root


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("by", [raised, signalled])
def test_interrupted_students_go_on_bit_for_bit_whichever_learner_was_hit(trained, students_once, monkeypatch, by,
                                                                          name):
    run, teacher = trained
    whole, broken = (small_run(root, arms=ARMS) for root in (students_once, run.root))
    for step in (3, 4, 4):                                 # and interrupted again in the first step after it
        with monkeypatch.context() as patch:
            done = interrupt(patch, name, step, by=by)
            with pytest.raises(KeyboardInterrupt):
                list(distil(broken, teacher, ARMS, 1))
            assert done == [step]
        assert len(checkpoints(broken)) == 1
        if by is signalled:
            break
    list(distil(broken, teacher, ARMS, 1))
    assert all(equal(final(whole, arm), final(broken, arm)) for arm in ARMS) and not checkpoints(broken)


@pytest.mark.parametrize("calls_at", [7, 8, 9])            # the three arms in step 3
def test_an_interrupt_between_two_updates_saves_no_half_step(trained, tiny, monkeypatch, calls_at):
    run, (_, teacher) = tiny(arms=ARMS), trained
    real, calls = torch.optim.AdamW.step, []

    def step(self, *arguments):
        found = real(self, *arguments)
        calls.append(1)
        if len(calls) == calls_at:                         # the weights of one arm have moved, and its average not
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            list(distil(run, teacher, ARMS, 1))
    assert not checkpoints(run)
    assert len(list(distil(run, teacher, ARMS, 1))) == 6


def test_an_impatient_second_interrupt_does_not_wait(tiny, monkeypatch):
    run, after = tiny(), []

    def twice():
        signalled()
        after.append("the first one waited")
        signalled()
        after.append("so did the second one")

    interrupt(monkeypatch, "teacher", 3, by=twice)
    with pytest.raises(KeyboardInterrupt):
        get_teacher(run)
    assert after == ["the first one waited"]
    monkeypatch.undo()
    assert [s.number for s in train_teacher(run)] == [3, 4, 5, 6]


def test_students_side_by_side_are_all_saved(tiny, monkeypatch):
    run = tiny(seeds=2, student_steps=2000, arms=("dash",))
    teacher, real, calls = get_teacher(run), student_terms, {}

    def terms(*arguments):
        thread = threading.current_thread().name
        calls[thread] = calls.get(thread, 0) + 1
        if len(calls) == 2 and min(calls.values()) > 1 and not sent:        # each seed has done a step
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        return real(*arguments)

    sent = []
    monkeypatch.setattr(distillation, "student_terms", terms)
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            get_students(run, teacher)
    finally:
        torch.set_num_threads(1)
    assert len(checkpoints(run)) == 2 and sent


def test_handlers_are_given_back_and_threads_need_none():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with whole_step():
        assert signal.getsignal(signal.SIGINT) != before[0]
        assert signal.getsignal(signal.SIGTERM) == before[1]       # the system's own answer is left alone
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    found = []

    def elsewhere():
        with whole_step():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before[0]]


COMMAND = """
import os, signal, sys
from dashkit import cli
from dashkit.experiments import training
step, number = int(sys.argv[1]), int(sys.argv[2])
real = training.per_sample
calls = []
def per_sample(*arguments):
    calls.append(1)
    if len(calls) == step:
        os.kill(os.getpid(), number)
    return real(*arguments)
training.per_sample = per_sample
sys.exit(cli.main(["train", "--profile", "smoke", "--device", "cpu", "--set", "teacher_steps=6", "--set", "batch=8"]))
"""


def in_a_fork(root, number):
    """The command in a process that has imported everything, with its runs in `root`."""
    paths.RUNS, Run.__init__.__defaults__ = root, (42, CPU, root, False)
    sys.argv = ["", "2", str(int(number))]
    exec(COMMAND, {})


def has_saved(folder, code, said, number):
    assert (code, said) == (128 + number, "\ndashkit: stopped; the same command goes on from here\n")
    [path] = folder.rglob(CHECKPOINT)
    assert int(store.load_tensors(path).tensors["teacher/done"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_saves_when_it_is_interrupted_or_ended(forked, tmp_path, number):
    code, _, said = forked(in_a_fork, tmp_path, number)
    has_saved(tmp_path, code, said, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_saves_in_a_process_of_its_own(tmp_path, number):
    environment = os.environ | {"DASHKIT_RUNS": str(tmp_path), "DASHKIT_PROGRESS": "0"}
    done = subprocess.run([sys.executable, "-c", COMMAND, "2", str(int(number))], capture_output=True, text=True,
                          env=environment)
    has_saved(tmp_path, done.returncode, done.stderr, number)


def test_the_command_says_if_nothing_was_saved(tiny, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "empty")
    for step, message in ((1, "stopped before anything was saved; the same command starts from the beginning"),
                          (3, "stopped; the same command goes on from here")):
        with monkeypatch.context() as patch:
            patch.setattr(Run.__init__, "__defaults__", (42, CPU, tmp_path / "empty", False))
            interrupt(patch, "teacher", step, by=raised)
            assert cli.main(["train", "--profile", "smoke", "--device", "cpu", "--set", "batch=8",
                             "--set", "teacher_steps=6"]) == 130
        assert capsys.readouterr().err == f"\ndashkit: {message}\n"


def test_a_teacher_that_is_trained_again_says_why_and_one_that_goes_on_says_nothing(tiny, capsys):
    run = tiny()
    get_teacher(run)
    changed = tiny(batch=9, clip=2, teacher_steps=5)
    assert capsys.readouterr().out == ""
    for step in train_teacher(changed):
        if step.number == 2:
            break
    said = "teacher, seed 1: trained before with another batch, clip, teacher_steps; trained again\n"
    assert capsys.readouterr().out == said
    get_teacher(changed)                           # goes on
    get_teacher(changed)                           # is there
    get_teacher(run)
    assert capsys.readouterr().out == ""


def test_of_several_networks_the_nearest_is_the_one_that_is_told_of(tiny, capsys):
    get_teacher(tiny())
    for changes, said in (({"clip": 2}, "clip"), ({"batch": 9, "gamma": 4.0}, "batch, gamma"),
                          ({"batch": 9, "gamma": 4.0, "clip": 2}, "clip"), ({"T": 200}, "T")):
        get_teacher(tiny(**changes))
        assert capsys.readouterr().out == f"teacher, seed 1: trained before with another {said}; trained again\n"


def test_a_network_whose_file_is_gone_is_trained_again_and_it_is_said(tiny, capsys):
    run = tiny(arms=("dash", "cond_only"))
    students = get_students(run, get_teacher(run))
    for arm in ("teacher", "dash"):
        capsys.readouterr()
        (run.folder(arm, 1) / FINAL).unlink()
        get_students(run, get_teacher(run))
        assert capsys.readouterr().out == (f"{arm}, seed 1: trained before, but final.safetensors is missing in "
                                           f"{run.folder(arm, 1)}; trained again\n")
    get_students(run, get_teacher(run))
    assert capsys.readouterr().out == "" and set(students) == {("dash", 1), ("cond_only", 1)}


def test_a_network_that_was_being_finished_goes_on_and_nothing_is_said(tiny, monkeypatch, capsys):
    run, real = tiny(), store.save_tensors

    def save(path, *arguments):
        if path.name == FINAL:
            raise KeyboardInterrupt
        return real(path, *arguments)

    for step in train_teacher(run):
        if step.number == 3:
            break
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_tensors", save)
        with pytest.raises(KeyboardInterrupt):
            get_teacher(run)
    assert (run.folder("teacher", 1) / "manifest.json").is_file()
    get_teacher(run)
    assert capsys.readouterr().out == ""
