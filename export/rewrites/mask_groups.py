"""Represent a mask of many channels as groups of channels that repeat one mask each."""

from collections.abc import Hashable, Sequence

import onnx_ir as ir

from pconv_deploy.graphs.editing import channels_of

Key = tuple[Hashable, ...]  # which mask: see `facts`
Group = tuple[int, Key]  # channels, mask
Groups = tuple[Group, ...]


def joined_groups(groups: Sequence[Group]) -> Groups:
    """Join neighbouring groups of the same mask."""
    joined: list[Group] = []
    for count, key in groups:
        if joined and joined[-1][1] == key:
            joined[-1] = (joined[-1][0] + count, key)
        else:
            joined.append((count, key))
    return tuple(joined)


def split_groups(groups: Groups, outputs: Sequence[ir.Value]) -> list[Groups | None]:
    """Divide groups among the outputs of a split."""
    keys = keys_of_channels(groups)
    parts: list[Groups | None] = []
    start = 0
    for output in outputs:
        count = channels_of(output)
        if count is None:
            return [None] * len(outputs)
        parts.append(joined_groups([(1, key) for key in keys[start : start + count]]))
        start += count
    return parts


def keys_of_channels(groups: Groups) -> list[Key]:
    """Return the mask of each channel."""
    return [key for count, key in groups for _ in range(count)]


def count_channels(groups: Groups) -> int:
    """Return the number of channels of all groups."""
    return sum(count for count, _ in groups)


def repeated_over(groups: Groups, channels: int) -> Groups:
    """Repeat a mask of one channel over all channels; return other groups unchanged."""
    return ((channels, groups[0][1]),) if count_channels(groups) == 1 else groups


def all_ones(groups: Groups) -> bool:
    """Return whether all masks are ones."""
    return all(key[0] == "ones" for _, key in groups)
