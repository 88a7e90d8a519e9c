"""A TensorRT plan, loaded: what it takes and returns, and contexts to run it in."""

import functools
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from pconv_deploy.contract import (
    HOLE_MASK,
    RAW_OUTPUT,
    TensorSpec,
    deployment_specs,
    tensor_specs,
)
from pconv_deploy.engines.cuda.calls import Cuda, in_mib
from pconv_deploy.engines.tensorrt.library import new_log, words_of
from pconv_deploy.engines.tensorrt.options import Profile, Shape
from pconv_deploy.engines.tensorrt.profiles import tensor_shape
from pconv_deploy.errors import EngineError

_DTYPES = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16"}
_MOST_WORDS = 32
_RAW = TensorSpec(RAW_OUTPUT, "float32", "NCHW", ("batch", 3, "height", "width"), "uncomposited")


@dataclass(frozen=True)
class Tensor:
    """An input or output of a plan."""

    spec: TensorSpec
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        return self.spec.name

    def shape(self, shape: Shape) -> tuple[int, ...]:
        """Its own shape at (batch, height, width)."""
        return _shape(self.spec, shape)

    def size(self, shape: Shape) -> int:
        """Its bytes at (batch, height, width)."""
        return math.prod(self.shape(shape)) * self.dtype.itemsize


# Asked several times in each run, for the few shapes that a program has.
_shape = functools.lru_cache(maxsize=1024)(tensor_shape)


class Plan:
    """A plan that TensorRT has taken.

    inputs, outputs  by their names
    profiles         the shapes it takes, in the plan's order
    memory           bytes that its layers need for what they hand each other, at the largest shape
    """

    def __init__(
        self, library: ModuleType, content: bytes, cuda: Cuda, *, host_code: bool = False
    ) -> None:
        """Load it; `host_code` lets a version-compatible plan run the code it brings along.

        Raises:
            EngineError: TensorRT does not take it, or it is not one of ours.
        """
        self._library = library
        self._cuda = cuda
        self._log = new_log(library)
        # A server runs for months: what nobody asks for is forgotten.
        self._log.errors, self._log.warnings = deque(maxlen=_MOST_WORDS), deque(maxlen=0)
        self._runtime = library.Runtime(self._log)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(f"TensorRT does not load the plan: {self.words()}")
        self.inputs, self.outputs = self._tensors()
        self.profiles = tuple(map(self._profile, range(self._engine.num_optimization_profiles)))
        self.memory = int(self._engine.device_memory_size_v2)

    def new_context(self, memory: int) -> Any:
        """A new execution context that works in `self.memory` bytes at this address.

        Raises:
            EngineError: TensorRT makes none, usually for want of memory.
        """
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            free, total = self._cuda.call("cudaMemGetInfo")
            raise EngineError(
                f"TensorRT makes no execution context: {self.words()}. The GPU has "
                f"{in_mib(free)} free of {in_mib(total)}"
            )
        context.set_device_memory(memory, self.memory)
        return context

    def words(self) -> str:
        """What TensorRT said of its failures since the last time."""
        errors = list(self._log.errors)
        self._log.errors.clear()
        return words_of(errors) or "it does not say why"

    def close(self) -> None:
        """Let TensorRT free it; every context must be gone."""
        self._engine = self._runtime = None

    def _tensors(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        engine, modes = self._engine, self._library.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        dtypes = {name: self._dtype(name) for name in names}
        takes = [name for name in names if engine.get_tensor_mode(name) == modes.INPUT]
        bytes_in = dtypes.get(HOLE_MASK) == np.uint8
        known_in, known_out = (deployment_specs if bytes_in else tensor_specs)(None, None)
        specs = {spec.name: spec for spec in (*known_in, *known_out, _RAW)}
        if sorted(takes) != sorted(spec.name for spec in known_in) or not set(names) <= set(specs):
            raise EngineError(f"found a plan with the tensors {names}; it was not built by us")
        tensors = {name: Tensor(specs[name], dtypes[name]) for name in names}
        inputs = {spec.name: tensors[spec.name] for spec in known_in}
        return inputs, {name: tensors[name] for name in names if name not in inputs}

    def _dtype(self, name: str) -> np.dtype[Any]:
        found = self._engine.get_tensor_dtype(name)
        for theirs, ours in _DTYPES.items():
            if found == getattr(self._library.DataType, theirs):
                return np.dtype(ours)
        raise EngineError(f"found a plan whose {name} is of {found}; it was not built by us")

    def _profile(self, index: int) -> Profile:
        fixed = tuple(self._engine.get_tensor_shape(HOLE_MASK))
        if min(fixed) >= 0:  # nothing in it is free
            shapes = [fixed] * 3
        else:
            shapes = [tuple(s) for s in self._engine.get_tensor_profile_shape(HOLE_MASK, index)]
        low, best, high = ((s[0], s[-2], s[-1]) for s in shapes)
        return Profile(min=low, opt=best, max=high)
