"""ONNX Runtime's execution providers: whether one can start here, and what it really took."""

import contextlib
import ctypes
import importlib
import importlib.util
import io
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pconv_deploy.engines.backends.onnxruntime.session import OnnxRuntimeSession, brief
from pconv_deploy.engines.base import Layer
from pconv_deploy.engines.sessions import EngineFiles
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import inlined
from pconv_deploy.parity import Arrays, Precision

_CPU = "CPUExecutionProvider"
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
REFUSE_CPU = "session.disable_cpu_ep_fallback"
_NAMED = 5  # of the nodes that went elsewhere


def missing_libraries(onnxruntime: ModuleType, library: str) -> list[str]:
    """Name the shared libraries that a provider needs and that cannot be found.

    The provider itself is not loaded: it may be only after ONNX Runtime's own part of it.

    Args:
        onnxruntime: the module.
        library: the provider's file, beside ONNX Runtime's own.
    """
    find_libraries(onnxruntime, library)
    path = Path(onnxruntime.__file__ or "").parent / "capi" / library
    try:
        listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    except OSError:  # a system without ldd: what is missing shows when the engine is opened
        return []
    absent = [line.split()[0] for line in listed.stdout.splitlines() if "not found" in line]
    return [name for name in absent if not _loads(name)]


def find_libraries(onnxruntime: ModuleType, library: str) -> None:
    """Load what pip installed of CUDA, cuDNN and TensorRT, where the loader would not look."""
    # It tells on stdout what it did not find; we say so ourselves, once.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        onnxruntime.preload_dlls()
        if "tensorrt" in library:
            importlib.import_module("tensorrt")


def how_to_install(missing: list[str]) -> str:
    """The command that brings these libraries, as far as their names tell."""
    for name in missing:
        if found := re.match(r"libnv(?:infer|onnxparser)\w*\.so\.(\d+)", name):
            return f"pip install 'tensorrt=={found[1]}.*' 'onnxruntime-gpu[cuda,cudnn]'"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def plugin_devices(onnxruntime: ModuleType, plugin: str, provider: str) -> list[Any]:
    """Register a provider that comes as a Python package of its own; give the GPUs it takes.

    Raises:
        EngineError: the package is not installed, or does not load.
    """
    if importlib.util.find_spec(plugin) is None:
        raise EngineError(f"the package {plugin} is not installed")
    try:
        package = importlib.import_module(plugin)
        onnxruntime.register_execution_provider_library(provider, package.get_library_path())
    except Exception as error:  # of the package, or one of ONNX Runtime's, which share no base
        # It can be registered once in a process, and says nowhere that it is.
        if "already registered" not in str(error):
            raise EngineError(f"{provider} does not load: {brief(error)}") from error
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]


def open_alone(folder: Path, model: Path, provider: str, load: Callable[[Path, bool], Any]) -> Any:
    """Open a model that runs on one provider and on nothing else.

    Args:
        folder: of the engine, for messages.
        model: file to open.
        provider: its name in ONNX Runtime.
        load: opens it; told whether nodes on the CPU are an error.

    Raises:
        EngineError: it does not; the message says what would run where.
    """
    try:
        session = load(model, True)
        why = _why_not_alone(session, provider)
    # ONNX Runtime's exceptions share no base class but Exception. It says that there are nodes
    # on the CPU, but not which.
    except Exception as error:  # noqa: BLE001
        why = _what_went_where(model, provider, load) or brief(error)
    if why is None:
        return session
    raise EngineError(f"{folder} does not run on {provider} alone: {why}")


def computes_shapes(content: bytes) -> bool:
    """Whether a graph asks for sizes when it runs, as some forms of graphs of free size do."""
    import onnx

    nodes = onnx.load_from_string(inlined(content)).graph.node
    return any(node.op_type in ("Shape", "Size") for node in nodes)


def typed_convolutions(content: bytes) -> list[Layer]:
    """Return an ONNX file's convolutions with the type of their weights."""
    import onnx

    precisions: Mapping[int, Precision] = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
    }
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(inlined(content))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return [Layer(precisions[types[node.input[1]]], node.name) for node in convolutions]


class OnnxRuntimeGpuSession(OnnxRuntimeSession):
    """A model on the GPU. Arrays of the host are copied there and back by every `run`."""

    def __init__(
        self, files: EngineFiles, load: Callable[[Path], Any], onnxruntime: ModuleType
    ) -> None:
        super().__init__(files, load)
        self._onnxruntime = onnxruntime

    def resident(self, inputs: Arrays, outputs: Arrays) -> "Resident":
        """Copy arrays to the GPU, where they stay.

        Of a session that replays CUDA graphs it can be had once: the graph is that of the shapes
        and addresses of the first runs, and is replayed whatever is bound later.

        Args:
            inputs: by the names of the contract.
            outputs: likewise; copies of them are written.

        Raises:
            EngineError: ONNX Runtime has no memory on this device.
        """
        value = self._onnxruntime.OrtValue.ortvalue_from_numpy
        try:
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_ortvalue_input(name, value(array, "cuda", 0))
            there = {name: value(array, "cuda", 0) for name, array in outputs.items()}
            for name, own in there.items():
                binding.bind_ortvalue_output(name, own)
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime cannot keep arrays on the GPU: {brief(error)}"
            ) from error
        return Resident(self._session, binding, there)


class Resident:
    """A model with its inputs and outputs on the GPU, at addresses that never change."""

    def __init__(self, session: Any, binding: Any, outputs: Mapping[str, Any]) -> None:
        self._session, self._binding, self._outputs = session, binding, outputs

    def run(self) -> None:
        """Compute, and wait until it is done.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        try:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {brief(error)}") from error

    def read(self) -> Arrays:
        """Copy what was computed to the host."""
        return {name: value.numpy() for name, value in self._outputs.items()}


def _why_not_alone(session: Any, provider: str) -> str | None:
    providers = session.get_providers()
    if provider not in providers:
        return f"it did not start; ONNX Runtime would run on {', '.join(providers)}"
    if others := [name for name in providers if name not in (provider, _CPU)]:
        return f"ONNX Runtime would also run on {', '.join(others)}"
    assigned = session.get_provider_graph_assignment_info()
    if not assigned:
        return "ONNX Runtime does not say which nodes it took"
    left = [
        f"{node.name} ({node.op_type})"
        for subgraph in assigned
        if subgraph.ep_name != provider
        for node in subgraph.get_nodes()
    ]
    if not left:
        return None
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return f"it leaves {len(left)} nodes to the CPU: {', '.join(left[:_NAMED])}{more}"


def _what_went_where(model: Path, provider: str, load: Callable[[Path, bool], Any]) -> str | None:
    try:
        return _why_not_alone(load(model, False), provider)
    except Exception as error:  # noqa: BLE001  the lenient way fails too: that is the answer
        return brief(error)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
