"""The backends there are. Adding one: its module, its line here, its test."""

from dataclasses import replace

from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.backends.onnxruntime.gpu import (
    ONNXRUNTIME_CUDA,
    ONNXRUNTIME_TENSORRT,
    ONNXRUNTIME_TENSORRT_RTX,
)
from pconv_deploy.engines.backends.openvino.backend import OpenVinoBackend
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.config import refuse_foreign
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.base import Backend
from pconv_deploy.errors import UsageError

BACKENDS: tuple[Backend, ...] = (
    OnnxRuntimeBackend(),
    OpenVinoBackend(),
    ONNXRUNTIME_CUDA,
    ONNXRUNTIME_TENSORRT,
    ONNXRUNTIME_TENSORRT_RTX,
    TensorRtBackend(TENSORRT),
    TensorRtBackend(TENSORRT_RTX),
)


def backend_named(name: str, tensorrt: TensorRtOptions | None = None) -> Backend:
    """Find a backend.

    Args:
        name: of the backend.
        tensorrt: how TensorRT is to build; None for the usual way, or another backend.

    Raises:
        UsageError: there is none of that name, `tensorrt` is given to another one, or has an
            option that this one does not have.
    """
    for backend in BACKENDS:
        if backend.name != name:
            continue
        if tensorrt is None:
            return backend
        if isinstance(backend, TensorRtBackend):
            refuse_foreign(backend.flavour, tensorrt)
            return replace(backend, options=tensorrt)
        raise UsageError(f"the {name} backend has none of TensorRT's options")
    known = ", ".join(backend.name for backend in BACKENDS)
    raise UsageError(f"there is no backend {name!r}; known: {known}")
