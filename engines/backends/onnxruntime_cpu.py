"""ONNX Runtime on the CPU: the engine that works everywhere."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.base import RunOptions, Runtime
from pconv_deploy.errors import EngineError, MissingRuntimeError
from pconv_deploy.parity import Arrays

_MODEL = "model.onnx"
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """Keeps the ONNX file as it is: ONNX Runtime compiles it when it opens it."""

    name: str = "onnxruntime"
    device: str = "cpu"

    def runtime(self) -> Runtime:
        return Runtime(package="onnxruntime", version=self._import().__version__)

    def build(self, graph: bytes, contract: GraphContract, folder: Path) -> None:  # noqa: ARG002
        (folder / _MODEL).write_bytes(graph)

    def open(self, folder: Path, options: RunOptions) -> "OnnxRuntimeSession":
        return OnnxRuntimeSession(self._import(), folder / _MODEL, options)

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
    """An ONNX file loaded by ONNX Runtime; `run` is thread-safe by the runtime's own promise."""

    def __init__(self, onnxruntime: ModuleType, model: Path, options: RunOptions) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
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
