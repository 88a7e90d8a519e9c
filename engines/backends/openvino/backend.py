"""OpenVINO on the CPU."""

import errno
import logging
import math
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines import processor
from pconv_deploy.engines.backends.openvino.library import (
    compile_for_cpu,
    import_openvino,
    processor_capabilities,
    shared_core,
)
from pconv_deploy.engines.backends.openvino.weights import (
    MODEL,
    WEIGHTS,
    share_weights,
    weights_tensor,
)
from pconv_deploy.engines.base import (
    Built,
    EngineFiles,
    Layer,
    Progress,
    RunOptions,
    Runtime,
    Traits,
    another_release,
    ignore_progress,
)
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.memory import give_back_freed_memory
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import inlined
from pconv_deploy.parity import Arrays, Precision

_log = logging.getLogger(__name__)
# OpenVINO computes a transposed convolution in fp32 whatever was asked for, and fuses what follows
# a convolution by itself. Figures: docs/measurements.md.
_FASTEST = Arrangement(upsampling=("depth_to_space",))
_FASTEST_FP32 = Arrangement(narrow_output=True)
_EXECUTED: Mapping[str, Precision] = {
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
}
# A model compiled for one shape of inputs ran a tenth to a quarter faster than one for all
# shapes. Each takes some tenths of a second, and memory: twice that of the weights, and for
# features 120 bytes a pixel in the demo's network. So many stay in any case, more while their
# memory is estimated below the limit.
_ALWAYS_KEPT, _MEMORY_OF_KEPT = 3, 1 << 30
_BYTES_OF_EACH, _BYTES_PER_VALUE = 8 << 20, 64  # a pixel is four values: three colours, one mask

# What becomes of the exceptions of its C++: of a damaged model, all of them.
_ERRORS = (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)

Shapes = tuple[tuple[str, tuple[int, ...]], ...]

_TRAITS = Traits(
    device="cpu",
    extra="openvino",
    opens_after_fork=True,
    windows=True,
    # With AMX it computes convolutions of other codes in fp32. Elsewhere these gain nothing and
    # cost 1 to 5 dB (docs/measurements.md).
    symmetric_codes="amx_int8" in (processor.instruction_sets() or ()),
)


@dataclass(frozen=True)
class OpenVinoBackend:
    """Converts the graph to OpenVINO's own files, model.xml and model.bin."""

    name: str = "openvino"
    traits: Traits = _TRAITS

    def runtime(self) -> Runtime:
        version: str = import_openvino().__version__
        return Runtime(package="openvino", version=version.partition("-")[0])

    def usual_form(self, precision: Precision) -> Arrangement:
        return _FASTEST_FP32 if precision == "fp32" else _FASTEST

    def why_not_run(self) -> str | None:
        return None

    def why_not_open(self, built_with: Runtime, built: Built) -> str | None:  # noqa: ARG002
        return None

    def why_unproved(self, built_with: Runtime) -> str | None:
        return another_release(self.runtime(), built_with)

    def why_not(self, precision: Precision) -> str | None:
        if precision in ("fp32", "int8"):
            return None
        if precision == "fp16":  # where it would not has not been tried
            return "on most processors OpenVINO would compute in fp32 and not say so"
        if _has_bf16():
            return None
        name, _ = processor_capabilities()
        # Asked for bf16 all the same, it would compute in single precision and not say so.
        return (
            f"this processor ({name}) has no bf16 instructions (AVX512_BF16 or AMX_BF16), and "
            "OpenVINO does not emulate them"
        )

    def build(
        self,
        graph: bytes,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,  # noqa: ARG002  bf16 is chosen when it is opened
        folder: Path,
        progress: Progress = ignore_progress,  # noqa: ARG002
    ) -> Built:
        # OpenVINO reads no model-local functions.
        content = inlined(graph)
        try:
            model = shared_core().read_model(content, b"")
        except _ERRORS as error:
            raise EngineError(f"OpenVINO cannot convert the graph: {_brief(error)}") from error
        try:
            # Its default would halve the weights' precision.
            import_openvino().save_model(model, folder / MODEL, compress_to_fp16=False)
        except _ERRORS as error:  # which does not say why
            raise _unwritten(folder, len(content), error) from error
        return Built()

    def share(self, first: Path, second: Path) -> tuple[str, ...]:
        return share_weights(first, second)

    def open(
        self, files: EngineFiles, precision: Precision, options: RunOptions
    ) -> "OpenVinoSession":
        return OpenVinoSession(files, precision, options)

    def layers(
        self, files: EngineFiles, contract: GraphContract, precision: Precision
    ) -> Sequence[Layer]:
        session = self.open(files, precision, RunOptions())
        height, width = contract.size or (contract.size_multiple, 2 * contract.size_multiple)
        sizes = {"batch": contract.batch or 2, "height": height, "width": width}
        shapes = {
            spec.name: [sizes[n] if isinstance(n, str) else n for n in spec.shape]
            for spec in contract.inputs
        }
        compiled = session.compiled(_shapes_of(shapes))
        found = []
        for operation in compiled.get_runtime_model().get_ordered_ops():
            facts, kind = operation.get_rt_info(), operation.get_rt_info()["layerType"].value
            if kind in ("Convolution", "Deconvolution"):
                made = operation.output(0) if kind == "Convolution" else operation.input(0)
                pixels = math.prod(list(made.get_shape())[2:])
                work = math.prod(operation.input(1).get_shape()) * pixels
                found.append(Layer(_executed(facts), operation.friendly_name, work))
        return found


