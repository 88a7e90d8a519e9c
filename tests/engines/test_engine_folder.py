import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from pconv_deploy.cli.remedies import explain
from pconv_deploy.contract import UserModule, deployment_specs
from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.base import Built, Runtime
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.integrity import unchanged_files
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.engines.sessions import EngineFiles
from pconv_deploy.errors import (
    EngineError,
    GraphError,
    MissingRuntimeError,
    OutputError,
    ParityError,
    UsageError,
)
from pconv_deploy.files import sha256_of
from pconv_deploy.graphs.file import embed, read_graph
from tests.explained import explained


@pytest.fixture
def own(engine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(engine, tmp_path / "own.engine"))


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_manifest_tells_the_whole_story(engine: Path, graph: Path) -> None:
    facts = json.loads((engine / "manifest.json").read_text())
    assert facts["format"] == 3
    assert facts["backend"] == "onnxruntime"
    assert facts["built_with"]["package"] == "onnxruntime"
    assert facts["built_with"]["device"] == "cpu"
    assert facts["contract"]["precision"] == "fp32"
    assert facts["precision"] == "fp32"
    assert facts["executed"].keys() == {"fp32"}
    assert facts["graph_sha256"] == sha256_of(graph)
    assert facts["files"].keys() == {"model.onnx", "windows-model.onnx"}
    assert facts["files"]["model.onnx"]["sha256"] == sha256_of(engine / "model.onnx")
    assert len(facts["export_parity"]["cases"]) == 11
    assert len(facts["engine_parity"]["cases"]) == 11
    # The raw output is compared too, though the engine itself does not show it.
    errors = [case["error_inside"] for case in facts["engine_parity"]["cases"]]
    assert sum(error is not None for error in errors) == 10  # all but "no hole"
    assert facts["command"] == ""  # a program built it
    assert facts["kept"].keys() == {"graph.onnx", "golden.png"}
    assert sha256_of(engine / "graph.onnx") == sha256_of(graph)
    names = ["golden.png", "graph.onnx", "manifest.json", "model.onnx", "windows-model.onnx"]
    assert sorted(p.name for p in engine.iterdir()) == names


def test_the_runtimes_file_needs_nothing_of_ours(engine: Path) -> None:
    alone = onnxruntime.InferenceSession(engine / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {
        "image": np.full((1, 16, 32, 3), 9, np.uint8),
        "hole_mask": np.eye(16, 32, dtype=np.uint8)[None],
    }
    _, session = open_engine(engine)
    np.testing.assert_array_equal(alone.run(["filled"], inputs)[0], session.run(inputs)["filled"])


def test_opens_and_runs(engine: Path) -> None:
    manifest, session = open_engine(engine)
    image = np.full((2, 16, 32, 3), 9, np.uint8)
    hole_mask = np.zeros((2, 16, 32), np.uint8)
    hole_mask[0, 4:8, 4:8] = 1
    filled = session.run({"image": image, "hole_mask": hole_mask})["filled"]
    assert filled.shape == image.shape
    assert (filled[1] == image[1]).all()
    assert (filled[0, 4:8, 4:8] != 9).any()
    assert manifest.contract.kind == "deployment"


def test_a_session_says_why_it_failed(engine: Path) -> None:
    _, session = open_engine(engine)
    bad = {
        "image": np.zeros((1, 17, 16, 3), np.uint8),
        "hole_mask": np.zeros((1, 17, 16), np.uint8),
    }
    with pytest.raises(EngineError, match=r"ONNX Runtime failed on image \[1, 17, 16, 3\]"):
        session.run(bad)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(bad)


@pytest.mark.parametrize("position", [0, 5000, -1])
def test_a_changed_byte(own: Path, position: int) -> None:
    path = own / "model.onnx"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with explained(EngineError, match=r"was changed after it was built[^$]*Rebuild it: pconv"):
        open_engine(own)


def test_a_truncated_file(own: Path) -> None:
    path = own / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EngineError, match=r"bytes, was built with"):
        open_engine(own)


