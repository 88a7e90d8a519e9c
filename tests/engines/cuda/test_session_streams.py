"""Order: of the caller's streams, the session's and those that arrays come by."""

import functools
import threading
from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.errors import EngineError, UsageError
from tests.engines.cuda.device_arrays import SHAPE, CudaArray, DlpackArray, on_gpu, target
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_device import Status
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, FakeTensorRt, filled, images

LEGACY = 1


@pytest.fixture
def stream(gpu: FakeCuda) -> int:
    """The caller's."""
    _, handle = gpu.cudaStreamCreateWithFlags(1)
    return int(handle)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_callers_stream_is_followed_and_held_back(
    gpu: FakeCuda, session: TensorRtSession, stream: int, legacy: bool
) -> None:
    callers: Any = 0 if legacy else stream
    theirs = LEGACY if legacy else stream
    inputs, expected = on_gpu(gpu, late_on=theirs)
    found = session.run_on_device(inputs, stream=callers)[FILLED]
    assert gpu.calls["cudaStreamSynchronize"] == 0  # nobody waited
    gpu.cudaStreamSynchronize(theirs)
    np.testing.assert_array_equal(gpu.read(found.address, expected.size), expected.ravel())


def test_one_of_the_inputs_may_be_in_flight_on_a_stream_of_its_own(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    inputs, expected = on_gpu(gpu, late_on=stream)
    for array in inputs.values():
        array.more = {"stream": stream}
    np.testing.assert_array_equal(session.run_on_device(inputs)[FILLED].to_host(), expected)


def test_dlpacks_producers_order_their_streams_themselves(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    inputs, expected = on_gpu(gpu, DlpackArray, late_on=stream)
    for array in inputs.values():
        array.writes_on = stream
    np.testing.assert_array_equal(session.run_on_device(inputs)[FILLED].to_host(), expected)


def test_the_fake_would_show_a_missing_order(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    inputs, expected = on_gpu(gpu, late_on=stream)
    found = session.run_on_device(inputs)[FILLED].to_host()
    assert not np.array_equal(found, expected)


def test_calls_in_flight_do_not_disturb_each_other(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    calls = []
    for seed in range(6):
        inputs, expected = on_gpu(gpu, seed=seed, late_on=stream)
        calls.append((session.run_on_device(inputs, stream=stream)[FILLED], expected, inputs))
    for seed in range(6, 9):  # host arrays go through buffers of the worker's
        inputs_here = images(SHAPE, seed)
        expected = filled(inputs_here[IMAGE], inputs_here[HOLE_MASK])
        found = session.run_on_device(inputs_here, stream=stream)[FILLED]
        calls.append((found, expected, {}))
    for found, expected, _ in calls:
        np.testing.assert_array_equal(found.to_host(), expected)


@pytest.mark.parametrize("warm", [False, True])
def test_a_call_with_a_stream_waits_for_nothing(
    gpu: FakeCuda, session: TensorRtSession, stream: int, warm: bool
) -> None:
    """So that it may wait for what the same thread does later."""
    out = target(gpu)
    inputs, _ = on_gpu(gpu)
    if warm:
        session.run_on_device(inputs, outputs={FILLED: out})
    waited = gpu.calls["cudaStreamSynchronize"]
    gate = threading.Event()

    def pass_the_gate() -> None:
        assert gate.is_set()

    gpu.give(stream, pass_the_gate)
    for seed in range(4):
        again = images(SHAPE, seed)
        for name, array in inputs.items():
            gpu.give(stream, functools.partial(gpu.write, array.address, again[name]))
        session.run_on_device(inputs, stream=stream, outputs={FILLED: out})
    assert gpu.calls["cudaStreamSynchronize"] == waited
    assert session.runs_by_graph == (4 if warm else 0)
    gate.set()
    gpu.cudaStreamSynchronize(stream)
    np.testing.assert_array_equal(out.get(), filled(again[IMAGE], again[HOLE_MASK]))


def test_without_a_stream_the_legacy_one_is_followed(
    gpu: FakeCuda, session: TensorRtSession
) -> None:
    """pycuda's arrays, for instance, say nothing of who writes them."""
    inputs, expected = on_gpu(gpu, late_on=LEGACY)
    np.testing.assert_array_equal(session.run_on_device(inputs)[FILLED].to_host(), expected)


def test_results_do_not_need_the_stream_they_were_made_on(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    inputs, expected = on_gpu(gpu, late_on=stream)
    found = session.run_on_device(inputs, stream=stream)[FILLED]
    gpu.cudaStreamDestroy(stream)
    again = session.run_on_device({**inputs, IMAGE: found}, stream=LEGACY)[FILLED]
    session.close()
    np.testing.assert_array_equal(found.to_host(), expected)
    np.testing.assert_array_equal(again.to_host(), images(SHAPE)[IMAGE])  # inverted twice
    assert found.__cuda_array_interface__["stream"] == LEGACY
    found.__dlpack__(stream=2)


def test_an_engine_on_another_gpu_serves_a_thread_of_this_one(gpu: FakeCuda) -> None:
    gpu.device = 1
    library = FakeTensorRt(gpu, SMALL, LARGE)
    session = TensorRtSession(library, PLAN)  # type: ignore[arg-type]
    inputs, expected = on_gpu(gpu)
    _, stream = gpu.cudaStreamCreateWithFlags(1)
    own = gpu.make_context(0)  # of the caller's own, as pycuda makes one
    found = session.run_on_device(inputs, stream=stream)[FILLED]
    found.__dlpack__(stream=None)
    np.testing.assert_array_equal(found.to_host(), expected)
    session.close()
    assert library.freed_on == 1
    assert gpu.context == own


def test_closing_waits_for_work_in_flight(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    out = target(gpu)
    inputs, expected = on_gpu(gpu, late_on=stream)
    session.run_on_device(inputs, outputs={FILLED: out})
    for _ in range(3):
        session.run_on_device(inputs, stream=stream, outputs={FILLED: out})
    assert session.runs_by_graph == 3  # still to be run
    session.close()
    assert gpu.left() == {"device": 3, "streams": 1}
    np.testing.assert_array_equal(out.get(), expected)


def test_after_an_error_nothing_is_in_flight(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    """The caller, who sees an exception, may let go of the arrays."""
    inputs, _ = on_gpu(gpu)
    gpu.fail_in = {"cudaStreamWaitEvent": Status.cudaErrorUnknown}
    for array in inputs.values():
        array.more = {"stream": stream}
    with pytest.raises(EngineError, match="cudaStreamWaitEvent failed"):
        session.run_on_device({**inputs, IMAGE: images(SHAPE)[IMAGE]})
    assert all(each.done == len(each.work) for each in gpu.streams.values())


def test_streams_that_do_not_fit_are_refused(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, _ = on_gpu(gpu)
    with pytest.raises(UsageError, match="found 'mine' as a stream"):
        session.run_on_device(inputs, stream="mine")
    with pytest.raises(EngineError, match=r"cudaErrorInvalidResourceHandle .* another CUDA cont"):
        session.run_on_device(inputs, stream=4711)


@pytest.mark.parametrize("how", ["given", "told", "drawn"])
def test_streams_that_are_being_captured_are_refused(
    gpu: FakeCuda, session: TensorRtSession, stream: int, how: str
) -> None:
    inputs, _ = on_gpu(gpu, DlpackArray if how == "drawn" else CudaArray)
    gpu.cudaStreamBeginCapture(stream, 1)
    for array in inputs.values():
        if how == "told":
            array.more = {"stream": stream}
        array.writes_on = stream  # DLPack's producer orders it by itself
    with pytest.raises(UsageError, match="being captured into a CUDA graph"):
        session.run_on_device(inputs, stream=stream if how == "given" else None)
    status, *_ = gpu.cudaStreamEndCapture(stream)
    assert (status == Status.cudaErrorStreamCaptureUnjoined) == (how == "drawn")
    inputs, expected = on_gpu(gpu)
    np.testing.assert_array_equal(session.run_on_device(inputs)[FILLED].to_host(), expected)
