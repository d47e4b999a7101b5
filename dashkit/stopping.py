"""How a program ends that somebody stops: one line, and the exit status that shells know, 128 and the signal's number.

It needs the standard library alone, and little of it: a signal may come before anything else is imported.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object]


def catch(handler: Handler) -> dict[int, object]:
    """Let `handler` answer Ctrl-C and SIGTERM from now on; returns what answered them before.

    A signal that is ignored, as below nohup, stays so.  One that was held back is answered now.  Threads get no
    signals: there this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {s: signal.getsignal(s) for s in SIGNALS}
    before = {s: found for s, found in before.items() if found is not signal.SIG_IGN}
    for one in before:
        signal.signal(one, handler)
    if hasattr(signal, "pthread_sigmask"):                     # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return before


def hold_back() -> None:
    """Let signals wait until the program that takes this process's place calls `catch`: Python itself starts first."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


@contextmanager
def answered_by(handler: Handler) -> Iterator[None]:
    """`catch` for a block."""
    before = catch(handler)
    try:
        yield
    finally:
        for one, found in before.items():
            signal.signal(one, found or signal.SIG_DFL)


def leave(name: str) -> Handler:
    """A handler that ends the program called `name` at once: for a time when there is nothing to save.

    It raises nothing: in the midst of an import anything might catch it, or turn it into another error.
    """
    def handler(number: int, frame: FrameType | None) -> None:
        with suppress(Exception):                  # the signal may have come while this was being written
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, f"\n{name}: stopped; type the same again\n".encode())
        os._exit(128 + number)

    return handler


def finish(code: int) -> int:
    """The program is done and only has to end: a signal makes it end at once, with the same exit status `code`."""
    catch(lambda number, frame: os._exit(code))
    return code


def in_import(frame: FrameType | None) -> bool:
    """Whether a signal that came at `frame` came in the midst of an import."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