def test_a_missing_file(own: Path) -> None:
    (own / "model.onnx").unlink()
    with explained(EngineError, match=r"model\.onnx is missing[^$]*Rebuild it: pconv-deploy"):
        open_engine(own)


def test_a_file_that_the_manifest_does_not_name(own: Path) -> None:
    files = unchanged_files(own, read_manifest(own))
    why = rf"^{own} has no engine\.plan: its manifest does not list it\.\n  Rebuild it: "
    with explained(EngineError, match=why):
        files.read("engine.plan")
    with explained(EngineError, match=why), files.held("engine.plan"):
        pass


def test_a_link_to_the_same_bytes_will_do(own: Path, engine: Path, graph: Path) -> None:
    (own / "model.onnx").unlink()
    (own / "model.onnx").symlink_to(engine / "model.onnx")
    open_engine(own)[1].close()
    (own / "model.onnx").unlink()
    (own / "model.onnx").symlink_to(graph.parent / "nowhere")
    with pytest.raises(EngineError, match="missing"):
        open_engine(str(own))


def test_a_future_manifest(own: Path) -> None:
    edit_manifest(own, format=4, news="of the future")
    text = r"has format 4; this pconv-deploy reads formats 1 to 3.*engine \S+/graph\.onnx -o"
    with explained(EngineError, match=text):
        open_engine(own)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', "\udcff", "[" * 200_000])
def test_a_damaged_manifest(own: Path, content: str) -> None:
    (own / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(EngineError, match=r"manifest\.json is damaged"):
        open_engine(own)


def test_a_manifest_that_reaches_outside(own: Path) -> None:
    files = json.loads((own / "manifest.json").read_text())["files"]
    edit_manifest(own, files={"../model.onnx": files["model.onnx"]})
    with pytest.raises(EngineError, match="damaged"):
        open_engine(own)


def test_a_manifest_of_gigabytes_is_not_read(own: Path) -> None:
    with (own / "manifest.json").open("ab") as stream:
        stream.truncate(5 << 20)
    with pytest.raises(EngineError, match="larger than 4 MiB"):
        open_engine(own)


def test_no_engine(tmp_path: Path) -> None:
    with explained(EngineError, match=r"does not exist\.\n  Build one with: pconv-deploy build"):
        open_engine(tmp_path / "none.engine")
    with pytest.raises(EngineError, match=r"has no manifest\.json"):
        open_engine(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="is no folder, so it is no engine"):
        open_engine(tmp_path / "file")


def test_an_engine_for_a_backend_we_do_not_have(own: Path) -> None:
    edit_manifest(own, backend="abacus")
    with pytest.raises(EngineError, match="no backend 'abacus'; known: onnxruntime"):
        open_engine(own)


@pytest.mark.parametrize(
    ("installed", "opens"), [("1.31.9", True), ("1.30.1", False), ("2.31.1", False)]
)
def test_without_a_golden_case_an_engine_is_for_one_release(
    own: Path, monkeypatch: pytest.MonkeyPatch, installed: str, opens: bool
) -> None:
    built = json.loads((own / "manifest.json").read_text())["built_with"]
    edit_manifest(own, built_with=built | {"version": "1.31.1"}, golden=None)
    runtime = Runtime(package="onnxruntime", version=installed)
    monkeypatch.setattr(OnnxRuntimeBackend, "runtime", lambda _self: runtime)
    if opens:
        open_engine(own)[1].close()
    else:
        text = rf"built with onnxruntime 1\.31\.1; this machine has onnxruntime {installed}"
        with explained(
            EngineError,
            match=rf"{text}: .*release\.\n  Rebuild it: pconv-deploy build-engine {own}$",
        ):
            open_engine(own)


def test_a_runtime_that_is_not_installed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'pconv-deploy\[onnxruntime\]'"):
        open_engine(own)


def test_an_existing_engine_is_replaced_only_when_told(own: Path, graph: Path) -> None:
    created = read_manifest(own).created
    with pytest.raises(UsageError, match="already exists; pass --overwrite"):
        build_engine(graph, own)
    (own / "model.onnx").write_text("broken")
    manifest = build_engine(graph, own, overwrite=True)
    assert manifest.created >= created
    open_engine(own)[1].close()
    assert [p.name for p in own.parent.iterdir()] == ["own.engine"]


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda i, o: wrong_in_known_pixels(i, o), "known pixels changed"),
        (lambda i, o: wrong_in_holes(i, o), r"in \d+ of 11 cases.*composite off by"),
        (lambda _i, _o: None, r"filled: found no array"),
        (lambda _i, o: {"filled": o["filled"].tolist()}, r"filled: found no array"),
        (lambda _i, _o: {}, r"filled: found no array, needed uint8"),
        (lambda _i, o: {"filled": o["filled"].astype(np.int32)}, "found int32"),
        (lambda _i, o: {"filled": o["filled"][:1]}, "needed uint8"),
    ],
)
def test_an_engine_that_computes_something_else_is_not_kept(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tamper: Any, message: str
) -> None:
    def open_tampered(self: OnnxRuntimeBackend, files: EngineFiles, *arguments: Any) -> Any:
        session = genuine(self, files, *arguments)
        run = session.run
        if tmp_path not in files.folder.parents:
            return session  # the witness of the raw output
        monkeypatch.setattr(session, "run", lambda inputs: tamper(inputs, dict(run(inputs))))
        return session

    genuine = OnnxRuntimeBackend.open
    monkeypatch.setattr(OnnxRuntimeBackend, "open", open_tampered)
    with pytest.raises(ParityError, match=message):
        build_engine(graph, tmp_path / "made" / "x.engine")
    assert list(tmp_path.iterdir()) == []


