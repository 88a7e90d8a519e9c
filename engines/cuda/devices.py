"""The GPU of this machine, or why it has none."""

import importlib.metadata
import os
from pathlib import Path

from pconv_deploy.engines.base import Gpu
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import EngineError, MissingRuntimeError

# The kernel module says its version here; CUDA itself knows only which CUDA the driver takes.
_DRIVER_VERSION = Path("/sys/module/nvidia/version")


def why_no_gpu() -> str | None:
    """Say why nothing can run on a GPU here, or None if it can."""
    try:
        cuda = Cuda.load()
    except MissingRuntimeError as error:
        return str(error)
    return _why_not(cuda)


def gpu_here() -> Gpu | None:
    """Describe the GPU, or None on a machine that has none: no driver, or no GPU that it shows.

    A machine for building alone is one thing, one whose GPU cannot be reached another.

    Raises:
        EngineError: there is a driver, but CUDA cannot use it; it may be too old.
        MissingRuntimeError: cuda-bindings is not installed, so that nothing is known.
    """
    if why_no_gpu() and _absent(Cuda.load()):
        return None
    return current_gpu()


def current_gpu() -> Gpu:
    """Describe the GPU that CUDA calls of this thread go to: the first, if nobody chose another.

    Raises:
        EngineError: there is none, or CUDA cannot use it.
        MissingRuntimeError: cuda-bindings is not installed.
    """
    cuda = Cuda.load()
    if why := _why_not(cuda):
        raise EngineError(f"no GPU can be used: {why}")
    properties = cuda.call("cudaGetDeviceProperties", cuda.call("cudaGetDevice"))
    name = properties.name
    return Gpu(
        name=(name.decode(errors="replace") if isinstance(name, bytes) else name).rstrip("\0"),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory=int(properties.totalGlobalMem),
        driver=_driver_version(),
        cuda=_version(cuda.call("cudaDriverGetVersion")),
    )


def _why_not(cuda: Cuda) -> str | None:
    if why := _absent(cuda):
        return why
    status, _ = cuda.attempt("cudaGetDeviceCount")
    if cuda.is_error(status, "cudaErrorInsufficientDriver"):
        driver = cuda.call("cudaDriverGetVersion")
        major = cuda.call("cudaRuntimeGetVersion") // 1000
        return (
            f"the NVIDIA driver is too old: found one for CUDA {_version(driver)}; "
            f"{_bindings()} needs one for CUDA {major}.0 or later. Install a newer driver, or: "
            f"pip install 'cuda-bindings=={driver // 1000}.*'"
        )
    if status != cuda.runtime.cudaError_t.cudaSuccess:
        return f"CUDA does not start: {cuda.describe(status)}"
    return None


def _absent(cuda: Cuda) -> str | None:
    """Say that there is no GPU, or None: there is one, whether or not it can be used."""
    driver = cuda.call("cudaDriverGetVersion")  # the newest CUDA it takes; 0: there is no driver
    if not driver:
        return "no NVIDIA driver is installed (CUDA finds no libcuda.so.1)"
    status, count = cuda.attempt("cudaGetDeviceCount")
    none = status == cuda.runtime.cudaError_t.cudaSuccess and count == 0
    if none or cuda.is_error(status, "cudaErrorNoDevice"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
        return f"CUDA sees no GPU{hidden}"
    return None


def _version(number: int) -> str:
    """13050 is CUDA 13.5."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _bindings() -> str:
    try:
        return f"cuda-bindings {importlib.metadata.version('cuda-bindings')}"
    except importlib.metadata.PackageNotFoundError:
        return "cuda-bindings"


def _driver_version() -> str:
    try:
        return _DRIVER_VERSION.read_text().strip()
    except OSError:
        return "unknown"  # for instance in Windows' subsystem for Linux
