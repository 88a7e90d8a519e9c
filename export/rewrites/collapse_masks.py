"""Collapse masks of many channels to one: half of the literal network's work is masks.

A partial convolution needs of its masks only the share of the window that is known,

    coverage = sum(mask under the window) / area,      area = channels kh kw.

Where each group g of C_g channels repeats one mask m_g, the sum over channels is C_g m_g, so

    share    = sum_g (C_g / C) m_g                     one channel
    coverage = average of share over the window, what lies outside of the image counted as 0

and with binary masks the layer (see `PartialConv2d`) is

    mask' = 1 where coverage > 0, else 0
    y     = (weight * (x mask)) / coverage + bias      where coverage > 0, else 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.rewrites.mask_facts import MaskFacts
from pconv_deploy.export.rewrites.mask_groups import Groups, count_channels
from pconv_deploy.graphs.editing import (
    add_up,
    constant,
    emit,
    integer,
    ints,
    node_label,
    nodes_of,
    replace_node,
)
from pconv_deploy.graphs.functions import DOMAIN, PARTIAL_CONV, RENORMALISE, attach_functions
from pconv_deploy.graphs.passes import Site

_WINDOW = ("kernel_shape", "strides", "pads", "dilations")


def collapse_masks(model: ir.Model) -> Sequence[Site]:
    """Replace each `PartialConv2d` by a convolution and a `Renormalise`."""
    facts = MaskFacts.of(model.graph)
    layers = nodes_of(model, PARTIAL_CONV, DOMAIN)
    masks = [(node.inputs[1], facts.masks.get(node.inputs[1])) for node in layers]
    sites = []
    # A layer may read another's mask itself, which is another value once that one is collapsed.
    for node, (mask, groups) in zip(layers, masks, strict=True):
        sites.append(Site(node_label(node), None if groups else facts.why_unproved(mask)))
        if groups:
            _collapse(node, groups, facts)
    attach_functions(model)
    return sites


def _collapse(node: ir.Node, groups: Groups, facts: MaskFacts) -> None:
    x, mask, weight, bias = node.inputs
    window: dict[str, Any] = {name: ints(node, name) for name in _WINDOW}
    masked = emit(node, "Mul", x, mask, name=f"{node_label(node)}.masked")
    masked.shape, masked.type = x.shape, x.type  # type: ignore[union-attr]
    convolved = emit(
        node,
        "Conv",
        masked,
        weight,
        name=node_label(node),
        group=integer(node, "group", 1),
        **window,
    )
    coverage = _coverage(node, _share(node, groups, facts), window)
    y = emit(
        node,
        RENORMALISE,
        convolved,
        coverage,
        bias,
        domain=DOMAIN,
        outputs=2,
        name=f"{node_label(node)}.renormalise",
    )
    renormalise = y.producer()
    assert renormalise is not None
    known, old = renormalise.outputs[1], node.outputs[1]
    if old.shape is not None:
        known.shape = ir.Shape([size if axis != 1 else 1 for axis, size in enumerate(old.shape)])
    known.type = old.type
    # Masks of later layers may be named after this one.
    key = ("layer", node)
    facts.one_channel[key] = known
    repeats = ints(node, "mask_kernel")[0]
    if repeats != 1:
        shape = constant(node, np.array([1, repeats, 1, 1]), f"{node_label(node)}.channels")
        known = emit(node, "Expand", known, shape)
    replace_node(node, y, known)


def _share(node: ir.Node, groups: Groups, facts: MaskFacts) -> ir.Value:
    """Compute the share of each pixel's channels that is known."""
    channels = count_channels(groups)
    weighted: dict[ir.Value, int] = {}
    for count, key in groups:  # one mask may stand in several groups
        value = facts.value_of(key, node)
        weighted[value] = weighted.get(value, 0) + count
    if len(weighted) == 1:
        return next(iter(weighted))
    terms = []
    for value, count in weighted.items():
        factor = np.array(count / channels, _dtype(node.inputs[1]))
        terms.append(emit(node, "Mul", value, constant(node, factor, f"{node_label(node)}.share")))
    return add_up(node, terms)


def _coverage(node: ir.Node, share: ir.Value, window: dict[str, Any]) -> ir.Value:
    narrower = all(p < k for p, k in zip(window["pads"], window["kernel_shape"] * 2, strict=True))
    if set(window["dilations"]) == {1} and narrower:
        pooled = {key: value for key, value in window.items() if key != "dilations"}
        return emit(node, "AveragePool", share, count_include_pad=1, **pooled)
    # Operator set 18 pools without dilation, and runtimes pool no window that may lie outside
    # altogether; a convolution of one channel averages as well.
    taps = np.ones((1, 1, *window["kernel_shape"]), _dtype(node.inputs[1]))
    average = constant(node, taps / taps.size, f"{node_label(node)}.average")
    return emit(node, "Conv", share, average, **window)


def _dtype(mask: ir.Value | None) -> np.dtype[Any]:
    assert mask is not None
    assert mask.dtype is not None
    return mask.dtype.numpy()
