"""Fold batch norm into the convolution before it, also where a ratio stands between them.

With a, d the scale and offset of the batch norm in evaluation mode, wherever something is known

    a ((weight * x) ratio + bias) + d  =  ((a weight) * x) ratio + (a bias + d).

In a hole the norm yields d and the folded layer 0. That makes no difference if every reader of the
result multiplies it by the layer's mask, perhaps after copies and activations that keep 0. With any
other reader the norm stays. After an ordinary convolution the formula holds everywhere, with
ratio 1.
"""

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.rewrites.mask_facts import MaskFacts
from pconv_deploy.export.rewrites.mask_groups import Key, keys_of_channels, repeated_over
from pconv_deploy.graphs.convolution import has_constant_bias
from pconv_deploy.graphs.editing import (
    Array,
    channels_of,
    constant,
    integer,
    is_op,
    known_values,
    node_label,
    nodes_of,
    operand,
    over_channels,
    producer_of,
    proved_values,
    replace_node,
    seen_once,
)
from pconv_deploy.graphs.enlargement import nearest_scales
from pconv_deploy.graphs.functions import DOMAIN, RENORMALISE
from pconv_deploy.graphs.passes import Site

_KEEPS_ZERO = ("Relu", "LeakyRelu", "Identity")


def fold_batch_norm(model: ir.Model) -> Sequence[Site]:
    """Fold every batch norm that follows a convolution, partial or ordinary."""
    facts = MaskFacts.of(model.graph)
    sites = []
    for norm in nodes_of(model, "BatchNormalization"):
        refused = _refusal(norm, facts)
        sites.append(Site(node_label(norm), refused))
        if refused is None:
            _fold(norm)
    return sites


def _refusal(norm: ir.Node, facts: MaskFacts) -> str | None:
    before = producer_of(norm.inputs[0])
    if not (is_op(before, "Conv") or _renormalises(before)):
        return "it follows no convolution"
    if integer(norm, "training_mode", 0):
        return "it takes the statistics of the batch"
    if not seen_once(before.outputs[0]):
        return "the convolution's output is read by others too"
    conv = _convolution(before)
    if not is_op(conv, "Conv") or not seen_once(conv.outputs[0]):
        return "no convolution of its own stands before the ratio"
    if conv is not before and any(conv.inputs[2:]):
        return "the convolution adds a bias before the ratio"
    weights = [known_values(value) for value in (*norm.inputs[1:], conv.inputs[1])]
    if any(values is None for values in weights) or not has_constant_bias(before):
        return "its weights are not constant"
    if _renormalises(before):
        ((channels, key),) = facts.covers[before.outputs[0]]
        return _reader_of_holes(norm.outputs[0], [key] * channels, facts)
    return None


def _reader_of_holes(value: ir.Value, needed: Sequence[Key | None], facts: MaskFacts) -> str | None:
    """Find a node that reads the holes of `value` without masking them; None if there is none.

    needed  of each channel the mask that must multiply it; None where it does not matter
    """
    if value.is_graph_output():
        return "its holes are part of the graph's output"
    for reader, index in value.uses():
        following: Sequence[Key | None] | None = None
        if is_op(reader, "Shape"):
            continue  # it sees no number
        if is_op(reader, *_KEEPS_ZERO):
            following = needed
        elif is_op(reader, "Mul") and _masks(reader.inputs[1 - index], needed, facts):
            continue
        elif is_op(reader, "Resize") and (how := nearest_scales(reader)):
            following = [key and ("resized", key, how) for key in needed]
        elif is_op(reader, "Concat") and over_channels(reader):
            following = _among_others(reader, index, needed)
        if following is None:
            return f"{node_label(reader)} reads its holes without masking them"
        if unmasked := _reader_of_holes(reader.outputs[0], following, facts):
            return unmasked
    return None


def _among_others(
    concat: ir.Node, index: int, needed: Sequence[Key | None]
) -> Sequence[Key | None] | None:
    counts = [channels_of(value) for value in concat.inputs]
    if any(count is None for count in counts):
        return None
    keys: list[Key | None] = []
    for i, count in enumerate(counts):
        keys += needed if i == index else [None] * (count or 0)
    return keys


def _masks(mask: ir.Value | None, needed: Sequence[Key | None], facts: MaskFacts) -> bool:
    groups = facts.masks.get(mask)
    if groups is None:
        return False
    keys = keys_of_channels(repeated_over(groups, len(needed)))
    return len(keys) == len(needed) and all(
        need is None or need == key for need, key in zip(needed, keys, strict=True)
    )


def _renormalises(node: ir.Node | None) -> TypeGuard[ir.Node]:
    return is_op(node, RENORMALISE, domain=DOMAIN)


def _convolution(before: ir.Node) -> ir.Node | None:
    """Return the convolution: the node before the norm, or before the ratio."""
    return producer_of(before.inputs[0]) if _renormalises(before) else before


def _fold(norm: ir.Node) -> None:
    before = producer_of(norm.inputs[0])
    assert before is not None
    conv = _convolution(before)
    assert conv is not None
    # In double precision: the fold must not cost more than one rounding.
    gamma, beta, mean, variance = (_double(value) for value in norm.inputs[1:5])
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    weight, bias = proved_values(conv.inputs[1]), operand(before, 2)
    folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    offset = beta - mean * scale + (0 if bias is None else _double(bias) * scale)
    name, dtype = node_label(conv), weight.dtype
    conv.replace_input_with(1, constant(conv, folded.astype(dtype), f"{name}.weight"))
    if len(before.inputs) < 3:
        before.resize_inputs(3)
    before.replace_input_with(2, constant(before, offset.astype(dtype), f"{name}.bias"))
    replace_node(norm, before.outputs[0])


def _double(value: ir.Value | None) -> Array:
    return proved_values(value).astype(np.float64)
