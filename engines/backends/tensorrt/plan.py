"""A TensorRT plan, loaded: what it takes and returns, and contexts to run it in."""

import functools
import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from pconv_deploy.contract import HOLE_MASK, RAW_OUTPUT, TensorSpec, deployment_specs, tensor_specs
from pconv_deploy.engines.backends.tensorrt.library import format_errors, new_log
from pconv_deploy.engines.backends.tensorrt.profiles import tensor_shape
from pconv_deploy.engines.cuda.calls import Cuda, in_mib
from pconv_deploy.engines.shapes import Profile, Shape
from pconv_deploy.errors import EngineError

_DTYPES = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16"}
_MOST_MESSAGES = 32
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


class _Errors(threading.local):
    """TensorRT's messages of each thread to itself, so that none is told another's."""

    def __init__(self) -> None:
        # A server runs for months: what nobody asks for is forgotten.
        self.messages: deque[str] = deque(maxlen=_MOST_MESSAGES)

    def append(self, message: str) -> None:
        self.messages.append(message)

    def drain(self) -> list[str]:
        """Return and forget them."""
        messages = list(self.messages)
        self.messages.clear()
        return messages


class Plan:
    """A plan that TensorRT has taken; several threads may use it at once.

    inputs, outputs  by their names
    profiles         the shapes it takes, in the plan's order
    memory           bytes that its layers need for what they hand each other, at the largest shape
    alignment        what the address of that memory must be a multiple of
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
        self._errors = self._log.errors = _Errors()
        self._log.warnings = deque(maxlen=0)
        self._making = threading.Lock()  # TensorRT's objects are not for several threads at once
        self._runtime = library.Runtime(self._log)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(f"TensorRT does not load the plan: {self.words()}")
        self.inputs, self.outputs = self._tensors()
        self.profiles = tuple(map(self._profile, range(self._engine.num_optimization_profiles)))
        self.memory = int(self._engine.device_memory_size_v2)
        attribute = cuda.runtime.cudaDeviceAttr.cudaDevAttrTextureAlignment
        device = cuda.call("cudaGetDevice")
        self.alignment = int(cuda.call("cudaDeviceGetAttribute", attribute, device))
        self._cache: Any = None
        self._how = self._how_contexts_are_made()

    def new_context(self, memory: int) -> Any:
        """A new execution context that works in `self.memory` bytes at this address.

        Raises:
            EngineError: TensorRT makes none, usually for want of memory, or refuses the address.
        """
        with self._making:
            self._errors.drain()
            context = self._engine.create_execution_context(self._how)
            if context is None:
                free, total = self._cuda.call("cudaMemGetInfo")
                raise EngineError(
                    f"TensorRT makes no execution context: {self.words()}. The GPU has "
                    f"{in_mib(free)} free of {in_mib(total)}"
                )
            # A plan that tells its layers in detail would do so to profilers, too, in every run.
            if hasattr(context, "nvtx_verbosity"):
                context.nvtx_verbosity = self._library.ProfilingVerbosity.NONE
            self._errors.drain()
            context.set_device_memory(memory, self.memory)  # which returns nothing
            if errors := self._errors.drain():
                raise EngineError(f"TensorRT does not take the memory: {format_errors(errors)}")
        return context

    def words(self) -> str:
        """What TensorRT said of this thread's failures since the last time."""
        return format_errors(self._errors.drain())

    def close(self) -> None:
        """Let TensorRT free it; every context must be gone."""
        self._how = self._cache = self._engine = self._runtime = None

    def _how_contexts_are_made(self) -> Any:
        """With memory of ours; TensorRT for RTX is told when to compile its kernels, too.

        It compiles them where it runs: by default for each new shape in the background, which
        changes the kernels, and so perhaps bits, some time after a graph was captured. Eagerly,
        the first run of a shape settles them, and all contexts share what was compiled.
        """
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        compiling = getattr(self._library, "DynamicShapesKernelSpecializationStrategy", None)
        if compiling is None:
            return strategy
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = compiling.EAGER
        self._cache = config.create_runtime_cache()  # must outlive the contexts
        config.set_runtime_cache(self._cache)
        return config

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
