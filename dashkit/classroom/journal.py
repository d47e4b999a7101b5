"""What a learner has done: predictions and checked answers, kept in one small file.

The file `work.json` lies in the folder of the runs (paths.RUNS), which is not in git.  It is read,
changed and written whole under a lock, so that two kernels that save at once lose nothing.  DASHKIT_WORK names another
file: `notebooks.execute` sets it, so that only what a learner runs counts.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from dashkit.storage import paths, store

PATH = paths.setting("DASHKIT_WORK") or paths.RUNS / "work.json"
PREDICTIONS, ANSWERS = "predictions", "answers"

Value = TypeVar("Value", float, str)


def kept(kind: str, path: Path | None = None) -> dict[str, dict]:
    """Every entry of a kind, PREDICTIONS or ANSWERS, by its name; nothing if there is no file or it is damaged."""
    try:
        return _read(path or PATH).get(kind, {})
    except (OSError, ValueError):
        return {}


def update(kind: str, name: str, change: Callable[[dict], dict], path: Path | None = None) -> str:
    """Replace an entry by `change(entry)`, {} being the entry of a new name; returns why it was not saved, or "".

    A damaged file is set aside as `work.damaged.json`.  A learner goes on where nothing can be written.
    """
    path = path or PATH
    try:
        paths.make_folder(path.parent)
        with FileLock(path.with_suffix(".lock")).acquire(timeout=30, poll_interval=0.005):
            try:
                everything = _read(path)
            except ValueError:
                path.replace(path.with_suffix(".damaged.json"))
                everything = {}
            entries = everything.setdefault(kind, {})
            entries[name] = change(entries.get(name, {}))
            store.write_json(path, everything)
    except OSError as error:                    # a full or read-only disk, or a lock that another kernel holds for long
        return f"not saved in {path}: {error}"
    return ""


def _read(path: Path) -> dict[str, dict[str, dict]]:
    """Kinds of entries by name; ValueError if the file is damaged, {} if there is none."""
    everything = store.read_json(path) if path.exists() else {}
    if not all(isinstance(v, dict) and all(isinstance(e, dict) for e in v.values()) for v in everything.values()):
        raise ValueError(f"{path} is damaged")
    return everything


def predict(name: str, value: Value | None = ..., *, example: Value, among: Sequence[Value] = (),
            low: float = -math.inf, high: float = math.inf) -> Value:
    """Keep a prediction, made before the result is seen, and return it; with `...`, return the one kept before.

    Where none was kept, or one that is refused now, `example` takes its place.  The prediction must be a number or a
    text as the example is, one of `among` if that is given, and a number from `low` to `high`; ValueError says what
    came.  The first one stays in the file beside the latest.
    """
    def valid(value: object) -> Value:
        return _within(_valid(value, example, among), low, high)

    _examples.discard(name)
    if value is ... or value is None:
        entry = kept(PREDICTIONS).get(name, {})
        try:
            value = valid(entry.get("value"))
        except ValueError as refusal:
            _examples.add(name)
            print(f"{f'Your prediction is not used: {refusal}' if 'value' in entry else 'No prediction of yours yet'}; "
                  f"as an example: {example}. Write your own in place of the dots.")
            return example
        print(f"Your prediction: {value}")
        return value
    value = valid(value)
    trouble = update(PREDICTIONS, name, lambda entry: {"first": entry.get("first", value), "value": value})
    first = kept(PREDICTIONS).get(name, {}).get("first", value)
    print(f"Your prediction: {value}" + (f" (at first: {first})" if first != value else "") +
          (f" ({trouble})" if trouble else ""))
    return value


_examples: set[str] = set()
"""Predictions of this kernel whose place an example took."""


def guess_label(name: str) -> str:
    """What to call the value of `predict(name, …)` in a figure: "my guess" if it was kept, or else "example"."""
    return "my guess" if "value" in kept(PREDICTIONS).get(name, {}) and name not in _examples else "example"


def _valid(value: object, example: Value, among: Sequence[Value]) -> Value:
    """The value as a plain number or text; ValueError if it is not what is asked for."""
    wanted = f"one of {', '.join(map(str, among))}" if among else "a text"
    if isinstance(example, str):
        if isinstance(value, str) and (not among or value in among):
            return value
        raise ValueError(f"the prediction must be {wanted}, not {value!r}")
    try:
        number = float("nan" if isinstance(value, bool | str) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the prediction must be a number, such as {example}, not {value!r}")
    if among and number not in among:
        raise ValueError(f"the prediction must be {wanted}, not {number:g}")
    return int(number) if isinstance(example, int) and number == int(number) else number


def _within(value: Value, low: float, high: float) -> Value:
    """The value; ValueError if it is a number that does not lie between the two."""
    if isinstance(value, str) or low <= value <= high:
        return value
    share = " (a share: 50% is 0.5)" if (low, high) == (0, 1) else ""
    raise ValueError(f"the prediction must lie between {low:g} and {high:g}{share}, not {value:g}")
