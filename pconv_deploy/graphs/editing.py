"""Reading and editing ONNX graphs: what every rewrite needs, said once."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def does(node: ir.Node | None, *kinds: str, domain: str = "") -> TypeGuard[ir.Node]:
    """Whether a node is one of these operators; of ONNX itself, unless a domain is given."""
    return node is not None and node.domain == domain and node.op_type in kinds


def nodes_of(model: ir.Model, kind: str, domain: str = "") -> list[ir.Node]:
    """All nodes of one kind, in their order."""
    return [node for node in model.graph if does(node, kind, domain=domain)]


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may have been left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value; None of a weight, the graph's input, or what is left out."""
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
    """Put a new node before another; what comes back is its first output."""
    given = {key: value for key, value in attributes.items() if value is not None}
    node = ir.node(op_type, inputs, given, domain=domain, num_outputs=outputs, name=name)
    graph = before.graph
    assert graph is not None
    graph.insert_before(before, node)
    return node.outputs[0]


def constant(at: ir.Node, values: ArrayLike, name: str) -> ir.Value:
    """Add a weight to the graph of `at`, under a name that no other weight has there."""
    graph = at.graph
    assert isinstance(graph, ir.Graph)
    free, number = name, 1
    while free in graph.initializers:
        free, number = f"{name}.{number}", number + 1
    array = np.ascontiguousarray(values)
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
    """The numbers of a constant; None if they are not known before the graph runs."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def proved_values(value: ir.Value | None) -> Array:
    """The numbers of what is proved to be a constant."""
    values = known_values(value)
    assert values is not None
    return values


def channels_of(value: ir.Value | None) -> int | None:
    """Size of axis 1, where it is a number."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    size = value.shape[1]
    return size if isinstance(size, int) else None


def ints(node: ir.Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """An attribute of whole numbers."""
    attribute = node.attributes.get(name)
    return tuple(default) if attribute is None else tuple(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is one whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def text(node: ir.Node, name: str, default: str) -> str:
    """An attribute that is a word."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def over_channels(node: ir.Node) -> bool:
    """Whether a concatenation or a split is one of axis 1, which may be counted from the end."""
    axis, shape = integer(node, "axis", 0), node.inputs[0].shape if node.inputs[0] else None
    return axis == 1 or (axis < 0 and shape is not None and axis + len(shape) == 1)


def read_once(value: ir.Value) -> bool:
    """Whether one node alone reads a value."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def seen_once(value: ir.Value) -> bool:
    """Whether one node alone sees the numbers of a value; `Shape` sees none of them."""
    seeing = [reader for reader, _ in value.uses() if not does(reader, "Shape")]
    return len(seeing) == 1 and not value.is_graph_output()


def add_up(before: ir.Node, terms: Iterable[ir.Value]) -> ir.Value:
    """Add values, each as soon as it is there."""
    return functools.reduce(lambda total, term: emit(before, "Add", total, term), terms)


def supersede(node: ir.Node, *results: ir.Value) -> None:
    """Remove a node; who reads its outputs, the graph's included, reads these results instead.

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


def place(node: ir.Node) -> str:
    """How a node is named to people: by its module, where the exporter knew it."""
    return node.name or f"{node.op_type} {node.outputs[0].name}"


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """All attributes, for another node that does the same to something else."""
    return {name: attribute.value for name, attribute in node.attributes.items()}
