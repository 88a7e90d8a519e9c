"""OpenVINO on the CPU."""

import errno
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines import processor
from pconv_deploy.engines.backends.openvino.library import (
    import_openvino,
    shared_core,
    why_no_bf16,
)
from pconv_deploy.engines.backends.openvino.session import (
    ERRORS,
    OpenVinoSession,
    brief,
    shapes_of,
)
from pconv_deploy.engines.backends.openvino.weights import (
    MODEL,
    share_weights,
)
from pconv_deploy.engines.base import (
    Built,
    Layer,
    Progress,
    Runtime,
    Traits,
    another_release,
    ignore_progress,
)
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.sessions import EngineFiles, RunOptions
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import inlined
from pconv_deploy.parity import Precision

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
        return why_no_bf16()

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
        except ERRORS as error:
            raise EngineError(f"OpenVINO cannot convert the graph: {brief(error)}") from error
        try:
            # Its default would halve the weights' precision.
            import_openvino().save_model(model, folder / MODEL, compress_to_fp16=False)
        except ERRORS as error:  # which does not say why
            raise _unwritten(folder, len(content), error) from error
        return Built()

    def share(self, first: Path, second: Path) -> tuple[str, ...]:
        return share_weights(first, second)

    def open(
        self, files: EngineFiles, precision: Precision, options: RunOptions
    ) -> OpenVinoSession:
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
        compiled = session.compiled(shapes_of(shapes))
        found = []
        for operation in compiled.get_runtime_model().get_ordered_ops():
            facts = operation.get_rt_info()
            kind = facts["layerType"].value
            if kind in ("Convolution", "Deconvolution"):
                made = operation.output(0) if kind == "Convolution" else operation.input(0)
                pixels = math.prod(list(made.get_shape())[2:])
                work = math.prod(operation.input(1).get_shape()) * pixels
                found.append(Layer(_executed(facts), operation.friendly_name, work))
        return found


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
        f"are free: {brief(error)})",
    )
