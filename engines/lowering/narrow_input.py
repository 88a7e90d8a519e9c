"""The first layer has few inputs; 2x2 blocks of them fill a vector where one pixel does not.

A convolution of stride 2 with an odd window of 2p + 1 taps padded by p reads, for the output i,
the rows 2i - p .. 2i + p. With the image's 2x2 blocks as channels (SpaceToDepth) these lie in the
block rows i - ceil(p / 2) .. i + floor(p / 2): a convolution of stride 1 with p + 1 taps and four
times the channels, whose taps are the old ones with zeros where a block reaches further. So every
tap meets the pixel that it met before; blocks need an image of even sides.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.convolution import (
    VECTOR,
    grouped_or_dilated,
    has_even_sides,
    not_padded_by_half,
)
from pconv_deploy.graphs.editing import (
    Array,
    constant,
    emit,
    ints,
    known_values,
    node_label,
    nodes_of,
    replace_node,
)
from pconv_deploy.graphs.passes import Site


def narrow_input(model: ir.Model) -> Sequence[Site]:
    """Rewrite every convolution of stride 2 with at most half a vector of inputs."""
    sites = []
    for conv in nodes_of(model, "Conv"):
        weight = known_values(conv.inputs[1])
        if weight is None or weight.shape[1] > VECTOR // 2 or weight.shape[0] < VECTOR:
            continue
        if ints(conv, "strides", (1, 1)) != (2, 2):
            continue
        refused = _refusal(conv, weight)
        sites.append(Site(node_label(conv), refused))
        if refused is None:
            _narrow(conv, weight)
    return sites


def _refusal(conv: ir.Node, weight: Array) -> str | None:
    if why := not_padded_by_half(conv, weight):
        return why
    if grouped_or_dilated(conv):
        return "groups or dilation"
    x = conv.inputs[0]
    if not has_even_sides(x):
        sides = x and x.shape and x.shape[2:]
        return f"its input's height and width {sides} are not known to be even"
    return None


def _narrow(conv: ir.Node, weight: Array) -> None:
    half = [side // 2 for side in weight.shape[2:]]
    blocks = emit(conv, "SpaceToDepth", conv.inputs[0], blocksize=2)
    before, after = [math.ceil(p / 2) for p in half], [p // 2 for p in half]
    y = emit(
        conv,
        "Conv",
        blocks,
        constant(conv, _in_blocks(weight), f"{node_label(conv)}.blocks"),
        *conv.inputs[2:],
        pads=[*before, *after],
        name=node_label(conv),
    )
    replace_node(conv, y)


def _in_blocks(weight: Array) -> Array:
    """(K, C, 2p + 1, 2p + 1) -> (K, 4 C, p + 1, p + 1), channels (row, column, channel)."""
    half = [side // 2 for side in weight.shape[2:]]
    edges = [(p % 2, 1 - p % 2) for p in half]  # the block before, or the one after
    taps = np.pad(weight, ((0, 0), (0, 0), *edges))
    k, c, height, width = taps.shape
    blocks = taps.reshape(k, c, height // 2, 2, width // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(k, 4 * c, height // 2, width // 2)
