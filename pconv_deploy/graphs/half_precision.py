"""Convert a graph to half precision: the types of its tensors select it.

Features, weights and biases are half; masks, coverage and ratio stay in single precision, where
counts and quotients are exact enough and cost nothing, as do the ends of the graph. TensorRT has
had no precision flags since version 11: there the file decides.
"""

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from pconv_deploy.contract import GraphPrecision
from pconv_deploy.errors import CheckpointError, UsageError
from pconv_deploy.graphs.editing import constant, emit, known_values, node_label
from pconv_deploy.graphs.functions import DOMAIN, PARTIAL_CONV, RENORMALISE, attach_functions

_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
# The first in which a convolution may be bf16; what else we use means the same as in ours.
_BF16_OPSET = 22
_MOVES = frozenset(
    {"Relu", "LeakyRelu", "Identity", "Resize", "Slice", "Reshape", "Transpose", "SpaceToDepth"}
)
_JOINS = frozenset({"Add", "Mul", "Concat"})


def in_half_precision(model: onnx.ModelProto, precision: GraphPrecision) -> onnx.ModelProto:
    """Return a rewritten graph in half precision; raises as `convert_to_half`."""
    graph = ir.serde.deserialize_model(model)
    convert_to_half(graph, precision)
    result = ir.serde.serialize_model(graph)
    del result.graph.value_info[:]
    return result


def convert_to_half(graph: ir.Model, precision: GraphPrecision) -> None:
    """Convert features and weights of a rewritten graph to half precision, in place.

    Raises:
        UsageError: a layer still convolves its masks, whose counts half precision cannot hold.
        CheckpointError: a weight is too large for the precision; the message names its layer.
    """
    for node in graph.graph:
        if node.op_type == PARTIAL_CONV and node.domain == DOMAIN:
            raise UsageError(
                f"{node_label(node)} convolves its mask in every channel, which {precision} cannot "
                "count exactly; it needs collapse-masks: export at -O1 or higher, and see --explain"
            )
    _Typing(_TYPES[precision], precision).apply(graph.graph)
    if precision == "bf16":
        graph.opset_imports[""] = _BF16_OPSET
        attach_functions(graph)


class _Typing:
    """Converts a graph in one walk, tracking which values are half."""

    def __init__(self, dtype: ir.DataType, precision: str) -> None:
        self.dtype, self.precision = dtype, precision
        self.halves: set[ir.Value] = set()
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def apply(self, graph: ir.Graph) -> None:
        for node in list(graph):
            if _convolves_features(node):
                self._cast_input(node, 0, self.dtype)
                self._shrink(node, range(1, len(node.inputs)))
            elif node.op_type == RENORMALISE and node.inputs[0] in self.halves:
                self._shrink(node, [2])
            elif self._stays_half(node):
                for index in range(len(node.inputs) if node.op_type in _JOINS else 1):
                    self._cast_input(node, index, self.dtype)
            else:
                for index, value in enumerate(node.inputs):
                    if value in self.halves:
                        self._cast_input(node, index, ir.DataType.FLOAT)
                continue
            self.halves.add(node.outputs[0])
            node.outputs[0].type = ir.TensorType(self.dtype)

    def _stays_half(self, node: ir.Node) -> bool:
        if node.domain or not node.inputs or node.op_type not in _MOVES | _JOINS:
            return False
        if node.op_type in _MOVES:
            return node.inputs[0] in self.halves
        # With a constant it is the end of the graph: mean, deviation, offsets of a head.
        return any(value in self.halves for value in node.inputs) and all(
            known_values(value) is None for value in node.inputs
        )

    def _cast_input(self, node: ir.Node, index: int, dtype: ir.DataType) -> None:
        value = node.inputs[index]
        assert value is not None
        if (dtype == self.dtype) == (value in self.halves):
            return
        if (value, dtype) not in self.casts:
            cast = emit(node, "Cast", value, to=dtype)
            cast.type = ir.TensorType(dtype)
            self.casts[value, dtype] = cast
        node.replace_input_with(index, self.casts[value, dtype])

    def _shrink(self, node: ir.Node, indices: Iterable[int]) -> None:
        """Store a layer's constants in half precision."""
        for index in indices:
            values = known_values(node.inputs[index])
            assert values is not None
            with np.errstate(over="ignore"):
                half = values.astype(self.dtype.numpy())
            if not np.isfinite(half.astype(np.float32)).all():
                raise CheckpointError(
                    f"{node_label(node)}: its weights reach {np.abs(values).max():.3g} once batch "
                    f"norm is folded in, more than {self.precision} holds. Export bf16 or fp32"
                )
            name = f"{node_label(node)}.{('input', 'weight', 'bias')[index]}.{self.precision}"
            node.replace_input_with(index, constant(node, half, name))


def _convolves_features(node: ir.Node) -> bool:
    """Return whether a node convolves features, not a mask of one channel."""
    if node.domain or node.op_type not in ("Conv", "ConvTranspose"):
        return False
    weight = known_values(node.inputs[1])
    inputs = 1 if node.op_type == "Conv" else 0
    return weight is not None and weight.shape[inputs] > 1
