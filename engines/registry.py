"""The backends there are. Adding one: its module, its line here, its test."""

from pconv_deploy.engines.backends.onnxruntime_cpu import OnnxRuntimeBackend
from pconv_deploy.engines.backends.openvino_cpu import OpenVinoBackend
from pconv_deploy.engines.base import Backend
from pconv_deploy.errors import UsageError

BACKENDS: tuple[Backend, ...] = (OnnxRuntimeBackend(), OpenVinoBackend())


def backend_named(name: str) -> Backend:
    """Find a backend.

    Raises:
        UsageError: there is none of that name.
    """
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    known = ", ".join(backend.name for backend in BACKENDS)
    raise UsageError(f"there is no backend {name!r}; known: {known}")
