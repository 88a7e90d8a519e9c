"""An ONNX file's content as a TensorRT network whose types are those of the file.

TensorRT's parser takes some graphs and then computes otherwise than ONNX says; its documentation
("Supported ONNX Operators") names them, and the tests show it. They are refused here. What the
parser refuses it names itself, with the node.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pconv_deploy.engines.backends.tensorrt.layers import convolution_types
from pconv_deploy.engines.backends.tensorrt.library import format_errors
from pconv_deploy.engines.windows.plan import WindowRule, rule_of
from pconv_deploy.errors import GraphError
from pconv_deploy.graphs.file import inlined
from pconv_deploy.parity import Precision

if TYPE_CHECKING:
    import onnx


_SHOWN = 8  # complaints in a message
_OPSETS = range(9, 25)  # documented for 10.15 and 11.2


@dataclass(frozen=True)
class ParsedNetwork:
    """A network and the parser that owns its weights: both must live until it is built.

    convolutions  the graph's, by the types of what they multiply
    windows       what is known of its input of windows; None: it has none
    """

    network: Any
    parser: Any
    convolutions: Mapping[Precision, int]
    windows: WindowRule | None


def parse(library: ModuleType, builder: Any, log: Any, graph: bytes) -> ParsedNetwork:
    """Read a graph into a strongly typed network.

    Raises:
        GraphError: it holds what TensorRT is known not to take, or what its parser refuses; the
            message names the node.
    """
    model = as_read(graph)
    # Required of TensorRT 10; in 11 every network is strongly typed.
    flag = library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = library.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        raise GraphError(f"TensorRT cannot read the graph: {format_parser_errors(parser, log)}")
    return ParsedNetwork(network, parser, convolution_types(model), rule_of(model))


def as_read(graph: bytes) -> "onnx.ModelProto":
    """A graph as TensorRT gets it, for building and for a refit alike.

    Raises:
        GraphError: it holds what TensorRT is known not to take; the message names the node.
    """
    import onnx

    model = onnx.load_from_string(inlined(graph))
    _name_apart(model)
    if complaints := lint(model):
        raise refuse(complaints)
    return model


def format_parser_errors(parser: Any, log: Any) -> str:
    """Why TensorRT's parser, or the one that refits, has refused a graph."""
    return "; ".join(_errors(parser)) or format_errors(log.errors) or "it gives no reason"


def _name_apart(model: "onnx.ModelProto") -> None:
    """Give every node a name of its own, so that messages and layers mean one."""
    taken = set[str]()
    for node in model.graph.node:
        name = wanted = node.name or node.op_type
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        node.name = name
        taken.add(name)


def _errors(parser: Any) -> Iterator[str]:
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        where = f"node {name!r} ({operator}): " if name or operator else ""
        yield f"{where}{format_errors([error.desc()])}"


def lint(model: "onnx.ModelProto") -> list[str]:
    """Return complaints about a graph without functions; none says that TensorRT takes it."""
    import onnx

    complaints = [
        f"found ONNX operator set {domain.version}; TensorRT reads {_OPSETS[0]} to {_OPSETS[-1]}. "
        "Export it with one of them, such as 18"
        for domain in model.opset_import
        if not domain.domain and domain.version not in _OPSETS
    ]
    inferred = onnx.shape_inference.infer_shapes(model)
    for graph in _graphs(inferred.graph):
        complaints += _of_types(graph)
    return complaints


def refuse(complaints: list[str]) -> GraphError:
    """Make one error of all complaints."""
    lines = complaints[:_SHOWN]
    if len(complaints) > _SHOWN:
        lines.append(f"and {len(complaints) - _SHOWN} more")
    return GraphError("TensorRT would compute this graph otherwise:\n  " + "\n  ".join(lines))


def _of_types(graph: "onnx.GraphProto") -> Iterator[str]:
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    for name, kind in types.items():
        if kind == TensorProto.DOUBLE:
            yield f"{name!r} is double, which TensorRT makes single. Cast it to float"
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        codes = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if types.get(codes) == TensorProto.UINT8:
            yield (
                f"{node.name or node.output[0]} ({node.op_type}) has codes of uint8, which "
                "TensorRT takes for int8. Quantise to int8 with a zero point of int8 0"
            )


def _graphs(graph: "onnx.GraphProto") -> Iterator["onnx.GraphProto"]:
    """Give a graph and the graphs inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)
