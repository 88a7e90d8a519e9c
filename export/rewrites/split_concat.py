"""Split a convolution of concatenated features into a sum of convolutions, without the copy.

    weight * concat(a, b)  =  weight_a * a + weight_b * b

with the weight's input channels split as the features are: a convolution sums over them, and the
sum may be taken part by part. The bias is added once. The multiply-adds are the same; what
is saved is the copy, and each part is open to rewrites of its own.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.editing import (
    add_up,
    attributes_of,
    channels_of,
    constant,
    emit,
    integer,
    is_op,
    known_values,
    node_label,
    nodes_of,
    over_channels,
    producer_of,
    proved_values,
    read_once,
    replace_node,
)
from pconv_deploy.graphs.passes import Site


def split_concat(model: ir.Model) -> Sequence[Site]:
    """Split every convolution that is the only reader of a concatenation over channels."""
    sites = []
    for conv in nodes_of(model, "Conv"):
        concat = producer_of(conv.inputs[0])
        if not is_op(concat, "Concat") or not over_channels(concat):
            continue
        refused = _refusal(conv, concat)
        sites.append(Site(node_label(conv), refused))
        if refused is None:
            replace_node(conv, add_up(conv, _parts(conv, concat)))
    return sites


def _refusal(conv: ir.Node, concat: ir.Node) -> str | None:
    if integer(conv, "group", 1) != 1:
        return "a convolution in groups reads parts of its input already"
    if known_values(conv.inputs[1]) is None:
        return "its weights are not constant"
    if not all(channels_of(part) for part in concat.inputs):
        return "the number of channels of a part is not known"
    if not read_once(concat.outputs[0]):
        return "the concatenation is read by others too"
    return None


def _parts(conv: ir.Node, concat: ir.Node) -> Iterator[ir.Value]:
    ends = np.cumsum([channels_of(part) for part in concat.inputs])
    weights = np.split(proved_values(conv.inputs[1]), ends[:-1], axis=1)
    for number, (part, taps) in enumerate(zip(concat.inputs, weights, strict=True)):
        name = f"{node_label(conv)}.part{number}"
        weight, bias = constant(conv, taps, f"{name}.weight"), () if number else conv.inputs[2:]
        value = emit(conv, "Conv", part, weight, *bias, name=name, **attributes_of(conv))
        value.shape, value.type = conv.outputs[0].shape, conv.outputs[0].type
        yield value
