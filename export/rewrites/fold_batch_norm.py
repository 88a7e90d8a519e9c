"""Batch norm folds into the convolution before it, also where a ratio stands between them.

With a, d the scale and offset of the batch norm in evaluation mode, wherever something is known

    a ((weight * x) ratio + bias) + d  =  ((a weight) * x) ratio + (a bias + d).

In a hole the norm yields d and the folded layer 0. That makes no difference where everyone who
reads the result multiplies it by the layer's mask, which activations that keep 0 and copies may
precede. Anyone else would see the difference, so then the norm stays. After an ordinary
convolution the same formula holds everywhere, with ratio 1.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.functions import DOMAIN, RENORMALISE
from pconv_deploy.export.rewrites.editing import (
    Array,
    channels_of,
    constant,
    integer,
    known_values,
    over_channels,
    place,
    read_once,
    replace,
)
from pconv_deploy.export.rewrites.enlargement import nearest_scales
from pconv_deploy.export.rewrites.facts import MaskFacts
from pconv_deploy.export.rewrites.mask_groups import Key
from pconv_deploy.export.rewrites.site import Site

_KEEPS_ZERO = ("Relu", "LeakyRelu", "Identity")


def fold_batch_norm(model: ir.Model) -> Sequence[Site]:
    """Fold every batch norm that follows a convolution, partial or ordinary."""
    facts = MaskFacts.of(model.graph)
    sites = []
    for norm in [n for n in model.graph if n.op_type == "BatchNormalization" and not n.domain]:
        refused = _refusal(norm, facts)
        sites.append(Site(place(norm), refused))
        if refused is None:
            _fold(norm)
    return sites


def _refusal(norm: ir.Node, facts: MaskFacts) -> str | None:
    before = norm.inputs[0].producer() if norm.inputs[0] else None
    if before is None or not (_convolves(before) or _renormalises(before)):
        return "it follows no convolution"
    if integer(norm, "training_mode", 0):
        return "it takes the statistics of the batch"
    if not read_once(before.outputs[0]):
        return "the convolution's output is read by others too"
    conv = before.inputs[0].producer() if _renormalises(before) else before  # type: ignore[union-attr]
    if conv is None or not _convolves(conv) or not read_once(conv.outputs[0]):
        return "no convolution of its own stands before the ratio"
    if conv is not before and any(conv.inputs[2:]):
        return "the convolution adds a bias before the ratio"
    per_channel = [known_values(value) for value in (*norm.inputs[1:], conv.inputs[1])]
    bias = before.inputs[2] if len(before.inputs) > 2 else None
    if any(v is None for v in per_channel) or (bias is not None and known_values(bias) is None):
        return "its weights are not constant"
    if _renormalises(before):
        ((channels, key),) = facts.covers[before.outputs[0]]
        return _reader_of_holes(norm.outputs[0], [key] * channels, facts)
    return None


def _reader_of_holes(value: ir.Value, needed: Sequence[Key | None], facts: MaskFacts) -> str | None:
    """Who would see what stands in the holes of `value`; None if everyone masks it.

    needed  of each channel the mask that must multiply it; None where it does not matter
    """
    if value.is_graph_output():
        return "its holes are part of the graph's output"
    for reader, index in value.uses():
        following: Sequence[Key | None] | None = None
        if reader.op_type == "Shape" and not reader.domain:
            continue  # it sees no number
        if reader.op_type in _KEEPS_ZERO:
            following = needed
        elif reader.op_type == "Mul" and _masks(reader.inputs[1 - index], needed, facts):
            continue
        elif reader.op_type == "Resize" and (how := nearest_scales(reader)):
            following = [key and ("resized", key, how) for key in needed]
        elif reader.op_type == "Concat" and over_channels(reader):
            following = _among_others(reader, index, needed)
        if following is None:
            return f"{place(reader)} reads its holes without masking them"
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
    groups = facts.masks.get(mask) if mask else None
    if groups is None:
        return False
    keys = [key for count, key in groups for _ in range(count)]
    if len(keys) == 1:
        keys *= len(needed)
    return len(keys) == len(needed) and all(
        need is None or need == key for need, key in zip(needed, keys, strict=True)
    )


def _convolves(node: ir.Node) -> bool:
    return node.op_type == "Conv" and not node.domain


def _renormalises(node: ir.Node) -> bool:
    return node.op_type == RENORMALISE and node.domain == DOMAIN


def _fold(norm: ir.Node) -> None:
    before = norm.inputs[0].producer()  # type: ignore[union-attr]
    assert before is not None
    conv = before.inputs[0].producer() if _renormalises(before) else before  # type: ignore[union-attr]
    assert conv is not None
    gamma, beta, mean, variance = (_double(value) for value in norm.inputs[1:5])
    # In double precision: the fold must not cost more than one rounding.
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    weight = _double(conv.inputs[1])
    bias = _double(before.inputs[2]) if len(before.inputs) > 2 and before.inputs[2] else 0.0
    name, dtype = place(conv), known_values(conv.inputs[1]).dtype  # type: ignore[union-attr]
    per_output = scale.reshape(-1, *[1] * (weight.ndim - 1))
    folded = (weight * per_output).astype(dtype)
    offset = (bias * scale + beta - mean * scale).astype(dtype)
    conv.replace_input_with(1, constant(conv, folded, f"{name}.weight"))
    new_bias = constant(before, offset, f"{name}.bias")
    if len(before.inputs) > 2:
        before.replace_input_with(2, new_bias)
    else:
        before.resize_inputs(3)
        before.replace_input_with(2, new_bias)
    replace(norm.outputs[0], before.outputs[0])
    assert norm.graph is not None
    norm.graph.remove(norm, safe=True)


def _double(value: ir.Value | None) -> Array:
    numbers = known_values(value)
    assert numbers is not None
    return numbers.astype(np.float64)
