"""ONNX Runtime's providers for GPUs without one: a stand-in computes on the CPU and tells lies.

On a GPU none of it ever ran.
"""

import dataclasses
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from pconv_deploy.commands.inspect import inspect_file
from pconv_deploy.engines.backends.onnxruntime import gpu as onnxruntime_gpu
from pconv_deploy.engines.backends.onnxruntime.gpu import (
    ONNXRUNTIME_CUDA,
    ONNXRUNTIME_TENSORRT,
    ONNXRUNTIME_TENSORRT_RTX,
    OnnxRuntimeGpuBackend,
)
from pconv_deploy.engines.backends.onnxruntime.providers import REFUSE_CPU
from pconv_deploy.engines.base import Built, Gpu, Runtime
from pconv_deploy.engines.cuda.devices import gpu_here
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.errors import EngineError, MissingRuntimeError, UsageError
from pconv_deploy.graphs.file import embed, read_graph
from pconv_deploy.parity import Arrays

CPU = "CPUExecutionProvider"
GPU = Gpu(
    name="NVIDIA Imagined", compute_capability="9.0", memory=1 << 37, driver="580", cuda="13.0"
)
FP16 = BuildOptions(backend="onnxruntime-cuda", precision="fp16")


class StandIn:
    """ONNX Runtime with a provider for GPUs, which computes on the CPU and says otherwise.

    starts     whether the provider does; else all runs on the CPU and nobody is told
    left       operators that it leaves to the CPU
    beside     another provider that runs too
    told       what each session was opened with
    """

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.package_name = "onnxruntime-gpu"
        self.__version__ = onnxruntime.__version__
        self.__file__ = str(Path(__file__))
        self.starts = True
        self.left: tuple[str, ...] = ()
        self.beside: tuple[str, ...] = ()
        self.told: list[dict[str, Any]] = []
        self.registered: list[tuple[str, str]] = []
        self.gpus = 1
        stand_in = self

        class InferenceSession:
            def __init__(
                self, model: Path, settings: Any, enable_fallback: int, providers: Any = None
            ) -> None:
                given = providers or [(stand_in.provider, settings.provider_options)]
                strict = settings.entries.get(REFUSE_CPU) == "1"
                stand_in.told.append({"given": given, "strict": strict, **settings.entries})
                assert enable_fallback == 0
                if strict and (stand_in.left or not stand_in.starts):
                    raise RuntimeError("nodes are assigned to the default CPU EP\nand a trace")
                self.real = onnxruntime.InferenceSession(model, providers=[CPU])

            def get_providers(self) -> list[str]:
                gpu = [stand_in.provider] if stand_in.starts else []
                return [*gpu, *stand_in.beside, CPU]

            def get_provider_graph_assignment_info(self) -> list[Any]:
                took = [SimpleNamespace(name="conv1", op_type="Conv")]
                left = [SimpleNamespace(name=f"n.{op}", op_type=op) for op in stand_in.left]
                return [
                    SimpleNamespace(ep_name=stand_in.provider, get_nodes=lambda: took),
                    SimpleNamespace(ep_name=CPU, get_nodes=lambda: left),
                ]

            def __getattr__(self, name: str) -> Any:
                return getattr(self.real, name)

        self.InferenceSession = InferenceSession

    class SessionOptions:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}
            self.provider_options: dict[str, str] = {}

        def add_session_config_entry(self, key: str, value: str) -> None:
            self.entries[key] = value

        def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
            assert len(devices) == 1
            self.provider_options = options

    def get_available_providers(self) -> list[str]:
        return [self.provider, CPU]

    def get_ep_devices(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name) for name, _ in self.registered * self.gpus]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if self.registered:
            raise RuntimeError(f"EP library is already registered under {name}")
        self.registered.append((name, path))

    def preload_dlls(self) -> None:
        sys.stdout.write("this belongs to nobody's output")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[OnnxRuntimeGpuBackend], StandIn]:
    """A machine with a GPU and ONNX Runtime for it."""

    def make(backend: OnnxRuntimeGpuBackend) -> StandIn:
        stand_in = StandIn(backend.provider)
        monkeypatch.setattr(onnxruntime_gpu, "import_onnxruntime", lambda *_: stand_in)
        monkeypatch.setattr(onnxruntime_gpu, "why_no_gpu", lambda: None)
        monkeypatch.setattr(onnxruntime_gpu, "current_gpu", lambda: GPU)
        monkeypatch.setattr(onnxruntime_gpu, "gpu_here", lambda: GPU)
        return stand_in

    return make


Pretend = Callable[[OnnxRuntimeGpuBackend], StandIn]


