# ruff: noqa: N802 - the names are TensorRT's
"""What we use of TensorRT's runtime, computing with NumPy on the fake GPU.

The network: in the hole, 255 - image, of floats 1 - image; its raw output is that everywhere.
A context notices what TensorRT documents as undefined.
"""

import enum
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, OUTPUT, RAW_OUTPUT
from pconv_deploy.engines.shapes import Profile
from tests.engines.cuda.fake_cuda import FakeCuda

PLAN = b"a plan for the fake GPU"
ARENA = 1 << 12  # bytes its layers need


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class _Logger:
    Severity = _Severity


class _Mode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Type(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    UINT8 = 7


class Strategy(enum.IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class Verbosity(enum.IntEnum):
    NONE = 1
    DETAILED = 2


SMALL = Profile(min=(1, 16, 16), opt=(1, 32, 32), max=(1, 32, 32))
LARGE = Profile(min=(1, 16, 16), opt=(4, 64, 64), max=(4, 64, 64))


def images(shape: tuple[int, int, int], seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """Inputs of (batch, height, width)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return {IMAGE: image, HOLE_MASK: rng.integers(0, 2, shape, np.uint8)}


def filled(image: NDArray[np.uint8], hole_mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(hole_mask[..., None] != 0, 255 - image, image)


class FakeTensorRt:
    """Stands for the module `tensorrt`."""

    __version__ = "11.4.0"
    ILogger = _Logger
    TensorIOMode = _Mode
    DataType = Type
    ExecutionContextAllocationStrategy = Strategy
    ProfilingVerbosity = Verbosity

    def __init__(self, cuda: FakeCuda, *profiles: Profile) -> None:
        self.cuda = cuda
        self.profiles = profiles
        self.tensors = {IMAGE: Type.UINT8, HOLE_MASK: Type.UINT8, FILLED: Type.UINT8}
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.contexts_left: int | None = None  # how many more can be made
        self.runs_left: int | None = None
        self.at_run: Callable[[], None] = lambda: None
        self.takes_shapes = True
        self.at_context: Callable[[], None] = lambda: None
        self.captures = True  # whether its work can be captured
        self.alignment = 512  # of the memory it works in
        self.freed_on: int | None = None  # the GPU that was current when the engine was freed

    @property
    def floats(self) -> bool:
        return self.tensors.get(HOLE_MASK) == Type.FLOAT

    def shape_of(self, name: str, shape: tuple[int, int, int]) -> tuple[int, ...]:
        batch, *size = shape
        if name == HOLE_MASK:
            return (batch, 1, *size) if self.floats else shape
        return (batch, 3, *size) if self.floats or name == RAW_OUTPUT else (*shape, 3)

    def Runtime(self, log: Any) -> "FakeRuntime":
        return FakeRuntime(self, log)

    def new_engine(self, log: Any) -> "FakeEngine":
        return FakeEngine(self, log)


class FakeRuntime:
    engine_host_code_allowed = False

    def __init__(self, library: FakeTensorRt, log: Any) -> None:
        self.library, self.log = library, log

    def deserialize_cuda_engine(self, content: bytes) -> "FakeEngine | None":
        if content != PLAN:
            self.log.log(_Severity.ERROR, "the plan has another version")
            return None
        return self.library.new_engine(self.log)


class FakeEngine:
    device_memory_size_v2 = ARENA

    def __init__(self, library: FakeTensorRt, log: Any) -> None:
        self.library, self.log = library, log
        self.num_optimization_profiles = len(library.profiles)
        self.num_io_tensors = len(library.tensors)
        self._making = False

    def __del__(self) -> None:
        self.library.freed_on = self.library.cuda.device

    def get_tensor_name(self, index: int) -> str:
        return list(self.library.tensors)[index]

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name in (IMAGE, HOLE_MASK) else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Type:
        return self.library.tensors[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        profile = self.library.profiles[0]
        batch, height, width = (
            most if low == most and len(self.library.profiles) == 1 else -1
            for low, most in zip(profile.min, profile.max, strict=True)
        )
        return self.library.shape_of(name, (batch, height, width))

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        profile = self.library.profiles[index]
        return [self.library.shape_of(name, s) for s in (profile.min, profile.opt, profile.max)]

    def create_execution_context(self, how: Strategy) -> "FakeContext | None":
        assert how == Strategy.USER_MANAGED
        return FakeContext(self) if self._has_room() else None

    def _has_room(self) -> bool:
        if self._making:
            self.library.cuda.violations.append("two threads made contexts of one engine at once")
        self._making = True
        self.library.at_context()
        self._making = False
        if self.library.contexts_left == 0:
            self.log.log(_Severity.ERROR, "no room for the context")
            return False
        if self.library.contexts_left is not None:
            self.library.contexts_left -= 1
        return True


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.library = engine.library
        self.library.contexts.add(self)
        self.active_optimization_profile = 0
        self.nvtx_verbosity = Verbosity.DETAILED
        self._shape = (0, 0, 0)
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._settled = self._captured = False
        self._stream: int | None = None

    def _change(self) -> None:
        self._settled = False
        if self._captured:
            self.library.cuda.violations.append("a captured context was touched")

    def set_device_memory(self, memory: int, size: int) -> None:
        self._change()
        if memory % self.library.alignment:
            self.engine.log.log(_Severity.ERROR, "memory must be aligned")
            return
        self._memory = (memory, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._change()
        self.active_optimization_profile = index
        self._shape = (0, 0, 0)
        self.library.cuda.give(stream, lambda: None)
        return 0 <= index < len(self.library.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._change()
        if name == HOLE_MASK:
            self._shape = (shape[0], shape[-2], shape[-1])
            profile = self.library.profiles[self.active_optimization_profile]
            return self.library.takes_shapes and profile.takes(self._shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._change()
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.library.shape_of(name, self._shape)

    def execute_async_v3(self, stream: int) -> bool:
        cuda, library = self.library.cuda, self.library
        library.at_run()
        if library.runs_left == 0:
            self.engine.log.log(_Severity.ERROR, "a kernel was not found")
            return False
        if library.runs_left is not None:
            library.runs_left -= 1
        if cuda.is_foreign(stream):
            cuda.violations.append("a context ran where another CUDA context was current")
        if self._stream not in (None, stream):
            cuda.violations.append("a context ran on two streams")
        self._stream = stream
        if cuda.is_capturing(stream):
            if not (library.captures and self._settled):
                self.engine.log.log(_Severity.ERROR, "this cannot be captured")
                return False
            self._captured = True
        self._settled = True
        cuda.give(stream, self._work())
        return True

    def _work(self) -> Callable[[], None]:
        mine, cuda, library = weakref.ref(self), self.library.cuda, self.library
        shape, places, (memory, size) = self._shape, dict(self._addresses), self._memory
        most, dtype = (np.float32(1), np.float32) if library.floats else (np.uint8(255), np.uint8)

        def read(name: str) -> NDArray[Any]:
            wanted = library.shape_of(name, shape)
            count = int(np.prod(wanted)) * np.dtype(dtype).itemsize
            return cuda.read(places[name], count).view(dtype).reshape(wanted)

        def compute() -> None:
            if mine() is None:
                cuda.violations.append("a context was destroyed before its work was done")
            if size < ARENA or cuda.read(memory, size).size != size:
                cuda.violations.append("a context has not the memory it needs")
            image, mask = read(IMAGE), read(HOLE_MASK)
            composite = np.where(
                (mask if library.floats else mask[..., None]) != 0, most - image, image
            )
            for name in (FILLED, OUTPUT):
                if name in library.tensors:
                    cuda.write(places[name], composite)
            if RAW_OUTPUT in library.tensors:
                cuda.write(places[RAW_OUTPUT], raw(image))

        return compute


def raw(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((255 - image) / np.float32(255)).transpose(0, 3, 1, 2).astype(np.float32)
