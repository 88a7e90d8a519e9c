"""Boxes around the parts of a hole, and crops of a photo around them."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pconv_deploy.images.arrays import Hole

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, bottom, right; pixels, the last two beyond it

_CELL = 32  # pixels: parts that lie nearer to each other are one
_MOST = 8  # parts; of more, those that lie near to each other are taken as one


def hole_boxes(hole: Hole) -> list[Box]:
    """Return the boxes that hold a hole (H, W), at most eight; none for no hole."""
    cell = _CELL
    while True:
        boxes = _parts(hole, cell)
        if len(boxes) <= _MOST:
            return boxes
        cell *= 2


def _parts(hole: Hole, cell: int) -> list[Box]:
    """Return the box of each group of cells that touch each other and hold something."""
    rows, cols = (range(0, side, cell) for side in hole.shape)
    cells = np.logical_or.reduceat(np.logical_or.reduceat(hole, rows, axis=0), cols, axis=1)
    left = set(zip(*(axis.tolist() for axis in np.nonzero(cells)), strict=True))
    boxes = []
    while left:
        group, reached = [], [left.pop()]
        while reached:
            row, col = reached.pop()
            group.append((row, col))
            near = {(row + y, col + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
            left -= near
            reached += near
        tops, lefts = zip(*group, strict=True)
        around = (min(tops), min(lefts), max(tops) + 1, max(lefts) + 1)
        boxes.append(_tight(hole, around, cell))
    return boxes


def _tight(hole: Hole, cells: Box, cell: int) -> Box:
    top, left, bottom, right = (side * cell for side in cells)
    part = hole[top:bottom, left:right]
    (first, last), (leftmost, rightmost) = (
        np.nonzero(part.any(axis=axis))[0][[0, -1]].tolist() for axis in (1, 0)
    )
    return top + first, left + leftmost, top + last + 1, left + rightmost + 1


def merged(boxes: list[Box]) -> list[Box]:
    """Replace the two boxes that waste least by the box that holds both."""
    pairs = combinations(boxes, 2)
    one, other = min(pairs, key=lambda pair: _area(around(*pair)) - sum(map(_area, pair)))
    return [*(box for box in boxes if box not in (one, other)), around(one, other)]


def around(one: Box, other: Box) -> Box:
    """Return the box that holds both."""
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
    )


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def crops_around(hole: Hole, context: int, multiple: int, largest: Size) -> list[Box]:
    """Return the parts of a photo that hold all of its hole and what is around it.

    Args:
        hole: (H, W) of booleans.
        context: pixels around each part of the hole, as far as the photo and `largest` go.
        multiple: sides of the parts are multiples of it where photo and `largest` allow.
        largest: of a part, unless a part of the hole itself is larger.

    Returns:
        Boxes; two that overlap would be larger than `largest` in one. None for no hole.
    """
    height, width = hole.shape
    most = min(largest[0], height), min(largest[1], width)
    crops = [_grown(box, context, multiple, most, hole.shape) for box in hole_boxes(hole)]
    while pair := _overlapping(crops, most):
        one, other = pair
        rest = [crop for crop in crops if crop not in pair]
        crops = [*rest, _grown(around(one, other), 0, multiple, most, hole.shape)]
    return sorted(crops)


def crop_of(box: Box, crops: Sequence[Box]) -> int:
    """Return which of the crops that hold a part of the hole shows most of what is around it."""
    holding = [number for number, crop in enumerate(crops) if _margin(box, crop) >= 0]
    return max(holding, key=lambda number: _margin(box, crops[number]))


def _margin(box: Box, crop: Box) -> int:
    """Return the least distance of a box to the border of a crop; negative if it lies beyond."""
    return min(box[0] - crop[0], box[1] - crop[1], crop[2] - box[2], crop[3] - box[3])


def _grown(box: Box, context: int, multiple: int, most: Size, frame: tuple[int, ...]) -> Box:
    (top, bottom), (left, right) = (
        _along((box[axis], box[axis + 2]), context, multiple, most[axis], frame[axis])
        for axis in (0, 1)
    )
    return top, left, bottom, right


def _along(
    box: tuple[int, int], context: int, multiple: int, most: int, side: int
) -> tuple[int, int]:
    low, high = max(box[0] - context, 0), min(box[1] + context, side)
    wanted = high - low + -(high - low) % multiple
    length = max(box[1] - box[0], min(most, wanted))
    # As much on both sides, if not all of the context fits.
    low = max(low, (box[0] + box[1] - length) // 2) if wanted > length else low
    low = min(low, side - length)
    return low, low + length


def _overlapping(crops: list[Box], most: Size) -> tuple[Box, Box] | None:
    """Find two that overlap and are not too large in one."""
    for number, one in enumerate(crops):
        for other in crops[:number]:
            apart = (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
            both = around(one, other)
            if not apart and both[2] - both[0] <= most[0] and both[3] - both[1] <= most[1]:
                return one, other
    return None
