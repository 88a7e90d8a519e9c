import contextlib
import gc

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.cuda.arrays import DeviceArray
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.sessions import RunOptions
from pconv_deploy.errors import EngineError, InputError
from tests.engines.cuda.device_arrays import (
    SHAPE,
    CudaArray,
    DlpackArray,
    Foreign,
    TorchTensor,
    on_gpu,
    target,
)
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, FakeTensorRt, images

LEGACY = 1


@pytest.mark.parametrize("kind", [CudaArray, DlpackArray, TorchTensor])
def test_arrays_are_read_and_written_where_they_are(
    gpu: FakeCuda, session: TensorRtSession, kind: type[Foreign]
) -> None:
    inputs, expected = on_gpu(gpu, kind)
    out = target(gpu, kind)
    outputs = {FILLED: out}
    for _ in range(2):
        gpu.calls.clear()
        assert session.run_on_device(inputs, outputs=outputs) is outputs
        np.testing.assert_array_equal(out.get(), expected)
        gpu.write(out.address, np.zeros_like(expected))
    assert gpu.calls["cudaMemcpyAsync"] == 0  # the first copied a result, to check its graph


def test_new_arrays_belong_to_the_caller(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, expected = on_gpu(gpu)
    found = session.run_on_device(inputs)[FILLED]
    session.close()
    assert isinstance(found, DeviceArray)
    assert found.__cuda_array_interface__["stream"] is None  # it is written
    np.testing.assert_array_equal(found.to_host(), expected)
    del found
    gc.collect()
    assert gpu.left() == {"device": 2}  # the test's own inputs


def test_host_and_device_arrays_may_be_mixed(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, expected = on_gpu(gpu)
    mixed = {IMAGE: inputs[IMAGE], HOLE_MASK: images(SHAPE)[HOLE_MASK]}
    np.testing.assert_array_equal(session.run_on_device(mixed)[FILLED].to_host(), expected)


def test_a_call_that_waits_captures_a_graph_of_its_addresses(
    gpu: FakeCuda, session: TensorRtSession
) -> None:
    out = target(gpu)
    inputs, expected = on_gpu(gpu)
    found = []
    for _ in range(4):
        out.gpu.write(out.address, np.zeros(expected.size, np.uint8))
        session.run_on_device(inputs, outputs={FILLED: out})
        np.testing.assert_array_equal(out.get(), expected)
        found.append(session.runs_by_graph)
    assert found == [0, 1, 2, 3]
    other, expected = on_gpu(gpu, seed=5)
    session.run_on_device(other, outputs={FILLED: out})
    np.testing.assert_array_equal(out.get(), expected)
    assert session.runs_by_graph == 3


def test_arrays_that_do_not_fit_are_refused(gpu: FakeCuda, session: TensorRtSession) -> None:
    inputs, _ = on_gpu(gpu)
    wrong = CudaArray(gpu, np.zeros((*SHAPE, 3), np.float32))
    with pytest.raises(InputError, match="found image of float32; needed uint8"):
        session.run_on_device({**inputs, IMAGE: wrong})
    with pytest.raises(InputError, match=r"found outputs \[\]; needed \['filled'\]"):
        session.run_on_device(inputs, outputs={})
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
