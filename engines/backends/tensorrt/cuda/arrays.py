"""Arrays on the GPU: other people's, looked at without a copy, and our own."""

import contextlib
import math
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.engines.backends.tensorrt.cuda import dlpack
from pconv_deploy.engines.backends.tensorrt.cuda.dlpack import View
from pconv_deploy.engines.backends.tensorrt.cuda.memory import ALLOCATION_ALIGNMENT, DeviceMemory
from pconv_deploy.engines.backends.tensorrt.cuda.streams import (
    LEGACY_STREAM,
    Event,
    on_device,
    stream_handle,
)
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import InputError

_STREAMS_SINCE = 3  # the version of __cuda_array_interface__ that tells of the producer's stream
_NO_WAITING = -1  # DLPack's word of a consumer who sees to it himself


class DeviceArray:
    """An array on the GPU, in C order; PyTorch, CuPy, JAX and others take it without a copy.

    It owns its memory, which is freed with it. It may still be being written: then it lets its
    readers wait, by an event of its own, as whoever's stream it was may be gone by then.

    shape, dtype  of its elements
    device        number of its GPU
    """

    def __init__(
        self, cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any], device: int
    ) -> None:
        """Allocate it; `device` is the one that is current."""
        self.shape, self.dtype, self.device = shape, dtype, device
        self._cuda = cuda
        # At the interpreter's end the driver frees what is left.
        self._memory = DeviceMemory(cuda, math.prod(shape) * dtype.itemsize)
        weakref.finalize(self, self._memory.close).atexit = False
        self._written = Event(cuda)
        weakref.finalize(self, self._written.close).atexit = False
        self._in_flight = False

    @property
    def address(self) -> int:
        """Of its first element, on the GPU."""
        return self._memory.address

    def written_by(self, stream: int | None) -> None:
        """Let its readers wait for what a stream has been given so far; None: it is written."""
        if stream is not None:
            self._written.record(stream)
        self._in_flight = stream is not None

    def seen_by(self, reader: int) -> View:
        """What `view` says of it; the stream that will read or write it waits."""
        self._make_wait(reader)
        return View(self.address, self.shape, self.dtype, strides=None)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._make_wait(LEGACY_STREAM)  # a stream that is never gone
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": LEGACY_STREAM if self._in_flight else None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Hand it over; the consumer's stream waits until it is written.

        Raises:
            BufferError: a copy is wanted, or memory of another device.
        """
        here = self.__dlpack_device__()
        if copy or (dl_device is not None and tuple(dl_device) != here):
            raise BufferError(
                f"an array of an engine is handed over as it is, on GPU {self.device}; it makes no "
                "copies. Take it, then copy it"
            )
        if stream != _NO_WAITING:
            self._make_wait(LEGACY_STREAM if stream is None else stream_handle(stream))
        return dlpack.capsule(self, self.address, self.shape, self.dtype, here)

    def to_host(self) -> NDArray[Any]:
        """Wait until it is written, and copy it."""
        host = np.empty(self.shape, self.dtype)
        with on_device(self._cuda, self.device):
            self._make_wait(LEGACY_STREAM)
            copy_to_host(self._cuda, host, self.address, LEGACY_STREAM)
            self._cuda.call("cudaStreamSynchronize", LEGACY_STREAM)
        return host

    def _make_wait(self, reader: int) -> None:
        if self._in_flight:
            with on_device(self._cuda, self.device):
                self._written.make_wait(reader)


def copy_to_host(cuda: Cuda, host: NDArray[Any], address: int, stream: int) -> None:
    """Give a stream the copy from the GPU into an array in C order."""
    kind = cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
    cuda.call("cudaMemcpyAsync", host.ctypes.data, address, host.nbytes, kind, stream)


def copy_to_device(cuda: Cuda, address: int, host: NDArray[Any], stream: int) -> None:
    """Give a stream the copy of an array in C order to the GPU."""
    kind = cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    cuda.call("cudaMemcpyAsync", address, host.ctypes.data, host.nbytes, kind, stream)


def view(array: Any, name: str, reader: int) -> View:
    """Look at an array that offers `__cuda_array_interface__` or DLPack.

    Args:
        array: anyone's.
        name: of the tensor, for messages.
        reader: the stream that will read or write it. DLPack's producers make it wait by
            themselves; for the other interface see `View.stream`.

    Raises:
        InputError: it is not on a GPU, or its library refuses to hand it over.
    """
    if isinstance(array, DeviceArray):
        return array.seen_by(reader)
    with _handing_over(name):
        interface = getattr(array, "__cuda_array_interface__", None)
    # PyTorch tells its stream by DLPack alone.
    if interface is not None and ("stream" in interface or not hasattr(array, "__dlpack__")):
        return _from_interface(interface, name)
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise InputError(
            f"found {name} as {type(array).__name__}; needed an array on the GPU that offers "
            "__cuda_array_interface__ or __dlpack__ (PyTorch, CuPy, pycuda, JAX)"
        )
    kind, _ = array.__dlpack_device__()
    if int(kind) not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
        raise InputError(
            f"found {name} ({type(array).__name__}) in the memory of another device (DLPack's "
            f"device type {int(kind)}); needed an array on the GPU"
        )
    with _handing_over(name):
        return dlpack.describe(array.__dlpack__(stream=reader))


@contextlib.contextmanager
def _handing_over(name: str) -> Iterator[None]:
    """Each library refuses in its own way, such as a tensor that needs its gradient."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{name} cannot be handed over: {error}") from error


