"""Arrays of ours on the GPU, and whoever reads them before they are written."""

import gc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.engines.backends.tensorrt.cuda.arrays import DeviceArray, check_fits, view
from pconv_deploy.engines.backends.tensorrt.cuda.streams import Stream
from pconv_deploy.engines.cuda.calls import Cuda
from tests.engines.cuda.fake_cuda import FakeCuda

SHAPE = (2, 4, 8, 3)
UINT8 = np.dtype(np.uint8)


def content() -> NDArray[np.uint8]:
    return np.arange(192).astype(np.uint8).reshape(SHAPE)


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
