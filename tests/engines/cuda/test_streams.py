import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pconv_deploy.engines.backends.tensorrt.cuda.memory import DeviceMemory, frees_postponed
from pconv_deploy.engines.backends.tensorrt.cuda.streams import (
    Graph,
    Stream,
    on_device,
    stream_handle,
)
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import UsageError
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_device import Status


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


def test_a_context_of_the_callers_own_is_current_again(gpu: FakeCuda, cuda: Cuda) -> None:
    own = gpu.make_context(1)
    with on_device(cuda, 1):
        assert gpu.context == own
    with on_device(cuda, 0):
        assert gpu.device == 0
    assert gpu.context == own


def test_what_was_postponed_is_freed_after_an_error_too(gpu: FakeCuda, cuda: Cuda) -> None:
    memory = DeviceMemory(cuda, 100)

    def fails() -> None:
        with frees_postponed():
            memory.close()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert gpu.left() == {}
