"""Prove facts about a graph's masks: that they are binary, which they repeat, what they cover.

The facts start at the entrance: a comparison cast to a number is 0 or 1. A mask of many
channels is described by groups, each of which repeats one mask over its channels. A *key* names
that one mask; equal keys are equal masks, also where the graph computes them twice:

    ("value", v)            the one-channel value v itself
    ("layer", n)            what the partial convolution n says of its output
    ("resized", k, scales)  mask k made larger by nearest neighbours
    ("ones", type, sizes)   the mask of this batch, height and width in which everything is known
"""

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.rewrites.mask_groups import (
    Groups,
    Key,
    all_ones,
    count_channels,
    joined_groups,
    repeated_over,
    split_groups,
)
from pconv_deploy.graphs.editing import (
    Array,
    channels_of,
    constant,
    emit,
    ints,
    known_values,
    node_label,
    over_channels,
    text,
)
from pconv_deploy.graphs.enlargement import Scales, enlarge, from_to, nearest_scales
from pconv_deploy.graphs.functions import DOMAIN, PARTIAL_CONV

Sizes = tuple[int | str, ...]  # batch, height, width
_Table = dict[ir.Value | None, Groups]  # None, an input left out, may be asked for as well
_LEARNED = ("Cast", "Expand", "Concat", "Slice", "Split", "Resize", "Mul", "Tile")
_FILLS = ("Expand", "ConstantOfShape")
_KEEPS_ZERO = ("Relu", "LeakyRelu", "Identity", "Cast")
_KEEPS_MASKS = ("Identity", "Cast")


