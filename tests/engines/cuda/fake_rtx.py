"""What TensorRT for RTX has beyond TensorRT, by its documentation: no test here can load it."""

import enum
from typing import Any

from tests.engines.cuda.fake_tensorrt import FakeContext, FakeEngine, FakeTensorRt, Strategy


class Compiling(enum.IntEnum):
    """When it compiles kernels for a shape; LAZY swaps them in the middle of things."""

    LAZY = 0
    EAGER = 1
    NONE = 2


class FakeRtx(FakeTensorRt):
    """Stands for the module `tensorrt_rtx`."""

    __version__ = "1.4.0"
    DynamicShapesKernelSpecializationStrategy = Compiling

    def new_engine(self, log: Any) -> "FakeRtxEngine":
        return FakeRtxEngine(self, log)


class FakeCache:
    """Of compiled kernels."""


class FakeConfig:
    def __init__(self) -> None:
        self.strategy = Strategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = Compiling.LAZY
        self.cache: FakeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.cache = cache
        return True


class FakeRtxContext(FakeContext):
    def __init__(self, engine: FakeEngine, config: FakeConfig) -> None:
        super().__init__(engine)
        self.config = config

    def is_stream_capturable(self, stream: int) -> bool:
        assert not self.library.cuda.is_capturing(stream)
        return self.library.captures


class FakeRtxEngine(FakeEngine):
    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()

    def create_execution_context(self, how: Any) -> FakeRtxContext | None:
        assert isinstance(how, FakeConfig)
        assert how.strategy == Strategy.USER_MANAGED
        return FakeRtxContext(self, how) if self._has_room() else None
