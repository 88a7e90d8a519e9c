"""Arrays of PyTorch, CuPy and pycuda. These tests have never run: no GPU was at hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.cuda.streams import Stream, on_device
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import EngineError, InputError
from pconv_deploy.inpainter import Inpainter
from tests.gpu.conftest import images, wanted

pytestmark = pytest.mark.gpu
SHAPE = (2, 128, 192)


@pytest.fixture
def inpaint(folder: Path) -> Iterator[Inpainter]:
    with Inpainter.load(folder) as loaded:
        yield loaded


@pytest.fixture
def expected(inpaint: Inpainter) -> Any:
    inputs = images(SHAPE)
    return np.stack(inpaint(list(inputs[IMAGE]), list(inputs[HOLE_MASK])))


@pytest.fixture
def torch() -> Any:
    module = wanted("torch")
    if not module.cuda.is_available():
        pytest.skip("not run: this PyTorch has no CUDA")
    return module


def test_tensors_of_pytorch(inpaint: Inpainter, expected: Any, torch: Any) -> None:
    inputs = {name: torch.from_numpy(array).cuda() for name, array in images(SHAPE).items()}
    found = inpaint.fill_on_device(**inputs)
    for taken in (torch.from_dlpack(found), torch.as_tensor(found, device="cuda")):
        assert taken.data_ptr() == found.address
        np.testing.assert_array_equal(taken.cpu().numpy(), expected)
    own = torch.empty_like(inputs[IMAGE])
    for _ in range(4):  # captured, then as a graph
        own.zero_()
        assert inpaint.fill_on_device(**inputs, filled=own) is own
        np.testing.assert_array_equal(own.cpu().numpy(), expected)


def test_a_stream_of_pytorch(inpaint: Inpainter, expected: Any, torch: Any) -> None:
    inputs = images(SHAPE)
    pinned = {name: torch.from_numpy(array).pin_memory() for name, array in inputs.items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(4):
            late = {name: array.to("cuda", non_blocking=True) for name, array in pinned.items()}
            found = inpaint.fill_on_device(**late, stream=stream)
            brighter = torch.from_dlpack(found).to(torch.int16) + 1
        stream.synchronize()
    np.testing.assert_array_equal(brighter.cpu().numpy(), expected.astype(np.int16) + 1)


def test_a_call_with_a_stream_waits_for_nothing(
    inpaint: Inpainter, expected: Any, torch: Any
) -> None:
    inputs = {name: torch.from_numpy(array).cuda() for name, array in images(SHAPE).items()}
    own, stream = torch.empty_like(inputs[IMAGE]), torch.cuda.Stream()
    inpaint.fill_on_device(**inputs, filled=own)  # loads kernels, and captures
    own.zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    inpaint.fill_on_device(**inputs, stream=stream, filled=own)
    assert not stream.query()
    stream.synchronize()
    np.testing.assert_array_equal(own.cpu().numpy(), expected)


def test_tensors_that_do_not_fit(inpaint: Inpainter, torch: Any) -> None:
    inputs = {name: torch.from_numpy(array).cuda() for name, array in images(SHAPE).items()}
    channels_first = inputs[IMAGE].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    with pytest.raises(InputError, match="needed it contiguous"):
        inpaint.fill_on_device(channels_first, inputs[HOLE_MASK])
    with pytest.raises(InputError, match="found image of float32"):
        inpaint.fill_on_device(inputs[IMAGE].float(), inputs[HOLE_MASK])
    with pytest.raises(InputError, match="needed an array on the GPU"):
        inpaint.fill_on_device(inputs[IMAGE].cpu(), inputs[HOLE_MASK])
    if torch.cuda.device_count() > 1:
        with pytest.raises(InputError, match="the engine is on GPU 0"):
            inpaint.fill_on_device(inputs[IMAGE].to("cuda:1"), inputs[HOLE_MASK])


def test_arrays_and_streams_of_cupy(inpaint: Inpainter, expected: Any) -> None:
    cupy = wanted("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(3):
            inputs = {name: cupy.asarray(array) for name, array in images(SHAPE).items()}
            found = cupy.asarray(inpaint.fill_on_device(**inputs, stream=stream))
            brighter = found.astype(cupy.int16) + 1
        stream.synchronize()
    np.testing.assert_array_equal(brighter.get(), expected.astype(np.int16) + 1)


def _with_pycuda(inpaint: Inpainter, driver: Any) -> Any:
    gpuarray = wanted("pycuda.gpuarray")
    stream = driver.Stream()
    inputs = {
        name: gpuarray.to_gpu_async(array, stream=stream) for name, array in images(SHAPE).items()
    }
    own = gpuarray.empty((*SHAPE, 3), np.uint8)
    assert inpaint.fill_on_device(**inputs, stream=stream, filled=own) is own
    stream.synchronize()
    return own.get()


def test_pycuda_in_the_primary_context(inpaint: Inpainter, expected: Any) -> None:
    driver = wanted("pycuda.driver")
    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    try:
        np.testing.assert_array_equal(_with_pycuda(inpaint, driver), expected)
    finally:
        context.pop()


def test_pycuda_in_a_context_of_its_own(folder: Path, expected: Any) -> None:
    """The engine is loaded, run and closed where that context is current."""
    driver = wanted("pycuda.driver")
    driver.init()
    context = driver.Device(0).make_context()
    try:
        with Inpainter.load(folder) as inpaint:
            np.testing.assert_array_equal(_with_pycuda(inpaint, driver), expected)
    finally:
        context.pop()
        context.detach()


def test_results_outlive_the_engine(folder: Path, expected: Any) -> None:
    inputs = images(SHAPE)
    with Inpainter.load(folder) as inpaint:
        found = inpaint.fill_on_device(inputs[IMAGE], inputs[HOLE_MASK])
    np.testing.assert_array_equal(found.to_host(), expected)


def test_results_outlive_the_stream_they_were_made_on(inpaint: Inpainter, expected: Any) -> None:
    cuda, inputs = Cuda.load(), images(SHAPE)
    stream = Stream(cuda)
    found = inpaint.fill_on_device(inputs[IMAGE], inputs[HOLE_MASK], stream=stream.handle)
    stream.close()
    np.testing.assert_array_equal(found.to_host(), expected)


def test_an_engine_on_the_second_gpu(folder: Path, expected: Any) -> None:
    cuda, inputs = Cuda.load(), images(SHAPE)
    if cuda.call("cudaGetDeviceCount") < 2:
        pytest.skip("not run: it needs two GPUs, there is one")
    try:
        with on_device(cuda, 1):
            inpaint = Inpainter.load(folder)
    except EngineError as error:
        pytest.skip(f"not run: the second GPU is of another kind: {error}")
    with inpaint:
        found = inpaint.fill_on_device(inputs[IMAGE], inputs[HOLE_MASK])
        assert (found.device, cuda.call("cudaGetDevice")) == (1, 0)
        np.testing.assert_array_equal(found.to_host(), expected)
