import json
import sys
from types import ModuleType
from typing import Any

import pytest

from pconv_deploy.commands import doctor
from pconv_deploy.engines.backends.onnxruntime.gpu import ONNXRUNTIME_CUDA, OnnxRuntimeGpuBackend
from pconv_deploy.engines.base import Gpu, Runtime
from pconv_deploy.engines.registry import BACKENDS
from tests.cli.conftest import Run
from tests.engines.backends.tensorrt.conftest import tensorrt as tensorrt  # fixtures
from tests.engines.backends.tensorrt.conftest import tensorrt_module as tensorrt_module
from tests.engines.cuda.test_devices import machine

WIDTH = 80


def backends(run: Run) -> dict[str, dict[str, Any]]:
    facts = json.loads(run("doctor", "--json").out)
    return {backend["name"]: backend for backend in facts["backends"]}


def test_what_works_and_why_the_rest_does_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = backends(run)
    assert found["onnxruntime"]["works"] is True
    assert found["openvino"]["works"] is True
    assert "on cpu: fp32, " in found["openvino"]["detail"]
    assert "no fp16: " in found["openvino"]["detail"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = backends(run)
    assert found["onnxruntime"]["works"] is False
    assert "pip install 'pconv-deploy[onnxruntime]'" in found["onnxruntime"]["detail"]
    assert found["onnxruntime-cuda"]["builds"] is False
    assert "pip install 'pconv-deploy[gpu]'" in found["onnxruntime-cuda"]["detail"]
    commands = json.loads(run("doctor", "--json").out)["commands"]
    infer = next(command for command in commands if command["name"] == "infer")
    assert infer["detail"] == "engines of openvino"  # one runtime is enough


def test_a_backend_that_builds_for_other_machines(run: Run) -> None:
    cuda = backends(run)["onnxruntime-cuda"]
    assert (cuda["works"], cuda["builds"]) == (False, True)
    assert cuda["detail"].startswith("builds fp32, fp16; this ONNX Runtime has no CUDAExecution")


def test_a_backend_that_builds_only_for_its_own_gpu(run: Run, tensorrt: ModuleType) -> None:
    found = backends(run)
    assert tensorrt.__version__
    assert (found["tensorrt"]["works"], found["tensorrt"]["builds"]) == (False, False)
    assert found["tensorrt"]["detail"].startswith("no NVIDIA driver is installed")
    assert "built on the kind of GPU that runs them" in found["tensorrt"]["detail"]
    assert found["tensorrt-rtx"]["builds"] is True


def test_a_driver_that_is_too_old_is_an_answer(
    run: Run, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tensorrt.__version__
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", machine(12040, 35, None))
    detail = backends(run)["tensorrt"]["detail"]
    assert "the NVIDIA driver is too old: found one for CUDA 12.4" in detail


def test_the_gpu_and_what_a_backend_needs_of_nvidia_are_listed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = json.loads(run("doctor", "--json").out)
    assert facts["gpu"].startswith("no GPU can be used: no NVIDIA driver")
    assert {"cuda-bindings", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx"} <= set(
        facts["packages"]
    )
    commands = {command["name"]: command["works"] for command in facts["commands"]}
    assert (commands["refit"], commands["triton-repo"]) == (False, True)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", machine(13000, 0, 1))
    gpu = doctor.diagnose().gpu
    assert gpu.startswith("NVIDIA H200, compute capability 9.0, 143,051 MiB, driver ")


def test_a_gpu_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    gpu = Gpu(name="NVIDIA X", compute_capability="9.0", memory=1, driver="", cuda="13.0")
    runtime = Runtime(package="onnxruntime-gpu", version="1.31.1", gpu=gpu)
    monkeypatch.setattr(OnnxRuntimeGpuBackend, "runtime", lambda _self: runtime)
    monkeypatch.setattr(OnnxRuntimeGpuBackend, "why_not_run", lambda _self: None)
    monkeypatch.setattr(doctor, "BACKENDS", (ONNXRUNTIME_CUDA,))
    detail = backends(run)["onnxruntime-cuda"]["detail"]
    assert detail.startswith("onnxruntime-gpu 1.31.1 on NVIDIA X: fp32, fp16 (no bf16: ")


def test_at_eighty_columns_every_line_is_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    result = run("doctor")
    assert result.code == 0
    part = result.out.partition("\nbackends\n")[2].partition("\nGPU\n")[0]
    lines = part.strip("\n").splitlines()
    assert max(map(len, lines)) <= WIDTH
    firsts = [line for line in lines if line[2] != " "]  # details go on below themselves
    assert [line.split()[1] for line in firsts] == [backend.name for backend in BACKENDS]
    assert {line.split()[0] for line in firsts} <= {"works", "builds", "no"}
