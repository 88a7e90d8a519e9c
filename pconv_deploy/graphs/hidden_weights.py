"""An optimizer that does not see the weights cannot make the graph depend on them.

onnxscript's shares constants that are equal and drops biases that are zero. Then the graph would be
another than that of the same network with other weights, and nobody could put those into it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from pconv_deploy.graphs.functions import DOMAIN

_TAKE_WEIGHTS = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "PRelu",
     "Sub"}
)  # fmt: skip


@contextmanager
def hidden_weights(graph: ir.Graph) -> Iterator[None]:
    """Let the layers' weights be inputs of the graph, whose numbers nobody knows, for a while."""
    hidden = {v: v.const_value for v in list(graph.initializers.values()) if _is_weight(v)}
    for value in hidden:
        del graph.initializers[str(value.name)]
        value.const_value = None
        graph.inputs.append(value)
    try:
        yield
    finally:
        for value, tensor in hidden.items():
            graph.inputs.remove(value)
            value.const_value = tensor
            if value.uses():
                graph.register_initializer(value)


def _is_weight(value: ir.Value) -> bool:
    """Whether layers alone read it. Single numbers, such as 0 and 1, are not what is learned."""
    if value.is_graph_input() or value.is_graph_output() or not value.shape:
        return False
    if value.dtype is None or not value.dtype.is_floating_point():
        return False
    return all(_takes_weights(node) for node, _ in value.uses())


def _takes_weights(node: ir.Node) -> bool:
    """Whether it is a layer; what is made of constants alone is to be computed."""
    known = node.domain == DOMAIN or (not node.domain and node.op_type in _TAKE_WEIGHTS)
    return known and any(
        value is not None and ir.convenience.get_const_tensor(value) is None
        for value in node.inputs
    )
