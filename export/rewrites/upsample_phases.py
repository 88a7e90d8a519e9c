"""Replace a convolution of doubled features by a transposed convolution of the features.

Along one axis, with an odd window of k = 2p + 1 taps w_0 .. w_2p padded by p, the output at o
reads the nearest-doubled input at o + t - p with w_t, and each original pixel i stands at 2i and
2i + 1. So i is read by the output at 2i - p + j, j = 0 .. k, with

    w_(2p - j) + w_(2p + 1 - j)          (w_t = 0 where there is no such t)

which is a transposed convolution of stride 2 and padding p with k + 1 such taps. For 3x3 that is
16 multiply-adds for each original pixel and channel instead of 36, and nothing is copied.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.convolution import not_padded_by_half
from pconv_deploy.graphs.editing import (
    Array,
    constant,
    emit,
    integer,
    ints,
    is_op,
    known_values,
    node_label,
    nodes_of,
    producer_of,
    proved_values,
    replace_node,
)
from pconv_deploy.graphs.enlargement import how_resized, nearest_scales
from pconv_deploy.graphs.passes import Site


def upsample_phases(model: ir.Model) -> Sequence[Site]:
    """Replace every convolution of doubled features."""
    sites = []
    for conv in nodes_of(model, "Conv"):
        resize = producer_of(conv.inputs[0])
        if not is_op(resize, "Resize"):
            continue
        refused = _refusal(conv, resize)
        sites.append(Site(node_label(conv), refused))
        if refused is None:
            _transpose(conv, resize)
    return sites


def _refusal(conv: ir.Node, resize: ir.Node) -> str | None:
    if (scales := nearest_scales(resize)) is None:
        how = how_resized(resize)
        return (
            f"{node_label(resize)} resizes by {how}, needed nearest asymmetric floor, whole scales"
        )
    if scales[2:] != (2, 2):
        return f"{node_label(resize)} enlarges by {scales[2]:g}x{scales[3]:g}, needed 2x2"
    weight = known_values(conv.inputs[1])
    if weight is None:
        return "its weights are not constant"
    if integer(conv, "group", 1) != 1:
        return "a convolution in groups"
    if set(ints(conv, "dilations", (1, 1))) != {1} or set(ints(conv, "strides", (1, 1))) != {1}:
        return "a convolution with stride or dilation"
    return not_padded_by_half(conv, weight)


def _transpose(conv: ir.Node, resize: ir.Node) -> None:
    taps = summed_taps(proved_values(conv.inputs[1])).transpose(1, 0, 2, 3)
    y = emit(
        conv,
        "ConvTranspose",
        resize.inputs[0],
        constant(conv, taps, f"{node_label(conv)}.summed"),
        *conv.inputs[2:],
        name=node_label(conv),
        strides=[2, 2],
        pads=list(ints(conv, "pads", (0, 0, 0, 0))),
    )
    replace_node(conv, y)


def summed_taps(weight: Array) -> Array:
    """Sum taps over the original pixels: (K, C, k, k) -> (K, C, k + 1, k + 1)."""
    exact = weight[:, :, ::-1, ::-1].astype(np.float64)
    for axis in (2, 3):
        edge = [(0, 0)] * 4
        edge[axis] = (1, 1)
        padded = np.pad(exact, edge)
        count = padded.shape[axis]
        low, high = np.arange(count - 1), np.arange(1, count)
        exact = padded.take(low, axis) + padded.take(high, axis)
    return exact.astype(weight.dtype)
