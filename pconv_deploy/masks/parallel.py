"""Run a function on many items in worker processes that end with the parent."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pconv_deploy.errors import OutputError
from pconv_deploy.processes import spawning, worker_pool

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, chunk: int
) -> Generator[Result]:
    """Yield results in the order of the items; closing the generator cancels the rest.

    Args:
        work: sent to the processes with every few items, so it should be small.
        items: what to work on.
        workers: processes; 1 is this one.
        chunk: items given to a process at a time.

    Raises:
        OutputError: a process was killed.
    """
    workers = min(workers, -(-len(items) // chunk))
    if workers <= 1:
        yield from map(work, items)
        return
    try:
        with worker_pool(workers) as pool:
            with spawning():
                results = pool.map(work, items, chunksize=chunk)
            yield from results
    except BrokenProcessPool as error:
        raise OutputError(
            "a worker process ended, perhaps for lack of memory: try fewer --workers"
        ) from error
