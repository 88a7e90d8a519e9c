"""Find what TensorRT's parser takes, and then computes otherwise than ONNX says.

TensorRT's documentation names these ("Supported ONNX Operators"); the tests show that the parser
takes them. What it refuses it names itself, with the node.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pconv_deploy.errors import GraphError

if TYPE_CHECKING:
    import onnx

_SHOWN = 8  # complaints in a message
_OPSETS = range(9, 25)  # documented for 10.15 and 11.2


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
