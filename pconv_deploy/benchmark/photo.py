"""The photo that benchmarks fill, with a hole of a quarter of it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.masks.irregular import irregular_hole

_HOLE_AREA = (0.2, 0.3)
MIN_PIXELS = 64  # of a picture: fewer cannot show a hole of that area


def photo_with_hole(
    photo: Image.Image, height: int, width: int
) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Scale a photo; return it, RGB, and a hole mask (height, width), 0 or 255, always the same."""
    picture = photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return picture, irregular_hole(np.random.default_rng(0), height, width, _HOLE_AREA)
