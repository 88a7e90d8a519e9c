"""ONNX Runtime on NVIDIA GPUs, through one of three execution providers and no other.

ONNX Runtime's own habit is to compute on the CPU what a provider does not take, and everything
where it does not start. Here both are errors, which name the nodes and what is missing.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.onnxruntime.providers import (
    RECORD_ASSIGNMENT,
    REFUSE_CPU,
    OnnxRuntimeGpuSession,
    computes_shapes,
    find_libraries,
    how_to_install,
    missing_libraries,
    open_alone,
    plugin_devices,
    typed_convolutions,
)
from pconv_deploy.engines.backends.onnxruntime.session import (
    MODEL,
    import_onnxruntime,
    session_settings,
)
from pconv_deploy.engines.base import (
    Built,
    Gpu,
    Layer,
    Progress,
    Runtime,
    Traits,
    ignore_progress,
)
from pconv_deploy.engines.cuda.devices import current_gpu, gpu_here, why_no_gpu
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.sessions import EngineFiles, RunOptions
from pconv_deploy.errors import EngineError, MissingRuntimeError
from pconv_deploy.parity import Precision

_CUDA = "CUDAExecutionProvider"
# Read by NVIDIA's libraries when they start.
_TF32 = "NVIDIA_TF32_OVERRIDE"
_PLUGIN_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"


@dataclass(frozen=True)
class OnnxRuntimeGpuBackend:
    """Keeps the ONNX file as it is: the provider compiles it when it opens or first runs it.

    provider     its name in ONNX Runtime
    options      all that is said to it
    refused      precisions it has not, and why
    obeys_tf32   whether its options say if fp32 convolutions may round their inputs
    graphs       the option that makes it capture CUDA graphs
    library      the file it comes as, beside ONNX Runtime's own
    plugin       the Python package it comes as instead
    """

    name: str
    provider: str
    options: tuple[tuple[str, str], ...]
    refused: tuple[tuple[Precision, str], ...]
    obeys_tf32: bool
    graphs: tuple[str, str]
    library: str = ""
    plugin: str = ""

    @property
    def traits(self) -> Traits:
        return Traits(
            device=f"gpu ({self.provider})", extra="gpu", typed=True, symmetric_codes=True
        )

    def with_cuda_graphs(self) -> Self:
        """Return one that replays CUDA graphs: for sessions that are given `resident` arrays."""
        return dataclasses.replace(self, options=(*self.options, self.graphs))

    def runtime(self) -> Runtime:
        onnxruntime = self._import()
        package = getattr(onnxruntime, "package_name", "") or "onnxruntime"
        release = onnxruntime.__version__
        if self.plugin and (plugins := packages_distributions().get(self.plugin)):
            package, release = f"{package}+{plugins[0]}", f"{release}+{version(plugins[0])}"
        # Where nothing could run anyway, a GPU that cannot be reached is no obstacle to building.
        gpu = _gpu() if self._why_no_provider(onnxruntime) else gpu_here()
        return Runtime(package=package, version=release, gpu=gpu)

    def usual_form(self, precision: Precision) -> Arrangement:
        # Nobody has measured them on a GPU. Transposed convolutions exist in no provider in bf16.
        return Arrangement(upsampling=("interleaved",) if precision == "bf16" else ("transposed",))

    def why_not(self, precision: Precision) -> str | None:
        if why := dict(self.refused).get(precision):
            return why
        if precision == "fp32" and not self.obeys_tf32 and os.environ.get(_TF32) != "0":
            return (
                f"{self.provider} may round fp32 to TF32 and has no option against it; set "
                f"{_TF32}=0 in the environment"
            )
        return None

    def why_not_run(self) -> str | None:
        onnxruntime = self._import()
        return self._why_no_provider(onnxruntime) or why_no_gpu() or self._why_no_start(onnxruntime)

    def why_not_open(self, built_with: Runtime, built: Built) -> str | None:  # noqa: ARG002
        return None

    def why_unproved(self, built_with: Runtime) -> str | None:
        installed = self.runtime()
        # Packages may differ: the engine may have been built where there is no GPU, with
        # ONNX Runtime for the CPU.
        if _release(installed) != _release(built_with):
            return "an engine is accepted for one release"
        here, there = installed.gpu, built_with.gpu
        if here and there and here.compute_capability != there.compute_capability:
            return "an engine is accepted for one compute capability"
        return None

    def build(
        self,
        graph: bytes,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,  # noqa: ARG002  the graph's types say it
        folder: Path,
        progress: Progress = ignore_progress,
    ) -> Built:
        (folder / MODEL).write_bytes(graph)
        if self.provider == _CUDA and computes_shapes(graph):
            progress(
                f"note: this graph computes shapes at run time, which {_CUDA} leaves to the CPU: "
                "the engine will be refused where it is to run"
            )
        return Built()

    def open(
        self,
        files: EngineFiles,
        precision: Precision,  # noqa: ARG002  the graph's types say it
        options: RunOptions,
    ) -> OnnxRuntimeGpuSession:
        onnxruntime = self._import()
        if why := self._why_no_provider(onnxruntime):
            raise EngineError(f"{files.folder} cannot run: {why}")
        if self.library:
            find_libraries(onnxruntime, self.library)

        def load(model: Path, strict: bool) -> Any:
            return self._session(onnxruntime, model, options, strict=strict)

        return OnnxRuntimeGpuSession(
            files, lambda model: open_alone(files.folder, model, self.provider, load), onnxruntime
        )

    def layers(
        self,
        files: EngineFiles,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,
    ) -> Sequence[Layer]:
        # Opened, it is known that the provider took every node. It computes in their types.
        self.open(files, precision, RunOptions()).close()
        return typed_convolutions(files.read(MODEL))

    def _session(
        self, onnxruntime: ModuleType, model: Path, options: RunOptions, *, strict: bool
    ) -> Any:
        settings = session_settings(onnxruntime, options)
        settings.add_session_config_entry(RECORD_ASSIGNMENT, "1")
        if strict:
            settings.add_session_config_entry(REFUSE_CPU, "1")
        chosen: dict[str, Any] = {}
        if self.plugin:
            devices = plugin_devices(onnxruntime, self.plugin, self.provider)
            if not devices:
                raise EngineError(f"{self.provider} takes none of the GPUs here")
            settings.add_provider_for_devices(devices[:1], dict(self.options))
        else:
            chosen["providers"] = [(self.provider, dict(self.options))]
        # Its Python wrapper would try again on the CPU, when opening and when running.
        return onnxruntime.InferenceSession(model, settings, enable_fallback=0, **chosen)

    def _why_no_provider(self, onnxruntime: ModuleType) -> str | None:
        if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            return (
                f"ONNX Runtime {onnxruntime.__version__} cannot say which nodes a provider took: "
                "pip install -U 'pconv-deploy[gpu]'"
            )
        if self.plugin:
            if importlib.util.find_spec(self.plugin):
                return None
            return f"{self.provider} is not installed: pip install {_PLUGIN_PACKAGE}"
        if self.provider in onnxruntime.get_available_providers():
            return None
        return (
            f"this ONNX Runtime has no {self.provider}: "
            "pip uninstall onnxruntime && pip install 'pconv-deploy[gpu]'"
        )

    def _why_no_start(self, onnxruntime: ModuleType) -> str | None:
        if self.library and (missing := missing_libraries(onnxruntime, self.library)):
            return f"libraries are missing: {', '.join(missing)}: {how_to_install(missing)}"
        if not self.plugin:
            return None
        try:
            devices = plugin_devices(onnxruntime, self.plugin, self.provider)
        except EngineError as error:
            return str(error)
        if devices:
            return None
        gpu = _gpu()
        found = f"{gpu.name} ({gpu.compute_capability})" if gpu else "an unknown GPU"
        return f"{self.provider} does not take {found}; it is made for RTX cards from Ampere on"

    def _import(self) -> ModuleType:
        return import_onnxruntime(self.name, "gpu")


def _gpu() -> Gpu | None:
    try:
        return current_gpu()
    except (EngineError, MissingRuntimeError):
        return None


def _release(runtime: Runtime) -> list[tuple[str, ...]]:
    """Major and minor of ONNX Runtime, and of its plugin if there is one."""
    return [tuple(part.split(".")[:2]) for part in runtime.version.split("+")]


_NO_INT8 = "8-bit engines for GPUs are built by the tensorrt backend"
_DEVICE = ("device_id", "0")

ONNXRUNTIME_CUDA = OnnxRuntimeGpuBackend(
    name="onnxruntime-cuda",
    provider=_CUDA,
    options=(
        _DEVICE,
        ("use_tf32", "0"),
        ("cudnn_conv_algo_search", "EXHAUSTIVE"),  # at the first run of each shape
        ("cudnn_conv_use_max_workspace", "1"),
        ("arena_extend_strategy", "kSameAsRequested"),
        ("do_copy_in_default_stream", "1"),
    ),
    refused=(
        ("bf16", "ONNX Runtime has no transposed convolution and no resize in bf16 for CUDA"),
        ("int8", _NO_INT8),
    ),
    obeys_tf32=True,
    graphs=("enable_cuda_graph", "1"),
    library="libonnxruntime_providers_cuda.so",
)
# Without its flags of precisions the graph's types alone decide. No engine cache: an engine's
# files never change after it was accepted.
ONNXRUNTIME_TENSORRT = OnnxRuntimeGpuBackend(
    name="onnxruntime-tensorrt",
    provider="TensorrtExecutionProvider",
    options=(
        _DEVICE,
        ("trt_fp16_enable", "False"),
        ("trt_bf16_enable", "False"),
        ("trt_int8_enable", "False"),
        ("trt_engine_cache_enable", "False"),
        ("trt_timing_cache_enable", "False"),
    ),
    refused=(("int8", _NO_INT8),),
    obeys_tf32=False,
    graphs=("trt_cuda_graph_enable", "True"),
    library="libonnxruntime_providers_tensorrt.so",
)
ONNXRUNTIME_TENSORRT_RTX = OnnxRuntimeGpuBackend(
    name="onnxruntime-tensorrt-rtx",
    provider="NvTensorRTRTXExecutionProvider",
    options=(("nv_runtime_cache_path", ""),),
    refused=(("int8", _NO_INT8),),
    obeys_tf32=False,
    graphs=("enable_cuda_graph", "1"),
    plugin="onnxruntime_ep_nv_tensorrt_rtx",
)