@pytest.fixture(scope="module")
def kept(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine built by ONNX Runtime for the CPU, which cannot run it."""
    path = tmp_path_factory.mktemp("kept") / "cuda.engine"
    build_engine(graph, path, FP16)
    return path


def feed() -> Arrays:
    hole_mask = np.zeros((1, 32, 48), np.uint8)
    hole_mask[:, 5:20, 7:21] = 1
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    return {"image": image, "hole_mask": hole_mask}


def test_where_its_provider_is_a_gpu_must_be_reached_before_anything_is_built(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, graph: Path, tmp_path: Path
) -> None:
    pretend(ONNXRUNTIME_CUDA)
    monkeypatch.setattr(onnxruntime_gpu, "gpu_here", gpu_here)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingRuntimeError, match="pip install 'cuda-bindings"):
        build_engine(graph, tmp_path / "x.engine", FP16)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_the_cuda_provider_would_refuse_is_noted(graph: Path, tmp_path: Path) -> None:
    exported, form = read_graph(graph), Arrangement(upsampling=("interleaved",))
    model = arranged(exported.model, form, exported.contract)
    assert exported.parity
    embed(model, exported.contract, exported.parity)
    onnx.save(model, tmp_path / "x.onnx")
    said: list[str] = []
    build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", FP16, progress=said.append)
    (note,) = [step for step in said if step.startswith("note: ")]
    assert "computes shapes at run time" in note


def test_built_where_it_cannot_run_it_is_kept_and_not_opened(kept: Path) -> None:
    facts = json.loads((kept / "manifest.json").read_text())
    assert facts["engine_parity"] is None
    assert facts["not_compared"].startswith("this ONNX Runtime has no CUDAExecutionProvider")
    assert inspect_file(kept)["engine parity"] == (
        f"NOT compared with its graph when it was built: {facts['not_compared']}"
    )
    assert facts["executed"] == {}
    assert facts["precision"] == "fp16"
    assert facts["built_with"]["device"] == "gpu (CUDAExecutionProvider)"
    assert facts["built_with"]["package"] == "onnxruntime"
    with pytest.raises(
        EngineError, match=r"cannot run on this machine: this ONNX Runtime has no CUDAExec.*: pip"
    ):
        open_engine(kept)
    with pytest.raises(EngineError, match="this ONNX Runtime has no CUDAExecutionProvider"):
        ONNXRUNTIME_CUDA.open(files_just_built(kept), "fp16", RunOptions())


@pytest.mark.parametrize(
    ("backend", "precision", "why"),
    [
        ("onnxruntime-cuda", "bf16", "no transposed convolution and no resize in bf16"),
        ("onnxruntime-cuda", "int8", "built by the tensorrt backend"),
        ("onnxruntime-tensorrt", "fp32", "set NVIDIA_TF32_OVERRIDE=0 in the env.*fp16, bf16"),
        ("onnxruntime-tensorrt-rtx", "fp32", "NvTensorRTRTXExecutionProvider may round fp32"),
    ],
)
def test_precisions_that_would_quietly_be_others(
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    backend: str,
    precision: Any,
    why: str,
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    options = BuildOptions(backend=backend, precision=precision)
    with pytest.raises(UsageError, match=f"{backend} backend cannot build {precision} .*{why}"):
        build_engine(graph, tmp_path / "x", options)


def test_fp32_is_fp32_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert ONNXRUNTIME_TENSORRT.why_not("fp32") is None
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert ONNXRUNTIME_TENSORRT.why_not("fp32") is not None
    assert ONNXRUNTIME_CUDA.why_not("fp32") is None  # it has an option, and is told


def test_accepted_on_a_gpu_its_manifest_names_provider_and_gpu(
    pretend: Pretend, graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = pretend(ONNXRUNTIME_CUDA)
    manifest = build_engine(graph, tmp_path / "x", FP16)
    assert manifest.engine_parity is not None
    assert manifest.built_with.package == "onnxruntime-gpu"
    assert manifest.built_with.gpu == GPU
    assert manifest.built_with.device == "gpu (CUDAExecutionProvider)"
    assert manifest.executed.keys() == {"fp16"}
    assert manifest.executed["fp16"] > 6
    assert all(told["strict"] for told in stand_in.told)
    (provider, options), *others = stand_in.told[0]["given"]
    assert (provider, others) == ("CUDAExecutionProvider", [])
    assert options["use_tf32"] == "0"
    assert options["device_id"] == "0"
    _, session = open_engine(tmp_path / "x")
    assert session.run(feed())["filled"].shape == (1, 32, 48, 3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (
            {"starts": False},
            r"not run on CUDAExecutionProvider alone: it did not start; .*on CPUEx",
        ),
        ({"left": ("Resize", "Round")}, r"leaves 2 nodes to the CPU: n\.Resize \(Resize\), n\.Ro"),
        ({"left": ("Shape",) * 9}, r"leaves 9 nodes to the CPU: .* and 4 more"),
        ({"beside": ("OpenVINOExecutionProvider",)}, "would also run on OpenVINOExecutionProvider"),
    ],
)
def test_nothing_falls_back_in_silence(
    pretend: Pretend, kept: Path, lie: dict[str, Any], message: str
) -> None:
    stand_in = pretend(ONNXRUNTIME_CUDA)
    for name, value in lie.items():
        setattr(stand_in, name, value)
    with pytest.raises(EngineError, match=message):
        ONNXRUNTIME_CUDA.open(files_just_built(kept), "fp16", RunOptions())
    with pytest.raises(EngineError, match=message):
        ONNXRUNTIME_CUDA.layers(files_just_built(kept), open_manifest(kept).contract, "fp16")


def open_manifest(folder: Path) -> Any:
    from pconv_deploy.engines.manifest import read_manifest

    return read_manifest(folder)


def test_an_onnxruntime_that_cannot_tell_is_too_old(pretend: Pretend, kept: Path) -> None:
    stand_in = pretend(ONNXRUNTIME_CUDA)
    stand_in.InferenceSession = object  # type: ignore[assignment]
    why = ONNXRUNTIME_CUDA.why_not_run()
    assert why is not None
    assert "cannot say which nodes a provider took" in why
    with pytest.raises(EngineError, match="cannot say which nodes"):
        ONNXRUNTIME_CUDA.open(files_just_built(kept), "fp16", RunOptions())


def test_why_it_does_not_run_has_other_words_for_each_reason(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "this ONNX Runtime has no CUDAExec" in (ONNXRUNTIME_CUDA.why_not_run() or "")
    pretend(ONNXRUNTIME_TENSORRT)
    assert ONNXRUNTIME_TENSORRT.why_not_run() is None
    missing = "libnvinfer.so.10 => not found\\n libcublas.so.13 => not found\\n libc.so.6 => /lib/c"
    ldd = tmp_path / "ldd"
    ldd.write_text(f'#!/bin/sh\nprintf "{missing}"\n')
    ldd.chmod(ldd.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    why = ONNXRUNTIME_TENSORRT.why_not_run()
    assert why is not None
    assert "libraries are missing: libnvinfer.so.10, libcublas.so.13: pip install" in why
    assert "'tensorrt==10.*'" in why
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert ONNXRUNTIME_TENSORRT.why_not_run() is None  # it shows when an engine is opened
    monkeypatch.setattr(onnxruntime_gpu, "why_no_gpu", lambda: "CUDA sees no GPU")
    assert ONNXRUNTIME_TENSORRT.why_not_run() == "CUDA sees no GPU"


def test_the_plugin_is_registered_once_and_asked_for_its_gpus(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    rtx = dataclasses.replace(ONNXRUNTIME_TENSORRT_RTX, plugin="imagined_plugin")
    stand_in = pretend(rtx)
    assert "is not installed: pip install onnxruntime-ep-nv" in (rtx.why_not_run() or "")
    with pytest.raises(EngineError, match="is not installed: pip install"):
        rtx.open(files_just_built(kept), "fp16", RunOptions())

    plugin = ModuleType("imagined_plugin")
    plugin.__spec__ = SimpleNamespace(name="imagined_plugin")  # type: ignore[assignment]
    plugin.get_library_path = lambda: "/x/plugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imagined_plugin", plugin)
    assert rtx.why_not_run() is None
    rtx.open(files_just_built(kept), "fp16", RunOptions()).close()
    assert stand_in.registered == [("NvTensorRTRTXExecutionProvider", "/x/plugin.so")]
    assert stand_in.told[-1]["given"] == [(rtx.provider, dict(rtx.options))]

    stand_in.gpus = 0
    assert "does not take NVIDIA Imagined (9.0)" in (rtx.why_not_run() or "")
    with pytest.raises(EngineError, match="takes none of the GPUs here"):
        rtx.open(files_just_built(kept), "fp16", RunOptions())

    def broken(_name: str, path: str) -> None:
        raise RuntimeError(f"{path}: libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(stand_in, "register_execution_provider_library", broken)
    assert "does not load: /x/plugin.so: libcuda.so.1" in (rtx.why_not_run() or "")


def test_cuda_graphs_are_for_those_who_ask(pretend: Pretend, kept: Path) -> None:
    stand_in = pretend(ONNXRUNTIME_CUDA)
    for backend in (ONNXRUNTIME_CUDA, ONNXRUNTIME_CUDA.with_cuda_graphs()):
        backend.open(files_just_built(kept), "fp16", RunOptions()).close()
    usual, graphs = (dict(told["given"][0][1]) for told in stand_in.told)
    assert graphs == {**usual, "enable_cuda_graph": "1"}
    # Each provider has words of its own for yes and no, and refuses all others.
    tensorrt = dict(ONNXRUNTIME_TENSORRT.with_cuda_graphs().options)
    assert tensorrt.pop("device_id") == "0"
    assert set(tensorrt.values()) == {"True", "False"}


def test_which_engines_have_to_prove_themselves_here(pretend: Pretend) -> None:
    stand_in = pretend(ONNXRUNTIME_CUDA)
    stand_in.__version__ = "1.31.1"
    other = Gpu(name="B", compute_capability="8.6", memory=1, driver="", cuda="")

    def why(version: str, gpu: Gpu | None, package: str = "onnxruntime-gpu") -> str | None:
        built_with = Runtime(package=package, version=version, gpu=gpu)
        assert ONNXRUNTIME_CUDA.why_not_open(built_with, Built()) is None
        return ONNXRUNTIME_CUDA.why_unproved(built_with)

    assert why("1.31.9", GPU) is None
    assert why("1.31.1", None, "onnxruntime") is None  # built where there is no GPU
    assert why("1.30.1", GPU) == "an engine is accepted for one release"
    assert why("1.31.1+0.5.0", GPU) == "an engine is accepted for one release"
    assert why("1.31.1", other) == "an engine is accepted for one compute capability"


def test_arrays_stay_on_the_gpu_or_it_says_why(pretend: Pretend, kept: Path) -> None:
    stand_in: Any = pretend(ONNXRUNTIME_CUDA)
    stand_in.OrtValue = onnxruntime.OrtValue
    session = ONNXRUNTIME_CUDA.open(files_just_built(kept), "fp16", RunOptions())
    outputs = {"filled": np.zeros_like(feed()["image"])}
    with pytest.raises(EngineError, match="cannot keep arrays on the GPU"):
        session.resident(feed(), outputs)

    def elsewhere(array: Any, device: str, _number: int) -> Any:
        """Memory that is not the caller's: here that of the host."""
        assert device == "cuda"
        return onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), "cpu", 0)

    stand_in.OrtValue = SimpleNamespace(ortvalue_from_numpy=elsewhere)
    inputs = feed()
    resident = session.resident(inputs, outputs)
    expected = session.run(feed())["filled"]
    inputs["image"][:] = 0
    for _ in range(2):
        resident.run()
        np.testing.assert_array_equal(resident.read()["filled"], expected)
    assert outputs["filled"].max() == 0
    wrong = session.resident(feed(), {"filled": np.zeros((1, 2, 2, 3), np.uint8)})
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        wrong.run()


