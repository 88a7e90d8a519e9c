"""Find out what is installed, which backends work, and why the others do not."""

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

import msgspec

from pconv_deploy.engines.base import Backend, RefittableBackend
from pconv_deploy.engines.cuda.devices import current_gpu
from pconv_deploy.engines.registry import BACKENDS
from pconv_deploy.errors import EngineError, MissingRuntimeError
from pconv_deploy.parity import PRECISIONS

# Of the runtimes; their packages may have the name of a release of CUDA behind their own.
_RUNTIMES = ("cuda-bindings", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
# Commands, the extra that brings what each needs, and those packages.
CAPABILITIES = {
    "masks": ("masks", "matplotlib opencv-python-headless"),
    "train": (
        "train",
        "torch safetensors lightning-fabric tensorboard matplotlib opencv-python-headless",
    ),
    "build-engine": ("onnxruntime", "onnx onnxruntime"),
    "int8 engines": ("int8,onnxruntime", "onnx onnxruntime nncf"),
    "export": ("export", "torch safetensors onnx onnxscript onnxruntime"),
    "evaluate": ("evaluate", "scikit-image opencv-python-headless PyPatchMatch"),
    "serve": ("serve", "starlette uvicorn prometheus-client python-multipart"),
    "triton-repo": ("", ""),
    "package": ("package", "cyclonedx-python-lib packaging starlette uvicorn"),
    "demo": ("demo", "torch safetensors onnx onnxscript onnxruntime jinja2"),
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
    working = {backend.name for backend in backends if backend.works}
    refittable = {backend.name for backend in BACKENDS if isinstance(backend, RefittableBackend)}
    names = {name for _, needed in CAPABILITIES.values() for name in needed.split()}
    return Diagnosis(
        pconv_deploy=version("pconv-deploy"),
        python=platform.python_version(),
        system=platform.platform(),
        gpu=_gpu(),
        packages={name: _version(name) for name in sorted({*names, *_RUNTIMES, "numpy", "pillow"})},
        commands=(
            *(_command(name, *need) for name, need in CAPABILITIES.items()),
            # One runtime is enough, for engines built for it.
            _with_engines(
                "infer", working, "lacks a runtime: pip install 'pconv-deploy[onnxruntime]'"
            ),
            # Weights are swapped on the GPU that runs the engine.
            _with_engines(
                "refit", working & refittable, "lacks TensorRT on a GPU, see the backends"
            ),
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


def _command(name: str, extra: str, packages: str) -> Finding:
    missing = [package for package in packages.split() if not _installed(package)]
    detail = f"lacks {', '.join(missing)}: pip install 'pconv-deploy[{extra}]'"
    return Finding(
        name=name, works=not missing, detail=detail if missing else "all packages installed"
    )


def _with_engines(name: str, backends: set[str], otherwise: str) -> Finding:
    """Return whether a command works, which needs one of the backends."""
    named = ", ".join(b.name for b in BACKENDS if b.name in backends)
    detail = f"engines of {named}" if backends else otherwise
    return Finding(name=name, works=bool(backends), detail=detail)


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
