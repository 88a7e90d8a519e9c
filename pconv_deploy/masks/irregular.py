"""Irregular holes: the paper's classes, and random holes of a wanted area.

Outside the network a hole mask is nonzero where the image is to be filled.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pconv_deploy.images.arrays import Hole

Point = tuple[float, float]  # x, y

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
    rows, columns = border_band((hole.shape[0], hole.shape[1]))
    inner = hole[rows : hole.shape[0] - rows, columns : hole.shape[1] - columns]
    return int(np.count_nonzero(inner)) < int(np.count_nonzero(hole))


def border_band(size: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns at the edges of (height, width) a borderless hole leaves free."""
    rows, columns = (max(1, round(BORDER_PIXELS * side / 512)) for side in size)
    return rows, columns


def irregular_hole(
    rng: np.random.Generator, height: int, width: int, area: tuple[float, float]
) -> NDArray[np.uint8]:
    """Draw random strokes until the hole's share is in `area`, its lower bound excluded.

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
        points, radius = random_walk(rng, (height, width), thickness)
        draw_line(ImageDraw.Draw(canvas), points, radius)
        grown = np.asarray(canvas)
        if (grown > 0).mean() <= high:
            hole = grown
        else:
            thickness = max(1.0, thickness / 2)  # too much at once: go on with finer strokes
    return hole


def random_walk(
    rng: np.random.Generator, size: tuple[int, int], thickness: float
) -> tuple[list[Point], float]:
    """Return the path of a random brush stroke within (height, width), and half its width."""
    height, width = size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    angle = rng.uniform(0, 2 * math.pi)
    radius = thickness * rng.uniform(0.25, 0.5)
    points = [(x, y)]
    for _ in range(int(rng.integers(2, 7))):
        length = rng.uniform(1, 4) * thickness
        angle += rng.normal(0, 0.7)
        x, y = x + length * math.cos(angle), y + length * math.sin(angle)
        points.append((x, y))
    return points, radius


def draw_line(draw: ImageDraw.ImageDraw, points: Sequence[Point], radius: float) -> None:
    """Draw through all points with a round brush, value 255."""
    for start, (x, y) in pairwise(points):
        draw.line((*start, x, y), fill=255, width=max(1, round(2 * radius)))
        # A round joint: without it a bend leaves a notch.
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
