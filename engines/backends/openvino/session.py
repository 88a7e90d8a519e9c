"""A loaded OpenVINO model, compiled for each shape of inputs."""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from queue import SimpleQueue
from typing import Any

from pconv_deploy.engines.backends.openvino.library import compile_for_cpu, shared_core, why_no_bf16
from pconv_deploy.engines.backends.openvino.weights import MODEL, WEIGHTS, weights_tensor
from pconv_deploy.engines.memory import give_back_freed_memory
from pconv_deploy.engines.sessions import EngineFiles, RunOptions
from pconv_deploy.errors import EngineError
from pconv_deploy.parity import Arrays, Precision

_log = logging.getLogger(__name__)
# A model compiled for one shape of inputs ran a tenth to a quarter faster than one for all
# shapes. Each takes some tenths of a second, and memory: twice that of the weights, and for
# features 120 bytes a pixel in the demo's network. So many stay in any case, more while their
# memory is estimated below the limit.
_ALWAYS_KEPT, _MEMORY_OF_KEPT = 3, 1 << 30
_BYTES_OF_EACH, _BYTES_PER_VALUE = 8 << 20, 64  # a pixel is four values: three colours, one mask

# What becomes of the exceptions of its C++: of a damaged model, all of them.
ERRORS = (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class OpenVinoSession:
    """A model compiled anew for each shape of inputs; the last few stay.

    Each has `streams` infer requests, so as many calls run at once; others wait for one.
    """

    def __init__(self, files: EngineFiles, precision: Precision, options: RunOptions) -> None:
        self._streams = options.streams
        bf16 = precision == "bf16" or (precision == "int8" and why_no_bf16() is None)
        hint = "bf16" if bf16 else "f32"
        self._settings = {
            # Of int8 engines, what is between the convolutions, and layers that are kept exact.
            "INFERENCE_PRECISION_HINT": hint,
            "EXECUTION_MODE_HINT": "PERFORMANCE" if hint == "bf16" else "ACCURACY",
            "NUM_STREAMS": options.streams,
            "INFERENCE_NUM_THREADS": (options.threads or 0) * options.streams,  # 0: all cores
            # Two processes would pin their threads to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._said = False
        self._changing = threading.Lock()
        self._requests: OrderedDict[Shapes, SimpleQueue[Any]] = OrderedDict()
        content = files.read(MODEL).decode(errors="replace")
        self._weights = files.read(WEIGHTS)  # no copy in the model, so it stays as long as that
        try:
            self._model: Any = shared_core().read_model(content, weights_tensor(self._weights))
            inputs = {value.get_any_name(): value for value in self._model.inputs}
            self._dtypes = {name: value.element_type.to_dtype() for name, value in inputs.items()}
            self._fixed: Shapes | None = None
            if not self._model.is_dynamic():
                self._fixed = shapes_of({name: value.shape for name, value in inputs.items()})
        except ERRORS as error:
            raise EngineError(
                f"OpenVINO cannot load {files.folder / MODEL}: {brief(error)}"
            ) from error
        if self._fixed is not None:
            self._idle_requests(self._fixed)

    def run(self, inputs: Arrays) -> Arrays:
        found = {name: array.dtype for name, array in inputs.items()}
        if found != self._dtypes:  # OpenVINO itself would convert, or read what is not there
            raise EngineError(f"found inputs {found}, needed {self._dtypes}")
        shapes = shapes_of({name: array.shape for name, array in inputs.items()})
        requests = self._idle_requests(shapes)
        request = requests.get()
        try:
            results = request.infer(dict(inputs))
            return {output.get_any_name(): array for output, array in results.items()}
        except ERRORS as error:
            raise EngineError(f"OpenVINO failed on {_show(shapes)}: {brief(error)}") from error
        finally:
            requests.put(request)

    def close(self) -> None:
        with self._changing:
            self._model = None
            self._requests.clear()

    def compiled(self, shapes: Shapes) -> Any:
        """Compile the model for inputs of these shapes.

        Raises:
            EngineError: the model does not take them, or OpenVINO would compute in another
                precision than it is to.
        """
        if self._fixed and shapes != self._fixed:
            raise EngineError(
                f"found inputs {_show(shapes)}; this engine takes {_show(self._fixed)}"
            )
        try:
            self._model.reshape({name: list(shape) for name, shape in shapes})
            compiled = compile_for_cpu(self._model, self._settings)
        except ERRORS as error:
            raise EngineError(f"OpenVINO failed on {_show(shapes)}: {brief(error)}") from error
        hint, wanted = "INFERENCE_PRECISION_HINT", self._settings["INFERENCE_PRECISION_HINT"]
        if (chosen := compiled.get_property(hint).get_type_name()) != wanted:
            raise EngineError(
                f"this engine computes in {wanted}; on this processor OpenVINO would take {chosen}"
            )
        return compiled

    def _idle_requests(self, shapes: Shapes) -> SimpleQueue[Any]:
        with self._changing:
            if self._model is None:
                raise EngineError("the engine is closed")
            if shapes not in self._requests:
                compiled = self.compiled(shapes)
                idle: SimpleQueue[Any] = SimpleQueue()
                for _ in range(self._streams):
                    idle.put(compiled.create_infer_request())
                give_back_freed_memory()
                self._requests[shapes] = idle
            self._requests.move_to_end(shapes)
            while len(self._requests) > _ALWAYS_KEPT and self._memory() > _MEMORY_OF_KEPT:
                self._requests.popitem(last=False)
                self._say_once_that_shapes_are_dropped()
            return self._requests[shapes]

    def _memory(self) -> int:
        """Estimate the bytes of all that is compiled."""
        values = sum(math.prod(shape) for shapes in self._requests for _, shape in shapes)
        each = _BYTES_OF_EACH + 2 * len(self._weights)
        return each * len(self._requests) + _BYTES_PER_VALUE * values

    def _say_once_that_shapes_are_dropped(self) -> None:
        if not self._said:
            self._said = True
            _log.warning(
                "OpenVINO compiles a network anew for each batch and size of images; this engine "
                "has had more than it keeps in memory (%d now), and those that come again are "
                "compiled again. Fewer different sizes save that time",
                len(self._requests),
            )


def shapes_of(shapes: Mapping[str, Iterable[int]]) -> Shapes:
    """Return shapes by their names as a key."""
    return tuple((name, tuple(shape)) for name, shape in sorted(shapes.items()))


def _show(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes)


def brief(error: Exception) -> str:
    """OpenVINO's message without the places in its source where it was raised and passed on."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return "; ".join(kept) or str(error)
