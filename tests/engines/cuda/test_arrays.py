"""Arrays on the GPU: other people's, and ours, which may be read before they are written."""

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pconv_deploy.engines.backends.tensorrt.cuda.arrays import DeviceArray, check_fits, view
from pconv_deploy.engines.backends.tensorrt.cuda.streams import Stream
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import InputError
from tests.engines.cuda.device_arrays import CudaArray, DlpackArray, Foreign, TorchTensor
from tests.engines.cuda.fake_cuda import FakeCuda

SHAPE = (2, 4, 8, 3)
UINT8 = np.dtype(np.uint8)
READER = 1


def content(shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape)


def check(gpu: FakeCuda, array: Any, device: int = 0) -> None:
    cuda = Cuda(gpu, gpu)
    check_fits(cuda, view(array, "image", READER), "image", SHAPE, UINT8, device)


@pytest.mark.parametrize("kind", [CudaArray, DlpackArray, TorchTensor])
def test_arrays_of_every_kind_are_looked_at_where_they_are(
    gpu: FakeCuda, kind: type[Foreign]
) -> None:
    array = kind(gpu, content())
    seen = view(array, "image", READER)
    assert (seen.address, seen.shape, seen.dtype) == (array.address, SHAPE, UINT8)
    check(gpu, array)


