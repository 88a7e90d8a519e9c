"""The last layer has few outputs; four phases of them fill a vector where one does not.

It is the sum of a transposed convolution of the features (4x4, stride 2, padding 1, see
`upsample_phases`) and a 3x3 convolution of the skipped image at full size. Both can be computed
at half the size with four times the outputs and interleaved once (see `interleave_phases`): for
the position r, that is the rows 2r - 1 and 2r of the output, the 3x3 windows read the image's
rows 2r - 2 .. 2r and 2r - 1 .. 2r + 1. So both lie in a 4x4 window of stride 2, padding 2.
"""

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
    read_once,
    replace,
)
from pconv_deploy.export.rewrites.interleave_phases import (
    constant_bias,
    interleaved,
    phase_taps,
    refusal,
)
from pconv_deploy.export.rewrites.site import Site


def narrow_output(model: ir.Model) -> Sequence[Site]:
    """Rewrite sums of both kinds of convolution that have fewer outputs than a vector."""
    sites = []
    for add in [n for n in model.graph if n.op_type == "Add" and not n.domain]:
        parts = [value.producer() if value else None for value in add.inputs]
        kinds = [part.op_type if part else "" for part in parts]
        if sorted(kinds) != ["Conv", "ConvTranspose"]:
            continue
        up, skip = parts if kinds[0] == "ConvTranspose" else parts[::-1]
        assert up is not None
        assert skip is not None
        weight = known_values(skip.inputs[1])
        if weight is not None and weight.shape[0] >= VECTOR:
            continue
        refused = _refusal(up, skip)
        sites.append(Site(place(up), refused))
        if refused is None:
            _narrow(add, up, skip)
    return sites


def _refusal(up: ir.Node, skip: ir.Node) -> str | None:
    if why := refusal(up):
        return why
    weight = known_values(skip.inputs[1])
    if weight is None or not constant_bias(skip):
        return "its weights are not constant"
    window = [ints(skip, name, default) for name, default in _PLAIN.items()]
    if (
        weight.shape[2:] != (3, 3)
        or window != list(_PLAIN.values())
        or integer(skip, "group", 1) > 1
    ):
        return f"{place(skip)} is no plain 3x3 convolution"
    if not all(read_once(node.outputs[0]) for node in (up, skip)):
        return "one of the summands is read by others too"
    shape = skip.inputs[0].shape if skip.inputs[0] else None
    even = shape is not None and all(is_even(side) for side in shape[2:])
    if not even or known_values(up.inputs[1]).shape[1] != len(weight):  # type: ignore[union-attr]
        return f"{place(skip)} is not known to be of its size, and may be broadcast"
    return None


_PLAIN = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}


def _narrow(add: ir.Node, up: ir.Node, skip: ir.Node) -> None:
    up_weight, skip_weight = (known_values(node.inputs[1]) for node in (up, skip))
    assert up_weight is not None
    assert skip_weight is not None
    name = place(up)
    phases = [
        emit(add, "Conv", up.inputs[0], constant(add, phase_taps(up_weight), f"{name}.phases"),
             *_biases(add, up), pads=[1, 1, 1, 1], name=name),
        emit(add, "Conv", skip.inputs[0], constant(add, _shifted(skip_weight), f"{name}.shifted"),
             *_biases(add, skip), pads=[2, 2, 2, 2], strides=[2, 2], name=place(skip)),
    ]  # fmt: skip
    total = emit(add, "Add", *phases)
    replace(add.outputs[0], interleaved(add, total, skip_weight.shape[0]))
    graph = add.graph
    assert graph is not None
    graph.remove(add, safe=True)


def _biases(at: ir.Node, conv: ir.Node) -> list[ir.Value]:
    bias = known_values(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return [] if bias is None else [constant(at, np.tile(bias, 4), f"{place(conv)}.bias")]


def _shifted(weight: Array) -> Array:
    """(K, C, 3, 3) -> (4 K, C, 4, 4): each phase's taps where its window lies, odd rows first."""
    kernels = [
        np.pad(weight, ((0, 0), (0, 0), (row, 1 - row), (col, 1 - col)))
        for row in (0, 1)
        for col in (0, 1)
    ]
    return np.concatenate(kernels)
