"""Several independent jobs at once."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from dashkit.experiments import processes
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.run import Run


def side_by_side(
    run: "Run", jobs: Mapping[str, Callable[[], Iterable]], *, at_once: int, ticks: int, title: str
) -> None:
    """Exhaust several independent iterables under one progress bar of `ticks` items; on a CPU in threads.

    Small networks use two cores better as two jobs than as two threads of one.  `at_once` jobs, or as many as there are
    cores, share the cores evenly; give the same number whatever is left to do, and a resumed run computes what an
    undisturbed one does.  An error or an interrupt stops the others between two items, closes them, and is raised.
    """
    if run.device.type == "cuda" or processes.size() > 1:
        for name, job in jobs.items():
            deque(progress_bar(job(), total=ticks // len(jobs), title=f"{title}, {name}"), maxlen=0)
        return
    cores, stop, lock = torch.get_num_threads(), threading.Event(), threading.Lock()
    workers = min(cores, at_once)
    bar = iter(progress_bar(range(ticks), total=ticks, title=title))

    def exhaust(job: Callable[[], Iterable]) -> None:
        if stop.is_set():
            return
        items = job()
        try:
            for _ in items:
                with lock:
                    next(bar, None)
                if stop.is_set():
                    break
        except BaseException:
            stop.set()
            raise
        finally:
            if hasattr(items, "close"):
                items.close()

    torch.set_num_threads(max(1, cores // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(exhaust, job) for job in jobs.values()]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stop.set()
                raise
        deque(bar, maxlen=0)                     # a resumed job has fewer items: fill the bar up
    finally:
        torch.set_num_threads(cores)
