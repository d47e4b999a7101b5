"""Several independent jobs at once, in threads or in processes."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from dashkit.experiments import processes
from dashkit.experiments.progress import progress_bar
from dashkit.experiments.run import Run
from dashkit.storage import provenance


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


def spread(jobs: int, tasks: Sequence[Callable[[], object]], *, title: str) -> None:
    """Call every task in one of `jobs` processes of a joblib backend, under one progress bar.

    The backend is the current one: processes of this machine, or whatever `joblib.parallel_config` names, a Dask
    cluster too.  Results stay on disk; tasks share the run folder and nothing else.
    """
    from joblib import Parallel, delayed

    threads = max(1, torch.get_num_threads() // jobs)
    done = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(_quietly)(task, threads) for task in tasks)
    deque(progress_bar(done, total=len(tasks), title=title), maxlen=0)


def _quietly(task: Callable[[], object], threads: int) -> None:
    """Call a task in a worker process."""
    provenance.commit()                                # what runs is this one: a Run that arrives here asked elsewhere
    os.environ["DASHKIT_PROGRESS"] = "0"
    torch.set_num_threads(threads)
    task()
