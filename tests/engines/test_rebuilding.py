"""Engines that are built again from what they keep."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.folder import BuildOptions, build_engine, is_engine, open_engine
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.engines.rebuild import recorded_options
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.engines.tuning import Trial, TuneOptions, Tuning
from pconv_deploy.errors import EngineError, ParityError, UsageError
from pconv_deploy.files import sha256_of
from pconv_deploy.parity import graph_inputs, parity_batches
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # a fixture
from tests.engines.backends.tensorrt.built import built_of
from tests.engines.int8.test_int8 import crops as crops  # fixtures
from tests.engines.int8.test_int8 import options as int8
from tests.engines.int8.test_int8 import trained as trained
from tests.engines.test_engine_folder import edit_manifest
from tests.engines.test_engine_folder import own as own  # a fixture
from tests.explained import explained


def test_a_copy_is_built_again_in_its_place(own: Path, run: Run) -> None:
    before = read_manifest(own)
    (own / "model.onnx").write_bytes(b"damaged")
    (own / "proofs.json").write_text("of the old one")
    told = json.loads(run("inspect", own, "--json").out)["rebuild"]
    assert told == f"pconv-deploy build-engine {own}"
    done = run(*told.split()[1:])
    assert done.code == 0, done.err
    assert done.out.startswith(str(own))
    after = read_manifest(own)
    assert (after.files, after.kept) == (before.files, before.kept)
    assert not (own / "proofs.json").exists()
    assert [path.name for path in own.parent.iterdir()] == ["own.engine"]
    open_engine(own)[1].close()


def test_it_is_built_under_another_name_and_for_another_backend(
    own: Path, run: Run, tmp_path: Path
) -> None:
    content = {path.name: path.read_bytes() for path in own.iterdir()}
    other = tmp_path / "other.engine"
    done = run("build-engine", own, "-o", other, "--backend", "openvino")
    assert done.code == 0, done.err
    assert read_manifest(other).backend == "openvino"
    assert sha256_of(other / "graph.onnx") == sha256_of(own / "graph.onnx")
    assert {path.name: path.read_bytes() for path in own.iterdir()} == content
    again = run("build-engine", other / "manifest.json", "-o", tmp_path / "third.engine")
    assert again.code == 0, again.err
    assert read_manifest(tmp_path / "third.engine").backend == "openvino"


def test_another_kind_of_engine_takes_no_place_unasked(own: Path, run: Run) -> None:
    done = run("build-engine", own, "--backend", "openvino")
    assert done.code == 2
    assert "a fp32 engine for onnxruntime; needed -o for one of fp32 for openvino" in done.err
    assert read_manifest(own).backend == "onnxruntime"
    assert run("build-engine", own, "--backend", "openvino", "--overwrite").code == 0
    assert read_manifest(own).backend == "openvino"


def test_a_graph_needs_a_name_for_its_engine(graph: Path, run: Run) -> None:
    done = run("build-engine", graph)
    assert done.code == 2
    assert "needed -o" in done.err


def test_places_where_it_cannot_be_built(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies in the engine"):
        build_engine(own, own / "inner.engine")
    with pytest.raises(UsageError, match="holds or is the graph itself"):
        build_engine(own, tmp_path, overwrite=True)
    other = Path(shutil.copytree(own, tmp_path / "other.engine"))
    with pytest.raises(UsageError, match="already exists; pass --overwrite"):
        build_engine(own, other)
    (own / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not ours to replace"):
        build_engine(own)
    assert (own / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ParityError("it differs")])
def test_an_interrupted_build_keeps_the_old_engine(
    own: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def interrupt(*_arguments: Any) -> Any:
        raise stop

    content = {path.name: path.read_bytes() for path in own.iterdir()}
    monkeypatch.setattr(OnnxRuntimeBackend, "layers", interrupt)
    with pytest.raises(type(stop)):
        build_engine(own)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in own.iterdir()} == content
    assert [path.name for path in own.parent.iterdir()] == ["own.engine"]
    open_engine(own)[1].close()


def test_a_graph_that_was_deleted_or_changed(own: Path, graph: Path) -> None:
    path = own / "graph.onnx"
    command = (
        rf"pconv-deploy build-engine model.onnx -o {own} --backend onnxruntime --precision fp32$"
    )
    path.unlink()
    with explained(EngineError, match=rf"graph\.onnx was deleted\.\n  .*: {command}"):
        build_engine(own)
    open_engine(own)[1].close()  # it runs without
    assert is_engine(own)
    path.write_bytes(graph.read_bytes() + b"\x2a\x00")  # the same graph, in another file
    with explained(EngineError, match=rf"graph\.onnx was changed.*\n  .*: {command}"):
        build_engine(own)
    edit_manifest(own, kept={})
    path.unlink()
    with explained(EngineError, match=rf"was not kept when it was built\.\n  .*: {command}"):
        build_engine(own)


def test_a_damaged_manifest_points_to_the_graph(own: Path, run: Run, tmp_path: Path) -> None:
    (own / "manifest.json").write_text("{")
    with explained(EngineError, match=r"Build it from its graph: pconv-deploy build-engine"):
        open_engine(own)
    assert run("build-engine", own / "graph.onnx", "-o", tmp_path / "new.engine").code == 0


def test_the_options_are_those_that_were_recorded(own: Path, tmp_path: Path) -> None:
    manifest = read_manifest(own)
    assert recorded_options(manifest) == BuildOptions(precision="fp32")
    trials = (Trial(arrangement=Arrangement(), milliseconds=1.0, kept=True),)
    profile = Profile(min=(1, 64, 64), opt=(1, 64, 64), max=(2, 64, 64))
    options = TensorRtOptions(profiles=(profile,), refit=True, timing_cache=str(tmp_path / "t"))
    manifest = msgspec.structs.replace(
        manifest,
        backend="tensorrt",
        precision="fp16",
        tuning=Tuning(height=64, width=96, batch=2, threads=1, trials=trials),
        engine=built_of(options, [profile]),
    )
    tune = TuneOptions(size=(64, 96), batch=2, threads=1)
    wanted = BuildOptions(backend="tensorrt", precision="fp16", tune=tune, backend_options=options)
    assert recorded_options(manifest) == wanted
    elsewhere = msgspec.structs.replace(options, timing_cache="/no/such/folder/t")
    moved = msgspec.structs.replace(manifest, engine=built_of(elsewhere, [profile]))
    found = recorded_options(moved).backend_options
    assert found == msgspec.structs.replace(options, timing_cache=None)
    assert recorded_options(manifest, "onnxruntime") == BuildOptions(precision="fp16", tune=tune)


def test_what_is_given_comes_before_what_was_recorded() -> None:
    from pconv_deploy.cli.tensorrt_options import tensorrt_options

    profile = Profile(min=(1, 64, 64), opt=(1, 64, 64), max=(2, 64, 64))
    recorded = TensorRtOptions(
        profiles=(profile,), refit=True, hardware_compatibility="ampere+", workspace=100
    )
    none = (None, None, None)
    assert tensorrt_options(none, {"refit": False}, recorded) == recorded
    found = tensorrt_options(
        none, {"hardware_compatibility": "none", "workspace": 200, "refit": False}, recorded
    )
    assert found == TensorRtOptions(profiles=(profile,), refit=True, workspace=200)
    other = tensorrt_options((None, ["1x32x32"], None), {}, recorded)
    assert isinstance(other, TensorRtOptions)
    assert [p.opt for p in other.profiles] == [(1, 32, 32)]


@pytest.mark.parametrize(
    ("backend", "other", "holder"),
    [("onnxruntime", "openvino", "model.onnx"), ("openvino", "onnxruntime", "quantised.onnx")],
)
def test_an_int8_engine_is_built_again_without_photos(
    trained: Path, crops: Path, tmp_path: Path, *, backend: str, other: str, holder: str
) -> None:
    engine = tmp_path / "x.engine"
    before = build_engine(trained, engine, int8(backend, crops))
    assert before.quantised == holder
    inputs = graph_inputs(parity_batches(before.contract)[0], before.contract)
    _, session = open_engine(engine)
    expected = session.run(inputs)["filled"]
    after = build_engine(engine)
    assert (after.quantisation, after.kept) == (before.quantisation, before.kept)
    _, session = open_engine(engine)
    np.testing.assert_array_equal(session.run(inputs)["filled"], expected)
    with pytest.raises(UsageError, match="int8 engines are calibrated on photos"):
        build_engine(engine, tmp_path / "y", recorded_options(after, other))
    (engine / holder).unlink()
    with pytest.raises(EngineError, match=r"deleted\. It holds the calibration: give photos anew"):
        build_engine(engine)
