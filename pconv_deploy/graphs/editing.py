"""Read and edit ONNX graphs: helpers of all rewrites."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def is_op(node: ir.Node | None, *kinds: str, domain: str = "") -> TypeGuard[ir.Node]:
    """Return whether a node is one of these operators, by default of ONNX's own domain."""
    return node is not None and node.domain == domain and node.op_type in kinds


def nodes_of(model: ir.Model, kind: str, domain: str = "") -> list[ir.Node]:
    """Return all nodes of one operator, in order."""
    return [node for node in model.graph if is_op(node, kind, domain=domain)]


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an optional input."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes a value; None for weights, graph inputs and absent values."""
    return None if value is None else value.producer()


def emit(
    before: ir.Node,
    op_type: str,
    *inputs: ir.Value | None,
    domain: str = "",
    outputs: int = 1,
    name: str | None = None,
    **attributes: Any,
) -> ir.Value:
    """Insert a new node before another; return its first output."""
    given = {key: value for key, value in attributes.items() if value is not None}
    node = ir.node(op_type, inputs, given, domain=domain, num_outputs=outputs, name=name)
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return node.outputs[0]


def constant(at: ir.Node, values: ArrayLike, name: str) -> ir.Value:
    """Add a weight with a unique name to the graph of `at`."""
    graph = at.graph
    assert isinstance(graph, ir.Graph)
    free, number = name, 1
    while free in graph.initializers:
        free, number = f"{name}.{number}", number + 1
    array = np.asarray(values, order="C")
    tensor = ir.tensor(array, name=free)
    value = ir.Value(
        name=free,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def known_values(value: ir.Value | None) -> Array | None:
    """Return the values of a constant; None for any other value."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def proved_values(value: ir.Value | None) -> Array:
    """Return the values of a value that was proved constant."""
    values = known_values(value)
    assert values is not None
    return values


def channels_of(value: ir.Value | None) -> int | None:
    """Return the size of axis 1; None if it is not fixed."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None


def ints(node: ir.Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """Return an attribute of integers."""
    return tuple(node.attributes.get_ints(name, default))


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    return node.attributes.get_int(name, default)


def text(node: ir.Node, name: str, default: str) -> str:
    """Return a string attribute."""
    return node.attributes.get_string(name, default)


def over_channels(node: ir.Node) -> bool:
    """Return whether a concatenation or split is over channels, axis 1."""
    axis, shape = integer(node, "axis", 0), node.inputs[0].shape if node.inputs[0] else None
    return axis == 1 or (axis < 0 and shape is not None and axis + len(shape) == 1)


def read_once(value: ir.Value) -> bool:
    """Return whether exactly one node reads a value."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def seen_once(value: ir.Value) -> bool:
    """Return whether exactly one node reads a value, not counting `Shape`."""
    seeing = [reader for reader, _ in value.uses() if not is_op(reader, "Shape")]
    return len(seeing) == 1 and not value.is_graph_output()


def add_up(before: ir.Node, terms: Iterable[ir.Value]) -> ir.Value:
    """Sum values from left to right."""
    return functools.reduce(lambda total, term: emit(before, "Add", total, term), terms)


def replace_node(node: ir.Node, *results: ir.Value) -> None:
    """Remove a node; readers of its outputs, and graph outputs, use these results instead.

    They are computed before it.
    """
    for old, new in zip(node.outputs, results, strict=True):
        _replace(old, new)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _replace(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        if new.is_graph_output():  # one value cannot have the names of two outputs
            producer = old.producer()
            assert producer is not None
            new = emit(producer, "Identity", new)
        new.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.shape, new.type = new.shape or old.shape, new.type or old.type


def node_label(node: ir.Node) -> str:
    """Return a node's name for messages: its module, if the exporter knew it."""
    return node.name or f"{node.op_type} {node.outputs[0].name}"


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Return all attributes by name."""
    return {name: attribute.value for name, attribute in node.attributes.items()}