def _from_interface(interface: Mapping[str, Any], name: str) -> View:
    if interface.get("mask") is not None:
        raise InputError(f"found {name} with a mask of its own; needed a plain array")
    address, readonly = interface["data"]
    stream = interface.get("stream")
    if stream == 0:
        raise InputError(
            f"found {name} with stream 0, which __cuda_array_interface__ forbids: "
            "1 is the legacy default stream, 2 the one of each thread"
        )
    strides = interface.get("strides")
    return View(
        int(address or 0),
        tuple(interface["shape"]),
        np.dtype(interface["typestr"]),
        tuple(strides) if strides is not None else None,
        bool(readonly),
        int(stream) if stream is not None else None,
    )


def check_fits(
    cuda: Cuda, found: View, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], device: int
) -> None:
    """Check that an array is what the engine takes.

    Raises:
        InputError: another type, another shape, gaps between its elements, an address in the
            middle of things, or another device.
    """
    if found.dtype != dtype:
        raise InputError(f"found {name} of {found.dtype}; needed {dtype}")
    if found.shape != shape:
        raise InputError(f"found {name} of shape {list(found.shape)}; needed {list(shape)}")
    if found.strides is not None and not _in_c_order(found.strides, shape, dtype.itemsize):
        raise InputError(
            f"found {name} with strides {list(found.strides)}; needed it contiguous, in C order. "
            "Make a contiguous copy of it"
        )
    where = cuda.call("cudaPointerGetAttributes", found.address)
    types = cuda.runtime.cudaMemoryType
    if where.type not in (types.cudaMemoryTypeDevice, types.cudaMemoryTypeManaged):
        raise InputError(f"found {name} in the host's memory; needed it on GPU {device}")
    if where.device != device:
        raise InputError(f"found {name} on GPU {where.device}; the engine is on GPU {device}")
    # Kernels read many bytes at once; one that is misaligned ends every later call of the process.
    if beyond := found.address % ALLOCATION_ALIGNMENT:
        raise InputError(
            f"found {name} {beyond} bytes behind a multiple of {ALLOCATION_ALIGNMENT}; needed an "
            "address as allocations have it. Make a copy of it"
        )


def _in_c_order(strides: tuple[int, ...], shape: tuple[int, ...], itemsize: int) -> bool:
    step = itemsize
    for stride, count in zip(reversed(strides), reversed(shape), strict=True):
        if count != 1 and stride != step:
            return False
        step *= count
    return True
