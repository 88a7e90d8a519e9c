"""Our CUDA layer on a real GPU, with PyTorch's kernels in the place of TensorRT's.

Not run in full yet: on an H100 the refusals and the runs without a change of profile passed, the
others stopped at a fault of the stand-in, mended since.
"""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.sessions import RunOptions
from pconv_deploy.errors import InputError, UsageError
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, filled, images
from tests.gpu.conftest import wanted
from tests.gpu.torch_tensorrt import TorchTensorRt, free_memory

torch = wanted("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no GPU")
SHAPE = (2, 32, 48)


@pytest.fixture
def session() -> Iterator[TensorRtSession]:
    opened = TensorRtSession(TorchTensorRt(SMALL, LARGE), PLAN, RunOptions(streams=2))  # type: ignore[arg-type]
    yield opened
    opened.close()


def expected(inputs: dict[str, Any]) -> Any:
    return filled(inputs[IMAGE], inputs[HOLE_MASK])


def on_gpu(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 32, 32), (4, 64, 64), SHAPE])
def test_host_arrays(session: TensorRtSession, shape: tuple[int, int, int]) -> None:
    """Directly first, then as a CUDA graph, with other contents each time."""
    for seed in range(5):
        inputs = images(shape, seed)
        np.testing.assert_array_equal(session.run(inputs)[FILLED], expected(inputs))
    assert session.runs_by_graph >= 1


def test_many_threads(session: TensorRtSession) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(50):
            inputs = images(((1, 32, 32), SHAPE, (4, 64, 64))[step % 3], 1000 * seed + step)
            if not np.array_equal(session.run(inputs)[FILLED], expected(inputs)):
                wrong.append(step)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert session.runs_by_graph > 0


def test_arrays_of_pytorch(session: TensorRtSession) -> None:
    """What a busy stream still has to write is waited for, and so is what it reads next."""
    inputs = images(SHAPE)
    there = {name: torch.zeros_like(tensor) for name, tensor in on_gpu(inputs).items()}
    result = torch.zeros_like(there[IMAGE])
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    pinned = {name: torch.from_numpy(array).pin_memory() for name, array in inputs.items()}
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for name, tensor in there.items():
            tensor.copy_(pinned[name], non_blocking=True)
        session.run_on_device(there, stream=side, outputs={FILLED: result})
        copy = result.clone()
    side.synchronize()
    np.testing.assert_array_equal(copy.cpu().numpy(), expected(inputs))


def test_new_arrays_are_taken_without_a_copy(session: TensorRtSession) -> None:
    inputs = images(SHAPE)
    stream = torch.cuda.Stream()
    there = on_gpu(inputs)
    torch.cuda.synchronize()
    made = session.run_on_device(there, stream=stream)[FILLED]
    tensor = torch.from_dlpack(made)
    assert tensor.data_ptr() == made.address
    del made
    np.testing.assert_array_equal(tensor.cpu().numpy(), expected(inputs))


def test_arrays_of_cupy(session: TensorRtSession) -> None:
    cupy = wanted("cupy")
    inputs = images(SHAPE)
    there = {name: cupy.asarray(array) for name, array in inputs.items()}
    made = session.run_on_device(there)[FILLED]
    np.testing.assert_array_equal(cupy.asnumpy(cupy.asarray(made)), expected(inputs))
    np.testing.assert_array_equal(cupy.asnumpy(cupy.from_dlpack(made)), expected(inputs))
    np.testing.assert_array_equal(made.to_host(), expected(inputs))


def test_fixed_addresses_become_a_graph(session: TensorRtSession) -> None:
    there = on_gpu(images(SHAPE))
    result = {FILLED: torch.zeros_like(there[IMAGE])}
    for seed in range(6):
        inputs = images(SHAPE, seed)
        for name, tensor in there.items():
            tensor.copy_(torch.from_numpy(inputs[name]))
        session.run_on_device(there, outputs=result)
        np.testing.assert_array_equal(result[FILLED].cpu().numpy(), expected(inputs))
    assert session.runs_by_graph >= 2


def test_refusals(session: TensorRtSession) -> None:
    """And the session goes on after each."""
    inputs = images(SHAPE)
    there = on_gpu(inputs)
    wrong = [
        ({**there, IMAGE: there[IMAGE].cpu()}, "memory of another device"),
        ({**there, IMAGE: there[IMAGE].float()}, "float32; needed uint8"),
        ({**there, IMAGE: there[IMAGE].transpose(1, 2).contiguous().transpose(1, 2)}, "strides"),
        ({**there, IMAGE: torch.zeros(1 + 2 * 32 * 48 * 3, dtype=torch.uint8).cuda()[1:]
          .view(2, 32, 48, 3)}, "behind a multiple"),
    ]  # fmt: skip
    for arrays, message in wrong:
        with pytest.raises(InputError, match=message):
            session.run_on_device(arrays)
    with pytest.raises(InputError, match="in the memory of image"):
        session.run_on_device(there, outputs={FILLED: there[IMAGE]})
    np.testing.assert_array_equal(session.run(inputs)[FILLED], expected(inputs))


def test_a_stream_that_is_being_captured_is_refused(session: TensorRtSession) -> None:
    there = on_gpu(images(SHAPE))
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured), pytest.raises(UsageError, match="being captured"):
        session.run_on_device(there, stream=torch.cuda.current_stream())


def test_nothing_is_left_behind() -> None:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free = []
    for _ in range(20):
        library = TorchTensorRt(LARGE)
        opened = TensorRtSession(library, PLAN, RunOptions(streams=4))  # type: ignore[arg-type]
        for seed in range(4):
            opened.run(images((4, 64, 64), seed))
        opened.close()
        free.append(free_memory())
    assert free[0] - free[-1] < 1 << 20  # not compared with before: the first one loads kernels
