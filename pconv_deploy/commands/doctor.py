"""Find out what is installed, which backends work, and why the others do not."""

import contextlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec

from pconv_deploy.engines.base import Backend, RefittableBackend
from pconv_deploy.engines.cuda.devices import current_gpu
from pconv_deploy.engines.registry import BACKENDS
from pconv_deploy.errors import EngineError, MissingRuntimeError
from pconv_deploy.parity import PRECISIONS

# Of the runtimes; their packages may have the name of a release of CUDA behind their own.
_RUNTIMES = ("cuda-bindings", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
# What each capability needs, and the extra that brings it.
CAPABILITIES: dict[str, tuple[Sequence[str], str]] = {
    "masks": (("matplotlib", "opencv-python-headless"), "pconv-deploy[masks]"),
    "train": (
        (
            "torch",
            "safetensors",
            "lightning-fabric",
            "tensorboard",
            "matplotlib",
            "opencv-python-headless",
        ),
        "pconv-deploy[train]",
    ),
    "build-engine": (("onnx", "onnxruntime"), "pconv-deploy[onnxruntime]"),
    "int8 engines": (("onnx", "onnxruntime", "nncf"), "pconv-deploy[int8,onnxruntime]"),
    "export": (
        ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime"),
        "pconv-deploy[export]",
    ),
    "evaluate": (
        ("scikit-image", "opencv-python-headless", "PyPatchMatch"),
        "pconv-deploy[evaluate]",
    ),
    "serve": (
        ("starlette", "uvicorn", "prometheus-client", "python-multipart"),
        "pconv-deploy[serve]",
    ),
    "triton-repo": ((), "pconv-deploy"),
    "demo": (
        ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime", "jinja2"),
        "pconv-deploy[demo]",
    ),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the diagnosis.

    builds  of a backend: it builds engines here, whether or not it runs them
    detail  the version, or what to do
    """

    name: str
    works: bool
    detail: str
    builds: bool = False


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `pconv-deploy doctor` finds."""

    pconv_deploy: str
    python: str
    system: str
    gpu: str
    packages: dict[str, str | None]
    commands: tuple[Finding, ...]
    backends: tuple[Finding, ...]


def diagnose() -> Diagnosis:
    """Look at what is installed; import only what a backend needs to say that it works."""
    backends = tuple(map(_backend, BACKENDS))
    names = {name for needed, _ in CAPABILITIES.values() for name in needed}
    return Diagnosis(
        pconv_deploy=version("pconv-deploy"),
        python=platform.python_version(),
        system=platform.platform(),
        gpu=_gpu(),
        packages={name: _version(name) for name in sorted({*names, *_RUNTIMES, "numpy", "pillow"})},
        commands=(
            *(_command(name, *need) for name, need in CAPABILITIES.items()),
            _infer(backends),
            _refit(backends),
        ),
        backends=backends,
    )


def _gpu() -> str:
    """The first GPU in a line, or why there is none."""
    try:
        return current_gpu().describe()
    except (EngineError, MissingRuntimeError) as error:
        return str(error)


def _version(package: str) -> str | None:
    for name in (package, f"{package}-cu13", f"{package}-cu12"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


def _installed(package: str) -> bool:
    """A package counts under the name of any distribution that brings it."""
    return any(_version(name) for name in (package, f"{package}-gpu"))


def _command(name: str, packages: Sequence[str], extra: str) -> Finding:
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return Finding(name=name, works=True, detail="all packages installed")
    return Finding(
        name=name, works=False, detail=f"lacks {', '.join(missing)}: pip install '{extra}'"
    )


def _infer(backends: Sequence[Finding]) -> Finding:
    """One runtime is enough, for engines built for it."""
    working = [backend.name for backend in backends if backend.works]
    if working:
        return Finding(name="infer", works=True, detail=f"engines of {', '.join(working)}")
    return Finding(
        name="infer", works=False, detail="lacks a runtime: pip install 'pconv-deploy[onnxruntime]'"
    )


def _refit(backends: Sequence[Finding]) -> Finding:
    """Weights are swapped on the GPU that runs the engine."""
    able = {backend.name for backend in BACKENDS if isinstance(backend, RefittableBackend)}
    working = [b.name for b in backends if b.works and b.name in able]
    if working:
        return Finding(name="refit", works=True, detail=f"engines of {', '.join(working)}")
    return Finding(name="refit", works=False, detail="lacks TensorRT on a GPU, see the backends")


def _backend(backend: Backend) -> Finding:
    try:
        runtime, why = backend.runtime(), backend.why_not_run()
    except (EngineError, MissingRuntimeError) as error:  # or a GPU that cannot be reached
        return Finding(name=backend.name, works=False, detail=str(error))
    refused = {precision: backend.why_not(precision) for precision in PRECISIONS}
    able = ", ".join(precision for precision, reason in refused.items() if reason is None)
    if why and backend.traits.same_gpu:
        alone = "its engines are built on the kind of GPU that runs them"
        return Finding(name=backend.name, works=False, detail=f"{why}; {alone}")
    if why:
        return Finding(name=backend.name, works=False, builds=True, detail=f"builds {able}; {why}")
    unable = "; ".join(f"no {name}: {reason}" for name, reason in refused.items() if reason)
    on = runtime.gpu.name if runtime.gpu else backend.traits.device
    return Finding(
        name=backend.name,
        works=True,
        builds=True,
        detail=f"{runtime.package} {runtime.version} on {on}: {able} ({unable})",
    )
