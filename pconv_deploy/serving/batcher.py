"""Requests of one padded size share runs of the engine; nobody waits longer than agreed."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from pconv_deploy.engines.shapes import Size
from pconv_deploy.errors import EngineError
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.prepared import Prepared

Run = Callable[[Sequence[Prepared]], list[Bytes]]


@dataclass(frozen=True)
class Ran:
    """What the engine made of one image.

    filled      (H', W', 3) uint8, padded as the image was
    waited      seconds before its run
    took        seconds of the run
    batch_size  images that shared it
    """

    filled: Bytes
    waited: float
    took: float
    batch_size: int


@dataclass(frozen=True)
class _Waiting:
    prepared: Prepared
    future: Future[Ran]
    since: float


class Batcher:
    """Runs images through an engine, those of one padded size together.

    Args:
        run: takes images of one padded size, in a thread of this object's.
        max_batch_size: of one run.
        max_delay: seconds that an image waits for others of its size, while the engine is free.
        instances: runs at the same time.
        name: of the threads.
    """

    def __init__(
        self, run: Run, *, max_batch_size: int, max_delay: float, instances: int, name: str
    ) -> None:
        self._run = run
        self._max_batch_size, self._max_delay = max_batch_size, max_delay
        self._changed = threading.Condition()
        self._queues: dict[Size, deque[_Waiting]] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(instances)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, prepared: Prepared) -> Future[Ran]:
        """Line an image up. A future that is cancelled in time costs the engine nothing."""
        waiting = _Waiting(prepared, Future(), time.perf_counter())
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            self._queues.setdefault(prepared.padded_size, deque()).append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Run what is lined up, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """How many images are lined up."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def _work(self) -> None:
        while batch := self._next_batch():
            begun = time.perf_counter()
            results = self._results([one.prepared for one in batch])
            took = time.perf_counter() - begun
            for waiting, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    waiting.future.set_exception(result)
                else:
                    ran = Ran(result, begun - waiting.since, took, len(batch))
                    waiting.future.set_result(ran)

    def _results(self, batch: Sequence[Prepared]) -> Sequence[Bytes | Exception]:
        try:
            return self._run(batch)
        except EngineError as error:
            if len(batch) == 1:
                return [error]
            # One image too large for the memory must not take its neighbours along.
            return [self._results([one])[0] for one in batch]
        except Exception as error:  # noqa: BLE001  told to those who wait; the thread goes on
            return [error] * len(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for images to run together; none: closed, and nothing left."""
        with self._changed:
            while True:
                now = time.perf_counter()
                size, wait = self._due(now)
                if size is not None:
                    queue = self._queues[size]
                    count = min(len(queue), self._max_batch_size)
                    batch = [queue.popleft() for _ in range(count)]
                    if not queue:
                        del self._queues[size]
                    # A cancelled one is dropped here; the others cannot be cancelled any more.
                    if running := [w for w in batch if w.future.set_running_or_notify_cancel()]:
                        return running
                elif self._closed:
                    return []
                else:
                    self._changed.wait(wait)

    def _due(self, now: float) -> tuple[Size | None, float | None]:
        """Return the size to run next, or how many seconds to wait before one is due."""
        heads = sorted((queue[0].since, size) for size, queue in self._queues.items())
        for since, size in heads:
            full = len(self._queues[size]) >= self._max_batch_size
            if full or self._closed or now >= since + self._max_delay:
                return size, None
        return None, heads[0][0] + self._max_delay - now if heads else None
