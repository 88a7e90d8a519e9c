"""What is 0 in its holes already needs no multiplication by the mask: x m = x.

`Renormalise` leaves exactly 0 in its holes; Relu and LeakyRelu keep 0, nearest enlargement and
concatenation copy it. So of all multiplications by a mask that of the image at the entrance
remains. A concatenation of masked and unmasked features is masked before it is joined, and only
where it is needed.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pconv_deploy.export.rewrites.editing import channels_of, emit, over_channels, place, replace
from pconv_deploy.export.rewrites.facts import MaskFacts
from pconv_deploy.export.rewrites.mask_groups import Groups
from pconv_deploy.export.rewrites.site import Site


def mask_once(model: ir.Model) -> Sequence[Site]:
    """Remove every multiplication by a mask that changes nothing."""
    facts = MaskFacts.of(model.graph)
    sites = []
    for node in [n for n in model.graph if n.op_type == "Mul" and not n.domain]:
        for x, mask in (node.inputs, node.inputs[::-1]):
            groups = facts.masks.get(mask)  # type: ignore[arg-type]
            if groups and x not in facts.masks and (channels := channels_of(x)):
                assert x is not None
                one = len(groups) == 1 and groups[0][0] == 1
                repeated = ((channels, groups[0][1]),) if one else groups
                sites.append(_simplify(node, x, repeated, facts))
                break
    return sites


def _simplify(node: ir.Node, x: ir.Value, groups: Groups, facts: MaskFacts) -> Site:
    ones = x.producer() is not None and facts.changes_nothing(x, groups)
    if ones or facts.covers.get(x) == groups:
        replace(node.outputs[0], x)
    elif (parts := _parts(x, groups)) and any(facts.covers.get(v) == (g,) for v, g in parts):
        joined = [
            value if facts.covers.get(value) == (group,) else _masked(node, value, group, facts)
            for value, group in parts
        ]
        whole = emit(node, "Concat", *joined, axis=1)
        whole.shape, whole.type = x.shape, x.type
        facts.covers[whole] = groups
        replace(node.outputs[0], whole)
    else:
        return Site(place(node), f"{x.name} is not proved to be 0 in its holes")
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return Site(place(node))


def _parts(x: ir.Value, groups: Groups) -> list[tuple[ir.Value, tuple[int, object]]] | None:
    """The parts of a concatenation with the mask of each; None if they do not fit together."""
    concat = x.producer()
    if concat is None or concat.op_type != "Concat" or not over_channels(concat):
        return None
    if [channels_of(value) for value in concat.inputs] != [count for count, _ in groups]:
        return None
    return list(zip(concat.inputs, groups, strict=True))  # type: ignore[arg-type]


def _masked(
    node: ir.Node, value: ir.Value, group: tuple[int, object], facts: MaskFacts
) -> ir.Value:
    mask = facts.value_of(group[1], node)  # type: ignore[arg-type]
    masked = emit(node, "Mul", value, mask)
    masked.shape, masked.type = value.shape, value.type
    facts.covers[masked] = (group,)  # type: ignore[assignment]
    return masked
