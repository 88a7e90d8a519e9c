"""An ONNX file's content as a TensorRT network whose types are those of the file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pconv_deploy.engines.backends.tensorrt.layers import convolution_types
from pconv_deploy.engines.backends.tensorrt.library import format_errors
from pconv_deploy.engines.backends.tensorrt.lint import lint, refuse
from pconv_deploy.engines.windows.plan import WindowRule, rule_of
from pconv_deploy.errors import GraphError
from pconv_deploy.graphs.file import inlined
from pconv_deploy.parity import Precision

if TYPE_CHECKING:
    import onnx


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
