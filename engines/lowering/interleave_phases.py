"""A transposed convolution of stride 2 as an ordinary one, its phases put side by side after.

A 4x4 transposed convolution of stride 2 and padding 1 (see `upsample_phases`) adds u_t x[i] to
y[2i + t - 1], for its taps u_0 .. u_3 along an axis. So

    y[2i]     = u_3 x[i - 1] + u_1 x[i]
    y[2i + 1] = u_2 x[i]     + u_0 x[i + 1]

Each phase is a convolution with two taps, so one 2x2 convolution, padded by 1 and with four times
the outputs, holds them all: at r it gives y[2r - 1] and y[2r]. Interleaved, in that order, these
are the rows -1 .. 2H, of which the first and the last are cut off. Interleaving moves one axis at
a time, which runtimes do far faster than the equal DepthToSpace.
"""

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.convolution import (
    bias_of_phases,
    grouped_or_dilated,
    has_constant_bias,
)
from pconv_deploy.graphs.editing import (
    Array,
    constant,
    emit,
    ints,
    known_values,
    node_label,
    proved_values,
    replace_node,
)

# Which taps the phases take, in the order in which they are interleaved: odd before even.
_PHASES = ((2, 0), (3, 1))


def refusal(node: ir.Node) -> str | None:
    """Why a transposed convolution has no phases of 2x2 taps; None if it has."""
    weight = known_values(node.inputs[1])
    if weight is None or not has_constant_bias(node):
        return "its weights are not constant"
    window = (weight.shape[2:], ints(node, "strides", (1, 1)), ints(node, "pads", (0,) * 4))
    if window != ((4, 4), (2, 2), (1, 1, 1, 1)):
        return f"window, strides and pads are {window}, needed 4x4, 2, 1"
    if grouped_or_dilated(node):
        return "groups or dilation"
    if any(ints(node, "output_padding")) or "output_shape" in node.attributes:
        return "its output's size is chosen, not that of its window"
    return None


def phase_taps(weight: Array) -> Array:
    """(C, K, 4, 4) -> (4 K, C, 2, 2): each phase's own kernel, odd rows and columns first."""
    taps = weight.transpose(1, 0, 2, 3)
    return np.concatenate([taps[:, :, rows][:, :, :, cols] for rows in _PHASES for cols in _PHASES])


def interleave(node: ir.Node) -> None:
    """Rewrite one transposed convolution that nothing is refused of."""
    weight, name = proved_values(node.inputs[1]), node_label(node)
    taps, bias = constant(node, phase_taps(weight), f"{name}.phases"), bias_of_phases(node, node)
    phases = emit(node, "Conv", node.inputs[0], taps, *bias, pads=[1, 1, 1, 1], name=name)
    replace_node(node, interleaved(node, phases, weight.shape[1]))


def interleaved(node: ir.Node, phases: ir.Value, channels: int) -> ir.Value:
    """Put phases (N, 4 K, H + 1, W + 1) side by side and cut: (N, K, 2H, 2W), before `node`."""
    y = _side_by_side(node, phases, channels)
    ends = ((1, 1), (-1, -1), (2, 3))
    return emit(
        node, "Slice", y, *(constant(node, np.array(e), f"{node_label(node)}.cut") for e in ends)
    )


def _side_by_side(node: ir.Node, phases: ir.Value, channels: int) -> ir.Value:
    def shape(*sides: ir.Value | int) -> ir.Value:
        parts = [whole(side) if isinstance(side, int) else side for side in sides]
        return emit(node, "Concat", *parts, axis=0)

    def whole(number: int) -> ir.Value:
        return constant(node, np.array([number]), f"{node_label(node)}.side")

    n, h, w = (emit(node, "Shape", phases, start=axis, end=axis + 1) for axis in (0, 2, 3))
    rows, columns, two_n = (emit(node, "Mul", side, whole(2)) for side in (h, w, n))
    y = emit(node, "Reshape", phases, shape(two_n, 2, -1))  # (N row, column, K h w)
    y = emit(node, "Transpose", y, perm=[0, 2, 1])
    y = emit(node, "Reshape", y, shape(n, 2, -1, columns))  # (N, row, K h, 2w)
    y = emit(node, "Transpose", y, perm=[0, 2, 1, 3])
    return emit(node, "Reshape", y, shape(n, channels, rows, columns))
