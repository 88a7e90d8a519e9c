"""ONNX Runtime on the CPU: the engine that works everywhere."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.base import Progress, RunOptions, Runtime, another_release, silent
from pconv_deploy.engines.tensorrt.options import PlanFacts
from pconv_deploy.errors import EngineError, MissingRuntimeError
from pconv_deploy.export.rewrites.forms import Arrangement
from pconv_deploy.parity import Arrays, Precision

_MODEL = "model.onnx"
# On every processor measured so far; `--tune` finds out on yours.
_FASTEST = Arrangement(upsampling=("interleaved",), narrow_output=True, fused_epilogue=True)
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """Keeps the ONNX file as it is: ONNX Runtime compiles it when it opens it."""

    name: str = "onnxruntime"
    device: str = "cpu"
    rounds_results: bool = True
    typed: bool = False

    def runtime(self) -> Runtime:
        return Runtime(package="onnxruntime", version=self._import().__version__)

    def usual_form(self, precision: Precision) -> Arrangement:  # noqa: ARG002
        return _FASTEST

    def why_not_run(self) -> str | None:
        return None

    def why_not_open(self, built_with: Runtime, plan: PlanFacts | None) -> str | None:  # noqa: ARG002
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
        progress: Progress = silent,  # noqa: ARG002
    ) -> None:
        (folder / _MODEL).write_bytes(graph)

    def open(
        self,
        folder: Path,
        precision: Precision,  # noqa: ARG002  it is the graph's own
        options: RunOptions,
    ) -> "OnnxRuntimeSession":
        return OnnxRuntimeSession(self._import(), folder / _MODEL, options)

    def executed(
        self,
        folder: Path,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,  # noqa: ARG002
    ) -> Mapping[Precision, int]:
        import onnx

        with tempfile.TemporaryDirectory() as work:
            optimised = Path(work) / _MODEL
            settings = {"optimized_model_filepath": str(optimised)}
            OnnxRuntimeSession(self._import(), folder / _MODEL, RunOptions(), settings).close()
            nodes = onnx.load(optimised).graph.node
        found: Counter[Precision] = Counter()
        for node in nodes:
            if "Conv" in node.op_type:  # Conv, FusedConv, ConvTranspose; QLinearConv, ConvInteger
                eight_bits = node.op_type.startswith(("QLinear", "ConvInteger"))
                found["int8" if eight_bits else "fp32"] += 1
        return found

    def _import(self) -> ModuleType:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingRuntimeError(
                "the onnxruntime backend needs ONNX Runtime: "
                "pip install 'pconv-deploy[onnxruntime]'"
            ) from error
        module: ModuleType = onnxruntime
        return module


class OnnxRuntimeSession:
    """An ONNX file loaded by ONNX Runtime; `run` is thread-safe by the runtime's own promise.

    Calls from several threads share one thread pool and none waits, whatever `streams` says.
    """

    def __init__(
        self,
        onnxruntime: ModuleType,
        model: Path,
        options: RunOptions,
        more_settings: Mapping[str, Any] = {},
    ) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        for name, value in more_settings.items():
            setattr(settings, name, value)
        try:
            # Named, so that no other provider of the installed package takes its place.
            self._session: Any = onnxruntime.InferenceSession(
                model, settings, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime's exceptions share no base class but Exception.
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot load {model}: {error}") from error

    def run(self, inputs: Arrays) -> Arrays:
        session = self._session  # kept while it runs, whatever `close` does meanwhile
        if session is None:
            raise EngineError("the engine is closed")
        names = [output.name for output in session.get_outputs()]
        try:
            outputs = session.run(names, dict(inputs))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in inputs.items())
            raise EngineError(f"ONNX Runtime failed on {shapes}: {error}") from error
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        self._session = None
