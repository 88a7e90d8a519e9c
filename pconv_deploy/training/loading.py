"""Load batches in worker processes, and end those processes with the training."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pconv_deploy.errors import PConvError, TrainingError
from pconv_deploy.processes import spawning
from pconv_deploy.training.samples import Batch, Samples, StepSampler, loader


@contextmanager
def batches(samples: Samples, sampler: StepSampler, pin_memory: bool) -> Iterator[Iterator[Batch]]:
    """Yield the batches of one rank in order; stop the worker processes at the end of the block.

    Raises:
        TrainingError: a worker process was killed.
    """
    # A signal to the process group must not stop the workers: the parent still needs batches.
    with spawning(signal.SIGTERM):
        running = iter(loader(samples, sampler, pin_memory))
    try:
        yield running
    except Exception as error:
        # The exception torch raises for a lost worker depends on what the worker was doing.
        ended = _exit_codes(running, just_lost=isinstance(error, EOFError | ConnectionError))
        if isinstance(error, PConvError) or not any(ended):
            raise
        raise TrainingError(
            f"a worker process that reads pictures ended with {next(filter(None, ended))}: was "
            "memory or shared memory (/dev/shm) full? The last checkpoint is unchanged; continue "
            "with --resume and a lower --set data.workers"
        ) from error
    finally:
        _end_workers(running)


def _exit_codes(running: Iterator[Batch], just_lost: bool) -> list[int | None]:
    """Return the exit codes of the worker processes; None for running ones."""
    if not isinstance(running, _MultiProcessingDataLoaderIter):
        return []
    workers = running._workers
    if just_lost:  # its pipe is closed, but the process may not have ended yet
        with suppress(RuntimeError):  # torch's SIGCHLD handler may raise here
            ending = wait([worker.sentinel for worker in workers], timeout=5)
            for worker in workers:
                if worker.sentinel in ending:
                    worker.join()
    return [worker.exitcode for worker in workers]


def _end_workers(running: Iterator[Batch]) -> None:
    """Kill the workers: they block SIGTERM, so multiprocessing would wait forever at exit."""
    if isinstance(running, _MultiProcessingDataLoaderIter):
        try:
            running._shutdown_workers()
        finally:
            for worker in running._workers:
                worker.kill()
