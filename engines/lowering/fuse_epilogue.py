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

from pconv_deploy.graphs.convolution import VECTOR
from pconv_deploy.graphs.editing import (
    attributes_of,
    constant,
    emit,
    is_op,
    known_values,
    node_label,
    nodes_of,
    producer_of,
    proved_values,
    read_once,
    replace_node,
)
from pconv_deploy.graphs.functions import DOMAIN, RENORMALISE, attach_functions
from pconv_deploy.graphs.passes import Site

_HOMOGENEOUS = ("Relu", "LeakyRelu")


def fuse_epilogue(model: ir.Model) -> Sequence[Site]:
    """Take every `Renormalise` apart and put the ratio behind the activation."""
    sites = []
    for node in nodes_of(model, RENORMALISE, DOMAIN):
        refused = _refusal(node)
        sites.append(Site(node_label(node), refused))
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
    values = proved_values(bias)
    zero, one = (
        constant(node, np.array(v, values.dtype), f"{node_label(node)}.{v}") for v in (0, 1)
    )
    seen = emit(node, "Greater", coverage, zero)
    known = emit(node, "Cast", seen, to=ir.DataType.from_numpy(values.dtype))
    ratio = emit(node, "Div", known, emit(node, "Where", seen, coverage, one))
    offsets = constant(node, values[:, None, None, None], f"{node_label(node)}.bias")
    z = emit(node, "Add", convolved, emit(node, "Conv", coverage, offsets))
    activation = _activation(node.outputs[0])
    if activation is not None:
        z = emit(node, activation.op_type, z, **attributes_of(activation))
    if is_op(producer_of(convolved), "Conv"):
        ones = constant(node, np.ones_like(values)[:, None, None, None], f"{node_label(node)}.ones")
        ratio = emit(node, "Conv", ratio, ones)
    y = emit(node, "Mul", z, ratio)
    if activation is not None:
        replace_node(activation, y)
    replace_node(node, y, known)


def _activation(y: ir.Value) -> ir.Node | None:
    """The one reader of `y`, if it lets a factor >= 0 pass."""
    if not read_once(y):
        return None
    ((reader, _),) = y.uses()
    beside = reader.graph is y.graph  # and not in the branch of a condition
    return reader if beside and is_op(reader, *_HOMOGENEOUS) else None
