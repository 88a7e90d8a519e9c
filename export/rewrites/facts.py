"""What is proved of a graph's masks: that they are binary, whose they are, what they cover.

Everything starts at the entrance: a comparison cast to a number is 0 or 1. A mask of many
channels is described by groups, each of which repeats one mask over its channels. A *key* names
that one mask; equal keys are equal masks, also where the graph computes them twice:

    ("value", v)         the one-channel value v itself
    ("layer", n)         what the partial convolution n says of its output
    ("resized", k, how)  mask k made larger by nearest neighbours
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from pconv_deploy.export.functions import DOMAIN, PARTIAL_CONV
from pconv_deploy.export.rewrites.editing import (
    channels_of,
    ints,
    known_values,
    over_channels,
    place,
    text,
)
from pconv_deploy.export.rewrites.enlargement import enlarge, from_to, nearest_scales

Key = tuple[Hashable, ...]
Groups = tuple[tuple[int, Key], ...]  # channels, mask
_LEARNED = ("Cast", "Expand", "Concat", "Slice", "Split", "Resize", "Mul")
_KEEPS_ZERO = ("Relu", "LeakyRelu", "Identity", "Cast")
_KEEPS_MASKS = ("Identity", "Cast")


@dataclass
class MaskFacts:
    """Of each value that is a mask or has holes, what is proved.

    masks    the value is 0 or 1, by groups of channels that repeat one mask
    covers   the value is exactly 0 wherever these masks are 0
    doubts   why a value made from a mask is not proved to be one
    """

    masks: dict[ir.Value, Groups] = field(default_factory=dict)
    covers: dict[ir.Value, Groups] = field(default_factory=dict)
    doubts: dict[ir.Value, str] = field(default_factory=dict)
    one_channel: dict[Key, ir.Value] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ir.Graph) -> "MaskFacts":
        """Walk once over a graph in topological order."""
        facts = cls()
        for node in graph:
            facts._learn(node)
        return facts

    def doubt(self, value: ir.Value | None) -> str:
        """Why `value` is not a proved mask."""
        reason = None if value is None else self.doubts.get(value)
        return reason or "its mask is not made from hole_mask"

    def value_of(self, key: Key, before: ir.Node) -> ir.Value:
        """The one-channel mask that a key names, computed before a node if nobody has yet."""
        if key not in self.one_channel:
            _, resized, how = key
            inner = self.value_of(resized, before)  # type: ignore[arg-type]
            name = f"{place(before)}.scales"
            self.one_channel[key] = enlarge(before, inner, how, name)  # type: ignore[arg-type]
        return self.one_channel[key]

    def _learn(self, node: ir.Node) -> None:
        if node.domain == DOMAIN:
            self._learn_layer(node)
        elif not node.domain and node.op_type in _LEARNED:
            getattr(self, f"_learn_{node.op_type.lower()}")(node)
        elif not node.domain and node.op_type in _KEEPS_ZERO:
            self._learn_copy(node)
        self._doubt_what_is_left(node)

    def _learn_layer(self, node: ir.Node) -> None:
        y, known = node.outputs
        if node.op_type == PARTIAL_CONV and node.inputs[1] not in self.masks:
            self.doubts[known] = self.doubt(node.inputs[1])  # of a soft mask it makes another
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
            self.doubts[result] = "the mask may differ from channel to channel"

    def _learn_copy(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        if source in self.masks and node.op_type in _KEEPS_MASKS:
            self.masks[result] = self.masks[source]
        if source in self.covers:
            self.covers[result] = self.covers[source]

    def _learn_expand(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        groups, channels = self.masks.get(source), channels_of(result)  # type: ignore[arg-type]
        one = groups and len(groups) == 1 and groups[0][0] == 1
        if groups and one and channels and _same_pixels(source, result):
            self.masks[result] = ((channels, groups[0][1]),)

    def _learn_concat(self, node: ir.Node) -> None:
        if not over_channels(node):
            return
        for table in (self.masks, self.covers):
            parts = [table.get(value) for value in node.inputs]  # type: ignore[arg-type]
            if all(parts):
                table[node.outputs[0]] = _joined([g for part in parts for g in part or ()])

    def _learn_slice(self, node: ir.Node) -> None:
        groups = self.masks.get(node.inputs[0])  # type: ignore[arg-type]
        ends = [known_values(value) for value in node.inputs[1:5]]
        if groups is None or len(groups) > 1 or len(ends) < 3 or any(e is None for e in ends):
            return  # of groups it would have to be known which channels are taken
        axes, steps = ends[2], ends[3] if len(ends) > 3 else np.ones(1)
        channels = channels_of(node.outputs[0])
        if channels and axes.tolist() == [1] and steps.tolist() == [1]:  # type: ignore[union-attr]
            self.masks[node.outputs[0]] = ((channels, groups[0][1]),)

    def _learn_split(self, node: ir.Node) -> None:
        groups = self.masks.get(node.inputs[0])  # type: ignore[arg-type]
        if not over_channels(node) or not groups:
            return
        for result, part in zip(node.outputs, _parts(groups, node.outputs), strict=True):
            if part:
                self.masks[result] = part

    def _learn_resize(self, node: ir.Node) -> None:
        source, result = node.inputs[0], node.outputs[0]
        how = nearest_scales(node)
        if how is None:
            return
        for table in (self.masks, self.covers):
            if groups := table.get(source):  # type: ignore[arg-type]
                table[result] = tuple((count, ("resized", key, how)) for count, key in groups)

    def _learn_mul(self, node: ir.Node) -> None:
        result = node.outputs[0]
        for value, other in (node.inputs, node.inputs[::-1]):
            groups = self.masks.get(other)  # type: ignore[arg-type]
            channels = channels_of(value)
            if groups and len(groups) == 1 and groups[0][0] == 1 and channels:
                groups = ((channels, groups[0][1]),)
            groups = groups or self.covers.get(value)  # type: ignore[arg-type]
            if groups and sum(count for count, _ in groups) == channels_of(result):
                self.covers[result] = groups

    def _doubt_what_is_left(self, node: ir.Node) -> None:
        doubtful = [v for v in node.inputs if v in self.masks or v in self.doubts]
        if not doubtful:
            return
        resizes = node.op_type == "Resize"
        mode = f" of mode {text(node, 'mode', 'nearest')}{from_to(node)}" if resizes else ""
        because = self.doubts.get(doubtful[0]) or (
            f"its mask passes {node.op_type}{mode} ({place(node)}), which is not proved to keep it "
            "0 or 1 and equal over channels"
        )
        for result in node.outputs:
            if result not in self.masks:
                self.doubts.setdefault(result, because)


def _joined(groups: Sequence[tuple[int, Key]]) -> Groups:
    """Neighbours of one mask become one group."""
    joined: list[tuple[int, Key]] = []
    for count, key in groups:
        if joined and joined[-1][1] == key:
            joined[-1] = (joined[-1][0] + count, key)
        else:
            joined.append((count, key))
    return tuple(joined)


def _parts(groups: Groups, outputs: Sequence[ir.Value]) -> list[Groups | None]:
    """Which groups land in which output of a split."""
    keys = [key for count, key in groups for _ in range(count)]
    parts: list[Groups | None] = []
    start = 0
    for output in outputs:
        count = channels_of(output)
        if count is None:
            return [None] * len(outputs)
        parts.append(_joined([(1, key) for key in keys[start : start + count]]))
        start += count
    return parts


def _same_pixels(value: ir.Value | None, other: ir.Value) -> bool:
    """Whether all axes but that of channels are known to be of the same size."""
    shapes = [list(v.shape) if v and v.shape else [] for v in (value, other)]
    beside = [[size for axis, size in enumerate(shape) if axis != 1] for shape in shapes]
    known = all(isinstance(size, int) or size.value is not None for size in beside[0])
    return known and beside[0] == beside[1]
