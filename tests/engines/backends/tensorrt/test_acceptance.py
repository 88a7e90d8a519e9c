"""What happens to an engine where there is a GPU, with all that needs one stood in for.

The builder is NVIDIA's. What loads the plan, tells of its layers and runs it is made up: the graph
itself runs, in ONNX Runtime. The same with a GPU is in tests/gpu.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from pconv_deploy.cli.remedies import explain
from pconv_deploy.commands.inspect import inspect_file
from pconv_deploy.contract import RAW_OUTPUT
from pconv_deploy.engines.backends.tensorrt import builder, session
from pconv_deploy.engines.backends.tensorrt.builder import build_plan
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.base import Gpu
from pconv_deploy.engines.cuda import devices
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.manifest import describe
from pconv_deploy.engines.shapes import Profile, choose
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import read_graph, with_raw_output
from pconv_deploy.graphs.run import model_run
from pconv_deploy.parity import TOLERANCES, Arithmetic, Arrays, Precision
from tests.engines.backends.tensorrt.conftest import SMALL
from tests.engines.backends.tensorrt.fake_inspector import FREE, FakeEngine

HOPPER = Gpu(
    name="NVIDIA H200", compute_capability="9.0", memory=1 << 37, driver="580.1", cuda="13.0"
)
OTHER = Gpu(name="NVIDIA L4", compute_capability="8.9", memory=1, driver="1", cuda="13.0")
OPTIONS = BuildOptions(
    backend="tensorrt", precision="fp16", backend_options=TensorRtOptions(profiles=(SMALL,))
)


def layer(kind: str, dtype: str, weights: str | None = None) -> dict[str, Any]:
    tensor = {"Name": "x", "Dimensions": [1, 8, 16, 16], "Format/Datatype": dtype}
    return {
        "Name": f"{kind} of {dtype}",
        "LayerType": kind,
        "Inputs": [tensor],
        "Outputs": [tensor],
        "Weights": {"Type": dtype if weights is None else weights, "Count": 72},
    }


class FakeSession:
    """Runs the exported graph in the shapes of the profiles, with the outputs of the plan."""

    def __init__(self, graph: Path, plan: bytes, profiles: Sequence[Profile]) -> None:
        self._profiles = profiles
        model = read_graph(graph).model
        shown = with_raw_output(model) if RAW_OUTPUT.encode() in plan else model
        self._run = model_run(shown, optimised=True)

    def run(self, inputs: Arrays) -> Arrays:
        batch, height, width = inputs["hole_mask"].shape
        choose(self._profiles, (batch, height, width))
        return self._run(inputs)

    def close(self) -> None:
        pass


Machine = Callable[..., None]


@pytest.fixture
def machine(tensorrt: ModuleType, graph: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with an H200 whose inspector tells of these layers."""

    def make(
        *layers: dict[str, Any],
        loads: bool = True,
        profiles: Sequence[Profile] = (SMALL,),
        contexts: bool = True,
    ) -> None:
        engine = FakeEngine(tensorrt, layers, profiles, contexts=contexts)
        runtime = SimpleNamespace(deserialize_cuda_engine=lambda _plan: engine if loads else None)

        def open_session(_library: ModuleType, plan: bytes, *_: Any, **_more: Any) -> FakeSession:
            return FakeSession(graph, plan, profiles)

        monkeypatch.setattr(devices, "why_no_gpu", lambda: None)
        monkeypatch.setattr(devices, "current_gpu", lambda: HOPPER)
        monkeypatch.setattr(tensorrt, "Runtime", lambda _log: runtime)
        monkeypatch.setattr(session, "TensorRtSession", open_session)

    return make


def test_an_engine_is_compared_and_its_layers_are_kept(
    machine: Machine, graph: Path, tmp_path: Path
) -> None:
    machine(layer("CaskConvolution", "Half"), layer("CaskConvolution", "Half"))
    steps: list[str] = []
    manifest = build_engine(graph, tmp_path / "x.engine", OPTIONS, progress=steps.append)
    assert manifest.built_with.gpu == HOPPER
    assert manifest.executed == {"fp16": 12}
    assert manifest.engine_parity is not None
    assert not manifest.engine_parity.failures()
    # No profile takes the usual batches of three. One of the best shape, two of the largest.
    names = [case.name for case in manifest.engine_parity.cases]
    assert len(names) == 9 + 1 + 2
    assert "irregular hole 1%-10%, 32x32" in names
    assert names.count("irregular hole 20%-30%, 64x64") == 2
    assert "comparing the engine with the graph" in steps
    assert not any(step.startswith(("note", "not compared")) for step in steps)
    kept = json.loads((tmp_path / "x.engine" / "layers.json").read_text())
    assert kept["engine"][0]["Layers"][0]["Weights"]["Count"] == 72
    assert open_engine(tmp_path / "x.engine")[0] == manifest


