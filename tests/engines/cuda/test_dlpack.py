"""Capsules: read without taking them, and offered to consumers that keep them for long."""

import gc
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pconv_deploy.engines.backends.tensorrt.cuda import dlpack


def content(dtype: Any = np.uint8) -> NDArray[Any]:
    return np.arange(24).astype(dtype).reshape(2, 3, 4)


def test_capsules_are_read_and_left_to_their_producers() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 1)[:, :, 1:]
    seen = dlpack.describe(tensor.__dlpack__())
    assert (seen.shape, seen.strides) == ((3, 2, 3), (16, 48, 4))
    assert seen.dtype == np.dtype(np.float32)
    assert seen.address == tensor.data_ptr()
    brain_float = dlpack.describe(torch.zeros(2, dtype=torch.bfloat16).__dlpack__()).dtype
    assert brain_float == "a type NumPy does not have"


class Lent:
    """The capsules that `DeviceArray` makes, for memory that PyTorch and NumPy can read here."""

    device = (1, 0)  # the host

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **_wishes: Any) -> Any:
        a = self.array
        return dlpack.capsule(self, a.ctypes.data, a.shape, a.dtype, self.device)


class LentOnGpu(Lent):
    device = (dlpack.CUDA, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, np.int64])
def test_consumers_keep_the_owner_alive_and_let_it_go(dtype: Any) -> None:
    expected = content(dtype)
    lent = [Lent(expected.copy()) for _ in range(3)]
    owners = [weakref.ref(each) for each in lent]
    tensor = torch.utils.dlpack.from_dlpack(lent[0])
    array = np.from_dlpack(lent[1])
    unused = lent[2].__dlpack__()
    lent.clear()
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), expected)
    np.testing.assert_array_equal(array, expected)
    assert all(owner() for owner in owners)
    del tensor, array, unused
    gc.collect()
    assert not any(owner() for owner in owners)


def test_a_consumer_that_refuses_tells_why_and_keeps_nothing() -> None:
    """It drops the capsule while its exception is on the way."""
    lent = LentOnGpu(content())
    owner = weakref.ref(lent)
    with pytest.raises(RuntimeError, match="device"):
        np.from_dlpack(lent)
    del lent
    gc.collect()
    assert owner() is None


_KEPT_TO_THE_END = """
import numpy as np
from pconv_deploy.engines.backends.tensorrt.cuda import dlpack

class Lent:
    array = np.zeros(6, np.uint8)

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **wishes):
        return dlpack.capsule(self, self.array.ctypes.data, (6,), self.array.dtype, (1, 0))

class Server:
    image = np.from_dlpack(Lent())

cycle = [np.from_dlpack(Lent())]
cycle.append(cycle)
np.kept = np.from_dlpack(Lent())
"""


def test_arrays_may_be_kept_until_the_interpreter_has_ended() -> None:
    command = [sys.executable, "-c", _KEPT_TO_THE_END]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
