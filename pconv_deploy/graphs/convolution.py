"""Properties of convolutions that several rewrites check."""

import re

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.editing import (
    Array,
    constant,
    integer,
    ints,
    known_values,
    node_label,
    operand,
)

VECTOR = 8  # single-precision numbers in one register of a common processor


def not_padded_by_half(conv: ir.Node, weight: Array) -> str | None:
    """Return why a window is not 2p + 1 taps padded by p; None if it is."""
    height, width = weight.shape[2:]
    pads = ints(conv, "pads", (0, 0, 0, 0))
    if height % 2 == 0 or width % 2 == 0 or pads != (height // 2, width // 2) * 2:
        return f"a window of {height}x{width} padded by {pads}, needed odd and padded by half"
    return None


def grouped_or_dilated(conv: ir.Node) -> bool:
    """Return whether a convolution has groups or dilation."""
    return integer(conv, "group", 1) != 1 or set(ints(conv, "dilations", (1, 1))) != {1}


def has_constant_bias(node: ir.Node) -> bool:
    """Return whether the bias, the third operand, is constant or absent."""
    bias = operand(node, 2)
    return bias is None or known_values(bias) is not None


def bias_of_phases(at: ir.Node, conv: ir.Node) -> list[ir.Value]:
    """Repeat a convolution's bias (K,) for four phases, (4 K,); empty without a bias."""
    bias = known_values(operand(conv, 2))
    return [] if bias is None else [constant(at, np.tile(bias, 4), f"{node_label(conv)}.bias")]


def has_even_sides(value: ir.Value | None) -> bool:
    """Return whether height and width are proved even."""
    return value is not None and value.shape is not None and all(map(_is_even, value.shape[2:]))


def _is_even(side: object) -> bool:
    """Return whether a size is proved even: 16 or `16*rows`, but no other name and no sum."""
    if isinstance(side, int):
        return side % 2 == 0
    factor = re.fullmatch(r"(\d+)\*\w+", str(getattr(side, "value", side)))
    return factor is not None and int(factor[1]) % 2 == 0
