"""The photo that benchmarks fill, with a hole of a quarter of it or a square one."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.masks.irregular import irregular_hole

_HOLE_AREA = (0.2, 0.3)
MIN_PIXELS = 64  # of a picture: fewer cannot show a hole of that area


def photo_with_hole(
    photo: Image.Image, height: int, width: int, hole_side: int | None = None
) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Scale a photo; return it, RGB, and a hole mask (height, width), 0 or 255, always the same.

    hole_side: pixels of a square hole in the middle; None: strokes that cover a quarter of it.
    """
    picture = photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    if hole_side is None:
        return picture, irregular_hole(np.random.default_rng(0), height, width, _HOLE_AREA)
    hole_mask = np.zeros((height, width), np.uint8)
    top, left = (height - hole_side) // 2, (width - hole_side) // 2
    hole_mask[top : top + hole_side, left : left + hole_side] = 255
    return picture, hole_mask
