"""Back from a transposed convolution to a convolution of doubled features.

`upsample_phases` sums neighbouring taps; where a runtime is faster on the larger but plainer form,
its taps w_0, w_1, w_2 along an axis are found again in u = (w_2, w_1 + w_2, w_0 + w_1, w_0):

    w_0 = u_3,   w_1 = u_1 - u_0,   w_2 = u_0,

to within the rounding of the one sum.
"""

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.editing import (
    Array,
    constant,
    emit,
    node_label,
    proved_values,
    replace_node,
)
from pconv_deploy.graphs.enlargement import enlarge


def enlarge_again(node: ir.Node) -> None:
    """Rewrite a 4x4 transposed convolution of stride 2 that `interleave_phases` would take."""
    assert node.inputs[0] is not None
    doubled = enlarge(node, node.inputs[0], (1, 1, 2, 2), f"{node_label(node)}.scales")
    taps = constant(node, single_taps(proved_values(node.inputs[1])), f"{node_label(node)}.single")
    y = emit(
        node, "Conv", doubled, taps, *node.inputs[2:], pads=[1, 1, 1, 1], name=node_label(node)
    )
    replace_node(node, y)


def single_taps(weight: Array) -> Array:
    """(C, K, 4, 4) -> (K, C, 3, 3): the inverse of `upsample_phases.summed_taps`."""
    taps = weight.transpose(1, 0, 2, 3).astype(np.float64)
    for axis in (2, 3):
        first, second, _, last = np.split(taps, 4, axis)
        taps = np.concatenate([last, second - first, first], axis)
    return taps.astype(weight.dtype)
