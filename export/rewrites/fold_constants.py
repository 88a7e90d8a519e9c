"""Fold constants, merge common subexpressions, remove dead code.

An operator returns the same for the same inputs: f(c) is a constant if c is one, and one of two
f(x) is enough. Uses the passes of onnxscript and onnx-ir.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pconv_deploy.graphs.passes import Site
from pconv_deploy.graphs.simplification import simplify


def fold_constants(model: ir.Model) -> Sequence[Site]:
    """Simplify the graph; the site says how many nodes were removed."""
    before = len(model.graph)
    simplify(model)
    gone = before - len(model.graph)
    return [Site(f"{gone} of {before} nodes")] if gone else []
