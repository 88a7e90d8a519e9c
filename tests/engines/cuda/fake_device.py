"""The state of the fake GPU: memory, streams, and how lazily they work."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engines.cuda.cuda_names import FREEING, NOT_WHILE_CAPTURING, Status

Work = Callable[[], None]


class LazyStream:
    def __init__(self) -> None:
        self.work: list[Work] = []
        self.done = 0
        self.capture: list[Work] | None = None
        self.captured_by: int | None = None
        self.broken = False


class RefusedError(Exception):
    """A call that ends with a status."""

    def __init__(self, status: Status) -> None:
        self.status = status


class FakeDevice:
    def __init__(self, memory: int = 1 << 30) -> None:
        self.lock = threading.RLock()
        self.violations: list[str] = []
        self.calls: Counter[str] = Counter()
        self.may_fail = 0  # calls so far that may be told to fail
        self.fail_at: int | None = None
        self.fail_in: dict[str, Status] = {}  # by function, each time
        self.graphs_do_nothing = False
        self.memory = memory
        self.device = 0
        self._next = 0x7_0000_0000
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.devices: dict[int, int] = {}  # of blocks that are not on GPU 0
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, LazyStream] = {1: LazyStream(), 2: LazyStream()}
        self.events: dict[int, tuple[int, int] | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.launched: dict[int, tuple[int, int]] = {}  # where each was last put

    # What tests ask.

    def left(self) -> dict[str, int]:
        """Whatever was made and not freed, by kind."""
        kinds = {
            "device": self.blocks,
            "pinned": self.pinned,
            "streams": [handle for handle in self.streams if handle > 2],
            "events": self.events,
            "graphs": self.graphs,
            "executables": self.executables,
        }
        return {kind: len(things) for kind, things in kinds.items() if things}

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the GPU as they are now."""
        block, start = self._find(address, size)
        return block[start : start + size]

    def write(self, address: int, content: NDArray[Any]) -> None:
        flat = np.frombuffer(content.tobytes(), np.uint8)
        self.read(address, flat.size)[:] = flat

    def give(self, stream: int, work: Work) -> None:
        """Put work at the end of a stream, or into the graph that it is captured into."""
        with self.lock:
            found = self._stream(stream)
            (found.work if found.capture is None else found.capture).append(work)

    def is_capturing(self, stream: int) -> bool:
        return self._stream(stream).capture is not None

    # How it does that.

    def begin(self, name: str) -> None:
        self.calls[name] += 1
        for stream in self.streams.values():
            if stream.captured_by == threading.get_ident() and name in NOT_WHILE_CAPTURING:
                stream.broken = True
                raise RefusedError(Status.cudaErrorStreamCaptureUnsupported)
        if name in FREEING:
            return
        self.may_fail += 1
        asked = Status.cudaErrorUnknown if self.may_fail == self.fail_at else None
        asked = self.fail_in.get(name, asked)
        if asked and name == "cudaStreamEndCapture":  # the capture ends even then
            for stream in self.streams.values():
                stream.capture = stream.captured_by = None
        if asked:
            raise RefusedError(asked)

    def _free(self) -> int:
        return self.memory - sum(block.size for block in self.blocks.values())

    def _find(self, address: int, size: int) -> tuple[NDArray[np.uint8], int]:
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + block.size:
                return block, address - start
        self.violations.append(f"{size} bytes at {address:#x} are not allocated on the GPU")
        return np.zeros(size, np.uint8), 0

    def _is_pinned(self, address: int, size: int) -> bool:
        return any(s <= address and address + size <= s + len(b) for s, b in self.pinned.items())

    def _stream(self, stream: int) -> LazyStream:
        found = self.streams.get(stream)
        if found is None:
            raise RefusedError(Status.cudaErrorInvalidResourceHandle)
        return found

    def _finish(self, handle: int, until: int | None = None) -> None:
        stream = self._stream(handle)
        until = len(stream.work) if until is None else until
        while stream.done < until:
            stream.done += 1
            stream.work[stream.done - 1]()

    def _finish_everything(self) -> None:
        for handle in self.streams:
            self._finish(handle)
