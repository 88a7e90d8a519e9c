"""What follows a convolution is arranged so that a runtime can do most of it inside.

A collapsed layer is, with ratio = known / coverage where anything is known, else 0,

    y = activation((weight * x) ratio + bias known).

As known = ratio coverage, and as Relu and LeakyRelu let a factor >= 0 pass,

    y = ratio activation(weight * x + bias coverage).

Sum and activation now follow the convolution itself, where runtimes fuse both into it, and
bias coverage is a 1x1 convolution of one channel. Where the layer is one convolution, the ratio
is repeated over the channels by a 1x1 convolution too: then everything a layer touches keeps the
blocked memory layout of convolutions.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.functions import DOMAIN, RENORMALISE, attach_functions
from pconv_deploy.export.rewrites.editing import (
    VECTOR,
    attributes_of,
    constant,
    emit,
    known_values,
    place,
    read_once,
    replace,
)
from pconv_deploy.export.rewrites.site import Site

_HOMOGENEOUS = ("Relu", "LeakyRelu")


def fuse_epilogue(model: ir.Model) -> Sequence[Site]:
    """Take every `Renormalise` apart and put the ratio behind the activation."""
    sites = []
    for node in [n for n in model.graph if n.op_type == RENORMALISE and n.domain == DOMAIN]:
        refused = _refusal(node)
        sites.append(Site(place(node), refused))
        if refused is None:
            _fuse(node)
    attach_functions(model)
    return sites


def _refusal(node: ir.Node) -> str | None:
    bias = known_values(node.inputs[2])
    if bias is None:
        return "its bias is not constant"
    coverage = node.inputs[1]
    if coverage is not None and coverage.dtype not in (None, ir.DataType.from_numpy(bias.dtype)):
        return "its masks have another precision than its features"
    if len(bias) < VECTOR:
        return f"{len(bias)} channels fill no vector, so their layout is not blocked"
    return None


def _fuse(node: ir.Node) -> None:
    convolved, coverage, bias = node.inputs
    values = known_values(bias)
    assert values is not None
    y, known = node.outputs
    zero, one = (constant(node, np.array(v, values.dtype), f"{place(node)}.{v}") for v in (0, 1))
    seen = emit(node, "Greater", coverage, zero)
    found = emit(node, "Cast", seen, to=ir.DataType.from_numpy(values.dtype))
    ratio = emit(node, "Div", found, emit(node, "Where", seen, coverage, one))
    offsets = constant(node, values[:, None, None, None], f"{place(node)}.bias")
    z = emit(node, "Add", convolved, emit(node, "Conv", coverage, offsets))
    activation = _activation(y)
    if activation is not None:
        slope = attributes_of(activation)
        z, y = emit(node, activation.op_type, z, **slope), activation.outputs[0]
    producer = convolved.producer() if convolved else None
    if producer is not None and producer.op_type == "Conv":
        ones = constant(node, np.ones_like(values)[:, None, None, None], f"{place(node)}.ones")
        ratio = emit(node, "Conv", ratio, ones)
    replace(y, emit(node, "Mul", z, ratio))
    replace(known, found)
    graph = node.graph
    assert graph is not None
    if activation is not None:
        graph.remove(activation, safe=True)
    graph.remove(node, safe=True)


def _activation(y: ir.Value) -> ir.Node | None:
    """The one reader of `y`, if it lets a factor >= 0 pass."""
    if not read_once(y):
        return None
    ((reader, _),) = y.uses()
    beside = reader.graph is y.graph  # and not in the branch of a condition
    return reader if beside and reader.op_type in _HOMOGENEOUS and not reader.domain else None
