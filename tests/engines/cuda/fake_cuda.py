# ruff: noqa: N802, N815 - the names are CUDA's
"""GPUs made of NumPy arrays, behind the functions of `cuda.bindings` that we call.

Streams are as lazy as they may be: what is given to one is done when somebody waits for it, so
that what is not ordered by streams and events is seen in the wrong order. Each thread has its
current context, and streams and events are of the one they were made in. What would be undefined on
a real GPU is written down in `violations`.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engines.cuda.fake_device import (
    Capture,
    FakeDevice,
    FakeEvent,
    LazyStream,
    RefusedError,
    Status,
    runtime,
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
                    self.begin(name)
                result = function(self, *arguments)
            except RefusedError as refused:
                return refused.status, None
            return Status.cudaSuccess, *(result if isinstance(result, tuple) else (result,))

    return call


class FakeCuda(FakeDevice):
    cudaError_t = Status
    cudaDeviceAttr = runtime.cudaDeviceAttr
    cudaMemcpyKind = runtime.cudaMemcpyKind
    cudaMemoryType = runtime.cudaMemoryType
    cudaStreamCaptureMode = runtime.cudaStreamCaptureMode
    cudaStreamCaptureStatus = runtime.cudaStreamCaptureStatus
    cudaStreamNonBlocking = runtime.cudaStreamNonBlocking
    cudaEventDisableTiming = runtime.cudaEventDisableTiming

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
    def cuCtxGetCurrent(self) -> int:
        return self.context

    @api
    def cuCtxSetCurrent(self, context: int) -> None:
        self.context = context

    @api
    def cudaDeviceGetAttribute(self, attribute: Any, _device: int) -> int:
        assert attribute == self.cudaDeviceAttr.cudaDevAttrTextureAlignment
        return 512

    @api
    def cudaDeviceSynchronize(self) -> None:
        for capture in self._captures():  # of any thread, in any mode
            capture.broken = True
            raise RefusedError(Status.cudaErrorStreamCaptureUnsupported)
        self._finish_everything()

    @api
    def cudaGetDeviceProperties(self, _device: int) -> Any:
        return SimpleNamespace(name=b"Fake GPU", major=9, minor=0, totalGlobalMem=self.memory)

    @api
    def cudaGetErrorName(self, status: Any) -> bytes:
        return str(status.name).encode()

    @api
    def cudaGetErrorString(self, status: Any) -> bytes:
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
        if self.device:
            self.devices[address] = self.device
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
    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: Any, stream: int) -> None:
        if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice:
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
            self._stream(stream).finish()

    @api
    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        def fill() -> None:
            self.read(address, size)[:] = value

        self.give(stream, fill)

    @api
    def cudaPointerGetAttributes(self, address: int) -> Any:
        for start, block in self.blocks.items():
            if start <= address < start + block.size:
                kind = self.cudaMemoryType.cudaMemoryTypeDevice
                return SimpleNamespace(type=kind, device=self.devices.get(start, 0))
        return SimpleNamespace(type=self.cudaMemoryType.cudaMemoryTypeUnregistered, device=-2)

    @api
    def cudaStreamCreateWithFlags(self, _flags: int) -> int:
        self._next += 0x1000
        self.streams[self._next] = LazyStream(self._made_in())
        return self._next

    @api
    def cudaStreamDestroy(self, stream: int) -> None:
        self._stream(stream).finish()
        del self.streams[stream]

    @api
    def cudaStreamSynchronize(self, stream: int) -> None:
        found = self._stream(stream)
        if found.capture:
            found.capture.broken = True
            raise RefusedError(Status.cudaErrorStreamCaptureUnsupported)
        found.finish()

    @api
    def cudaEventCreateWithFlags(self, _flags: int) -> int:
        self._next += 0x1000
        self.events[self._next] = FakeEvent(self._made_in())
        return self._next

    @api
    def cudaEventDestroy(self, event: int) -> None:
        del self.events[event]

    @api
    def cudaEventRecord(self, event: int, stream: int) -> None:
        found, at = self._stream(stream), self.events[event]
        if at.context != found.context:
            raise RefusedError(Status.cudaErrorInvalidResourceHandle)
        at.point, at.capture = (found, len(found.work)), found.capture

    @api
    def cudaStreamWaitEvent(self, stream: int, event: int, _flags: int) -> None:
        at = self.events[event]
        if at.capture:  # the stream is drawn into it
            self._stream(stream).capture = at.capture
        elif at.point is not None:
            before, until = at.point
            self.give(stream, lambda: before.finish(until))

    @api
    def cudaStreamIsCapturing(self, stream: int) -> Any:
        capture = self._stream(stream).capture
        return self.cudaStreamCaptureStatus(0 if capture is None else 1 + capture.broken)

    @api
    def cudaStreamBeginCapture(self, stream: int, _mode: Any) -> None:
        found = self._stream(stream)
        found.capture = Capture(found, threading.get_ident())

    @api
    def cudaStreamEndCapture(self, stream: int) -> int:
        found = self._stream(stream)
        capture = found.capture
        if capture is None or capture.origin is not found:
            raise RefusedError(Status.cudaErrorInvalidValue)
        if self._end(capture):
            raise RefusedError(Status.cudaErrorStreamCaptureUnjoined)
        if capture.broken:
            raise RefusedError(Status.cudaErrorStreamCaptureInvalidated)
        self._next += 0x1000
        self.graphs[self._next] = capture.work
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
        found = self._stream(stream)
        self.launched[executable] = (found, len(found.work))

    @api
    def cudaGraphExecDestroy(self, executable: int) -> None:
        if executable in self.launched:
            stream, until = self.launched.pop(executable)
            if stream.done < until:
                self.violations.append("a graph was destroyed before its work was done")
        del self.executables[executable]


def _host(address: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
