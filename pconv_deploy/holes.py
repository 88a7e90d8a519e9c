"""Irregular holes: the paper's classes of them, and random ones of a wanted area.

Outside the network a hole mask is nonzero where the image is to be filled.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pconv_deploy.images import Hole

# The paper's classes of hole-to-image area: more than the first number, at most the second.
AREA_BUCKETS = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))

# Holes without border constraint come nearer than this to an edge of a 512x512 mask, pixels.
BORDER_PIXELS = 50


def area_bucket(hole: Hole) -> tuple[float, float] | None:
    """The class of AREA_BUCKETS a hole's share of the image falls in; None outside of all."""
    share = float(np.count_nonzero(hole)) / hole.size
    return next((bucket for bucket in AREA_BUCKETS if bucket[0] < share <= bucket[1]), None)


def touches_border(hole: Hole) -> bool:
    """Whether a hole comes nearer than 50 px of 512 to an edge: the paper's "border" class.

    The distance is scaled with the mask's sides, and at least one pixel.
    """
    rows, columns = (max(1, round(BORDER_PIXELS * side / 512)) for side in hole.shape)
    return bool(hole.any() and not _inside(hole, rows, columns))


def _inside(hole: Hole, rows: int, columns: int) -> bool:
    height, width = hole.shape
    inner = hole[rows : height - rows, columns : width - columns]
    return np.count_nonzero(inner) == np.count_nonzero(hole)


def irregular_hole(
    rng: np.random.Generator, height: int, width: int, area: tuple[float, float]
) -> NDArray[np.uint8]:
    """Draw strokes of random course and thickness until the hole has the wanted area.

    Args:
        rng: source of all randomness.
        height: pixels.
        width: pixels.
        area: share of the image, more than the first number and at most the second.

    Returns:
        (height, width), 255 in the hole and 0 elsewhere.

    Raises:
        ValueError: fewer than 64 pixels, too few for an area to be met.
    """
    low, high = area
    if height * width < 64:
        raise ValueError(f"{width}x{height} is too small for an irregular hole")
    target = rng.uniform(low + 0.3 * (high - low), low + 0.7 * (high - low))
    hole = np.zeros((height, width), np.uint8)
    scale = math.sqrt(height * width)
    thickness = max(1.0, scale * 0.06)
    while (hole > 0).mean() <= target:
        canvas = Image.fromarray(hole)
        _stroke(ImageDraw.Draw(canvas), rng, (height, width), thickness)
        grown = np.asarray(canvas)
        if (grown > 0).mean() <= high:
            hole = grown
        else:
            thickness = max(1.0, thickness / 2)  # too much at once: go on with finer strokes
    return hole


def _stroke(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: tuple[int, int], thickness: float
) -> None:
    height, width = size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    angle = rng.uniform(0, 2 * math.pi)
    radius = thickness * rng.uniform(0.25, 0.5)
    for _ in range(int(rng.integers(2, 7))):
        length = rng.uniform(1, 4) * thickness
        angle += rng.normal(0, 0.7)
        end_x, end_y = x + length * math.cos(angle), y + length * math.sin(angle)
        draw.line((x, y, end_x, end_y), fill=255, width=max(1, round(2 * radius)))
        # A round joint: without it a bend leaves a notch.
        draw.ellipse((end_x - radius, end_y - radius, end_x + radius, end_y + radius), fill=255)
        x, y = end_x, end_y
