"""What the lint's rules ask of a graph: types, shapes, constants, and where values come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Surroundings:
    """A graph and the graphs inside of it, whose names are all different.

    types      of the tensors, as ONNX numbers them; absent: unknown
    shapes     None in them: free; absent: unknown rank
    constants  initializers and results of Constant
    producers  of every result
    inputs     of the outer graph, weights among them excepted
    weights    initializers
    outputs    of the outer graph
    """

    nodes: tuple["onnx.NodeProto", ...]
    types: Mapping[str, int]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, "onnx.TensorProto"]
    producers: Mapping[str, "onnx.NodeProto"]
    inputs: frozenset[str]
    weights: frozenset[str]
    outputs: frozenset[str]

    def values(self, name: str) -> NDArray[Any] | None:
        """The numbers of a constant, or None."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def depends_on(self, name: str) -> str | None:
        """An input of the graph on whose values a tensor depends, or None: on shapes at most."""
        import onnx

        integers = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            if value in self.inputs:
                return value
            node = self.producers.get(value)
            # Found by searching, as ArgMax does, is no dependence that TensorRT minds.
            searched = (
                node is not None
                and node.op_type != "Cast"
                and self.types.get(value) in integers
                and self.types.get(node.input[0] if node.input else "") not in integers
            )
            if node is None or searched or node.op_type in ("Shape", "Size"):
                continue
            waiting += [found for found in node.input if found and found not in seen]
            seen.update(node.input)
        return None


def surroundings(model: "onnx.ModelProto") -> Surroundings:
    """Look a graph over; its shapes are already inferred."""
    from onnx import numpy_helper

    graphs = list(_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    values = [v for g in graphs for v in (*g.input, *g.output, *g.value_info)]
    weights = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    constants = dict(weights)
    for node in nodes:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            value = attributes(node)[node.attribute[0].name]
            is_tensor = node.attribute[0].name == "value"
            if is_tensor or isinstance(value, int | float | list):
                constants[node.output[0]] = (
                    value if is_tensor else numpy_helper.from_array(np.array(value))
                )
    tensors = {v.name: v.type.tensor_type for v in values if v.type.HasField("tensor_type")}
    return Surroundings(
        nodes=tuple(nodes),
        types={n: t.data_type for n, t in constants.items()}
        | {name: tensor.elem_type for name, tensor in tensors.items()},
        shapes={n: tuple(t.dims) for n, t in constants.items()}
        | {
            name: tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
            for name, tensor in tensors.items()
            if tensor.HasField("shape")
        },
        constants=constants,
        producers={result: node for node in nodes for result in node.output},
        inputs=frozenset(value.name for value in model.graph.input) - weights.keys(),
        weights=frozenset(weights),
        outputs=frozenset(value.name for value in model.graph.output),
    )


def attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    """A node's attributes, strings decoded, lists as lists."""
    import onnx

    def decoded(value: Any) -> Any:
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {
        name: [decoded(v) for v in value] if isinstance(value, list) else decoded(value)
        for name, value in found.items()
    }


def _graphs(graph: "onnx.GraphProto") -> Iterator["onnx.GraphProto"]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)
