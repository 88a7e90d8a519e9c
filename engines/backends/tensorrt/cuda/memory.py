"""Memory of the GPU, and memory of the host that the GPU reads and writes by itself.

Whoever makes a block owns it and closes it; nothing else frees it.
"""

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.engines.cuda.calls import Cuda

_LOG = logging.getLogger(__name__)
_thread = threading.local()

# What CUDA promises of the address of whatever it allocates, in bytes.
ALLOCATION_ALIGNMENT = 256


class DeviceMemory:
    """A block of the GPU's memory.

    address  a multiple of `alignment`; 0 once closed
    """

    def __init__(self, cuda: Cuda, size: int, alignment: int = ALLOCATION_ALIGNMENT) -> None:
        self._cuda = cuda
        spare = max(0, alignment - ALLOCATION_ALIGNMENT)
        self._block = cuda.allocate("cudaMalloc", max(size, 1) + spare)
        self.address = -(-self._block // alignment) * alignment

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        block, self._block, self.address = self._block, 0, 0
        if block:
            release(self._cuda, "cudaFree", block)


class PinnedMemory:
    """A block of the host's memory that stays where it is, as bytes of a NumPy array.

    bytes  (size,) uint8; empty once closed, and any other view of it is then invalid
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self._address = cuda.allocate("cudaHostAlloc", max(size, 1), 0)
        block = (ctypes.c_uint8 * size).from_address(self._address)
        self.bytes: NDArray[np.uint8] = np.frombuffer(memoryview(block), np.uint8)

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        address, self._address = self._address, 0
        if address:
            self.bytes = np.empty(0, np.uint8)
            release(self._cuda, "cudaFreeHost", address)


def release(cuda: Cuda, function: str, handle: Any) -> None:
    """Free something; a failure is logged, as what follows must be freed nonetheless.

    While this thread captures a graph CUDA forbids it; then it is done when the capture ends. So
    an array that the garbage collector happens to find then does no harm.
    """
    postponed = getattr(_thread, "postponed", None)
    if postponed is not None:
        postponed.append((cuda, function, handle))
        return
    status, _ = cuda.attempt(function, handle)
    if status != cuda.runtime.cudaError_t.cudaSuccess:
        _LOG.warning("%s failed: %s", function, cuda.describe(status))


@contextmanager
def frees_postponed() -> Iterator[None]:
    """Postpone what this thread frees until the end of the block."""
    _thread.postponed = []
    try:
        yield
    finally:
        postponed, _thread.postponed = _thread.postponed, None
        for cuda, function, handle in postponed:
            release(cuda, function, handle)