def _has_bf16() -> bool:
    _, capabilities = processor_capabilities()
    return "BF16" in capabilities


def _executed(facts: Mapping[str, Any]) -> Precision:
    """The precision that a convolution's kernel computes in, such as brgconv_avx512_amx_bf16.

    Its inputs may have another one: on processors with AMX a convolution of asymmetric codes is
    of i8, and its kernel brgconv_avx512_f32.
    """
    kernel = facts["primitiveType"].value.rpartition("_")[2].lower()
    return _EXECUTED[kernel if kernel in _EXECUTED else facts["runtimePrecision"].value]


def _unwritten(folder: Path, needed: int, error: Exception) -> OSError:
    """The system's error behind one of OpenVINO's: a full disk where there is too little room."""
    free = shutil.disk_usage(folder).free
    code = errno.ENOSPC if free < needed else errno.EIO
    return OSError(
        code,
        f"{os.strerror(code)} (OpenVINO writes about {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB "
        f"are free: {_brief(error)})",
    )


class OpenVinoSession:
    """A model compiled anew for each shape of inputs; the last few stay.

    Each has `streams` infer requests, so as many calls run at once; others wait for one.
    """

    def __init__(self, files: EngineFiles, precision: Precision, options: RunOptions) -> None:
        self._streams = options.streams
        hint = "bf16" if precision == "bf16" or (precision == "int8" and _has_bf16()) else "f32"
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
                self._fixed = _shapes_of({name: value.shape for name, value in inputs.items()})
        except _ERRORS as error:
            raise EngineError(
                f"OpenVINO cannot load {files.folder / MODEL}: {_brief(error)}"
            ) from error
        if self._fixed is not None:
            self._idle_requests(self._fixed)

    def run(self, inputs: Arrays) -> Arrays:
        found = {name: array.dtype for name, array in inputs.items()}
        if found != self._dtypes:  # OpenVINO itself would convert, or read what is not there
            raise EngineError(f"found inputs {found}, needed {self._dtypes}")
        shapes = _shapes_of({name: array.shape for name, array in inputs.items()})
        requests = self._idle_requests(shapes)
        request = requests.get()
        try:
            results = request.infer(dict(inputs))
            return {output.get_any_name(): array for output, array in results.items()}
        except _ERRORS as error:
            raise EngineError(f"OpenVINO failed on {_show(shapes)}: {_brief(error)}") from error
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
        except _ERRORS as error:
            raise EngineError(f"OpenVINO failed on {_show(shapes)}: {_brief(error)}") from error
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


def _shapes_of(shapes: Mapping[str, Iterable[int]]) -> Shapes:
    return tuple((name, tuple(shape)) for name, shape in sorted(shapes.items()))


def _show(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes)


def _brief(error: Exception) -> str:
    """OpenVINO's message without the places in its source where it was raised and passed on."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return "; ".join(kept) or str(error)
