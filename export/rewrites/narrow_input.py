"""The first layer has few inputs; 2x2 blocks of them fill a vector where one pixel does not.

A convolution of stride 2 with an odd window of 2p + 1 taps padded by p reads, for the output i,
the rows 2i - p .. 2i + p. With the image's 2x2 blocks as channels (SpaceToDepth) these lie in the
block rows i - ceil(p / 2) .. i + floor(p / 2): a convolution of stride 1 with p + 1 taps and four
times the channels, whose taps are the old ones with zeros where a block reaches further.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.rewrites.editing import (
    VECTOR,
    Array,
    constant,
    emit,
    integer,
    ints,
    is_even,
    known_values,
    place,
    replace,
)
from pconv_deploy.export.rewrites.site import Site


def narrow_input(model: ir.Model) -> Sequence[Site]:
    """Rewrite every convolution of stride 2 with fewer inputs than half a vector."""
    sites = []
    for conv in [n for n in model.graph if n.op_type == "Conv" and not n.domain]:
        weight = known_values(conv.inputs[1])
        if weight is None or weight.shape[1] > VECTOR // 2 or weight.shape[0] < VECTOR:
            continue
        if ints(conv, "strides", (1, 1)) != (2, 2):
            continue
        refused = _refusal(conv, weight)
        sites.append(Site(place(conv), refused))
        if refused is None:
            _narrow(conv, weight)
    return sites


def _refusal(conv: ir.Node, weight: Array) -> str | None:
    size, pads = weight.shape[2:], ints(conv, "pads", (0,) * 4)
    if size[0] % 2 == 0 or size[1] % 2 == 0 or pads != (size[0] // 2, size[1] // 2) * 2:
        return f"a window of {size[0]}x{size[1]} padded by {pads}, needed odd and padded by half"
    if integer(conv, "group", 1) != 1 or set(ints(conv, "dilations", (1, 1))) != {1}:
        return "groups or dilation"
    shape = conv.inputs[0].shape if conv.inputs[0] else None
    if shape is None or not all(is_even(side) for side in shape[2:]):
        return f"its input's height and width {shape and shape[2:]} are not known to be even"
    return None


def _narrow(conv: ir.Node, weight: Array) -> None:
    half = [side // 2 for side in weight.shape[2:]]
    blocks = emit(conv, "SpaceToDepth", conv.inputs[0], blocksize=2)
    before, after = [math.ceil(p / 2) for p in half], [p // 2 for p in half]
    y = emit(
        conv,
        "Conv",
        blocks,
        constant(conv, _in_blocks(weight), f"{place(conv)}.blocks"),
        *conv.inputs[2:],
        pads=[*before, *after],
        name=place(conv),
    )
    replace(conv.outputs[0], y)
    assert conv.graph is not None
    conv.graph.remove(conv, safe=True)


def _in_blocks(weight: Array) -> Array:
    """(K, C, 2p + 1, 2p + 1) -> (K, 4 C, p + 1, p + 1), channels (row, column, channel)."""
    half = [side // 2 for side in weight.shape[2:]]
    edges = [(p % 2, 1 - p % 2) for p in half]  # the block before, or the one after
    taps = np.pad(weight, ((0, 0), (0, 0), *edges))
    k, c, height, width = taps.shape
    blocks = taps.reshape(k, c, height // 2, 2, width // 2, 2).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(k, 4 * c, height // 2, width // 2)