# What the plugin's libraries want of the driver: here each function says that there is no device.
DRIVER = {"libcuda.so.1": (" U cu[A-Z]", 100), "libnvidia-ml.so.1": (" U nvml", 9)}
ASK_THE_PLUGIN = """
from pconv_deploy.engines.backends.onnxruntime import gpu as onnxruntime_gpu
onnxruntime_gpu.why_no_gpu = lambda: None
rtx = onnxruntime_gpu.ONNXRUNTIME_TENSORRT_RTX
print(rtx.runtime().package)
print(rtx.why_not_run())
print(rtx.why_not_run())
"""


def ask_the_plugin(driver: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ASK_THE_PLUGIN],
        env=os.environ | {"LD_LIBRARY_PATH": str(driver)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_genuine_plugin_registers_and_has_no_gpu_to_offer(tmp_path: Path) -> None:
    package, *without_driver = ask_the_plugin(tmp_path)
    assert package == "onnxruntime+onnxruntime-ep-nv-tensorrt-rtx-cu13"
    assert all("libcuda.so.1: cannot open shared" in line for line in without_driver)
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    assert spec is not None
    library = Path(spec.origin or "").parent / "libonnxruntime_providers_nv_tensorrt_rtx.so"
    wanted = subprocess.run(["nm", "-D", str(library)], capture_output=True, text=True, check=True)
    for name, (pattern, status) in DRIVER.items():
        # The runtime of CUDA comes along, with its version behind each name.
        functions = re.findall(rf"{pattern[:3]}({pattern[3:]}\w*)$", wanted.stdout, re.MULTILINE)
        assert functions
        source = tmp_path / f"{name}.c"
        source.write_text("".join(f"int {f}(void) {{ return {status}; }}\n" for f in functions))
        options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(tmp_path / name)]
        subprocess.run(["gcc", *options, str(source)], check=True)
    answers = ask_the_plugin(tmp_path)[1:]
    assert answers == [answers[0]] * 2  # it registers once, and is asked twice
    assert "NvTensorRTRTXExecutionProvider does not take an unknown GPU" in answers[0]
