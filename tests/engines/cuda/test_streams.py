import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pconv_deploy.engines.backends.tensorrt.cuda.memory import (
    DeviceMemory,
    PinnedMemory,
    frees_postponed,
)
from pconv_deploy.engines.backends.tensorrt.cuda.streams import (
    Event,
    Graph,
    Stream,
    on_device,
    refuse_capturing,
    stream_handle,
)
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import EngineError, UsageError
from tests.engines.cuda.cuda_names import Status
from tests.engines.cuda.fake_cuda import FakeCuda


def test_memory_is_freed_once(gpu: FakeCuda, cuda: Cuda) -> None:
    for owned in (DeviceMemory(cuda, 100), PinnedMemory(cuda, 100), DeviceMemory(cuda, 0)):
        owned.close()
        owned.close()
    assert gpu.left() == {}


def test_pinned_memory_is_a_numpy_array(gpu: FakeCuda, cuda: Cuda) -> None:
    pinned = PinnedMemory(cuda, 16)
    pinned.bytes[:] = np.arange(16)
    (address,) = gpu.pinned
    assert ctypes.string_at(address, 16) == bytes(range(16))
    pinned.close()
    assert pinned.bytes.size == 0


def test_what_cannot_be_freed_is_logged(
    gpu: FakeCuda, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = DeviceMemory(cuda, 100)
    monkeypatch.setattr(gpu, "cudaFree", lambda _address: (Status.cudaErrorUnknown, None))
    with caplog.at_level(logging.WARNING):
        memory.close()
    assert "cudaFree failed: cudaErrorUnknown" in caplog.text


def test_nothing_is_freed_while_a_graph_is_captured(gpu: FakeCuda, cuda: Cuda) -> None:
    memory, stream = DeviceMemory(cuda, 100), Stream(cuda)
    graph = Graph(cuda, stream.handle, memory.close)  # what a garbage collector may do
    assert gpu.left() == {"streams": 1, "executables": 1}
    graph.close()
    graph.close()
    stream.close()
    stream.close()
    assert gpu.left() == {}


def test_a_failed_capture_leaves_the_stream_usable(gpu: FakeCuda, cuda: Cuda) -> None:
    stream = Stream(cuda)

    def fails() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        Graph(cuda, stream.handle, fails)
    with pytest.raises(EngineError, match="cudaErrorStreamCaptureUnsupported"):
        Graph(cuda, stream.handle, lambda: cuda.call("cudaMalloc", 1))
    refuse_capturing(cuda, stream.handle)
    graph = Graph(cuda, stream.handle, lambda: None)
    graph.close()
    stream.close()
    assert gpu.left() == {}


def test_a_stream_that_is_being_captured_is_refused(gpu: FakeCuda, cuda: Cuda) -> None:
    stream = Stream(cuda)
    gpu.cudaStreamBeginCapture(stream.handle, 1)
    with pytest.raises(UsageError, match="being captured"):
        refuse_capturing(cuda, stream.handle)


def test_events_order_streams(gpu: FakeCuda, cuda: Cuda) -> None:
    first, second, event = Stream(cuda), Stream(cuda), Event(cuda)
    seen: list[int] = []
    gpu.give(first.handle, lambda: seen.append(1))
    event.record(first.handle)
    event.make_wait(second.handle)
    gpu.give(second.handle, lambda: seen.append(2))
    cuda.call("cudaStreamSynchronize", second.handle)
    assert seen == [1, 2]


class Spoken:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 77


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (77, 77),
        (np.int64(77), 77),
        (0, 1),
        (SimpleNamespace(cuda_stream=0), 1),  # PyTorch's default stream
        (SimpleNamespace(cuda_stream=77), 77),
        (SimpleNamespace(ptr=77), 77),
        (SimpleNamespace(handle=77), 77),
        (SimpleNamespace(__cuda_stream__=(0, 77)), 77),
        (Spoken(), 77),
    ],
)
def test_everyones_streams_have_a_handle(stream: Any, handle: int) -> None:
    assert stream_handle(stream) == handle


@pytest.mark.parametrize("stream", ["1", True, -1, 1.0, object(), SimpleNamespace(ptr="x")])
def test_what_is_no_stream_is_refused(stream: Any) -> None:
    with pytest.raises(UsageError, match="as a stream; needed a CUDA stream of PyTorch"):
        stream_handle(stream)


def test_the_device_is_changed_only_where_it_must_be(gpu: FakeCuda, cuda: Cuda) -> None:
    with on_device(cuda, 0):
        assert gpu.calls["cudaSetDevice"] == 0
    with on_device(cuda, 1):
        assert gpu.device == 1
    assert gpu.device == 0


def test_a_context_of_the_callers_own_is_current_again(gpu: FakeCuda, cuda: Cuda) -> None:
    own = gpu.make_context(1)
    with on_device(cuda, 1):
        assert gpu.context == own
    with on_device(cuda, 0):
        assert gpu.device == 0
    assert gpu.context == own


def test_another_thread_that_waits_for_the_gpu_spoils_a_capture(gpu: FakeCuda, cuda: Cuda) -> None:
    stream = Stream(cuda)

    def meanwhile() -> None:
        with ThreadPoolExecutor(1) as threads:
            status, *_ = threads.submit(gpu.cudaDeviceSynchronize).result(10)
        assert status == Status.cudaErrorStreamCaptureUnsupported

    with pytest.raises(EngineError, match="cudaErrorStreamCaptureInvalidated"):
        Graph(cuda, stream.handle, meanwhile)
    Graph(cuda, stream.handle, lambda: None).close()


def test_memory_may_be_aligned_to_more_than_cuda_promises(gpu: FakeCuda, cuda: Cuda) -> None:
    for alignment in (256, 512, 4096):
        memory = DeviceMemory(cuda, 1000, alignment)
        assert memory.address % alignment == 0
        gpu.read(memory.address, 1000)
        memory.close()
    assert gpu.left() == {}


def test_what_was_postponed_is_freed_after_an_error_too(gpu: FakeCuda, cuda: Cuda) -> None:
    memory = DeviceMemory(cuda, 100)

    def fails() -> None:
        with frees_postponed():
            memory.close()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert gpu.left() == {}
