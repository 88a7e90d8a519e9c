"""The parts of a hole: boxes that are far from each other."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, bottom, right; pixels, the last two beyond it

_CELL = 32  # pixels: parts that lie nearer to each other are one
_MOST = 8  # parts; of more, those that lie near to each other are taken as one


def hole_boxes(hole: NDArray[np.bool_]) -> list[Box]:
    """Return the boxes that hold a hole (H, W), at most eight; none for no hole."""
    cell = _CELL
    while True:
        boxes = _parts(hole, cell)
        if len(boxes) <= _MOST:
            return boxes
        cell *= 2


def _parts(hole: NDArray[np.bool_], cell: int) -> list[Box]:
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


def _tight(hole: NDArray[np.bool_], cells: Box, cell: int) -> Box:
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
