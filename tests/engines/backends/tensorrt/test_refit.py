"""Swapping weights, on a fake of TensorRT's refit: no engine has been refitted by TensorRT itself.

What is pretended to be refittable was built by the real builder, without the flag: it wants a GPU
for that.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from pconv_deploy.commands.refit import export_options, refit
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.library import new_log
from pconv_deploy.engines.backends.tensorrt.network import parse
from pconv_deploy.engines.folder import open_engine
from pconv_deploy.engines.manifest import Manifest, read_manifest
from pconv_deploy.engines.prepared_graph import prepare_again
from pconv_deploy.engines.refit import RefitRequest
from pconv_deploy.errors import EngineError, ParityError
from pconv_deploy.files import sha256_of
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import graph_inputs, parity_inputs
from tests.engines.backends.tensorrt import fake_refit
from tests.engines.backends.tensorrt.built import options_of
from tests.engines.backends.tensorrt.fake_refit import FakeRefitter
from tests.engines.backends.tensorrt.swapping import REFIT, Engine, content, edit, in_place
from tests.engines.backends.tensorrt.swapping import built as built  # fixtures
from tests.engines.backends.tensorrt.swapping import engine as engine
from tests.engines.backends.tensorrt.swapping import folder as folder
from tests.engines.backends.tensorrt.swapping import gpu as gpu
from tests.explained import explained

pytestmark = pytest.mark.usefixtures("gpu")


def test_the_engine_computes_the_other_checkpoint(engine: Engine, folder: Path) -> None:
    old = engine()
    before, output = content(old), old.with_name("new.engine")
    request = RefitRequest(engine=old, weights=folder / "new.onnx", output=output)
    manifest = refit(request)
    assert content(old) == before
    assert read_manifest(output) == manifest
    exported = read_graph(folder / "new.onnx")
    assert manifest.contract == exported.contract
    assert manifest.graph_sha256 == sha256_of(folder / "new.onnx")
    assert manifest.export_parity == exported.parity
    assert manifest.engine_parity is not None
    assert len(manifest.engine_parity.cases) == 9 + 1 + 2  # in shapes that its profile takes
    assert manifest.executed == {manifest.precision: 6}
    assert content(output)["layers.json"] == before["layers.json"]
    assert options_of(manifest) == REFIT
    _, session = open_engine(output)
    inputs = graph_inputs(parity_inputs(64, 64)[2:3], exported.contract)
    expected = graph_run(exported.model, exported.contract, optimised=False)(inputs)["filled"]
    near = np.abs(session.run(inputs)["filled"].astype(int) - expected)
    assert near.max() <= 4


def test_a_checkpoint_is_exported_as_the_engines_graph_was(engine: Engine, folder: Path) -> None:
    steps: list[str] = []
    manifest = refit(in_place(engine(), folder / "new.safetensors"), steps.append)
    assert manifest.contract == read_graph(folder / "new.onnx").contract
    assert steps[:3] == ["reading the checkpoint", "exporting", "comparing with PyTorch"]
    assert steps[3:6] == [
        "reading the graph",
        "swapping the weights",
        "comparing the engine with the graph",
    ]


def test_stripped_weights_come_back(engine: Engine, folder: Path) -> None:
    path = engine(stripped=True)
    manifest = refit(in_place(path, folder / "new.onnx"))
    assert options_of(manifest) == REFIT
    open_engine(path)[1].close()


def test_stripped_alone_it_takes_its_own_weights_only(engine: Engine, folder: Path) -> None:
    path = engine(stripped=True, refit=False)
    request = in_place(path, folder / "new.onnx")
    with explained(
        EngineError,
        match=r"takes no weights but those of old\.safetensors[^$]*found new\.safetensors"
        r"[^$]*Build one that takes any: pconv-deploy build-engine .* --refit$",
    ):
        refit(request)
    manifest = refit(replace(request, weights=folder / "old.onnx"))
    assert not options_of(manifest).strip_weights
    with pytest.raises(EngineError, match=r"built without --refit: its weights cannot be swapped"):
        refit(request)


def test_an_older_release_swaps_once(
    engine: Engine, folder: Path, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "SerializationFlag", fake_refit.OlderSerializationFlag)
    path = engine()
    request = in_place(path, folder / "new.onnx")
    manifest = refit(request)
    assert not options_of(manifest).refit


def test_weights_that_do_not_arrive_are_noticed(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine()
    before = content(path)
    weights = [t.name for t in onnx.load(path / "engine.plan").graph.initializer]
    lost = next(name for name in weights if name.startswith("decoder.1.conv.part0"))
    monkeypatch.setattr(FakeRefitter, "lost", lost)
    with pytest.raises(ParityError, match=r"e\.engine differs from the exported graph"):
        refit(in_place(path, folder / "new.onnx"))
    assert content(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["e.engine"]


def test_missing_weights_are_named(engine: Engine, folder: Path) -> None:
    path = engine()
    plan = onnx.load(path / "engine.plan")
    for number in range(7):
        plan.graph.initializer.add().CopyFrom(plan.graph.initializer[0])
        plan.graph.initializer[-1].name = f"another{number}"
        plan.graph.initializer[-1].CopyFrom(
            onnx.numpy_helper.from_array(np.zeros(3, np.float32), f"another{number}")
        )
    onnx.save(plan, path / "engine.plan")
    edit(path)
    with pytest.raises(
        EngineError, match=r"no weights for the plan's another0, .*, another4 and 2 more$"
    ):
        refit(in_place(path, folder / "new.onnx"))


@pytest.mark.parametrize(
    ("owner", "name", "result", "message"),
    [
        ("FakeRuntime", "deserialize_cuda_engine", None, "does not load the plan: it gives no"),
        ("FakeEngine", "refittable", False, "says that the weights of this plan cannot be"),
        ("FakeOnnxParserRefitter", "refit_from_bytes", False, "does not take the weights: it"),
        ("FakeRefitter", "refit_cuda_engine", False, "cannot swap the weights: it gives no"),
        ("FakeEngine", "serialize_with_config", None, "cannot write the plan: it gives no"),
    ],
)
def test_what_tensorrt_may_refuse(
    engine: Engine,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    name: str,
    result: Any,
    message: str,
) -> None:
    answer = property(lambda _: result) if name == "refittable" else lambda *_: result
    monkeypatch.setattr(getattr(fake_refit, owner), name, answer)
    path = engine()
    before = content(path)
    with pytest.raises(EngineError, match=f"TensorRT {message}"):
        refit(in_place(path, folder / "new.onnx"))
    assert content(path) == before


@pytest.mark.parametrize(
    ("level", "without"),
    [(0, ()), (1, ("mask-once",)), (2, ()), (2, ("upsample-phases", "split-concat"))],
)
def test_the_options_of_the_export_are_found_again(
    built: tuple[Path, Manifest], level: int, without: tuple[str, ...]
) -> None:
    from pconv_deploy.export.rewrites.pipeline import select_rewrites

    path, manifest = built
    names = tuple(rewrite.name for rewrite in select_rewrites(level, without))
    contract = msgspec.structs.replace(manifest.contract, rewrites=names)
    options = export_options(path, msgspec.structs.replace(manifest, contract=contract))
    assert tuple(r.name for r in select_rewrites(options.level, options.without)) == names
    assert (options.kind, options.batch, options.size) == ("deployment", None, None)


def test_rewrites_of_another_release(built: tuple[Path, Manifest]) -> None:
    path, manifest = built
    contract = msgspec.structs.replace(manifest.contract, rewrites=("square-circles",))
    with pytest.raises(EngineError, match=r"went through square-circles, which this release has"):
        export_options(path, msgspec.structs.replace(manifest, contract=contract))


def test_the_parser_makes_the_same_network_of_both(
    folder: Path, tensorrt_module: ModuleType
) -> None:
    """The real parser; of an engine's weights it gives the names by which they are swapped."""
    log = new_log(tensorrt_module)
    builder = tensorrt_module.Builder(log)
    seen = []
    for name in ("old", "new"):
        exported, backend = read_graph(folder / f"{name}.onnx"), TensorRtBackend()
        model = prepare_again(backend, exported, "fp16", backend.usual_form("fp16"))
        parsed = parse(tensorrt_module, builder, log, model.SerializeToString())
        layers = [parsed.network.get_layer(i) for i in range(parsed.network.num_layers)]
        seen.append([(la.name, la.type, tuple(la.get_output(0).shape)) for la in layers])
    assert len(seen[0]) > 50
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (fake_refit.FakeRuntime, "Runtime"),
        (fake_refit.FakeEngine, "ICudaEngine"),
        (fake_refit.FakeRefitter, "Refitter"),
        (fake_refit.FakeOnnxParserRefitter, "OnnxParserRefitter"),
        (fake_refit.FakeSerializationConfig, "ISerializationConfig"),
    ],
)
def test_tensorrt_has_what_the_fakes_have(
    tensorrt_module: ModuleType, fake: type, real: str
) -> None:
    names = {name for name in vars(fake) if not name.startswith("_")} - {"lost"}
    assert sorted(names - set(dir(getattr(tensorrt_module, real)))) == []
    for flag in fake_refit.SerializationFlag:
        assert int(getattr(tensorrt_module.SerializationFlag, flag.name)) == flag
