# ruff: noqa: N802, N815 - the names are CUDA's
"""A GPU made of NumPy arrays, behind the functions of `cuda.bindings.runtime` that we call.

Streams are as lazy as they may be: what is given to one is done when somebody waits for it, so
that what is not ordered by streams and events is seen in the wrong order. What would be undefined
on a real GPU is written down in `violations`.
"""

import ctypes
import enum
import functools
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], None]


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorUnknown = 999


class MemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class Capturing(enum.IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1


class Copy(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


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


# What frees may not fail in these tests, and what a capturing thread may not call.
FREEING = frozenset(
    [
        "cudaFree",
        "cudaFreeHost",
        "cudaStreamDestroy",
        "cudaEventDestroy",
        "cudaGraphDestroy",
        "cudaGraphExecDestroy",
    ]
)
_NOT_WHILE_CAPTURING = frozenset(
    [
        "cudaMalloc",
        "cudaHostAlloc",
        "cudaFree",
        "cudaFreeHost",
        "cudaStreamSynchronize",
        "cudaEventSynchronize",
    ]
)
_QUIET = ("cudaGetErrorName", "cudaGetErrorString")


def api(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Count a call, fail it if that was asked for, and return (status, result) as CUDA does."""
    name = function.__name__

    @functools.wraps(function)
    def call(self: "FakeCuda", *arguments: Any) -> tuple[Any, ...]:
        with self.lock:
            try:
                if name not in _QUIET:
                    self._begin(name)
                result = function(self, *arguments)
            except RefusedError as refused:
                return refused.status, None
            return Status.cudaSuccess, *(result if isinstance(result, tuple) else (result,))

    return call


class FakeCuda:
    cudaError_t = Status
    cudaMemcpyKind = Copy
    cudaMemoryType = MemoryType
    cudaStreamCaptureMode = CaptureMode
    cudaStreamCaptureStatus = Capturing
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

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

    # What we call.

    @api
    def cudaDriverGetVersion(self) -> int:
        return 13000

    @api
    def cudaRuntimeGetVersion(self) -> int:
        return 13000

    @api
    def cudaGetDeviceCount(self) -> int:
        return 2

    @api
    def cudaGetDevice(self) -> int:
        return self.device

    @api
    def cudaSetDevice(self, device: int) -> None:
        self.device = device

    @api
    def cudaGetDeviceProperties(self, _device: int) -> Any:
        return SimpleNamespace(name=b"Fake GPU", major=9, minor=0, totalGlobalMem=self.memory)

    @api
    def cudaGetErrorName(self, status: Status) -> bytes:
        return status.name.encode()

    @api
    def cudaGetErrorString(self, status: Status) -> bytes:
        return f"words for {int(status)}".encode()

    @api
    def cudaMemGetInfo(self) -> tuple[int, int]:
        return self._free(), self.memory

    @api
    def cudaMalloc(self, size: int) -> int:
        if size > self._free():
            raise RefusedError(Status.cudaErrorMemoryAllocation)
        address = self._next
        self._next += (size + 0x1FFF) & ~0xFFF  # a gap after each, which nobody owns
        self.blocks[address] = np.full(size, 0xCD, np.uint8)
        return address

    @api
    def cudaFree(self, address: int) -> None:
        self._finish_everything()
        if self.blocks.pop(address, None) is None:
            self.violations.append(f"cudaFree of {address:#x}, which is not allocated")

    @api
    def cudaHostAlloc(self, size: int, _flags: int) -> int:
        block = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(block)
        self.pinned[address] = block
        return address

    @api
    def cudaFreeHost(self, address: int) -> None:
        self._finish_everything()
        block = self.pinned.pop(address)
        ctypes.memset(address, 0xDD, len(block))  # whoever still reads it shall see it

    @api
    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: Copy, stream: int) -> None:
        if kind == Copy.cudaMemcpyHostToDevice:
            if self._is_pinned(of, size):
                self.give(stream, lambda: self.write(to, _host(of, size)))
            else:  # CUDA reads pageable memory before it returns
                content = _host(of, size).copy()
                self.give(stream, lambda: self.write(to, content))
            return

        def fetch() -> None:
            _host(to, size)[:] = self.read(of, size)

        self.give(stream, fetch)
        if not self._is_pinned(to, size):  # CUDA has written pageable memory when it returns
            self._finish(stream)

    @api
    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        def fill() -> None:
            self.read(address, size)[:] = value

        self.give(stream, fill)

    @api
    def cudaPointerGetAttributes(self, address: int) -> Any:
        for start, block in self.blocks.items():
            if start <= address < start + block.size:
                kind = MemoryType.cudaMemoryTypeDevice
                return SimpleNamespace(type=kind, device=self.devices.get(start, 0))
        return SimpleNamespace(type=MemoryType.cudaMemoryTypeUnregistered, device=-2)

    @api
    def cudaStreamCreateWithFlags(self, _flags: int) -> int:
        self._next += 0x1000
        self.streams[self._next] = LazyStream()
        return self._next

    @api
    def cudaStreamDestroy(self, stream: int) -> None:
        self._finish(stream)
        del self.streams[stream]

    @api
    def cudaStreamSynchronize(self, stream: int) -> None:
        self._finish(stream)

    @api
    def cudaEventCreateWithFlags(self, _flags: int) -> int:
        self._next += 0x1000
        self.events[self._next] = None
        return self._next

    @api
    def cudaEventDestroy(self, event: int) -> None:
        del self.events[event]

    @api
    def cudaEventRecord(self, event: int, stream: int) -> None:
        self.events[event] = (stream, len(self._stream(stream).work))

    @api
    def cudaStreamWaitEvent(self, stream: int, event: int, _flags: int) -> None:
        point = self.events[event]
        if point is not None:
            self.give(stream, lambda: self._finish(*point))

    @api
    def cudaEventSynchronize(self, event: int) -> None:
        point = self.events[event]
        if point is not None:
            self._finish(*point)

    @api
    def cudaStreamIsCapturing(self, stream: int) -> Capturing:
        return Capturing(self.is_capturing(stream))

    @api
    def cudaStreamBeginCapture(self, stream: int, _mode: CaptureMode) -> None:
        found = self._stream(stream)
        found.capture, found.captured_by, found.broken = [], threading.get_ident(), False

    @api
    def cudaStreamEndCapture(self, stream: int) -> int:
        found = self._stream(stream)
        work, found.capture, found.captured_by = found.capture, None, None
        if work is None or found.broken:
            raise RefusedError(Status.cudaErrorStreamCaptureInvalidated)
        self._next += 0x1000
        self.graphs[self._next] = work
        return self._next

    @api
    def cudaGraphInstantiate(self, graph: int, _flags: int) -> int:
        self._next += 0x1000
        self.executables[self._next] = self.graphs[graph]
        return self._next

    @api
    def cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    @api
    def cudaGraphLaunch(self, executable: int, stream: int) -> None:
        for work in () if self.graphs_do_nothing else self.executables[executable]:
            self.give(stream, work)
        self.launched[executable] = (stream, len(self._stream(stream).work))

    @api
    def cudaGraphExecDestroy(self, executable: int) -> None:
        stream, until = self.launched.pop(executable, (1, 0))
        if self._stream(stream).done < until:
            self.violations.append("a graph was destroyed before its work was done")
        del self.executables[executable]

    # How it does that.

    def _begin(self, name: str) -> None:
        self.calls[name] += 1
        for stream in self.streams.values():
            if stream.captured_by == threading.get_ident() and name in _NOT_WHILE_CAPTURING:
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


def _host(address: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
