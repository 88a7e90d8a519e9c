"""Where a plan may be opened, and what the backend says of itself. No plan has been opened."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from pconv_deploy.engines.backends.tensorrt import backend as module
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.base import Built, Gpu, Layer, Runtime
from pconv_deploy.engines.cuda import devices
from pconv_deploy.engines.registry import BACKENDS, backend_named
from pconv_deploy.engines.sessions import files_just_built
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.parity import PRECISIONS
from tests.engines.backends.tensorrt.built import built_of

ADA, AMPERE, HOPPER, TURING, VOLTA = "8.9", "8.0", "9.0", "7.5", "7.0"


def gpu(capability: str, model: str = "GPU") -> Gpu:
    return Gpu(
        name=f"{model} {capability}",
        compute_capability=capability,
        memory=1 << 34,
        driver="580.1",
        cuda="13.0",
    )


@pytest.fixture
def here(tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with TensorRT 11.4.0.106 and such a GPU."""
    assert tensorrt.__version__ == "11.4.0.106"

    def be(capability: str | None) -> None:
        monkeypatch.setattr(module, "_gpu", lambda: gpu(capability) if capability else None)

    return be


def built(
    capability: str | None, version: str = "11.4.0.106", package: str = "tensorrt"
) -> Runtime:
    return Runtime(package=package, version=version, gpu=gpu(capability) if capability else None)


OTHER = Runtime(package="tensorrt", version="11.4.0.106", gpu=gpu(ADA, "Other"))


def plan(**options: Any) -> Built:
    return built_of(TensorRtOptions(**options))


@pytest.mark.parametrize(
    ("capability", "built_with", "facts", "why"),
    [
        (HOPPER, built(HOPPER), plan(), None),
        (HOPPER, built(ADA), plan(), "for compute capability 8.9, this is 9.0"),
        (HOPPER, built(ADA), plan(hardware_compatibility="ampere+"), None),
        (TURING, built(ADA), plan(hardware_compatibility="ampere+"), "this is 7.5"),
        (ADA, built(ADA), plan(hardware_compatibility="same-compute-capability"), None),
        (ADA, OTHER, plan(), "for one model of GPU; --hardware-compatibility-level same-compute"),
        (ADA, OTHER, plan(hardware_compatibility="same-compute-capability"), None),
        (ADA, OTHER, plan(hardware_compatibility="ampere+"), None),
        (HOPPER, built(None), plan(), "built where there was none"),
        (HOPPER, built(HOPPER, "11.4.0.105"), plan(), "for the release that built it"),
        (HOPPER, built(HOPPER, "10.13.0.35"), plan(), "for the release that built it"),
        (HOPPER, built(HOPPER, "11.2.1.3"), plan(version_compatible=True), None),
        (HOPPER, built(HOPPER, "11.9.1.3"), plan(version_compatible=True), "that or a later one"),
        (HOPPER, built(HOPPER, "10.15.0"), plan(version_compatible=True), "same major release"),
        (HOPPER, built(HOPPER, package="tensorrt_rtx"), plan(), "do not read each other's plans"),
        (None, built(HOPPER), plan(), None),  # why_not_run says it
        (HOPPER, built(HOPPER), plan(strip_weights=True), "its weights were left out"),
    ],
)
def test_where_a_plan_opens(
    here: Any, capability: str | None, built_with: Runtime, facts: Built, why: str | None
) -> None:
    here(capability)
    found = TensorRtBackend().why_not_open(built_with, facts)
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize(
    ("capability", "targets", "why"),
    [
        (ADA, (), None),
        (AMPERE, (), None),
        ("12.0", (), None),
        ("12.1", (), None),
        (TURING, (), "a plan is for 8.0, 8.6, 8.9, 12.0 and later, this is 7.5"),
        ("8.7", (), "this is 8.7"),
        (HOPPER, (), "a plan is for 8.0, 8.6, 8.9, 12.0 and later, this is 9.0"),
        ("10.0", (), "this is 10.0"),
        (TURING, ("7.5",), None),
        (ADA, ("8.6", "12.0"), "a plan for compute capability 8.6, 12.0 does not run on 8.9"),
        ("12.1", ("12.0",), "does not run on 12.1"),
    ],
)
def test_where_a_plan_for_rtx_opens(
    here: Any,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    targets: tuple[str, ...],
    why: str | None,
) -> None:
    here(capability)
    backend = TensorRtBackend(TENSORRT_RTX)
    version = backend.runtime().version
    found = backend.why_not_open(
        built(None, version, "tensorrt_rtx"), plan(compute_capabilities=targets)
    )
    assert found is None if why is None else why in (found or "")
    older = backend.why_not_open(built(ADA, "1.2.0", "tensorrt_rtx"), plan(version_compatible=True))
    assert older == "a plan is for the release that built it"
    # Such a machine builds it, and does not try to run it.
    monkeypatch.setattr(devices, "why_no_gpu", lambda: None)
    monkeypatch.setattr(devices, "current_gpu", lambda: gpu(capability))
    options = TensorRtOptions(compute_capabilities=targets)
    assert TensorRtBackend(TENSORRT_RTX, options).why_not_run() == found
    assert TensorRtBackend(options=options).why_not_run() is None


