"""The same work on many things, in processes that end with us."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pconv_deploy.errors import OutputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, chunk: int
) -> Generator[Result]:
    """Results in the order of the items. Close it, and what has not begun is not done.

    Args:
        work: sent to the processes with every few items, so it should be small.
        items: what to work on.
        workers: processes; 1 is this one.
        chunk: items given to a process at a time: what is given is done, even after Ctrl-C.

    Raises:
        OutputError: a process was killed.
    """
    workers = min(workers, -(-len(items) // chunk))
    if workers <= 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_parent
    )
    try:
        yield from pool.map(work, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise OutputError("a worker process was ended from outside, by lack of memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