@dataclass
class MaskFacts:
    """What is proved of each value that is a mask or has holes.

    masks     the value is 0 or 1, by groups of channels that repeat one mask
    covers    the value is exactly 0 wherever these masks are 0
    unproved  why a value made from a mask is not proved to be one
    """

    masks: _Table = field(default_factory=dict)
    covers: _Table = field(default_factory=dict)
    unproved: dict[ir.Value | None, str] = field(default_factory=dict)
    one_channel: dict[Key, ir.Value] = field(default_factory=dict)
    _ones: dict[Key, ir.Value] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ir.Graph) -> "MaskFacts":
        """Collect the facts in one walk over a graph in topological order."""
        facts = cls()
        for node in graph:
            facts._learn(node)
        return facts

    def why_unproved(self, value: ir.Value | None) -> str:
        """Return why `value` is not a proved mask."""
        return self.unproved.get(value, "its mask is not made from hole_mask")

    def value_of(self, key: Key, before: ir.Node) -> ir.Value:
        """Return the one-channel mask of a key; emit its computation before a node if needed."""
        if key in self._ones and key not in self.one_channel:
            zero, one = (constant(before, [at], f"{node_label(before)}.channel") for at in (0, 1))
            self.one_channel[key] = emit(before, "Slice", self._ones[key], zero, one, one)
        elif key not in self.one_channel:
            _, resized, scales = key
            inner = self.value_of(cast("Key", resized), before)
            name = f"{node_label(before)}.scales"
            self.one_channel[key] = enlarge(before, inner, cast("Scales", scales), name)
        return self.one_channel[key]

    def changes_nothing(self, x: ir.Value, groups: Groups) -> bool:
        """Return whether `x` times these masks is `x`: they are ones and broadcast to its size."""
        sizes = _sizes(x)
        if sizes is None or not all_ones(groups) or count_channels(groups) != channels_of(x):
            return False
        known = [cast("Sizes", key[2]) for _, key in groups]
        return all(
            size in (1, of_x) for ones in known for size, of_x in zip(ones, sizes, strict=True)
        )

    def _learn(self, node: ir.Node) -> None:
        self._learn_constants(node)
        if node.domain == DOMAIN:
            self._learn_layer(node)
        elif not node.domain and node.op_type in _LEARNED:
            getattr(self, f"_learn_{node.op_type.lower()}")(node)
        elif not node.domain and node.op_type in _KEEPS_ZERO:
            self._learn_copy(node)
        self._explain_unproved(node)

    def _learn_constants(self, node: ir.Node) -> None:
        """Find constant ones among a node's inputs and outputs; weights are skipped."""
        reads = node.inputs[1:2] if node.domain == DOMAIN else node.inputs
        if node.domain == DOMAIN or node.op_type in _LEARNED:
            for value in reads:
                if value not in self.masks and _of_ones(known_values(value)):
                    self._learn_ones(value)
        if node.op_type in _FILLS and not node.domain and _of_ones(_filling(node)):
            self._learn_ones(node.outputs[0])

    def _learn_ones(self, value: ir.Value | None) -> None:
        channels, sizes = channels_of(value), _sizes(value)
        if value is None or not channels or sizes is None or value.dtype is None:
            return
        key = ("ones", value.dtype, sizes)
        # The first in the graph precedes every layer that needs it.
        if self._ones.setdefault(key, value) is value and channels == 1:
            self.one_channel[key] = value
        self.masks[value] = ((channels, key),)

    def _learn_layer(self, node: ir.Node) -> None:
        y, known = node.outputs
        if node.op_type == PARTIAL_CONV and node.inputs[1] not in self.masks:
            self.unproved[known] = self.why_unproved(
                node.inputs[1]
            )  # a soft mask gives a soft mask
            return
        key = ("layer", node)
        channels = ints(node, "mask_kernel", (1,))[0]  # a `Renormalise` has one
        if channels == 1:
            self.one_channel[key] = known
        self.masks[known] = ((channels, key),)
        per_channel = node.inputs[2]  # the weight or the bias: channels come first
        shape = per_channel.shape if per_channel else None
        if shape is not None and isinstance(shape[0], int):
            self.covers[y] = ((shape[0], key),)

    def _learn_cast(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        if source is None or source in self.masks or source.dtype != ir.DataType.BOOL:
            self._learn_copy(node)
        elif channels_of(result) == 1:
            key = ("value", result)
            self.one_channel[key] = result
            self.masks[result] = ((1, key),)
        else:
            self.unproved[result] = "the mask may differ from channel to channel"

    def _learn_copy(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        if source in self.masks and node.op_type in _KEEPS_MASKS:
            if all_ones(self.masks[source]):
                self._learn_ones(result)  # perhaps of another type
            else:
                self.masks[result] = self.masks[source]
        if source in self.covers:
            self.covers[result] = self.covers[source]

    def _learn_expand(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        groups, channels = self.masks.get(source), channels_of(result)
        if result in self.masks or not groups or not channels or not _same_pixels(source, result):
            return
        groups = repeated_over(groups, channels)
        if count_channels(groups) == channels:
            self.masks[result] = groups

    def _learn_tile(self, node: ir.Node) -> None:
        groups = self.masks.get(node.inputs[0])
        repeats, channels = known_values(node.inputs[1]), channels_of(node.outputs[0])
        if groups is None or repeats is None or repeats.size != 4 or not channels:
            return
        if repeats.tolist() == [1, channels // count_channels(groups), 1, 1]:
            self.masks[node.outputs[0]] = joined_groups(groups * int(repeats[1]))

    def _learn_concat(self, node: ir.Node) -> None:
        if not over_channels(node):
            return
        for table in (self.masks, self.covers):
            parts = [table.get(value) for value in node.inputs]
            if all(parts):
                table[node.outputs[0]] = joined_groups([g for part in parts for g in part or ()])

    def _learn_slice(self, node: ir.Node) -> None:
        groups = self.masks.get(node.inputs[0])
        ends = [known_values(value) for value in node.inputs[1:5]]
        if groups is None or len(groups) > 1 or len(ends) < 3 or any(e is None for e in ends):
            return  # of groups it would have to be known which channels are taken
        axes, steps = ends[2], ends[3] if len(ends) > 3 else np.ones(1)
        channels = channels_of(node.outputs[0])
        if channels and axes.tolist() == [1] and steps.tolist() == [1]:  # type: ignore[union-attr]
            self.masks[node.outputs[0]] = ((channels, groups[0][1]),)

    def _learn_split(self, node: ir.Node) -> None:
        groups = self.masks.get(node.inputs[0])
        if not over_channels(node) or not groups:
            return
        for result, part in zip(node.outputs, split_groups(groups, node.outputs), strict=True):
            if part:
                self.masks[result] = part

    def _learn_resize(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        scales = nearest_scales(node)
        if scales is None:
            return
        for table in (self.masks, self.covers):
            if groups := table.get(source):
                table[result] = tuple((count, ("resized", key, scales)) for count, key in groups)

    def _learn_mul(self, node: ir.Node) -> None:
        result = node.outputs[0]
        if product := self._product(node):
            self.masks[result] = product
        for value, other in (node.inputs, node.inputs[::-1]):
            groups = self.masks.get(other)
            channels = channels_of(value)
            if groups and channels:
                groups = None if all_ones(groups) else repeated_over(groups, channels)
            groups = groups or self.covers.get(value)
            if groups and count_channels(groups) == channels_of(result):
                self.covers[result] = groups

    def _product(self, node: ir.Node) -> Groups | None:
        """Return the groups of a product: a mask times itself, or times ones, is the mask."""
        result = node.outputs[0]
        channels = channels_of(result)
        found = [self.masks.get(value) for value in node.inputs]
        if not channels or not all(found):
            return None
        one, other = (repeated_over(groups or (), channels) for groups in found)
        if count_channels(one) != channels or count_channels(other) != channels:
            return None
        for value, groups, factor in zip(node.inputs, (one, other), (other, one), strict=True):
            if groups == factor or (all_ones(factor) and _same_pixels(value, result)):
                return groups
        return None

    def _explain_unproved(self, node: ir.Node) -> None:
        doubtful = [v for v in node.inputs if v in self.masks or v in self.unproved]
        if not doubtful:
            return
        resizes = node.op_type == "Resize"
        mode = f" of mode {text(node, 'mode', 'nearest')}{from_to(node)}" if resizes else ""
        because = self.unproved.get(doubtful[0]) or (
            f"its mask passes {node.op_type}{mode} ({node_label(node)}), which is not proved to "
            "keep it 0 or 1 and equal over channels"
        )
        for result in node.outputs:
            if result not in self.masks:
                self.unproved.setdefault(result, because)


def _of_ones(values: Array | None) -> bool:
    return values is not None and bool((values == 1).all())


def _filling(node: ir.Node) -> Array | None:
    """Return the value that a node repeats over a shape."""
    if node.op_type == "Expand":
        return known_values(node.inputs[0])
    value = node.attributes.get("value")
    return None if value is None else value.as_tensor().numpy()


def _sizes(value: ir.Value | None) -> Sizes | None:
    """Return batch, height and width; None unless each is a number or has a name."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    sides = (value.shape[axis] for axis in (0, 2, 3))
    sizes = [side if isinstance(side, int) else side.value for side in sides]
    named = tuple(size for size in sizes if size is not None)
    return named if len(named) == len(sizes) else None


def _same_pixels(value: ir.Value | None, other: ir.Value | None) -> bool:
    """Return whether all axes but the channels are known to have the same size."""
    sizes = _sizes(value)
    return sizes is not None and sizes == _sizes(other)
