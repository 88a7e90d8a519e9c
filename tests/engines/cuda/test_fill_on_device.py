import numpy as np
import pytest

from pconv_deploy.contract import (
    FILLED,
    HOLE_MASK,
    IMAGE,
    GraphContract,
    Normalisation,
    Source,
    UNetConfig,
    deployment_specs,
)
from pconv_deploy.engines.backends.tensorrt.cuda.arrays import DeviceArray
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.sessions import RunOptions
from pconv_deploy.errors import EngineError, ImageError, InputError, UsageError
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.parity import Arrays
from tests.engines.cuda.device_arrays import CudaArray
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, FakeTensorRt, filled, images

INPUTS, OUTPUTS = deployment_specs(None, None)
CONTRACT = GraphContract(
    kind="deployment",
    inputs=INPUTS,
    outputs=OUTPUTS,
    normalisation=Normalisation(),
    size_multiple=16,
    source=Source(file="x", sha256="0" * 64, network=UNetConfig(channels=(8,), kernels=(3,))),
)


@pytest.fixture
def inpaint(gpu: FakeCuda) -> Inpainter:
    library = FakeTensorRt(gpu, SMALL, LARGE)
    session = TensorRtSession(library, PLAN, RunOptions(streams=2))  # type: ignore[arg-type]
    return Inpainter(CONTRACT, session, streams=2)


def test_bytes_go_in_and_composites_come_out_on_the_gpu(gpu: FakeCuda, inpaint: Inpainter) -> None:
    inputs = images((2, 32, 48))
    image, hole_mask = CudaArray(gpu, inputs[IMAGE]), CudaArray(gpu, inputs[HOLE_MASK])
    expected = filled(inputs[IMAGE], inputs[HOLE_MASK])
    target = CudaArray(gpu, np.zeros_like(expected))
    assert inpaint.fill_on_device(image, hole_mask, filled=target) is target
    np.testing.assert_array_equal(target.get(), expected)
    gpu.calls.clear()  # to check its graph a result was copied
    made = inpaint.fill_on_device(image, hole_mask, stream=0)
    assert gpu.calls["cudaMemcpyAsync"] == 0
    assert isinstance(made, DeviceArray)
    np.testing.assert_array_equal(made.to_host(), expected)


def test_warming_up_reaches_every_stream(gpu: FakeCuda, inpaint: Inpainter) -> None:
    inpaint.warm_up([(32, 32)])
    assert gpu.calls["cudaStreamBeginCapture"] == 2


def test_sizes_are_not_padded_on_the_gpu(gpu: FakeCuda, inpaint: Inpainter) -> None:
    inputs = {name: CudaArray(gpu, array) for name, array in images((1, 80, 80)).items()}
    with pytest.raises(EngineError, match="batch 1 of 80x80"):
        inpaint.fill_on_device(**inputs)
    with pytest.raises(InputError, match="found hole_mask as NoneType"):
        inpaint.fill_on_device(inputs[IMAGE], None)


def test_a_closed_engine_says_so(inpaint: Inpainter) -> None:
    inpaint.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        inpaint.fill_on_device(None, None)
    with pytest.raises(ImageError):
        inpaint(None, None)  # type: ignore[call-overload]


class OnHost:
    def run(self, inputs: Arrays) -> Arrays:
        return {FILLED: inputs[IMAGE]}

    def close(self) -> None:
        pass


def test_other_runtimes_take_arrays_of_the_host_alone() -> None:
    with pytest.raises(UsageError, match="needed one of the tensorrt backend"):
        Inpainter(CONTRACT, OnHost()).fill_on_device(None, None)
