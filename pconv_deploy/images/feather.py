"""A soft edge of a fill, inside the hole: its outermost pixels keep some of what was there."""

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.images.arrays import Hole, Pixels
from pconv_deploy.images.boxes import hole_boxes

MOST_FEATHER = 100  # pixels


def feathered(before: Pixels, filled: Pixels, hole: Hole, width: int) -> Pixels:
    """Mix what was in the hole into the fill, near the known pixels.

    A pixel of the hole at distance d of the nearest known one is d / (width + 1) fill, from there
    on the fill alone. The border of the picture is no edge.

    Args:
        before: (H, W, C).
        filled: (H, W, C), the same outside of the hole.
        hole: (H, W).
        width: pixels, from 0.
    """
    result = filled.copy()
    for top, left, bottom, right in hole_boxes(hole):
        up, back = max(0, top - width), max(0, left - width)
        near = np.s_[up : bottom + width, back : right + width]  # all that its edge depends on
        own = np.s_[top - up : bottom - up, left - back : right - back]
        share = _distances(hole[near], width + 1)[own] / np.float32(width + 1)
        box = np.s_[top:bottom, left:right]
        soft = hole[box] & (share < 1)
        old = before[box][soft].astype(np.float32)
        mixed = old + (filled[box][soft] - old) * share[soft][:, None]
        result[box][soft] = np.rint(mixed).astype(filled.dtype)
    return result


def _distances(hole: Hole, most: int) -> NDArray[np.float32]:
    """Return the distance (H, W) of each pixel to the nearest known one, at most `most`."""
    height, width = hole.shape
    rows = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(hole, np.int32(-most), rows), axis=0)
    below = np.where(hole, np.int32(height + most), rows)
    below = np.minimum.accumulate(below[::-1], axis=0)[::-1]
    vertical = np.minimum(np.minimum(rows - above, below - rows), most) ** 2
    found = vertical.copy()
    for step in range(1, min(most, width)):
        left, right = np.s_[:, :-step], np.s_[:, step:]
        np.minimum(found[left], vertical[right] + step**2, out=found[left])
        np.minimum(found[right], vertical[left] + step**2, out=found[right])
    distances: NDArray[np.float32] = np.sqrt(np.minimum(found, most**2)).astype(np.float32)
    return distances
