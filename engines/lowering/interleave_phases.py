"""A transposed convolution of stride 2 as an ordinary one, its phases put side by side after.

A 4x4 transposed convolution of stride 2 and padding 1 (see `upsample_phases`) adds u_t x[i] to
y[2i + t - 1], for its taps u_0 .. u_3 along an axis. So

    y[2i]     = u_3 x[i - 1] + u_1 x[i]
    y[2i + 1] = u_2 x[i]     + u_0 x[i + 1]

Each phase is a convolution with two taps, so one 2x2 convolution, padded by 1 and with four times
the outputs, holds them all: at r it gives y[2r - 1] and y[2r]. Interleaved, in that order, these
are the rows -1 .. 2H, of which the first and the last are cut off. There are three equal ways to
interleave: one axis at a time, which ONNX Runtime does faster than the others; by DepthToSpace,
which OpenVINO does faster; and with channels last, as ONNX Runtime's convolutions in eight bits
have them.
"""

from collections.abc import Callable

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


# Puts phases (N, 4 K, H + 1, W + 1) side by side and cuts: (N, K, 2H, 2W), before the node.
Interleave = Callable[[ir.Node, ir.Value, int], ir.Value]


def interleave(node: ir.Node, interleaved: Interleave) -> None:
    """Rewrite one transposed convolution that nothing is refused of."""
    weight, name = proved_values(node.inputs[1]), node_label(node)
    taps, bias = constant(node, phase_taps(weight), f"{name}.phases"), bias_of_phases(node, node)
    phases = emit(node, "Conv", node.inputs[0], taps, *bias, pads=[1, 1, 1, 1], name=name)
    replace_node(node, interleaved(node, phases, weight.shape[1]))


def by_axes(node: ir.Node, phases: ir.Value, channels: int) -> ir.Value:
    """Interleave columns, then rows."""
    n, h, w = (emit(node, "Shape", phases, start=axis, end=axis + 1) for axis in (0, 2, 3))
    rows, columns, two_n = (_doubled(node, side) for side in (h, w, n))
    y = _reshape(node, phases, two_n, 2, -1)  # (N row, column, K h w)
    y = emit(node, "Transpose", y, perm=[0, 2, 1])
    y = _reshape(node, y, n, 2, -1, columns)  # (N, row, K h, 2w)
    y = emit(node, "Transpose", y, perm=[0, 2, 1, 3])
    return _cut(node, _reshape(node, y, n, channels, rows, columns), (2, 3))


def by_depth_to_space(node: ir.Node, phases: ir.Value, channels: int) -> ir.Value:  # noqa: ARG001
    """Interleave by the operator that is made for it."""
    return _cut(node, emit(node, "DepthToSpace", phases, blocksize=2, mode="DCR"), (2, 3))


def by_channels_last(node: ir.Node, phases: ir.Value, channels: int) -> ir.Value:
    """Interleave with channels last: pixels stay together."""
    n, h, w = (emit(node, "Shape", phases, start=axis, end=axis + 1) for axis in (0, 2, 3))
    rows, columns = _doubled(node, h), _doubled(node, w)
    y = emit(node, "Transpose", phases, perm=[0, 2, 3, 1])
    y = _reshape(node, y, -1, w, 2, 2 * channels)  # (N h, w, row, column K)
    y = emit(node, "Transpose", y, perm=[0, 2, 1, 3])
    y = _cut(node, _reshape(node, y, n, rows, columns, channels), (1, 2))
    return emit(node, "Transpose", y, perm=[0, 3, 1, 2])


def _cut(node: ir.Node, y: ir.Value, axes: tuple[int, int]) -> ir.Value:
    """Cut off the first and the last row and column."""
    name = f"{node_label(node)}.cut"
    ends = (constant(node, np.array(end), name) for end in ((1, 1), (-1, -1), axes))
    return emit(node, "Slice", y, *ends)


def _doubled(node: ir.Node, side: ir.Value) -> ir.Value:
    return emit(node, "Mul", side, constant(node, np.array([2]), f"{node_label(node)}.two"))


def _reshape(node: ir.Node, y: ir.Value, *sides: ir.Value | int) -> ir.Value:
    parts = [
        constant(node, np.array([side]), f"{node_label(node)}.side")
        if isinstance(side, int)
        else side
        for side in sides
    ]
    return emit(node, "Reshape", y, emit(node, "Concat", *parts, axis=0))
