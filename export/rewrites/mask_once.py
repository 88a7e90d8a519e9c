"""Remove multiplications by a mask of features that are 0 in its holes: x m = x.

Where m is 1, x m is x; where m is 0, x is 0 as well. `Renormalise` leaves exactly 0 in its holes;
Relu and LeakyRelu keep 0, nearest enlargement and concatenation copy it. A mask of ones changes
nothing of any x that is at least as large. So of all multiplications by a mask that of the image
at the entrance remains. Of joined features

    concat(a, b) concat(m, n)  =  concat(a m, b n),

so each part is masked before it is joined, and only where it is needed.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pconv_deploy.export.rewrites.mask_facts import MaskFacts
from pconv_deploy.export.rewrites.mask_groups import Group, Groups, all_ones, repeated_over
from pconv_deploy.graphs.editing import (
    channels_of,
    emit,
    is_op,
    node_label,
    nodes_of,
    over_channels,
    producer_of,
    replace_node,
)
from pconv_deploy.graphs.functions import DOMAIN
from pconv_deploy.graphs.passes import Site


def mask_once(model: ir.Model) -> Sequence[Site]:
    """Remove every multiplication by a mask that changes nothing."""
    facts = MaskFacts.of(model.graph)
    sites = []
    for node in nodes_of(model, "Mul"):
        for x, mask in (node.inputs, node.inputs[::-1]):
            groups = facts.masks.get(mask)
            if groups and x not in facts.masks and (channels := channels_of(x)):
                assert x is not None
                where = node_label(node)  # an output's name goes with it
                refused = _simplify(node, x, repeated_over(groups, channels), facts)
                # The entrance, where an image's holes must be masked, is no refusal.
                if refused is None or all_ones(groups) or _behind_a_layer(x):
                    sites.append(Site(where, refused))
                break
    return sites


def _simplify(node: ir.Node, x: ir.Value, groups: Groups, facts: MaskFacts) -> str | None:
    """Remove one multiplication, or return why it stays."""
    ones = x.producer() is not None and facts.changes_nothing(x, groups)
    if ones or facts.covers.get(x) == groups:
        replace_node(node, x)
    elif (parts := _parts(x, groups)) and any(facts.covers.get(v) == (g,) for v, g in parts):
        joined = [
            value if facts.covers.get(value) == (group,) else _masked(node, value, group, facts)
            for value, group in parts
        ]
        whole = emit(node, "Concat", *joined, axis=1)
        whole.shape, whole.type = x.shape, x.type
        facts.covers[whole] = groups
        replace_node(node, whole)
    else:
        return "what it masks is not proved to be 0 in its holes"
    return None


def _behind_a_layer(x: ir.Value) -> bool:
    """Return whether a value depends on any convolution."""
    before: list[ir.Value | None] = [x]
    seen = set(before)
    while before:
        node = producer_of(before.pop())
        if node is not None:
            if node.domain == DOMAIN or node.op_type in ("Conv", "ConvTranspose"):
                return True
            before += [value for value in node.inputs if value not in seen]
            seen.update(node.inputs)
    return False


def _parts(x: ir.Value, groups: Groups) -> list[tuple[ir.Value, Group]]:
    """Return the parts of a concatenation with their masks; none if they do not match."""
    concat = producer_of(x)
    if not is_op(concat, "Concat") or not over_channels(concat):
        return []
    if [channels_of(value) for value in concat.inputs] != [count for count, _ in groups]:
        return []
    return [(part, group) for part, group in zip(concat.inputs, groups, strict=True) if part]


def _masked(node: ir.Node, value: ir.Value, group: Group, facts: MaskFacts) -> ir.Value:
    masked = emit(node, "Mul", value, facts.value_of(group[1], node))
    masked.shape, masked.type = value.shape, value.type
    facts.covers[masked] = (group,)
    return masked