def test_precisions(here: Any) -> None:
    backend = TensorRtBackend()
    here(None)
    assert [backend.why_not(p) for p in PRECISIONS] == [None] * 4
    assert "no convolutions" in (TensorRtBackend(TENSORRT_RTX).why_not("int8") or "")
    rounding = TensorRtBackend(options=TensorRtOptions(tf32=True))
    assert [bool(rounding.why_not(p)) for p in ("fp32", "fp16", "bf16", "int8")] == [0, 1, 1, 0]
    assert "--tf32 lets the convolutions of fp32" in (rounding.why_not("fp16") or "")
    here(VOLTA)
    assert backend.why_not("fp16") is None
    assert backend.why_not("bf16") == "GPU 7.0 (compute capability 7.0) has no bf16"
    here(AMPERE)
    assert backend.why_not("bf16") is None


def test_an_engine_without_weights_does_not_run() -> None:
    stripped = TensorRtBackend(options=TensorRtOptions(strip_weights=True))
    assert "its weights were left out" in (stripped.why_not_run() or "")
    assert "no NVIDIA driver" in (TensorRtBackend().why_not_run() or "")


def test_without_tensorrt_it_has_no_precision(uninstalled: Any) -> None:
    uninstalled("tensorrt")
    assert "needs TensorRT: pip install" in (TensorRtBackend().why_not("fp16") or "")


def test_both_are_registered_and_take_options() -> None:
    assert [b.flavour for b in BACKENDS if isinstance(b, TensorRtBackend)] == [
        TENSORRT,
        TENSORRT_RTX,
    ]
    options = TensorRtOptions(refit=True)
    for name in ("tensorrt", "tensorrt-rtx"):
        backend = backend_named(name, options)
        assert isinstance(backend, TensorRtBackend)
        assert (backend.name, backend.options) == (name, options)
    with pytest.raises(
        UsageError, match="the onnxruntime backend has none of the options of tensorrt"
    ):
        backend_named("onnxruntime", options)


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        (None, "not known: the engine was not loaded where it was built"),
        ([{"Layers": ["a", {"LayerType": "Reformat"}]}, {}], {"a": "1", "Reformat": "1"}),
        ({"Layers": ["a", "a"], "Bindings": []}, {"a": "2"}),  # of version 0.2
        ("no JSON", "as TensorRT's engine inspector lists them in layers.json"),
    ],
)
def test_what_the_inspector_says_is_shown_and_decides_nothing(
    tmp_path: Path, answers: Any, shown: Any
) -> None:
    (tmp_path / "layers.json").write_text(json.dumps({"graph": {"fp16": 12}, "engine": answers}))
    files, contract = files_just_built(tmp_path), cast("Any", None)
    assert TensorRtBackend().describe(plan(), files.read)["layers"] == shown
    assert TensorRtBackend().layers(files, contract, "fp16") == [Layer("fp16")] * 12


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]", b'{"graph": {"fp8": 1}}', b"[" * 9999])
def test_damaged_layers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "layers.json").write_bytes(content)
    files, contract = files_just_built(tmp_path), cast("Any", None)
    with pytest.raises(EngineError, match=r"layers\.json of the engine is damaged"):
        TensorRtBackend().layers(files, contract, "fp16")
    shown = TensorRtBackend().describe(plan(), files.read)["layers"]
    assert str(shown).startswith("not known: layers.json of the engine is damaged")