def wrong_in_known_pixels(inputs: Any, outputs: Any) -> Any:
    known = inputs["hole_mask"][..., None] == 0
    return {"filled": np.where(known, outputs["filled"] ^ 1, outputs["filled"])}


def wrong_in_holes(inputs: Any, outputs: Any) -> Any:
    hole = inputs["hole_mask"][..., None] != 0
    return {"filled": np.where(hole, 255 - outputs["filled"], outputs["filled"])}


def test_bad_graphs_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("nonsense")
    with pytest.raises(GraphError):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


def test_unknown_backend(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no backend 'tensorrtt'"):
        build_engine(graph, tmp_path / "x", BuildOptions(backend="tensorrtt"))


def test_unwritable_place(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        build_engine(graph, tmp_path / "file" / "x.engine")


def test_only_engines_are_replaced(graph: Path, engine: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "only copy.jpg").write_text("")
    (tmp_path / "note").write_text("")
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text('{"manifest_version": 3}')
    mixed = Path(shutil.copytree(engine, tmp_path / "mixed.engine"))
    (mixed / "notes.txt").write_text("")
    for path in (tmp_path / "photos", tmp_path / "note", tmp_path / "extension", mixed):
        with pytest.raises(UsageError, match="not ours to replace"):
            build_engine(graph, path, overwrite=True)
    for path in (graph, graph.parent):
        with pytest.raises(UsageError, match="is the graph itself"):
            build_engine(graph, path, overwrite=True)
    assert graph.is_file()
    (tmp_path / "empty").mkdir()
    build_engine(graph, tmp_path / "empty", overwrite=True)


def test_what_another_process_made_meanwhile_is_kept(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.engine"

    def slow(self: OnnxRuntimeBackend, *arguments: Any) -> Built:
        built = genuine(self, *arguments)
        output.mkdir(exist_ok=True)
        (output / "manifest.json").write_text("quicker")
        return built

    genuine = OnnxRuntimeBackend.build
    monkeypatch.setattr(OnnxRuntimeBackend, "build", slow)
    with pytest.raises(UsageError, match="exists"):
        build_engine(graph, output)
    assert (output / "manifest.json").read_text() == "quicker"
    assert [p.name for p in tmp_path.iterdir()] == ["x.engine"]


def test_a_graph_without_evidence_is_not_built(graph: Path, tmp_path: Path) -> None:
    exported = read_graph(graph)
    assert exported.parity is not None
    bad = msgspec.structs.replace(exported.parity.cases[0], known_identical=False)
    rejected = msgspec.structs.replace(exported.parity, cases=(bad,))

    def complaint() -> str:
        path = tmp_path / "x.onnx"
        path.write_bytes(exported.model.SerializeToString())
        with pytest.raises(GraphError) as caught:
            build_engine(path, tmp_path / "x.engine")
        return explain(caught.value)

    embed(exported.model, exported.contract, rejected)
    assert complaint().endswith(
        "was not accepted when it was exported.\n  Export it again: pconv-deploy export "
        "tiny.safetensors -o new.onnx --precision fp32"
    )
    embed(exported.model, exported.contract, exported.parity)
    weights = next(t for t in exported.model.graph.initializer if len(t.dims) == 4)
    weights.raw_data = weights.raw_data[:-4] + np.float32(0).tobytes()
    assert "was changed after its export, and nothing is known" in complaint()
    embed(exported.model, exported.contract, None)
    assert "was not compared with anything when it was exported" in complaint()


def test_a_graph_without_evidence_is_exported_again_as_it_was(graph: Path, tmp_path: Path) -> None:
    exported = read_graph(graph)
    inputs, outputs = deployment_specs(2, (64, 96))
    module = UserModule(factory="mine:make", mask_channels=1, partial_convolutions=8)
    source = msgspec.structs.replace(
        exported.contract.source, file="my net.pth", network=None, module=module
    )
    contract = msgspec.structs.replace(
        exported.contract,
        precision="fp16",
        batch=2,
        size=(64, 96),
        inputs=inputs,
        outputs=outputs,
        source=source,
    )
    embed(exported.model, contract, None)
    (tmp_path / "x.onnx").write_bytes(exported.model.SerializeToString())
    with pytest.raises(GraphError) as caught:
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")
    assert explain(caught.value).endswith(
        "pconv-deploy export --module mine:make --weights 'my net.pth' -o new.onnx "
        "--precision fp16 --batch 2 --size 64x96"
    )


def test_an_engine_that_was_not_accepted(own: Path) -> None:
    facts = json.loads((own / "manifest.json").read_text())["engine_parity"]
    facts["cases"][0]["known_identical"] = False
    edit_manifest(own, engine_parity=facts)
    with explained(EngineError, match=r"was not accepted when it was built[^$]*Rebuild it"):
        open_engine(own)


def test_files_that_the_manifest_does_not_list(own: Path) -> None:
    (own / "weights.bin").write_bytes(b"1234")
    with pytest.raises(EngineError, match=r"holds weights\.bin, unlike when it was built"):
        open_engine(own)
    (own / "weights.bin").unlink()
    for file in ("model.onnx", "windows-model.onnx"):
        (own / file).unlink()
    edit_manifest(own, files={})
    with pytest.raises(EngineError, match="lists no files"):
        open_engine(own)


def test_without_a_golden_case_an_engine_is_for_one_kind_of_machine(own: Path) -> None:
    built = json.loads((own / "manifest.json").read_text())["built_with"]
    edit_manifest(own, built_with=built | {"machine": "s390x"}, golden=None)
    with pytest.raises(EngineError, match=r"was built on s390x; this machine is"):
        open_engine(own)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_failing_to_replace_keeps_the_old_engine(
    own: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise stop
        return Path(genuine(self, target))

    genuine = Path.rename
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        build_engine(graph, own, overwrite=True)
    monkeypatch.undo()
    open_engine(own)[1].close()
    assert [p.name for p in own.parent.iterdir()] == ["own.engine"]
