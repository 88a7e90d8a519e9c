import json
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import msgspec
import numpy as np
import onnxruntime
import pytest

from pconv_deploy.assets.network import copy_network
from pconv_deploy.engines.acceptance import why_rejected
from pconv_deploy.engines.backends.openvino import library as openvino_library
from pconv_deploy.engines.backends.openvino import session as openvino_session
from pconv_deploy.engines.backends.openvino.backend import OpenVinoBackend
from pconv_deploy.engines.backends.openvino.library import compile_for_cpu, processor_capabilities
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.int8.graph import quantised_convolutions
from pconv_deploy.engines.int8.quantise import in_eight_bits
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.engines.manifest import describe, read_manifest, write_manifest
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.errors import (
    EngineError,
    MissingRuntimeError,
    OutputError,
    ParityError,
    UsageError,
)
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.parity import Arrays, graph_inputs, parity_inputs

OPENVINO = BuildOptions(backend="openvino", windows=False)
BF16 = BuildOptions(backend="openvino", precision="bf16")


@pytest.fixture(scope="module")
def engine(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "tiny.engine"
    build_engine(graph, path, OPENVINO)
    return path


@pytest.mark.parametrize(("free", "reason"), [(1_000, "No space left"), (1 << 40, "Input/output")])
def test_files_that_openvino_cannot_write(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, free: int, reason: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    disk = SimpleNamespace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a full disk does, for OpenVINO
    try:
        with pytest.raises(OutputError, match=rf"x\.engine: {reason}.*MB are free") as caught:
            build_engine(graph, tmp_path / "x.engine", OPENVINO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{free / 1e6:.1f} MB" in str(caught.value)
    assert not (tmp_path / "x.engine").exists()


def feed(batch: int = 2, height: int = 32, width: int = 48) -> Arrays:
    rng = np.random.default_rng(batch * height * width)
    hole_mask = np.zeros((batch, height, width), np.uint8)
    hole_mask[:, 5:20, 7:21] = 1
    return {
        "image": rng.integers(0, 256, (batch, height, width, 3), np.uint8),
        "hole_mask": hole_mask,
    }


def test_the_folder_holds_openvinos_own_files(engine: Path) -> None:
    facts = json.loads((engine / "manifest.json").read_text())
    assert sorted(p.name for p in engine.iterdir()) == [
        *("golden.png", "graph.onnx", "manifest.json", "model.bin", "model.xml")
    ]
    assert facts["built_with"]["package"] == "openvino"
    assert facts["precision"] == "fp32"
    assert facts["executed"].keys() == {"fp32"}


def test_fills_as_the_graph_does_in_every_shape(engine: Path, graph: Path) -> None:
    _, session = open_engine(engine, RunOptions(threads=1))
    other = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    shapes = [(2, 32, 48), (1, 32, 48), (1, 48, 32), (3, 16, 64), (1, 64, 64), (2, 32, 48)]
    for shape in shapes:  # the first one comes again
        inputs = feed(*shape)
        found = session.run(inputs)["filled"].astype(int)
        wanted = other.run(["filled"], dict(inputs))[0].astype(int)
        assert np.abs(found - wanted).max() <= 1
        known = inputs["hole_mask"] == 0
        assert (found[known] == inputs["image"][known]).all()
    session.close()


@pytest.mark.parametrize(("limit", "compiled"), [(1 << 30, 5), (0, 10)])
def test_shapes_stay_compiled_while_there_is_memory_for_them(
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: int,
    compiled: int,
) -> None:
    count = list[None]()

    def counting(*arguments: Any) -> Any:
        count.append(None)
        return compile_for_cpu(*arguments)

    monkeypatch.setattr(openvino_session, "compile_for_cpu", counting)
    monkeypatch.setattr(openvino_session, "_MEMORY_OF_KEPT", limit)
    _, session = open_engine(engine, RunOptions(threads=1))
    for width in (16, 32, 48, 64, 80) * 2:
        session.run(feed(1, 16, width))
    session.close()
    assert len(count) == compiled
    # It is said once, not at every call.
    assert caplog.text.count("compiled again") == (compiled > 5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("<layers>", "<layers", id="no XML"),
        pytest.param(' names="image"', "", id="an input without a name"),
        pytest.param(' names="image"', ' names="photo"', id="an input of another name"),
        pytest.param('element_type="u8"', 'element_type="dynamic"', id="an input of any type"),
        pytest.param('element_type="u8"', 'element_type="u4"', id="an input of four bits"),
        pytest.param('element_type="u8"', 'element_type="f32"', id="an input of another type"),
        pytest.param('offset="8"', 'offset="99999999999999"', id="weights beyond their file"),
        pytest.param('version="11"', 'version="99999999999999999999"', id="a huge version"),
        pytest.param("filled", "emptied", id="an output of another name"),
    ],
)
def test_a_damaged_model_with_a_manifest_to_match_is_an_error(
    engine: Path, tmp_path: Path, before: str, after: str
) -> None:
    crafted = tmp_path / "crafted.engine"
    shutil.copytree(engine, crafted)
    text = (crafted / "model.xml").read_text()
    assert before in text
    every = -1 if before == "filled" else 1
    (crafted / "model.xml").write_text(text.replace(before, after, every))
    manifest = read_manifest(crafted)
    files = {**manifest.files, "model.xml": describe((crafted / "model.xml").read_bytes())}
    write_manifest(crafted, msgspec.structs.replace(manifest, files=files))
    image, hole = feed(1, 32, 48)["image"][0], feed(1, 32, 48)["hole_mask"][0]
    with pytest.raises(EngineError), Inpainter.load(crafted, threads=1) as inpaint:
        inpaint(image, hole)


def test_many_threads_get_their_own_results(engine: Path) -> None:
    _, session = open_engine(engine, RunOptions(threads=1, streams=2))
    inputs = [feed(1, 32, 16 * (1 + i % 3)) for i in range(12)]
    alone = [session.run(one)["filled"] for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: session.run(one)["filled"], inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_result_outlives_the_next_run(engine: Path) -> None:
    _, session = open_engine(engine)
    first = session.run(feed())["filled"]
    copy = first.copy()
    session.run({**feed(), "image": np.zeros((2, 32, 48, 3), np.uint8)})
    np.testing.assert_array_equal(first, copy)


def test_the_inpainter_runs_it(engine: Path) -> None:
    with Inpainter.load(engine, threads=1) as inpaint:
        image, hole = feed(1, 40, 50)["image"][0], feed(1, 40, 50)["hole_mask"][0]
        filled = inpaint(image, hole)
        assert (filled[hole == 0] == image[hole == 0]).all()
        assert (filled[hole != 0] != image[hole != 0]).any()


def test_says_why_it_failed(engine: Path) -> None:
    _, session = open_engine(engine)
    with pytest.raises(EngineError, match=r"OpenVINO failed on hole_mask \[1, 17, 16\], image \["):
        session.run(feed(1, 17, 16))
    with pytest.raises(EngineError, match=r"found inputs .*float32.*needed .*uint8"):
        session.run({**feed(), "image": np.zeros((2, 32, 48, 3), np.float32)})
    with pytest.raises(EngineError, match="found inputs"):
        session.run({"image": np.zeros((2, 32, 48, 3), np.uint8)})
    assert session.run(feed())["filled"].shape == (2, 32, 48, 3)  # none the worse for it
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(feed())


def test_a_fixed_size_and_float_tensors(checkpoint: Path, tmp_path: Path) -> None:
    graph, engine = tmp_path / "fixed.onnx", tmp_path / "fixed.engine"
    export_checkpoint(checkpoint, graph, ExportOptions(kind="tensor", batch=2, size=(32, 48)))
    manifest = build_engine(graph, engine, OPENVINO)
    assert manifest.engine_parity is not None
    assert manifest.engine_parity.worst_error is not None
    assert 0 < manifest.engine_parity.worst_error < 1e-5
    _, session = open_engine(engine)
    image, hole_mask = np.ones((2, 3, 32, 48), np.float32), np.ones((2, 1, 32, 48), np.float32)
    assert session.run({"image": image, "hole_mask": hole_mask})["output"].shape == image.shape
    with pytest.raises(EngineError, match=r"found inputs .*; this engine takes .*\[2, 3, 32, 48\]"):
        session.run({"image": image[:1], "hole_mask": hole_mask[:1]})


def has_bf16() -> bool:
    return "BF16" in processor_capabilities()[1]


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO treats a processor with AVX2 alone; with AVX512 it emulates bf16."""
    name, capabilities = processor_capabilities()

    def compile_in_fp32(model: Any, settings: dict[str, Any]) -> Any:
        return compile_for_cpu(model, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(
        openvino_library, "processor_capabilities", lambda: (name, capabilities - {"BF16"})
    )
    monkeypatch.setattr(openvino_session, "compile_for_cpu", compile_in_fp32)


@pytest.mark.usefixtures("without_bf16")
def test_bf16_is_refused_where_the_processor_lacks_it(
    graph: Path, engine: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"cannot build bf16 .*no bf16 instr.*: fp32, int8"):
        build_engine(graph, tmp_path / "x", BF16)
    # An engine that comes from elsewhere: OpenVINO alone would open it, and compute in fp32.
    text = (engine / "manifest.json").read_text()
    foreign = tmp_path / "bf16.engine"
    foreign.mkdir()
    for name in ("model.xml", "model.bin"):
        (foreign / name).symlink_to(engine / name)
    (foreign / "manifest.json").write_text(
        text.replace('"precision": "fp32",\n  "executed"', '"precision": "bf16",\n  "executed"')
    )
    with pytest.raises(EngineError, match="is a bf16 engine, but this processor"):
        open_engine(foreign)
    session = OpenVinoBackend().open(files_just_built(engine), "bf16", RunOptions())
    with pytest.raises(EngineError, match=r"computes in bf16; on this processor .* take f32"):
        session.run(feed())


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 instructions")
def test_bf16_runs_in_bf16(graph: Path, tmp_path: Path) -> None:
    manifest = build_engine(graph, tmp_path / "x", BF16)
    assert manifest.executed["bf16"] > 0
    assert manifest.engine_parity is not None
    assert manifest.engine_parity.worst_error is not None
    assert manifest.engine_parity.worst_error > 1e-5  # else it was fp32


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 instructions")
def test_an_engine_whose_work_is_mostly_in_fp32_is_refused(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transposed = Arrangement(upsampling=("transposed",))
    monkeypatch.setattr(OpenVinoBackend, "usual_form", lambda *_: transposed)
    names = r"The runtime computes decoder\.0\.conv\.part0 in fp32, "
    with pytest.raises(ParityError, match=rf"in bf16; \d\d% of the work does, .*{names}"):
        build_engine(graph, tmp_path / "x", BF16)
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 instructions")
def test_every_convolution_computes_in_bf16(graph: Path, tmp_path: Path) -> None:
    build_engine(graph, tmp_path / "x", BuildOptions(backend="openvino", precision="bf16"))
    assert read_manifest(tmp_path / "x").executed.keys() == {"bf16"}


def test_every_convolution_computes_in_eight_bits(graph: Path, tmp_path: Path) -> None:
    """With the codes that are chosen for this processor."""
    exported, backend = read_graph(graph), OpenVinoBackend()
    form = arranged(exported.model, backend.usual_form("int8"), exported.contract)
    photos = [graph_inputs(parity_inputs(64, 64)[:1], exported.contract)]
    model = in_eight_bits(form.SerializeToString(), photos, backend)
    backend.build(model.SerializeToString(), exported.contract, "int8", tmp_path)
    layers = backend.layers(files_just_built(tmp_path), exported.contract, "int8")
    assert {layer.precision for layer in layers} == {"int8"}
    assert {layer.name for layer in layers} == quantised_convolutions(model)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_int8_does_not_compute_is_in_bf16_where_the_processor_has_it(
    graph: Path, tmp_path: Path, request: pytest.FixtureRequest, *, bf16: bool
) -> None:
    if bf16 and not has_bf16():
        pytest.skip("this processor has no bf16 instructions")
    if not bf16:
        request.getfixturevalue("without_bf16")
    exported, backend = read_graph(graph), OpenVinoBackend()
    backend.build(exported.content, exported.contract, "int8", tmp_path)  # with no layer in int8
    layers = backend.layers(files_just_built(tmp_path), exported.contract, "int8")
    assert ("bf16" if bf16 else "fp32") in {layer.precision for layer in layers}
    assert ("bf16" in {layer.precision for layer in layers}) == bf16


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 instructions")
@pytest.mark.parametrize("exported", ["fp32", "bf16"])
def test_every_form_of_a_trained_network_in_bf16_passes(tmp_path: Path, exported: str) -> None:
    copy_network(tmp_path / "compact.safetensors")
    path = tmp_path / "compact.onnx"
    options = ExportOptions(precision=cast("Any", exported), batch=1, size=(64, 64))
    export_checkpoint(tmp_path / "compact.safetensors", path, options)
    graph, backend = read_graph(path), OpenVinoBackend()
    for upsampling in get_args(Upsampling):
        model = arranged(graph.model, Arrangement(upsampling=(upsampling,)), graph.contract)
        folder = tmp_path / upsampling
        folder.mkdir()
        built = backend.build(model.SerializeToString(), graph.contract, "bf16", folder)
        why = why_rejected(backend, folder, graph, model, "bf16", built)
        if upsampling == "transposed" and exported == "fp32":  # which OpenVINO computes in fp32
            assert why is not None
            assert "% of the work does" in why
        else:
            assert why is None


def test_openvino_not_installed(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'pconv-deploy\[openvino\]'"):
        build_engine(graph, tmp_path / "x", OPENVINO)


def test_nothing_is_reported_home(tmp_path: Path) -> None:
    """The reporting package is in the way of nobody else, and was not loaded for us."""
    code = (
        "import sys; from pconv_deploy.engines.backends.openvino.backend import OpenVinoBackend; "
        "OpenVinoBackend().runtime(); "
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": ""},
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []  # an identity for reports would lie here
