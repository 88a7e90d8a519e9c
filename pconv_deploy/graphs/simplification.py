"""Simplify a graph exactly: fold constants, merge common subexpressions, remove no-ops.

Uses the passes of onnxscript and onnx-ir. `onnxscript.optimizer.optimize_ir` takes 1e-8 for 0 and
1.000005 for 1, which makes NaN of `x / (known + 1e-8)`, and joins clips whose ranges do not meet.
So the rules are chosen here one by one, and those that remove an operation are written again, for
exactly 0 and 1.

The passes do not see the layers' weights. onnxscript's share constants that are equal and drop
biases that are zero, so the same network with other weights would become another graph, and an
engine could not be refitted.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, pattern, rewrite
from onnxscript.rewriter.rules import common

from pconv_deploy.graphs.functions import DOMAIN

_ROUNDS = 2  # folding may enable more rewriting
_TAKE_WEIGHTS = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "PRelu",
     "Sub"}
)  # fmt: skip


def _does_nothing(operator: str, neutral: float) -> RewriteRule:
    """Make the rule for x + 0, x - 0, x * 1 or x / 1  ->  x."""
    exactly = pattern.Constant(neutral, rel_tol=0, abs_tol=0)
    return RewriteRule(
        lambda op, x: getattr(op, operator)(x, exactly),
        lambda op, x, **_: op.Identity(x),
        name=f"{operator} {neutral}",
    )


_RULES = RewriteRuleSet(
    [
        *_does_nothing("Add", 0).commute(),
        *_does_nothing("Mul", 1).commute(),
        _does_nothing("Sub", 0),
        _does_nothing("Div", 1),
        common.cast_cast_rule,
        common.cast_constant_of_shape_rule,
        common.cast_constant_of_shape_without_value_rule,
        common.collapse_slice_rule,
        common.collapse_slice2_rule,
        common.flatten_to_reshape_rule,
        common.fuse_pad_into_conv_rule,
        common.materialize_reshape_shape_rule,
        common.no_op_cast_rule,
        common.no_op_dynamic_scatter_nd_rule,
        common.no_op_expand_rule,
        common.no_op_static_scatter_nd_rule,
        common.no_op_transpose_rule,
        common.normalize_pad_format_conv_rule,
        common.one_reshape_matmul_reshape_rule,
        common.reshape_reshape_rule,
        common.slice_split_rule,
        common.squeeze_reshape_1d_rule,
        common.successive_relu_rule,
        common.transpose_transpose_rule,
        common.two_reshapes_matmul_reshape_rule,
        common.unsqueeze_unsqueeze_rule,
    ]
)


def simplify(model: ir.Model) -> None:
    """Simplify a model in place; weights and functions stay as they are."""
    with _hidden_weights(model.graph):
        for _ in range(_ROUNDS):
            fold_constants_ir(model, onnx_shape_inference=True)
            rewrite(model, _RULES)
        ir.passes.Sequential(
            passes.RemoveUnusedNodesPass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.LiftSubgraphInitializersToMainGraphPass(),
            passes.DeduplicateInitializersPass(),
            passes.CommonSubexpressionEliminationPass(),
            passes.RemoveUnusedNodesPass(),
            passes.OutputFixPass(),
            passes.NameFixPass(),
        )(model)


def inline_functions(model: ir.Model) -> None:
    """Replace calls of functions by their bodies, for tools that do not support functions."""
    passes.InlinePass()(model)
    simplify(model)


@contextmanager
def _hidden_weights(graph: ir.Graph) -> Iterator[None]:
    """Make the layers' weights inputs of the graph, without values, until the block ends."""
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
    """Return whether only layers read it. Scalars, such as 0 and 1, are not learned."""
    if value.is_graph_input() or value.is_graph_output() or not value.shape:
        return False
    if value.dtype is None or not value.dtype.is_floating_point():
        return False
    return all(_takes_weights(node) for node, _ in value.uses())


def _takes_weights(node: ir.Node) -> bool:
    """Return whether it is a layer; a node whose inputs are all constant is folded instead."""
    known = node.domain == DOMAIN or (not node.domain and node.op_type in _TAKE_WEIGHTS)
    return known and any(
        value is not None and ir.convenience.get_const_tensor(value) is None
        for value in node.inputs
    )
