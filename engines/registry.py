"""The backends there are. Adding one: its module, its line here, its test."""

import msgspec

from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.backends.onnxruntime.gpu import (
    ONNXRUNTIME_CUDA,
    ONNXRUNTIME_TENSORRT,
    ONNXRUNTIME_TENSORRT_RTX,
)
from pconv_deploy.engines.backends.openvino.backend import OpenVinoBackend
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.base import Backend, BackendWithOptions
from pconv_deploy.errors import UsageError

__all__ = ["BACKENDS", "TensorRtOptions", "backend_named"]

BACKENDS: tuple[Backend, ...] = (
    OnnxRuntimeBackend(),
    OpenVinoBackend(),
    ONNXRUNTIME_CUDA,
    ONNXRUNTIME_TENSORRT,
    ONNXRUNTIME_TENSORRT_RTX,
    TensorRtBackend(TENSORRT),
    TensorRtBackend(TENSORRT_RTX),
)


def backend_named(name: str, options: msgspec.Struct | None = None) -> Backend:
    """Find a backend.

    Args:
        name: of the backend.
        options: of the backend's own, how to build; None for its defaults.

    Raises:
        UsageError: there is none of that name, or it does not have these options.
    """
    for backend in BACKENDS:
        if backend.name != name:
            continue
        if options is None:
            return backend
        if isinstance(backend, BackendWithOptions) and isinstance(options, backend.options_type):
            return backend.with_options(options)
        raise UsageError(f"the {name} backend has none of the options of {_owner(options)}")
    known = ", ".join(backend.name for backend in BACKENDS)
    raise UsageError(f"there is no backend {name!r}; known: {known}")


def _owner(options: msgspec.Struct) -> str:
    """Name the backends that have such options."""
    names = [
        backend.name
        for backend in BACKENDS
        if isinstance(backend, BackendWithOptions) and isinstance(options, backend.options_type)
    ]
    return ", ".join(names) or type(options).__name__
