"""The parts of a photo around its holes."""

from collections.abc import Sequence

from pconv_deploy.images.arrays import Hole
from pconv_deploy.images.boxes import Box, Size, around, hole_boxes


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