@pytest.mark.parametrize(
    ("precision", "tf32", "judged_as"),
    [("fp16", False, "fp16"), ("fp32", False, "fp32"), ("fp32", True, "tf32")],
)
def test_one_plan_is_built_and_judged_by_what_it_shows(
    machine: Machine,
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    precision: Precision,
    tf32: bool,
    judged_as: Arithmetic,
) -> None:
    machine(layer("CaskConvolution", {"fp16": "Half", "fp32": "Float"}[precision]))
    built: list[bytes] = []

    def counted(*arguments: Any) -> Any:
        built.append(arguments[2].graph)
        return build_plan(*arguments)

    monkeypatch.setattr(builder, "build_plan", counted)
    options = TensorRtOptions(profiles=(SMALL,), tf32=tf32)
    wanted = BuildOptions(backend="tensorrt", precision=precision, backend_options=options)
    parity = build_engine(graph, tmp_path / "x.engine", wanted).engine_parity
    assert len(built) == 1
    assert parity is not None
    assert parity.candidate.endswith(f", {judged_as}")
    assert parity.tolerance == TOLERANCES[judged_as].relative
    assert parity.worst_error is None  # it does not show what its network computes
    assert parity.reference_error is not None
    assert (1e-5 < parity.reference_error < 1e-1) == (precision == "fp16")  # by rounding alone
    assert parity.worst_composite_difference == 0


def test_each_profile_is_asked_for_its_own_layers(
    machine: Machine, graph: Path, tmp_path: Path
) -> None:
    """In a context of its own: elsewhere neither sizes nor formats are known."""
    larger = Profile(min=(1, 32, 32), opt=(4, 128, 128), max=(4, 128, 128))
    options = TensorRtOptions(profiles=(SMALL, larger))
    machine(layer("CaskConvolution", "Half"), profiles=options.profiles)
    wanted = BuildOptions(backend="tensorrt", precision="fp16", backend_options=options)
    build_engine(graph, tmp_path / "x.engine", wanted)
    kept = json.loads((tmp_path / "x.engine" / "layers.json").read_text())["engine"]
    forms = [[one["Inputs"][0]["Format/Datatype"] for one in told["Layers"]] for told in kept]
    assert forms == [["Half", FREE], [FREE, "Half"]]


def test_what_the_inspector_says_refuses_no_engine(
    machine: Machine, graph: Path, tmp_path: Path
) -> None:
    """The graph's types decide; nobody here has read an inspector."""
    machine(layer("CaskConvolution", "Float"), layer("Reformat", "Half"), contexts=False)
    manifest = build_engine(graph, tmp_path / "x.engine", OPTIONS)
    assert manifest.executed == {"fp16": 12}
    assert inspect_file(tmp_path / "x.engine")["layers"] == {
        "CaskConvolution": "1",
        "Reformat": "1",
    }


def test_another_gpu_does_not_open_it(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(layer("CaskConvolution", "Half"))
    build_engine(graph, tmp_path / "x.engine", OPTIONS)
    monkeypatch.setattr(devices, "current_gpu", lambda: OTHER)
    with pytest.raises(EngineError) as caught:
        open_engine(tmp_path / "x.engine")
    message = explain(caught.value)
    assert "was built with tensorrt 11.4.0.106 on NVIDIA H200 (9.0)" in message
    assert "this machine has tensorrt 11.4.0.106 on NVIDIA L4 (8.9)" in message
    assert "it was built for compute capability 9.0, this is 8.9" in message
    assert message.endswith(f"Rebuild it: pconv-deploy build-engine {tmp_path / 'x.engine'}")


def test_a_plan_that_does_not_load_is_an_error(
    machine: Machine, graph: Path, tmp_path: Path
) -> None:
    machine(loads=False)
    with pytest.raises(EngineError, match="TensorRT does not load what it has built"):
        build_engine(graph, tmp_path / "x.engine", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_that_is_loaded_is_the_one_that_was_checked(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(layer("CaskConvolution", "Half"))
    build_engine(graph, tmp_path / "x.engine", OPTIONS)
    path, loaded = tmp_path / "x.engine" / "engine.plan", []
    content, genuine = path.read_bytes(), session.TensorRtSession

    def swapped_when_hashed(read: bytes) -> Any:
        if read == content:
            path.write_bytes(b"another plan")
        return describe(read)

    def open_session(library: ModuleType, plan: bytes, *options: Any, **more: Any) -> Any:
        loaded.append(plan)
        return genuine(library, plan, *options, **more)

    monkeypatch.setattr("pconv_deploy.engines.integrity.describe", swapped_when_hashed)
    monkeypatch.setattr(session, "TensorRtSession", open_session)
    open_engine(tmp_path / "x.engine")[1].close()
    assert loaded == [content]
    assert path.read_bytes() == b"another plan"


def test_a_plan_for_several_gpus_proves_itself_on_another(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(layer("CaskConvolution", "Half"))
    assert OPTIONS.backend_options is not None
    portable = msgspec.structs.replace(OPTIONS.backend_options, hardware_compatibility="ampere+")
    options = replace(OPTIONS, backend_options=portable)
    engine = tmp_path / "x.engine"
    build_engine(graph, engine, options)
    open_engine(engine)[1].close()
    assert not (engine / "proofs.json").exists()
    monkeypatch.setattr(devices, "current_gpu", lambda: OTHER)
    open_engine(engine)[1].close()
    assert "NVIDIA L4" in (engine / "proofs.json").read_text()
