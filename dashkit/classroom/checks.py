"""Exercise checks.

`check("03.1", answer)` tests a learner's answer on random inputs, accepts every right one and names the usual mistake;
`hint("03.1")` gives three hints in turn, then a solution.  Neither ever raises on a bad answer, and a check never waits
for ever.  What was passed is kept (`my_progress()`, `recall("03.1")`), also when the kernel is restarted.
"""

import copy
import ctypes
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dashkit.classroom import journal
from dashkit.classroom.exercises import (
    EXERCISES,
    Exercise,
    WrongAnswer,
    as_arrays,
    as_numbers,
    as_series,
    as_tensor,
    describe_value,
)

PATIENCE = 5.0
"""Seconds that a learner's function may take, all its calls in one check together."""


class Note(str):
    """Text that a notebook shows as it is."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Result:
    """Whether an answer is right, and what to say about it; true or false where a truth value is wanted."""

    ok: bool
    message: str

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return ("✓ " if self.ok else "✗ ") + self.message


def check(name: str, answer: object) -> Result:
    """Test an answer to the exercise called `name`, and keep the outcome; ValueError names the exercises there are."""
    exercise = _find(name)
    if answer is None or answer is Ellipsis:
        return Result(False, f"No answer yet. {exercise.task} Stuck? hint({name!r})")
    if exercise.inputs is not None and not callable(answer):
        return Result(False, f"A function is wanted, but {describe_value(answer)} arrived. {exercise.task}")
    try:
        _within(PATIENCE, partial(exercise.check_answer or partial(_compare, exercise), answer))
        result = Result(True, "Right.")
    except WrongAnswer as fault:
        result = Result(False, str(fault))
    trouble = journal.update(journal.ANSWERS, name, partial(_outcome, passed=result.ok, answer=answer))
    return Result(result.ok, f"{result.message} ({trouble})" if trouble else result.message)


def hint(name: str) -> Note:
    """The next hint for an exercise; after the third, its solution."""
    exercise, seen = _find(name), _seen.get(name, 0)
    _seen[name] = seen + 1
    return Note(f"Hint {seen + 1}: {exercise.hints[seen]}" if seen < 3 else f"Solution:\n{exercise.solution}")


_seen: dict[str, int] = {}


def my_progress() -> Note:
    """What has been done, one line a notebook: exercises passed and predictions made, in whichever kernel."""
    answers, predictions = journal.kept(journal.ANSWERS), journal.kept(journal.PREDICTIONS)
    lines = []
    for notebook in sorted({name[:2] for name in (*EXERCISES, *predictions)}):
        there = [name for name in EXERCISES if name[:2] == notebook]
        passed = [name for name in there if answers.get(name, {}).get("passed")]
        made = sum(name[:2] == notebook for name in predictions)
        lines.append(f"{notebook}: {len(passed)} of {len(there)} exercises passed, {made} predictions made")
    return Note("\n".join(lines))


def recall(name: str) -> Note:
    """The answer to an exercise that was kept: the latest one that passed, or else the latest."""
    _find(name)
    entry = journal.kept(journal.ANSWERS).get(name)
    return Note(entry["answer"] if entry else f"No answer to {name} has been checked yet.")


def _tries(entry: dict) -> int:
    tries = entry.get("tries")
    return tries if isinstance(tries, int) else 0


def _outcome(entry: dict, *, passed: bool, answer: object) -> dict:
    """The entry of the journal after one more try; a passed exercise stays passed."""
    now = {"passed": passed, "answer": _source(answer), "checked": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return (entry if entry.get("passed") and not passed else now) | {"tries": _tries(entry) + 1}


def _source(answer: object) -> str:
    """An answer as text: the source of a function, where Python can tell it."""
    for show in (inspect.getsource, repr):
        try:
            return show(answer)[:5000]
        except Exception:                         # there is no source, or the object resists being shown
            continue
    return describe_value(answer)


def _find(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(f"no exercise {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[name]


class _Stopped(BaseException):
    """Raised inside a learner's function that takes too long."""


def _said(error: BaseException) -> str:
    """That a learner's function raised an error: its type and text, or the type alone where the text raises, too."""
    try:
        return f"Your function raised {type(error).__name__}: {error}"
    except BaseException:
        return f"Your function raised {type(error).__name__}."


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do `work()`; WrongAnswer says what it raised, or that it does not come back in time.

    It runs in a thread of its own, so that the check goes on even if nothing can stop it: all but a single call into C
    that lets no other thread run.
    """
    raised = []

    def run() -> None:
        try:
            work()
        except WrongAnswer as fault:
            raised.append(fault)
        except BaseException as error:            # also SystemExit and KeyboardInterrupt: nothing may leave the thread
            raised.append(WrongAnswer(_said(error)))    # made here: the text of a learner's error may take for ever

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for _ in range(round(seconds / 0.05)):        # short waits: a laptop that slept does not count the time asleep
        thread.join(0.05)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))
        raise WrongAnswer(f"No answer after {seconds:g} seconds. Is there a loop without an end?")
    for error in raised:
        raise error


def _result(answer: Callable, case: tuple) -> object:
    """What a learner's function returns for a case: given as tensors, or else as arrays, or else as Series.

    So a line may be written for any of the three, e.g. `(a - b).std(ddof=1)`.  The first error counts.
    """
    errors = []
    for form in (lambda case: case, as_arrays, as_series):
        try:
            return answer(*form(copy.deepcopy(case)))
        except (TypeError, AttributeError) as error:
            errors.append(error)
    raise errors[0]


def _compare(exercise: Exercise, answer: object) -> None:
    """Hold an answer against `right` on random inputs, then against each mistake; WrongAnswer if it is wrong."""
    draws = [exercise.inputs(torch.Generator().manual_seed(i)) for i in range(4)] if exercise.inputs else [()]
    wanted = [as_tensor(exercise.right(*case)) for case in draws]
    given = []
    for case, right in zip(draws, wanted, strict=True):
        value = _result(answer, case) if callable(answer) else answer
        given.append(as_numbers(value, right.shape))

    def same(a: Tensor, b: Tensor) -> bool:
        a, b = exercise.view(a), exercise.view(b)
        return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    if all(map(same, given, wanted)):
        return
    for mistake, wrong in exercise.mistakes.items():
        if all(same(got, as_tensor(wrong(*case))) for got, case in zip(given, draws, strict=True)):
            raise WrongAnswer(mistake)
    for got, right in zip(given, wanted, strict=True):
        if got.shape != right.shape:
            raise WrongAnswer(f"A result of shape {tuple(right.shape)} is wanted; yours has shape {tuple(got.shape)}.")
    worst = max(float((exercise.view(a) - exercise.view(b)).abs().max()) for a, b in zip(given, wanted, strict=True))
    raise WrongAnswer(f"Not yet: your result is off by up to {worst:.2g}. {exercise.task}")