def test_pytorch_is_asked_by_the_protocol_that_tells_its_stream(gpu: FakeCuda) -> None:
    tensor = TorchTensor(gpu, content())
    view(tensor, "image", 77)
    assert tensor.asked_by == 77


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "words"),
    [
        (CudaArray, SHAPE, np.float32, "found image of float32; needed uint8"),
        (CudaArray, SHAPE, np.int8, "found image of int8; needed uint8"),
        (DlpackArray, SHAPE, np.int32, "found image of int32; needed uint8"),
        (CudaArray, (2, 3, 4, 8), np.uint8, r"shape \[2, 3, 4, 8\]; needed \[2, 4, 8, 3\]"),
        (TorchTensor, (4, 8, 3), np.uint8, r"shape \[4, 8, 3\]; needed \[2, 4, 8, 3\]"),
    ],
)
def test_another_type_or_shape_is_refused(
    gpu: FakeCuda, kind: type[Foreign], shape: tuple[int, ...], dtype: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        check(gpu, kind(gpu, content(shape, dtype)))


@pytest.mark.parametrize(
    ("strides", "fits"),
    [
        (None, True),
        ((96, 24, 3, 1), True),
        ((192, 24, 3, 1), False),
        ((96, 24, 1, 8), False),
        ((96, 24, -3, 1), False),
    ],
)
def test_only_arrays_in_c_order_fit(
    gpu: FakeCuda, strides: tuple[int, ...] | None, fits: bool
) -> None:
    array = CudaArray(gpu, content())
    array.more = {"strides": strides}
    if fits:
        check(gpu, array)
        return
    with pytest.raises(InputError, match=r"found image with strides .* needed it contiguous"):
        check(gpu, array)


def test_strides_along_a_single_element_mean_nothing(gpu: FakeCuda) -> None:
    array = CudaArray(gpu, content((1, 4, 8, 3)))
    array.more = {"strides": (7, 24, 3, 1)}
    seen = view(array, "image", READER)
    check_fits(Cuda(gpu, gpu), seen, "image", (1, 4, 8, 3), UINT8, 0)


def test_memory_elsewhere_is_refused(gpu: FakeCuda) -> None:
    array = CudaArray(gpu, content())
    with pytest.raises(InputError, match="found image on GPU 0; the engine is on GPU 1"):
        check(gpu, array, device=1)
    here = content()
    array.more = {"data": (here.ctypes.data, False)}
    with pytest.raises(InputError, match="found image in the host's memory; needed it on GPU 0"):
        check(gpu, array)


@pytest.mark.parametrize("array", [torch.zeros(2), [1, 2], None, np.zeros(2), object()])
def test_what_is_not_on_a_gpu_is_refused(array: Any) -> None:
    with pytest.raises(InputError, match=r"needed an array on the GPU"):
        view(array, "image", READER)


def test_what_its_library_refuses_to_hand_over() -> None:
    def refuses(**_wishes: Any) -> Any:
        raise BufferError("it needs its gradient")

    array = SimpleNamespace(__dlpack__=refuses, __dlpack_device__=lambda: (2, 0))
    with pytest.raises(InputError, match="image cannot be handed over: it needs its gradient"):
        view(array, "image", READER)

    class Proud:
        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("not before detach()")

    with pytest.raises(InputError, match=r"image cannot be handed over: not before detach\(\)"):
        view(Proud(), "image", READER)


def test_masked_arrays_and_ambiguous_streams_are_refused(gpu: FakeCuda) -> None:
    array = CudaArray(gpu, content())
    array.more = {"mask": array}
    with pytest.raises(InputError, match="with a mask of its own"):
        view(array, "image", READER)
    array.more = {"stream": 0}
    with pytest.raises(InputError, match="found image with stream 0"):
        view(array, "image", READER)


def test_arrays_in_the_middle_of_things_are_refused(gpu: FakeCuda) -> None:
    array = CudaArray(gpu, np.zeros((3, *SHAPE), np.uint8))
    array.more = {"shape": SHAPE, "data": (array.address + 192, False)}
    with pytest.raises(InputError, match="found image 192 bytes behind a multiple of 256"):
        check(gpu, array)
    array.more = {"shape": SHAPE, "data": (array.address + 256, False)}
    check(gpu, array)


def test_our_arrays_own_their_memory(gpu: FakeCuda, cuda: Cuda) -> None:
    array = DeviceArray(cuda, SHAPE, UINT8, 0)
    gpu.write(array.address, content())
    np.testing.assert_array_equal(array.to_host(), content())
    check_fits(cuda, view(array, "image", 1), "image", SHAPE, UINT8, 0)
    assert array.__dlpack_device__() == (2, 0)
    capsule = array.__dlpack__(stream=1)
    del array
    gc.collect()
    assert gpu.left() == {"device": 1, "events": 1}  # the capsule keeps it
    del capsule
    gc.collect()
    assert gpu.left() == {}


def late(gpu: FakeCuda, cuda: Cuda) -> DeviceArray:
    """One whose content a stream brings that is gone before anybody reads it."""
    array, stream = DeviceArray(cuda, SHAPE, UINT8, gpu.device), Stream(cuda)
    gpu.streams[stream.handle].work.append(lambda: gpu.write(array.address, content()))
    array.written_by(stream.handle)
    gpu.streams.pop(stream.handle)  # not even finished: destroying one does not wait
    return array


@pytest.mark.parametrize(("reader", "waits"), [(None, True), (1, True), (2, True), (-1, False)])
def test_readers_of_our_arrays_wait_for_what_writes_them(
    gpu: FakeCuda, cuda: Cuda, reader: int | None, waits: bool
) -> None:
    array = late(gpu, cuda)
    array.__dlpack__(stream=reader)
    gpu.cudaStreamSynchronize(1 if reader is None else abs(reader))
    assert np.array_equal(gpu.read(array.address, 192), content().ravel()) == waits
    np.testing.assert_array_equal(array.to_host(), content())


def test_readers_by_the_other_protocol_are_told_a_stream_that_is_never_gone(
    gpu: FakeCuda, cuda: Cuda
) -> None:
    array = late(gpu, cuda)
    assert array.__cuda_array_interface__["stream"] == 1
    gpu.cudaStreamSynchronize(1)
    np.testing.assert_array_equal(gpu.read(array.address, 192), content().ravel())
    array.written_by(None)
    assert array.__cuda_array_interface__["stream"] is None


def test_arrays_are_handed_over_wherever_the_reading_thread_is(gpu: FakeCuda, cuda: Cuda) -> None:
    gpu.device = 1
    arrays = [late(gpu, cuda) for _ in range(3)]
    gpu.device = 0
    arrays[0].__dlpack__(stream=None)
    assert arrays[1].__cuda_array_interface__["stream"] == 1
    np.testing.assert_array_equal(arrays[2].to_host(), content())
    assert gpu.device == 0
    gpu.device = 1  # whose legacy stream was made to wait
    gpu.cudaStreamSynchronize(1)
    for array in arrays[:2]:
        np.testing.assert_array_equal(gpu.read(array.address, 192), content().ravel())


@pytest.mark.parametrize("wish", [{"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (2, 1)}])
def test_wishes_that_cannot_be_met_are_refused(cuda: Cuda, wish: Any) -> None:
    array = DeviceArray(cuda, SHAPE, UINT8, 0)
    with pytest.raises(BufferError, match="handed over as it is, on GPU 0"):
        array.__dlpack__(**wish)
    array.__dlpack__(max_version=(1, 0), dl_device=(2, 0), copy=False)
