import contextlib
import functools
import gc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.base import RunOptions
from pconv_deploy.engines.cuda.arrays import DeviceArray
from pconv_deploy.engines.tensorrt.session import TensorRtSession
from pconv_deploy.errors import EngineError, InputError, UsageError
from tests.engines.cuda.cuda_names import Status
from tests.engines.cuda.device_arrays import CudaArray, DlpackArray, Foreign, TorchTensor
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, FakeTensorRt, filled, images

SHAPE = (1, 32, 32)
LEGACY = 1


@pytest.fixture
def session(gpu: FakeCuda) -> TensorRtSession:
    return TensorRtSession(FakeTensorRt(gpu, SMALL, LARGE), PLAN)  # type: ignore[arg-type]


@pytest.fixture
def stream(gpu: FakeCuda) -> int:
    """The caller's."""
    _, handle = gpu.cudaStreamCreateWithFlags(1)
    return int(handle)


def on_gpu(
    gpu: FakeCuda, kind: type[Foreign] = CudaArray, seed: int = 0, **how: Any
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    inputs = images(SHAPE, seed)
    arrays = {name: kind(gpu, array, **how) for name, array in inputs.items()}
    return arrays, filled(inputs[IMAGE], inputs[HOLE_MASK])


def target(gpu: FakeCuda, kind: type[Foreign] = CudaArray) -> Any:
    return kind(gpu, np.zeros((*SHAPE, 3), np.uint8))


@pytest.mark.parametrize("kind", [CudaArray, DlpackArray, TorchTensor])
def test_arrays_are_read_and_written_where_they_are(
    gpu: FakeCuda, session: TensorRtSession, kind: type[Foreign]
) -> None:
    inputs, expected = on_gpu(gpu, kind)
    out = target(gpu, kind)
    outputs = {FILLED: out}
    assert session.run_on_device(inputs, outputs=outputs) is outputs
    np.testing.assert_array_equal(out.get(), expected)
    assert gpu.calls["cudaMemcpyAsync"] == 0


def test_new_arrays_belong_to_the_caller(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, expected = on_gpu(gpu)
    found = session.run_on_device(inputs)[FILLED]
    session.close()
    assert isinstance(found, DeviceArray)
    assert found.stream is None
    np.testing.assert_array_equal(found.to_host(), expected)
    del found
    gc.collect()
    assert gpu.left() == {"device": 2}  # the test's own inputs


@pytest.mark.parametrize("legacy", [False, True])
def test_the_callers_stream_is_followed_and_held_back(
    gpu: FakeCuda, session: TensorRtSession, stream: int, legacy: bool
) -> None:
    callers: Any = 0 if legacy else stream
    theirs = LEGACY if legacy else stream
    inputs, expected = on_gpu(gpu, late_on=theirs)
    found = session.run_on_device(inputs, stream=callers)[FILLED]
    assert gpu.calls["cudaStreamSynchronize"] == 0  # nobody waited
    assert found.stream == theirs
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


def test_host_and_device_arrays_may_be_mixed(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, expected = on_gpu(gpu)
    mixed = {IMAGE: inputs[IMAGE], HOLE_MASK: images(SHAPE)[HOLE_MASK]}
    np.testing.assert_array_equal(session.run_on_device(mixed)[FILLED].to_host(), expected)


def test_addresses_that_come_again_become_a_graph(gpu: FakeCuda, session: TensorRtSession) -> None:
    out = target(gpu)
    inputs, expected = on_gpu(gpu)
    launches = []
    for _ in range(4):
        out.gpu.write(out.address, np.zeros(expected.size, np.uint8))
        session.run_on_device(inputs, outputs={FILLED: out})
        np.testing.assert_array_equal(out.get(), expected)
        launches.append(gpu.calls["cudaGraphLaunch"])
    assert launches == [0, 1, 2, 3]  # the second time captures, and checks
    other, expected = on_gpu(gpu, seed=5)
    session.run_on_device(other, outputs={FILLED: out})
    np.testing.assert_array_equal(out.get(), expected)
    assert gpu.calls["cudaGraphLaunch"] == 3


def test_a_graph_is_captured_behind_a_stream_in_flight(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    out = target(gpu)
    inputs, _ = on_gpu(gpu)
    for seed in range(4):
        again = images(SHAPE, seed)
        for name, array in inputs.items():
            gpu.give(stream, functools.partial(gpu.write, array.address, again[name]))
        session.run_on_device(inputs, stream=stream, outputs={FILLED: out})
        gpu.cudaStreamSynchronize(stream)
        np.testing.assert_array_equal(out.get(), filled(again[IMAGE], again[HOLE_MASK]))
    assert gpu.left()["executables"] == 1


def test_closing_waits_for_work_in_flight(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    out = target(gpu)
    inputs, expected = on_gpu(gpu, late_on=stream)
    for _ in range(3):  # the last one a graph, still to be run
        session.run_on_device(inputs, stream=stream, outputs={FILLED: out})
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


def test_arrays_that_do_not_fit_are_refused(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, _ = on_gpu(gpu)
    wrong = CudaArray(gpu, np.zeros((*SHAPE, 3), np.float32))
    with pytest.raises(InputError, match="found image of float32; needed uint8"):
        session.run_on_device({**inputs, IMAGE: wrong})
    with pytest.raises(InputError, match="found filled of float32; needed uint8"):
        session.run_on_device(inputs, outputs={FILLED: wrong})
    with pytest.raises(InputError, match=r"found outputs \[\]; needed \['filled'\]"):
        session.run_on_device(inputs, outputs={})
    with pytest.raises(InputError, match=r"found inputs \['image'\]; needed"):
        session.run_on_device({IMAGE: inputs[IMAGE]})
    readonly = target(gpu)
    readonly.more = {"data": (readonly.address, True)}
    with pytest.raises(InputError, match="found filled as a read-only array"):
        session.run_on_device(inputs, outputs={FILLED: readonly})
    with pytest.raises(InputError, match="found filled in the memory of image"):
        session.run_on_device(inputs, outputs={FILLED: inputs[IMAGE]})
    with pytest.raises(InputError, match="found image of float64; needed uint8"):
        session.run_on_device({**inputs, IMAGE: np.zeros((*SHAPE, 3))})
    mask = CudaArray(gpu, np.zeros((9, 32, 32), np.uint8))
    with pytest.raises(EngineError, match="batch 9 of 32x32"):
        session.run_on_device({**inputs, HOLE_MASK: mask})


def test_streams_that_do_not_fit_are_refused(
    gpu: FakeCuda, session: TensorRtSession, stream: int
) -> None:
    inputs, _ = on_gpu(gpu)
    with pytest.raises(UsageError, match="found 'mine' as a stream"):
        session.run_on_device(inputs, stream="mine")
    with pytest.raises(EngineError, match=r"cudaErrorInvalidResourceHandle .* another CUDA cont"):
        session.run_on_device(inputs, stream=4711)
    gpu.cudaStreamBeginCapture(stream, 1)
    with pytest.raises(UsageError, match="being captured into a CUDA graph"):
        session.run_on_device(inputs, stream=stream)


def test_any_call_may_fail_and_nothing_is_lost(gpu: FakeCuda) -> None:
    library = FakeTensorRt(gpu, SMALL, LARGE)
    inputs, expected = on_gpu(gpu)
    out = target(gpu)
    mine = gpu.left()
    for n in range(1, 40):
        session = TensorRtSession(library, PLAN, RunOptions())  # type: ignore[arg-type]
        session.run_on_device(inputs, outputs={FILLED: out})
        gpu.fail_at = gpu.may_fail + n
        for outputs in ({FILLED: out}, None):
            with contextlib.suppress(EngineError):
                session.run_on_device(inputs, LEGACY, outputs)
        gpu.fail_at = None
        out.gpu.write(out.address, np.zeros(expected.size, np.uint8))
        session.run_on_device(inputs, outputs={FILLED: out})
        np.testing.assert_array_equal(out.get(), expected)
        session.close()
        assert (n, gpu.left()) == (n, mine)
