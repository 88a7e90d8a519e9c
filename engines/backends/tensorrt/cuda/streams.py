"""Streams, what orders them, and graphs captured on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pconv_deploy.engines.backends.tensorrt.cuda.memory import frees_postponed, release
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import UsageError

# By this handle everyone names the default stream of a context. As a bare 0 means that one or the
# default stream of a thread, depending on who reads it, it is not passed on.
LEGACY_STREAM = 1
# Where other packages keep the handle of theirs: PyTorch, CuPy, pycuda.
_HANDLES = ("cuda_stream", "ptr", "handle")


class Stream:
    """A stream of our own, which does not wait for the legacy default stream."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.call("cudaStreamCreateWithFlags", cuda.runtime.cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def close(self) -> None:
        """Destroy it; a second call does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            release(self._cuda, "cudaStreamDestroy", stream)


class Event:
    """A point in a stream that others can wait for."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._event = cuda.call("cudaEventCreateWithFlags", cuda.runtime.cudaEventDisableTiming)

    def record(self, stream: int) -> None:
        """Stand for all that the stream has been given so far."""
        self._cuda.call("cudaEventRecord", self._event, stream)

    def make_wait(self, stream: int) -> None:
        """Let a stream go on only after what was recorded; nobody waits here."""
        self._cuda.call("cudaStreamWaitEvent", stream, self._event, 0)

    def close(self) -> None:
        """Destroy it; a second call does nothing."""
        event, self._event = self._event, None
        if event is not None:
            release(self._cuda, "cudaEventDestroy", event)


class Graph:
    """Work captured once, launched as a whole from then on."""

    def __init__(self, cuda: Cuda, stream: int, enqueue: Callable[[], None]) -> None:
        """Capture what `enqueue` gives to a stream of ours.

        Raises:
            EngineError: it cannot be captured; the stream can be used again.
        """
        self._cuda = cuda
        graph = _capture(cuda, stream, enqueue)
        try:
            self._executable = cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            release(cuda, "cudaGraphDestroy", graph)

    def launch(self, stream: int) -> None:
        """Give it to a stream."""
        self._cuda.call("cudaGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Destroy it; a second call does nothing."""
        executable, self._executable = self._executable, None
        if executable is not None:
            release(self._cuda, "cudaGraphExecDestroy", executable)


def _capture(cuda: Cuda, stream: int, enqueue: Callable[[], None]) -> Any:
    # Thread-local: other threads go on allocating and waiting meanwhile.
    mode = cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    with frees_postponed():
        cuda.call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            status, graph = cuda.attempt("cudaStreamEndCapture", stream)  # frees the stream again
            if status == cuda.runtime.cudaError_t.cudaSuccess:
                release(cuda, "cudaGraphDestroy", graph)
            raise
        return cuda.call("cudaStreamEndCapture", stream)


def stream_handle(stream: Any) -> int:
    """The handle of anyone's stream, as an integer.

    Args:
        stream: an integer; a stream of PyTorch, CuPy, pycuda or cuda-python; or any object that
            offers `__cuda_stream__`. 0 is the legacy default stream.

    Raises:
        UsageError: it is none of these.
    """
    if hasattr(stream, "__cuda_stream__"):
        offered = stream.__cuda_stream__
        handle = (offered() if callable(offered) else offered)[1]
    else:
        handle = next((getattr(stream, n) for n in _HANDLES if hasattr(stream, n)), stream)
    try:
        number = int(handle)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(handle, bool | str | float):
        raise UsageError(
            f"found {stream!r} as a stream; needed a CUDA stream of PyTorch, CuPy, pycuda or "
            "cuda-python, or its handle as an integer"
        )
    return number or LEGACY_STREAM


def refuse_capturing(cuda: Cuda, stream: int) -> None:
    """Refuse a stream that its owner is capturing.

    Raises:
        UsageError: it is; a graph would take what belongs to the next call.
    """
    status = cuda.call("cudaStreamIsCapturing", stream)
    if status != cuda.runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone:
        raise UsageError(
            "found a stream that is being captured into a CUDA graph; the engine captures its "
            "own graphs and shares its memory between calls. Call it outside of the capture"
        )


@contextmanager
def on_device(cuda: Cuda, device: int) -> Iterator[None]:
    """Let CUDA calls of this thread go to a device for a while.

    Where they go there already nothing is touched, so that a caller's own context, as pycuda
    makes one, stays current; elsewhere it is current again afterwards.
    """
    before = cuda.call("cudaGetDevice")
    if before == device:
        yield
        return
    context = cuda.call("cuCtxGetCurrent")
    cuda.call("cudaSetDevice", device)
    try:
        yield
    finally:
        if int(context):
            cuda.call("cuCtxSetCurrent", context)
        else:  # the thread has chosen a device at most, and used none
            cuda.call("cudaSetDevice", before)
