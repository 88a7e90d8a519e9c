"""The last layer has few outputs; four phases of them fill a vector where one does not.

It is the sum of a transposed convolution of the features (4x4, stride 2, padding 1, see
`upsample_phases`) and a 3x3 convolution of the skipped image at full size. Both can be computed
at half the size with four times the outputs and interleaved once, as interleaving a sum is
interleaving its terms (see `interleave_phases`): for the position r, that is the rows 2r - 1 and
2r of the output, whose 3x3 windows read the image's rows 2r - 2 .. 2r and 2r - 1 .. 2r + 1. So
both lie in a 4x4 window of stride 2, padding 2, with zeros for the taps of the other.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.engines.lowering.interleave_phases import Interleave, phase_taps, refusal
from pconv_deploy.graphs.convolution import (
    VECTOR,
    bias_of_phases,
    grouped_or_dilated,
    has_constant_bias,
    has_even_sides,
    not_padded_by_half,
)
from pconv_deploy.graphs.editing import (
    Array,
    constant,
    emit,
    ints,
    is_op,
    known_values,
    node_label,
    nodes_of,
    producer_of,
    proved_values,
    read_once,
    replace_node,
)
from pconv_deploy.graphs.passes import Site


def narrow_output(model: ir.Model, interleaved: Interleave) -> Sequence[Site]:
    """Rewrite sums of both kinds of convolution that have fewer outputs than a vector."""
    sites = []
    for add in nodes_of(model, "Add"):
        up, skip = (producer_of(value) for value in add.inputs)
        if is_op(skip, "ConvTranspose"):
            up, skip = skip, up
        if not is_op(up, "ConvTranspose") or not is_op(skip, "Conv"):
            continue
        weight = known_values(skip.inputs[1])
        if weight is not None and len(weight) >= VECTOR:
            continue
        refused = _refusal(up, skip, weight)
        sites.append(Site(node_label(up), refused))
        if refused is None:
            _narrow(add, up, skip, interleaved)
    return sites


def _refusal(up: ir.Node, skip: ir.Node, weight: Array | None) -> str | None:
    if why := refusal(up):
        return why
    if weight is None or not has_constant_bias(skip):
        return "its weights are not constant"
    if weight.shape[2:] != (3, 3) or not_padded_by_half(skip, weight) or not _dense(skip):
        return f"{node_label(skip)} is no plain 3x3 convolution"
    if not all(read_once(node.outputs[0]) for node in (up, skip)):
        return "one of the summands is read by others too"
    if not has_even_sides(skip.inputs[0]) or proved_values(up.inputs[1]).shape[1] != len(weight):
        return f"{node_label(skip)} is not known to be of its size, and may be broadcast"
    return None


def _dense(conv: ir.Node) -> bool:
    return ints(conv, "strides", (1, 1)) == (1, 1) and not grouped_or_dilated(conv)


def _narrow(add: ir.Node, up: ir.Node, skip: ir.Node, interleaved: Interleave) -> None:
    weight, name = proved_values(skip.inputs[1]), node_label(up)
    taps = constant(add, phase_taps(proved_values(up.inputs[1])), f"{name}.phases")
    shifted = constant(add, _shifted(weight), f"{name}.shifted")
    phases = [
        emit(add, "Conv", up.inputs[0], taps, *bias_of_phases(add, up),
             pads=[1, 1, 1, 1], name=name),
        emit(add, "Conv", skip.inputs[0], shifted, *bias_of_phases(add, skip),
             pads=[2, 2, 2, 2], strides=[2, 2], name=node_label(skip)),
    ]  # fmt: skip
    replace_node(add, interleaved(add, emit(add, "Add", *phases), len(weight)))


def _shifted(weight: Array) -> Array:
    """(K, C, 3, 3) -> (4 K, C, 4, 4): each phase's taps where its window lies, odd rows first."""
    kernels = [
        np.pad(weight, ((0, 0), (0, 0), (row, 1 - row), (col, 1 - col)))
        for row in (0, 1)
        for col in (0, 1)
    ]
    return np.concatenate(kernels)
