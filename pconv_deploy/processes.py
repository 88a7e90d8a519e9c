"""Processes that never outlive their work: after an error, Ctrl-C, or when we are killed."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pconv_deploy.errors import OutputError

# For the PYTHONPATH of child processes: this very package, whatever lies in the current folder.
PACKAGE_HOME = str(Path(__file__).parents[1])
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

    Raises:
        OutputError: no process can be started.
    """
    context = multiprocessing.get_context("spawn")
    with _starting():
        pool = ProcessPoolExecutor(workers, context, _begin, (begin, arguments))
    try:
        yield pool
        pool.shutdown()
    finally:
        _end(pool)


@contextmanager
def spawning(*also_blocked: signal.Signals) -> Iterator[None]:
    """Let processes that start in the block never see Ctrl-C: the parent answers it for them.

    Args:
        also_blocked: further signals they never see.

    Raises:
        OutputError: they cannot be started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *also_blocked})
    try:
        with _starting():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot start worker processes: {error.strerror}. Free memory and shared memory "
            "(/dev/shm), or use fewer workers"
        ) from error


def run_child(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command and return its output; if we are stopped, end it and all that it started."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, **options) as process:
        try:
            output, complaint = process.communicate()
        except BaseException:
            process.terminate()  # so that it can end its own children
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, complaint)


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
