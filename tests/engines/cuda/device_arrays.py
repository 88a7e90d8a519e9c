"""Arrays of other libraries on the fake GPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.cuda import dlpack
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import filled, images

SHAPE = (1, 32, 32)  # of what `on_gpu` makes


class Foreign:
    """Memory on the fake GPU with a content, which the test owns."""

    def __init__(self, gpu: FakeCuda, content: NDArray[Any], *, late_on: int | None = None) -> None:
        """`late_on`: the stream by which the content arrives."""
        self.gpu, self.shape, self.dtype = gpu, content.shape, content.dtype
        _, self.address = gpu.cudaMalloc(max(content.nbytes, 1))
        if late_on is None:
            gpu.write(self.address, content)
        else:
            gpu.give(late_on, lambda: gpu.write(self.address, content))

    def interface(self) -> dict[str, Any]:
        data = (self.address, False)
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": data,
            "strides": None,
            "version": 2,
        }

    def get(self) -> NDArray[Any]:
        """What is there now."""
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        return self.gpu.read(self.address, size).view(self.dtype).reshape(self.shape).copy()


class CudaArray(Foreign):
    """As CuPy and pycuda offer theirs; `more` replaces entries of the interface."""

    more: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface() | {"stream": None, "version": 3, **self.more}


class DlpackArray(Foreign):
    """As JAX offers its own; what it still has to write is on the stream `writes_on`."""

    device = (dlpack.CUDA, 0)
    writes_on: int | None = None
    asked_by: int | None = None

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked_by = stream
        if self.writes_on is not None:
            _, event = self.gpu.cudaEventCreateWithFlags(0)
            self.gpu.cudaEventRecord(event, self.writes_on)
            self.gpu.cudaStreamWaitEvent(stream, event, 0)
            self.gpu.cudaEventDestroy(event)
        return dlpack.capsule(self, self.address, self.shape, self.dtype, self.device)


class TorchTensor(DlpackArray):
    """PyTorch offers both, but tells its stream by DLPack alone."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface()


def on_gpu(
    gpu: FakeCuda, kind: type[Foreign] = CudaArray, seed: int = 0, **how: Any
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    inputs = images(SHAPE, seed)
    arrays = {name: kind(gpu, array, **how) for name, array in inputs.items()}
    return arrays, filled(inputs[IMAGE], inputs[HOLE_MASK])


def target(gpu: FakeCuda, kind: type[Foreign] = CudaArray) -> Any:
    return kind(gpu, np.zeros((*SHAPE, 3), np.uint8))
