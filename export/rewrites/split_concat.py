"""A convolution of concatenated features is a sum of convolutions: no copy is made.

    weight * concat(a, b)  =  weight_a * a + weight_b * b

with the weight's input channels split as the features are. The multiply-adds are the same; what
is saved is the copy, and each part is open to rewrites of its own.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.rewrites.editing import (
    attributes_of,
    channels_of,
    constant,
    emit,
    integer,
    known_values,
    over_channels,
    place,
    read_once,
    replace,
)
from pconv_deploy.export.rewrites.site import Site


def split_concat(model: ir.Model) -> Sequence[Site]:
    """Split every convolution that alone reads a concatenation over channels."""
    sites = []
    for conv in [n for n in model.graph if n.op_type == "Conv" and not n.domain]:
        concat = conv.inputs[0].producer() if conv.inputs[0] else None
        if concat is None or concat.op_type != "Concat" or not over_channels(concat):
            continue
        refused = _refusal(conv, concat)
        sites.append(Site(place(conv), refused))
        if refused is None:
            _split(conv, concat)
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


def _split(conv: ir.Node, concat: ir.Node) -> None:
    weight, bias = known_values(conv.inputs[1]), [v for v in conv.inputs[2:] if v is not None]
    assert weight is not None
    ends = np.cumsum([channels_of(part) for part in concat.inputs])
    total: ir.Value | None = None
    for number, (part, taps) in enumerate(
        zip(concat.inputs, np.split(weight, ends[:-1], axis=1), strict=True)
    ):
        name = f"{place(conv)}.part{number}"
        value = emit(
            conv,
            "Conv",
            part,
            constant(conv, taps, f"{name}.weight"),
            *(() if number else bias),
            name=name,
            **attributes_of(conv),
        )
        value.shape, value.type = conv.outputs[0].shape, conv.outputs[0].type
        total = value if total is None else emit(conv, "Add", total, value)
    assert total is not None
    replace(conv.outputs[0], total)
    assert conv.graph is not None
    conv.graph.remove(conv, safe=True)
