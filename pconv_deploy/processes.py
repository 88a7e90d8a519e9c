"""Worker processes that never outlive the work: after an error, Ctrl-C, or when we are killed."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

_GRACE = 2.0  # seconds to finish what has begun, if nothing more is wanted


@contextmanager
def worker_pool(
    workers: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of new processes; all of them have ended when the block ends.

    If an exception ends the block, tasks that have not begun are dropped, and those that have
    begun are stopped after two seconds.

    Submit tasks in `spawning`: each may start a process.

    Args:
        workers: processes.
        begin: called once in each process.
        arguments: of `begin`.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (begin, arguments))
    try:
        yield pool
        pool.shutdown()
    finally:
        _end(pool)


@contextmanager
def spawning() -> Iterator[None]:
    """Let processes that start in the block never see Ctrl-C: the parent answers it for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pool: ProcessPoolExecutor) -> None:
    # Python 3.14 has ProcessPoolExecutor.kill_workers for this.
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()
    pool.shutdown()


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """A parent that is killed closes no queue: without this its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
