import os
import re
from pathlib import Path

import msgspec
import onnx
import pytest
import torch

from pconv_deploy.errors import GraphError, InputError
from pconv_deploy.graphs.file import CONTRACT_KEY, HASH_KEY, embed, read_graph
from tests.explained import explained


def changed_contract(graph: Path, path: Path, **changes: object) -> Path:
    model = onnx.load(graph)
    for entry in model.metadata_props:
        if entry.key == CONTRACT_KEY:
            facts = msgspec.json.decode(entry.value) | changes
            entry.value = msgspec.json.encode(facts).decode()
    onnx.save(model, path)
    return path


def test_not_ours(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [value], [value]))
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    with explained(GraphError, match=r"not exported by pconv-deploy.*pconv-deploy export"):
        read_graph(path)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file at all", b"\x08\xff\xff\xff\xff"])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"damaged or no ONNX file|not exported by pconv-deploy"):
        read_graph(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.onnx"])
def test_a_checkpoint_is_to_be_exported_first(tmp_path: Path, checkpoint: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.pth":
        torch.save({"w": torch.ones(1)}, path)
    else:
        path.write_bytes(checkpoint.read_bytes())
    command = re.escape(f"Export it first: pconv-deploy export {path} -o model.onnx")
    with explained(GraphError, match=rf"is a checkpoint, no exported graph\.\n  {command}$"):
        read_graph(path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")  # nobody writes into it: reading would wait for ever
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a pipe or a device; needed a regular file"):
            read_graph(path)


def test_truncated_or_missing(tmp_path: Path, graph: Path) -> None:
    content = graph.read_bytes()
    path = tmp_path / "short.onnx"
    with pytest.raises(GraphError, match="No such file"):
        read_graph(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(GraphError, match="damaged"):
        read_graph(path)


def test_weights_in_other_files_are_not_followed(tmp_path: Path, graph: Path) -> None:
    model = onnx.load(graph)
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(GraphError, match="keeps weights in other files"):
        read_graph(path)


@pytest.mark.parametrize("place", ["function", "subgraph", "sparse"])
def test_weights_in_other_files_are_found_wherever_they_hide(
    tmp_path: Path, graph: Path, place: str
) -> None:
    model = onnx.load(graph)
    hidden = onnx.TensorProto(
        name="t", data_type=onnx.TensorProto.FLOAT, dims=[1], data_location="EXTERNAL"
    )
    hidden.external_data.add(key="location", value="/etc/passwd")
    if place == "function":
        model.functions[0].node[0].attribute.add(name="value", type="TENSOR", t=hidden)
    elif place == "subgraph":
        inner = onnx.GraphProto(name="g", initializer=[hidden])
        model.graph.node[0].attribute.add(name="body", type="GRAPH", g=inner)
    else:
        model.graph.sparse_initializer.add(values=hidden, dims=[1])
    path = tmp_path / "hiding.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="keeps weights in other files"):
        read_graph(path)


def test_newer_contract_is_named_as_such(tmp_path: Path, graph: Path) -> None:
    path = changed_contract(graph, tmp_path / "new.onnx", format=2)
    with pytest.raises(GraphError, match="graph format 2, this pconv-deploy reads 1"):
        read_graph(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"size_multiple": 0},
        {"batch": 0},
        {"kind": "other"},
        {"kind": "tensor"},
        {"surprise": 1},
        {"size": [1 << 20, 1 << 20]},
        {"size": [17, 16]},
        {"inputs": []},
    ],
)
def test_malformed_contract(tmp_path: Path, graph: Path, changes: dict[str, object]) -> None:
    path = changed_contract(graph, tmp_path / "bad.onnx", **changes)
    with pytest.raises(GraphError, match="damaged"):
        read_graph(path)


def test_an_invalid_graph_with_our_contract(tmp_path: Path, graph: Path) -> None:
    model = onnx.load(graph)
    model.graph.node[0].input[0] = "nowhere"
    path = tmp_path / "invalid.onnx"
    onnx.save(model, path)
    with pytest.raises(GraphError, match="damaged"):
        read_graph(path)


@pytest.mark.parametrize("change", ["name", "dtype"])
def test_a_graph_edited_after_its_export(tmp_path: Path, graph: Path, change: str) -> None:
    model = onnx.load(graph)
    if change == "name":
        model.graph.output[0].name = model.graph.node[-1].output[0] = "result"
    else:
        model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    path = tmp_path / "edited.onnx"
    onnx.save(model, path)
    with pytest.raises(GraphError, match="is not what its contract says"):
        read_graph(path)


def test_the_evidence_is_of_this_graph_alone(tmp_path: Path, graph: Path) -> None:
    model = onnx.load(graph)
    path = tmp_path / "x.onnx"
    model.producer_version, model.doc_string = "9", "kept by somebody's tool"
    model.metadata_props.add(key="theirs", value="note")
    onnx.save(model, path)
    assert read_graph(path).parity == read_graph(graph).parity is not None
    for change in ("node", "function", "operator set"):
        changed = onnx.load(path)
        if change == "node":
            changed.graph.node[0].doc_string = "x"
        elif change == "function":
            changed.functions[0].node[0].doc_string = "x"
        else:
            changed.opset_import.add(domain="more", version=1)
        onnx.save(changed, tmp_path / "changed.onnx")
        found = read_graph(tmp_path / "changed.onnx")
        assert found.parity is None, change
        assert found.unproved is not None
        assert "was changed after its export" in found.unproved


def test_older_evidence_names_no_graph(tmp_path: Path, graph: Path) -> None:
    model = onnx.load(graph)
    kept = [entry for entry in model.metadata_props if entry.key != HASH_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "old.onnx")
    found = read_graph(tmp_path / "old.onnx")
    assert found.parity == read_graph(graph).parity  # of use to whoever only looks
    assert found.unproved is not None
    assert "exported by an older pconv-deploy" in found.unproved


def test_embedding_again_replaces(graph: Path) -> None:
    exported = read_graph(graph)
    before = len(exported.model.metadata_props)
    embed(exported.model, exported.contract, exported.parity)
    assert len(exported.model.metadata_props) == before
