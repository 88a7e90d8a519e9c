"""ONNX Runtime on whatever it runs: imported, opened and called in one place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pconv_deploy.engines.memory import give_back_freed_memory
from pconv_deploy.engines.sessions import EngineFiles, RunOptions
from pconv_deploy.errors import EngineError, MissingRuntimeError
from pconv_deploy.parity import Arrays

MODEL = "model.onnx"
_ERRORS_ONLY = 3


def import_onnxruntime(backend: str, extra: str) -> ModuleType:
    """Import it, from whichever of its packages is installed.

    Raises:
        MissingRuntimeError: none is; the message names the extra that brings it to `backend`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            f"the {backend} backend needs ONNX Runtime: pip install 'pconv-deploy[{extra}]'"
        ) from error
    module: ModuleType = onnxruntime
    return module


def session_settings(
    onnxruntime: ModuleType, options: RunOptions, more: Mapping[str, Any] = {}
) -> Any:
    """Make onnxruntime.SessionOptions; `more` are attributes of it."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    for name, value in more.items():
        setattr(settings, name, value)
    return settings


class OnnxRuntimeSession:
    """An ONNX file loaded by ONNX Runtime; `run` is thread-safe by the runtime's own promise.

    Calls from several threads share one thread pool and none waits, whatever `streams` says.
    """

    def __init__(self, files: EngineFiles, load: Callable[[Path], Any]) -> None:
        with files.held(MODEL) as model:
            try:
                self._session: Any = load(model)
            except EngineError:
                raise
            # ONNX Runtime's exceptions share no base class but Exception.
            except Exception as error:
                raise EngineError(
                    f"ONNX Runtime cannot load {files.folder / MODEL}: "
                    f"{brief(error).replace(str(model), MODEL)}"
                ) from error
        give_back_freed_memory()  # the file's content and what it was changed to on the way

    def run(self, inputs: Arrays) -> Arrays:
        session = self._session  # kept while it runs, whatever `close` does meanwhile
        if session is None:
            raise EngineError("the engine is closed")
        names = [output.name for output in session.get_outputs()]
        try:
            outputs = session.run(names, dict(inputs))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in inputs.items())
            raise EngineError(f"ONNX Runtime failed on {shapes}: {brief(error)}") from error
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        self._session = None


def brief(error: Exception) -> str:
    """ONNX Runtime's message without what follows its first line: state of libraries, traces."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
