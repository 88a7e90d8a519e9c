"""What the fake TensorRT computes, computed by PyTorch on a real GPU.

It lets everything of ours that talks to CUDA run on a real one where there is no TensorRT.
"""

from types import SimpleNamespace
from typing import Any

import torch

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.shapes import Profile
from tests.engines.cuda.fake_tensorrt import FakeContext, FakeEngine, FakeTensorRt, Strategy


class TorchTensorRt(FakeTensorRt):
    """Stands for the module `tensorrt`; its kernels are PyTorch's."""

    def __init__(self, *profiles: Profile) -> None:
        self.violations: list[str] = []
        super().__init__(SimpleNamespace(violations=self.violations, device=0), *profiles)  # type: ignore[arg-type]

    def new_engine(self, log: Any) -> "TorchEngine":
        return TorchEngine(self, log)


class TorchEngine(FakeEngine):
    def create_execution_context(self, how: Strategy) -> "TorchContext":
        assert how == Strategy.USER_MANAGED
        return TorchContext(self)


class TorchContext(FakeContext):
    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        """Choose a profile; the real GPU's stream has nothing to do for it."""
        del stream
        self._change()
        self.active_optimization_profile = index
        self._shape = (0, 0, 0)
        return 0 <= index < len(self.library.profiles)

    def execute_async_v3(self, stream: int) -> bool:
        """Give the stream real kernels; nothing is allocated, so that they can be captured."""
        shape = self._shape
        image, filled = (_tensor(self._addresses[n], (*shape, 3)) for n in (IMAGE, FILLED))
        hole_mask = _tensor(self._addresses[HOLE_MASK], shape)
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):  # type: ignore[no-untyped-call]
            torch.bitwise_not(image, out=filled)  # 255 - image
            filled.sub_(image).mul_(hole_mask[..., None]).add_(image)  # where the mask is 1
        return True


def _tensor(address: int, shape: tuple[int, ...]) -> torch.Tensor:
    interface = {"shape": shape, "typestr": "|u1", "data": (address, False), "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")


def free_memory() -> int:
    """Bytes of the GPU that are free."""
    return int(Cuda.load().call("cudaMemGetInfo")[0])
