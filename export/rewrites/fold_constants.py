"""What does not depend on the input is computed once; what is computed twice, or for nobody, goes.

An operator gives the same for the same inputs: f(c) is a constant where c is one, and of two f(x)
one is enough. By the passes of onnxscript and onnx-ir.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pconv_deploy.graphs.passes import Site
from pconv_deploy.graphs.simplification import simplify


def fold_constants(model: ir.Model) -> Sequence[Site]:
    """Fold, share and remove, until nothing changes any more."""
    before = len(model.graph)
    simplify(model)
    gone = before - len(model.graph)
    return [Site(f"{gone} of {before} nodes")] if gone else []
