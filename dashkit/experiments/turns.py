"""One turn on a machine that is lent for minutes: its clock, and stages worked through until it is over."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from dashkit.experiments import processes
from dashkit.experiments.progress import progress_bar

_IMPORTED = time.monotonic()


def now() -> float:
    """Seconds on a clock that only goes forward."""
    return time.monotonic()


def seconds_since_start() -> float:
    """Seconds since this process was started, imports included; where the system does not say when that was, since
    this module was imported."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return max(0.0, up - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return now() - _IMPORTED


class Stage(NamedTuple):
    make: Callable[[], Iterator]    # its items, when its turn comes
    ticks: int                      # how many there are at most
    together: bool                  # whether all processes do each item, or each process items of its own
    seconds: float = 0.0            # what all of it is expected to take; 0 if nobody knows


class Used(NamedTuple):
    """What one stage took of a turn."""

    name: str
    ticks: int          # items done in this turn
    seconds: float
    done: bool          # whether nothing of it is left


def work(stages: Mapping[str, Stage], deadline: float) -> list[Used]:
    """Work through stages until `deadline` on the clock of `now`; returns what each took.

    Stops before an item that would not end in time: the first of a stage takes what is expected, any other as long as
    the one before.  At least one is done, so that every turn gets on.  What is stopped between two items goes on from
    there in a later turn.
    """
    found: list[Used] = []
    for name, stage in stages.items():
        began = last = now()
        most = stage.ticks if stage.together else -(-stage.ticks // processes.size())
        late, ticks = False, 0
        # every process asks both questions, or the next answer would be to another one
        worked = processes.agree(any(u.ticks for u in found))
        if processes.agree(began + stage.seconds / max(most, 1) > deadline) and worked:
            break
        with closing(stage.make()) as items:
            for _ in progress_bar(items, total=stage.ticks, title=name):
                ticks, (last, took) = ticks + 1, (now(), now() - last)
                late = ticks != most and last + took > deadline         # after the last item there is nothing to stop
                if stage.together:
                    late = processes.agree(late)
                if late:
                    break
        late = processes.agree(late)
        found.append(Used(name, ticks, now() - began, not late))
        if late:
            break
    return found + [Used(name, 0, 0.0, False) for name in list(stages)[len(found):]]


def left_out(used: list[Used]) -> str:
    """One line of what a turn did not do; empty if it did all."""
    parts = [f"{u.name} after {u.ticks:,} of its steps" if u.ticks else u.name for u in used if not u.done]
    return f"left for another turn: {', '.join(parts)}" if parts else ""
