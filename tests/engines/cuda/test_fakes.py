"""The fakes promise nothing that the real modules do not have; see test_calls for CUDA's."""

from types import ModuleType

import pytest

from tests.engines.backends.tensorrt.conftest import tensorrt_module as tensorrt_module  # a fixture
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_rtx import FakeConfig
from tests.engines.cuda.fake_tensorrt import FakeContext, FakeEngine, FakeRuntime, FakeTensorRt


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (FakeRuntime, "Runtime"),
        (FakeEngine, "ICudaEngine"),
        (FakeContext, "IExecutionContext"),
    ],
)
def test_tensorrt_has_what_the_fake_has(tensorrt_module: ModuleType, fake: type, real: str) -> None:
    names = {name for name in vars(fake) if not name.startswith("_")}
    names |= {
        FakeEngine: {"num_io_tensors", "num_optimization_profiles"},
        FakeContext: {"active_optimization_profile", "nvtx_verbosity"},
    }.get(fake, set())
    assert sorted(names - set(dir(getattr(tensorrt_module, real)))) == []


def test_tensorrts_enumerations_have_the_same_members(tensorrt_module: ModuleType) -> None:
    enumerations = ("TensorIOMode", "DataType", "ProfilingVerbosity")
    for name in (*enumerations, "ExecutionContextAllocationStrategy"):
        real = getattr(tensorrt_module, name)
        assert [m.name for m in getattr(FakeTensorRt, name) if not hasattr(real, m.name)] == []


def test_the_fake_gpu_notices_what_is_undefined() -> None:
    fake = FakeCuda()
    fake.read(4711, 8)
    fake.cudaFree(4711)
    assert len(fake.violations) == 2


def test_what_only_tensorrt_for_rtx_has_is_not_in_tensorrt(tensorrt_module: ModuleType) -> None:
    """By these names a session tells the two apart."""
    assert not hasattr(tensorrt_module, "DynamicShapesKernelSpecializationStrategy")
    assert not hasattr(tensorrt_module.IExecutionContext, "is_stream_capturable")
    ours = {"set_execution_context_allocation_strategy"}
    assert ours <= set(dir(tensorrt_module.IRuntimeConfig)) & set(vars(FakeConfig))
