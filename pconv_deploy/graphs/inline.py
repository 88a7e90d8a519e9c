"""Inline the model-local functions of a graph, for tools that do not support them."""

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from pconv_deploy.graphs.simplification import simplify


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the bodies of its functions in place of their nodes; types in them are known then."""
    graph = ir.serde.deserialize_model(model)
    InlinePass()(graph)
    simplify(graph)
    result = ir.serde.serialize_model(graph)
    del result.graph.value_info[:]  # some are of values that are gone
    return result
