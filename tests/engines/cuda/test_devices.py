import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pconv_deploy.engines.cuda import devices
from pconv_deploy.engines.cuda.devices import current_gpu, gpu_here, why_no_gpu
from pconv_deploy.errors import EngineError, MissingRuntimeError

ERRORS = SimpleNamespace(
    cudaSuccess=0,
    cudaErrorInsufficientDriver=35,
    cudaErrorNoDevice=100,
    cudaErrorUnknown=999,
    cudaErrorMemoryAllocation=2,
)


def machine(driver: int, status: int, count: int | None) -> SimpleNamespace:
    """A CUDA 13.5 runtime as it answers on some machine."""
    properties = SimpleNamespace(
        name=b"NVIDIA H200\0\0", major=9, minor=0, totalGlobalMem=150_000_000_000
    )
    return SimpleNamespace(
        cudaError_t=ERRORS,
        cudaDriverGetVersion=lambda: (0, driver),
        cudaRuntimeGetVersion=lambda: (0, 13050),
        cudaGetDeviceCount=lambda: (status, count),
        cudaGetDevice=lambda: (0, 0),
        cudaGetDeviceProperties=lambda _device: (0, properties),
        cudaGetErrorName=lambda _status: (0, b"cudaErrorUnknown"),
        cudaGetErrorString=lambda _status: (0, b"unknown error"),
    )


def put(monkeypatch: pytest.MonkeyPatch, runtime: Any) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)


@pytest.mark.parametrize(
    ("driver", "status", "count", "words"),
    [
        (0, 35, None, "no NVIDIA driver is installed"),
        (12040, 35, None, "found one for CUDA 12.4; cuda-bindings .* needs one for CUDA 13.0"),
        (13000, 100, None, "CUDA sees no GPU"),
        (13000, 0, 0, "CUDA sees no GPU"),
        (13000, 999, None, r"CUDA does not start: cudaErrorUnknown \(unknown error\)"),
    ],
)
def test_each_lack_has_its_own_words(
    monkeypatch: pytest.MonkeyPatch, driver: int, status: int, count: int | None, words: str
) -> None:
    put(monkeypatch, machine(driver, status, count))
    with pytest.raises(EngineError, match=words) as error:
        current_gpu()
    assert str(error.value) == f"no GPU can be used: {why_no_gpu()}"


def test_a_hidden_gpu_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, machine(13000, 100, None))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu() == "CUDA sees no GPU (CUDA_VISIBLE_DEVICES='')"


def test_without_cuda_bindings_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, None)  # what Python takes for a module that cannot be imported
    # No extra of ours: each brings a runtime, and may put one in the place of what is there.
    assert "pip install 'cuda-bindings>=" in (why_no_gpu() or "")
    for ask in (current_gpu, gpu_here):
        with pytest.raises(MissingRuntimeError, match="needs cuda-bindings, which does not load"):
            ask()


@pytest.mark.parametrize(
    ("driver", "status", "count"), [(0, 35, None), (13000, 100, None), (13000, 0, 0)]
)
def test_a_machine_for_building_has_no_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: int, status: int, count: int | None
) -> None:
    put(monkeypatch, machine(driver, status, count))
    assert gpu_here() is None


@pytest.mark.parametrize(
    ("driver", "status", "words"), [(12040, 35, "driver is too old"), (13000, 999, "not start")]
)
def test_a_gpu_out_of_reach_is_an_error(
    monkeypatch: pytest.MonkeyPatch, driver: int, status: int, words: str
) -> None:
    put(monkeypatch, machine(driver, status, None))
    with pytest.raises(EngineError, match=words):
        gpu_here()


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    put(monkeypatch, machine(13000, 0, 8))
    monkeypatch.setattr(devices, "_DRIVER_VERSION", tmp_path / "version")
    assert why_no_gpu() is None
    assert current_gpu().driver == "unknown"
    (tmp_path / "version").write_text("580.65.06\n")
    gpu = current_gpu()
    assert (gpu.name, gpu.compute_capability, gpu.driver, gpu.cuda) == (
        "NVIDIA H200",
        "9.0",
        "580.65.06",
        "13.0",
    )
