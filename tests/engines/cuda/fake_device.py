"""The state of the fake GPUs: contexts, memory, streams, and how lazily they work."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.engines.cuda.calls import Cuda

runtime = Cuda.load().runtime
Status: Any = runtime.cudaError_t
# Freeing may not fail in these tests; what may not be called by a thread that captures.
_FREEING = ("Free", "FreeHost", "StreamDestroy", "EventDestroy", "GraphDestroy", "GraphExecDestroy")
FREEING = [f"cuda{name}" for name in _FREEING]
_BLOCKING = ("Malloc", "HostAlloc", "Free", "FreeHost", "StreamSynchronize")
NOT_WHILE_CAPTURING = [f"cuda{name}" for name in _BLOCKING]
Work = Callable[[], None]
_PRIMARY = 0x100  # handle of the primary context of GPU 0; the next GPU's follows


@dataclass
class Capture:
    """What streams are captured into, from `origin` on; `by` is a thread."""

    origin: "LazyStream"
    by: int
    work: list[Work] = field(default_factory=list)
    broken: bool = False


class LazyStream:
    def __init__(self, context: int) -> None:
        self.context = context
        self.work: list[Work] = []
        self.done = 0
        self.capture: Capture | None = None

    def finish(self, until: int | None = None) -> None:
        until = len(self.work) if until is None else until
        while self.done < until:
            self.done += 1
            self.work[self.done - 1]()


@dataclass
class FakeEvent:
    context: int
    point: tuple[LazyStream, int] | None = None
    capture: Capture | None = None


class RefusedError(Exception):
    """A call that ends with a status."""

    def __init__(self, status: Any) -> None:
        self.status = status


class FakeDevice:
    def __init__(self, memory: int = 1 << 30) -> None:
        self.lock = threading.RLock()
        self.violations: list[str] = []
        self.calls: Counter[str] = Counter()
        self.may_fail = 0  # calls so far that may be told to fail
        self.fail_at: int | None = None
        self.fail_in: dict[str, Any] = {}  # by function, each time
        self.graphs_do_nothing = False
        self.memory = memory
        self._thread = threading.local()
        self._contexts: dict[int, int] = {}  # those made, beside the primary ones, and their GPU
        self._next = 0x7_0000_0100  # memory is aligned to 256 bytes, and to no more
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.devices: dict[int, int] = {}  # of blocks that are not on GPU 0
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, LazyStream] = {}
        self._defaults: dict[tuple[int, int], LazyStream] = {}  # by handle and context
        self.events: dict[int, FakeEvent] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.launched: dict[int, tuple[LazyStream, int]] = {}  # where each was last put

    # What tests ask.

    @property
    def context(self) -> int:
        """The one that is current in this thread; 0: none is yet."""
        return getattr(self._thread, "context", 0)

    @context.setter
    def context(self, context: int) -> None:
        self._thread.context = context

    @property
    def device(self) -> int:
        """Where calls of this thread go."""
        return self._contexts.get(self.context, max(self.context - _PRIMARY, 0))

    @device.setter
    def device(self, device: int) -> None:
        self.context = _PRIMARY + device

    def make_context(self, device: int) -> int:
        """As pycuda makes one: current from now on, and not the primary one."""
        self._next += 0x1000
        self._contexts[self._next] = device
        self.context = self._next
        return self.context

    def left(self) -> dict[str, int]:
        """Whatever was made and not freed, by kind."""
        kinds = {
            "device": self.blocks,
            "pinned": self.pinned,
            "streams": self.streams,
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
            (found.capture or found).work.append(work)

    def is_capturing(self, stream: int) -> bool:
        return self._stream(stream).capture is not None

    def is_foreign(self, stream: int) -> bool:
        """Whether a stream is of another context than the current one."""
        return self._stream(stream).context != self._made_in()

    # How it does that.

    def begin(self, name: str) -> None:
        self.calls[name] += 1
        for capture in self._captures():
            if capture.by == threading.get_ident() and name in NOT_WHILE_CAPTURING:
                capture.broken = True
                raise RefusedError(Status.cudaErrorStreamCaptureUnsupported)
        if name in FREEING:
            return
        self.may_fail += 1
        asked = Status.cudaErrorUnknown if self.may_fail == self.fail_at else None
        asked = self.fail_in.get(name, asked)
        if asked and name == "cudaStreamEndCapture":  # the capture ends even then
            for capture in self._captures():
                self._end(capture)
        if asked:
            raise RefusedError(asked)

    def _captures(self) -> list[Capture]:
        return [each.capture for each in self._all_streams() if each.capture]

    def _end(self, capture: Capture) -> int:
        """Let its streams go; return how many had been drawn into it, and not come back."""
        members = [each for each in self._all_streams() if each.capture is capture]
        for each in members:
            each.capture = None
        return len(members) - 1

    def _all_streams(self) -> list[LazyStream]:
        return [*self.streams.values(), *self._defaults.values()]

    def _made_in(self) -> int:
        """The current context; a thread that has none gets the primary one of its GPU."""
        if not self.context:
            self.device = 0
        return self.context

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
        if stream in (1, 2):  # the default streams of the current context
            context = self._made_in()
            return self._defaults.setdefault((stream, context), LazyStream(context))
        found = self.streams.get(stream)
        if found is None:
            raise RefusedError(Status.cudaErrorInvalidResourceHandle)
        return found

    def _finish_everything(self) -> None:
        for stream in self._all_streams():
            stream.finish()
