"""ONNX Runtime on the CPU: the engine that works everywhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.onnxruntime.session import (
    MODEL,
    OnnxRuntimeSession,
    import_onnxruntime,
    session_settings,
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
from pconv_deploy.files import scratch_folder
from pconv_deploy.parity import Precision

# On every processor measured so far; `--tune` finds out on yours.
_FASTEST = Arrangement(upsampling=("interleaved",), narrow_output=True, fused_epilogue=True)
_FASTEST_INT8 = Arrangement(upsampling=("interleaved_nhwc",))  # its int8 kernels are NHWC
# One block for all features of a run instead of reusing each other's: no faster, and at 512x512 a
# process of 451 MiB instead of 350.
_MEMORY_PATTERN = False
_TRAITS = Traits(
    device="cpu", extra="onnxruntime", rounds_results=True, opens_after_fork=True, windows=True
)


# What ONNX Runtime adds to the name of a node, or of its result, where it replaces the node.
_CHANGED = re.compile("_token_[0-9]+$|_nchwc$")


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """Keeps the ONNX file as it is: ONNX Runtime compiles it when it opens it."""

    name: str = "onnxruntime"
    traits: Traits = _TRAITS

    def runtime(self) -> Runtime:
        return Runtime(package="onnxruntime", version=self._import().__version__)

    def usual_form(self, precision: Precision) -> Arrangement:
        return _FASTEST_INT8 if precision == "int8" else _FASTEST

    def why_not_run(self) -> str | None:
        return None

    def why_not_open(self, built_with: Runtime, built: Built) -> str | None:  # noqa: ARG002
        return None

    def why_unproved(self, built_with: Runtime) -> str | None:
        return another_release(self.runtime(), built_with)

    def why_not(self, precision: Precision) -> str | None:
        if precision in ("fp32", "int8"):
            return None
        return f"ONNX Runtime has no convolution in {precision} for the CPU"

    def build(
        self,
        graph: bytes,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,  # noqa: ARG002  it is the graph's own
        folder: Path,
        progress: Progress = ignore_progress,  # noqa: ARG002
    ) -> Built:
        (folder / MODEL).write_bytes(graph)
        return Built()

    def open(
        self,
        files: EngineFiles,
        precision: Precision,  # noqa: ARG002  it is the graph's own
        options: RunOptions,
    ) -> OnnxRuntimeSession:
        return self._session(files, options)

    def layers(
        self, files: EngineFiles, contract: GraphContract, precision: Precision
    ) -> Sequence[Layer]:
        import onnx

        with scratch_folder() as work:
            optimised = work / MODEL
            settings = {"optimized_model_filepath": str(optimised)}
            self._session(files, RunOptions(), settings).close()
            nodes = onnx.load(optimised).graph.node
        # Conv, FusedConv, ConvTranspose; QLinearConv, ConvInteger
        convolutions = [node for node in nodes if "Conv" in node.op_type]
        if precision == "fp32":
            return [Layer("fp32", node.name) for node in convolutions]
        known, found = _work(files.read(MODEL), contract), []
        for node in convolutions:
            eight_bits = node.op_type.startswith(("QLinear", "ConvInteger"))
            name, work = known.get(_CHANGED.sub("", node.name), (node.name, 0))
            found.append(Layer("int8" if eight_bits else "fp32", name, work))
        return found

    def _session(
        self, files: EngineFiles, options: RunOptions, more: Mapping[str, object] = {}
    ) -> OnnxRuntimeSession:
        onnxruntime = self._import()
        settings = {"enable_mem_pattern": _MEMORY_PATTERN, **more}
        return OnnxRuntimeSession(
            files,
            # Named, so that no other provider of the installed package takes its place.
            lambda model: onnxruntime.InferenceSession(
                model,
                session_settings(onnxruntime, options, settings),
                providers=["CPUExecutionProvider"],
            ),
        )

    def _import(self) -> ModuleType:
        return import_onnxruntime(self.name, "onnxruntime")


def _work(content: bytes, contract: GraphContract) -> dict[str, tuple[str, int]]:
    """Return the name and the multiply-adds of each convolution by that name and its result's."""
    import onnx

    from pconv_deploy.graphs.multiply_adds import work_of_convolutions

    side = contract.size_multiple
    work = work_of_convolutions(onnx.load_from_string(content), *contract.size or (side, side))
    return {key: (node.name, count) for node, count in work for key in (node.name, node.output[0])}
