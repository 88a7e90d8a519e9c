"""Batches from worker processes, which end with the training, whatever ends it."""

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
    """Give the batches of one rank in order; their worker processes end with the block.

    Raises:
        TrainingError: a worker process was killed.
    """
    # Signals may reach the whole group of processes; the parent still needs its batches then.
    with spawning(signal.SIGTERM):
        running = iter(loader(samples, sampler, pin_memory))
    try:
        yield running
    except Exception as error:
        # What a lost worker makes torch raise depends on what it was doing.
        ended = _exit_codes(running, just_lost=isinstance(error, EOFError | ConnectionError))
        if isinstance(error, PConvError) or not any(ended):
            raise
        raise TrainingError(
            f"a worker process that reads pictures ended with {next(filter(None, ended))}: was "
            "memory or shared memory (/dev/shm) full? The last checkpoint is as it was; go on "
            "with --resume and fewer --set data.workers"
        ) from error
    finally:
        _end_workers(running)


def _exit_codes(running: Iterator[Batch], just_lost: bool) -> list[int | None]:
    """Of the worker processes; None for those that live."""
    if not isinstance(running, _MultiProcessingDataLoaderIter):
        return []
    workers = running._workers
    if just_lost:  # its pipe is closed, the worker itself may need another moment to end
        with suppress(RuntimeError):  # torch's handler of SIGCHLD raises wherever it finds us
            ending = wait([worker.sentinel for worker in workers], timeout=5)
            for worker in workers:
                if worker.sentinel in ending:
                    worker.join()
    return [worker.exitcode for worker in workers]


def _end_workers(running: Iterator[Batch]) -> None:
    """End them now: they block SIGTERM, so multiprocessing would wait for them at exit for ever."""
    if isinstance(running, _MultiProcessingDataLoaderIter):
        try:
            running._shutdown_workers()
        finally:
            for worker in running._workers:
                worker.kill()
