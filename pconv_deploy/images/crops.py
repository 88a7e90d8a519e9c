"""The parts of a photo around its holes."""

from pconv_deploy.images.arrays import Hole
from pconv_deploy.images.boxes import Box, Size, around, hole_boxes


def crops_around(hole: Hole, context: int, multiple: int) -> list[Box]:
    """Return the parts of a photo that hold all of its hole and what is around it.

    Args:
        hole: (H, W) of booleans.
        context: pixels around each part of the hole, as far as the photo goes.
        multiple: sides of the parts are multiples of it where the photo is large enough.

    Returns:
        Boxes that do not overlap; none for no hole.
    """
    height, width = hole.shape
    crops = [_grown(box, context, multiple, (height, width)) for box in hole_boxes(hole)]
    while pair := _overlapping(crops):
        one, other = pair
        rest = [crop for crop in crops if crop not in pair]
        crops = [*rest, _grown(around(one, other), 0, multiple, (height, width))]
    return sorted(crops)


def _grown(box: Box, context: int, multiple: int, frame: Size) -> Box:
    (top, bottom), (left, right) = (
        _along(box[axis] - context, box[axis + 2] + context, multiple, frame[axis])
        for axis in (0, 1)
    )
    return top, left, bottom, right


def _along(low: int, high: int, multiple: int, side: int) -> tuple[int, int]:
    low, high = max(low, 0), min(high, side)
    length = min(side, high - low + -(high - low) % multiple)
    low = min(low, side - length)
    return low, low + length


def _overlapping(crops: list[Box]) -> tuple[Box, Box] | None:
    for number, one in enumerate(crops):
        for other in crops[:number]:
            apart = (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
            if not apart:
                return one, other
    return None
