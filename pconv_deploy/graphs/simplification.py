"""Simplify a graph exactly: constants folded, repetitions shared, what does nothing removed.

By the passes of onnxscript and onnx-ir. `onnxscript.optimizer.optimize_ir` takes 1e-8 for 0 and
1.000005 for 1, which makes NaN of `x / (known + 1e-8)`, and joins clips whose ranges do not meet.
So the rules are chosen here one by one, and those that remove an operation are written again, for
exactly 0 and 1.
"""

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, pattern, rewrite
from onnxscript.rewriter.rules import common

from pconv_deploy.graphs.hidden_weights import hidden_weights

_ROUNDS = 2  # what is folded may show more to rewrite


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
    with hidden_weights(model.graph):
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
