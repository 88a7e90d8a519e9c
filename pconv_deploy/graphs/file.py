"""Embed our facts in an ONNX file, and read such a file without trusting it.

The contract and the export's parity report are JSON in the model's metadata properties, and beside
them the hash of the graph that was compared.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pconv_deploy.contract import GRAPH_FORMAT, RAW_OUTPUT, GraphContract
from pconv_deploy.errors import GraphError, MissingRuntimeError, Remedy
from pconv_deploy.file_types import CHECKPOINTS, kind_of
from pconv_deploy.held_file import held_file
from pconv_deploy.parity import ParityReport

if TYPE_CHECKING:
    import onnx

CONTRACT_KEY = "pconv_deploy.contract"
PARITY_KEY = "pconv_deploy.parity"
HASH_KEY = "pconv_deploy.graph_sha256"
_MAX_BYTES = 2 << 30  # what protobuf itself can hold


@dataclass(frozen=True)
class ExportedGraph:
    """An ONNX file with the facts embedded in it; `model` is what `content` decodes to.

    parity    of this very graph, as its export measured it
    unproved  why no engine may be built on that, to follow the file's name
    """

    content: bytes
    model: "onnx.ModelProto"
    contract: GraphContract
    parity: ParityReport | None
    unproved: str | None = None


def embed(
    model: "onnx.ModelProto", contract: GraphContract, parity: ParityReport | None = None
) -> None:
    """Write the facts into the model's metadata, replacing ours that were there."""
    facts = {CONTRACT_KEY: msgspec.json.encode(contract).decode()}
    if parity is not None:
        facts |= {PARITY_KEY: msgspec.json.encode(parity).decode(), HASH_KEY: graph_sha256(model)}
    ours = {CONTRACT_KEY, PARITY_KEY, HASH_KEY}
    kept = [p for p in model.metadata_props if p.key not in ours]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, fact in facts.items():
        model.metadata_props.add(key=key, value=fact)


def graph_sha256(model: "onnx.ModelProto") -> str:
    """Hash what a model computes: graph, functions and operator sets, without its metadata."""
    digest = hashlib.sha256()
    for part in (*model.opset_import, *model.functions, model.graph):
        content = part.SerializeToString(deterministic=True)
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def with_raw_output(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy of a deployment graph that also shows the network's own output."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    shape = ("batch", 3, "height", "width")
    exposed.graph.output.append(
        onnx.helper.make_tensor_value_info(RAW_OUTPUT, onnx.TensorProto.FLOAT, shape)
    )
    return exposed


def inlined(content: bytes) -> bytes:
    """Return an ONNX file's content with its functions replaced by their bodies."""
    import onnx
    from onnx.inliner import inline_local_functions

    content_inlined: bytes = inline_local_functions(
        onnx.load_from_string(content)
    ).SerializeToString()
    return content_inlined


def read_graph(path: Path) -> ExportedGraph:
    """Read an exported ONNX file.

    Raises:
        GraphError: missing, too large, damaged, with weights in other files, or not exported
            by pconv-deploy.
        InputError: a pipe or a device, or written to meanwhile.
        MissingRuntimeError: the onnx package is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingRuntimeError(
            "reading ONNX files needs onnx: pip install 'pconv-deploy[onnxruntime]'"
        ) from error
    content = _read_content(path)
    try:
        # From bytes, weights in other files cannot be followed to files of this machine.
        model = onnx.load_from_string(content)
        facts = {p.key: p.value for p in model.metadata_props}
    except (DecodeError, UnicodeDecodeError) as error:
        raise GraphError(
            f"{path} is damaged or no ONNX file", _export("Export one with", "CHECKPOINT")
        ) from error
    if CONTRACT_KEY not in facts:
        raise GraphError(
            f"{path} is not exported by pconv-deploy: its metadata lacks {CONTRACT_KEY}",
            _export("Export it with", "CHECKPOINT"),
        )
    nodes = [node for function in model.functions for node in function.node]
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _tensors(model.graph, nodes)):
        raise GraphError(f"{path} keeps weights in other files; needed all in one. Export again")
    contract, parity = _checked_facts(path, model, facts)
    unproved = None
    if PARITY_KEY not in facts:
        unproved = "was not compared with anything when it was exported"
    elif HASH_KEY not in facts:
        unproved = "was exported by an older pconv-deploy, whose evidence does not name its graph"
    elif facts[HASH_KEY] != graph_sha256(model):
        parity = None
        unproved = "was changed after its export, and nothing is known of what it computes now"
    return ExportedGraph(content, model, contract, parity, unproved)


def _export(purpose: str, checkpoint: str | Path) -> Remedy:
    return Remedy(
        purpose=purpose,
        command="export",
        arguments=(checkpoint,),
        options={"output": "model.onnx"},
    )


def _read_content(path: Path) -> bytes:
    try:
        with held_file(path) as held:
            if held.size > _MAX_BYTES:
                raise GraphError(f"{path} is larger than 2 GiB, which no ONNX file can be")
            content = held.stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror or error}") from error
    if kind_of(content[:16]) in CHECKPOINTS:
        raise GraphError(
            f"{path} is a checkpoint, no exported graph", _export("Export it first", path)
        )
    return content


def _checked_facts(
    path: Path, model: "onnx.ModelProto", facts: Mapping[str, str]
) -> tuple[GraphContract, ParityReport | None]:
    """Decode contract and report, and check the model."""
    import onnx

    try:
        contract = decode_contract(facts[CONTRACT_KEY])
        report = facts.get(PARITY_KEY)
        parity = msgspec.json.decode(report, type=ParityReport) if report is not None else None
        onnx.checker.check_model(model)
    # Errors of older releases of msgspec are no ValueErrors.
    except (
        ValueError,
        msgspec.MsgspecError,
        RecursionError,
        onnx.checker.ValidationError,
    ) as error:
        raise GraphError(f"{path} is damaged: {error}") from error
    _compare_tensors(path, model.graph, contract)
    return contract, parity


def _compare_tensors(path: Path, graph: "onnx.GraphProto", contract: GraphContract) -> None:
    """Raise GraphError if inputs and outputs differ from the contract."""
    import onnx

    dtypes = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}
    for values, specs in ((graph.input, contract.inputs), (graph.output, contract.outputs)):
        found = {
            value.name: dtypes.get(value.type.tensor_type.elem_type, "another type")
            for value in values
        }
        needed = {spec.name: spec.dtype for spec in specs}
        if found != needed:
            raise GraphError(
                f"{path} is not what its contract says: found tensors {found}, needed {needed}. "
                "Export it again"
            )


def _tensors(
    graph: "onnx.GraphProto", more_nodes: "Iterable[onnx.NodeProto]" = ()
) -> "Iterator[onnx.TensorProto]":
    """Yield every tensor of a graph, also in sparse initializers, attributes and subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in (*graph.node, *more_nodes):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _tensors(subgraph)


def decode_contract(text: str) -> GraphContract:
    """Decode and validate a contract; name a newer format as such.

    Raises:
        GraphError: the contract's format is not ours.
        msgspec.DecodeError: it is malformed.
    """
    found = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format", b"none")
    if bytes(found) != str(GRAPH_FORMAT).encode():
        raise GraphError(
            f"found graph format {bytes(found).decode()}, this pconv-deploy reads {GRAPH_FORMAT}. "
            "Upgrade pconv-deploy or export again"
        )
    return msgspec.json.decode(text, type=GraphContract)
