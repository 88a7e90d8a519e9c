"""Irregular holes of a wanted class, drawn: brush strokes, arcs and blobs."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pconv_deploy.images.arrays import Hole, dilated
from pconv_deploy.masks.irregular import Point, border_band, draw_line, random_walk, touches_border

_MAX_PIECES = 150
_STEPS = np.linspace(0, 1, 20)  # along an arc or around a blob
_FULLEST = 0.88  # of the pixels a hole may have: more is hard to reach by throwing pieces
# Above this share pieces would lie over each other until no gap is left: gaps are drawn instead.
_DENSE = 0.7


def drawn_hole(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    *,
    border: bool | None = None,
) -> Hole:
    """Draw random shapes until the hole belongs to the wanted class.

    Args:
        rng: source of all randomness.
        height: pixels.
        width: pixels.
        area: share of the image, more than the first number and at most the second.
        border: whether the hole comes near an edge (`touches_border`); None: either.

    Raises:
        ValueError: the image is too small for such a hole.
    """
    rows, columns = border_band((height, width)) if border is False else (0, 0)
    # Pieces cannot leave the picture they are drawn in: for holes far from the edges, the inner.
    size = height - 2 * rows, width - 2 * columns
    least, most = _counts(area, height * width)
    most = min(most, max(0, size[0]) * max(0, size[1]))
    if least > most or height * width < 64:
        raise ValueError(
            f"{width}x{height} is too small for a hole of {area[0]:.0%} to {area[1]:.0%}"
            + (" far from its edges" if border is False else "")
        )
    target = min(rng.uniform(least, most), max(least, _FULLEST * size[0] * size[1]))
    if target > _DENSE * size[0] * size[1]:
        inner = _carved(rng, size, (least, target, most))
    else:
        inner = _drawn(rng, size, (least, target, most), border)
        inner = _completed(rng, inner, least, border=border is True)
    if not rows:
        return inner
    hole: Hole = np.zeros((height, width), np.bool_)
    hole[rows:-rows, columns:-columns] = inner
    return hole


def _counts(area: tuple[float, float], pixels: int) -> tuple[int, int]:
    """The smallest and largest number of pixels of the class, exactly."""
    low, high = area
    least, most = max(1, math.floor(low * pixels)), math.ceil(high * pixels)
    while least / pixels <= low:
        least += 1
    while most / pixels > high:
        most -= 1
    return least, most


@dataclass(frozen=True)
class _Style:
    """Style that the shapes of one hole share.

    size       height and width of the picture they are drawn in, pixels
    strokes    the share of brush strokes: some holes are all strokes, others mostly blobs
    arcs       the share of arcs; the rest are blobs
    confined   pieces stay inside instead of running over the edges
    """

    size: tuple[int, int]
    strokes: float
    arcs: float
    confined: bool


def _drawn(
    rng: np.random.Generator,
    size: tuple[int, int],
    counts: tuple[int, float, int],
    border: bool | None,
) -> Hole:
    """Add shapes until there are enough pixels."""
    strokes, arcs, _ = rng.dirichlet((1.5, 1, 1))
    style = _Style(size, strokes, arcs, confined=border is False)
    side = math.sqrt(size[0] * size[1])
    # Larger holes of larger pieces, or there would be hundreds.
    thickness = side * rng.uniform(0.05, 0.12) * (0.7 + 1.3 * counts[1] / side**2)
    canvas = Image.new("L", (size[1], size[0]))
    return _thrown(rng, canvas, counts, (style, thickness), to_edge=border is True)


def _carved(
    rng: np.random.Generator, size: tuple[int, int], counts: tuple[int, float, int]
) -> Hole:
    """A hole nearly as large as the image: a wavy outline from which known shapes are cut."""
    least, target, most = counts
    pixels = size[0] * size[1]
    canvas = Image.new("L", (size[1], size[0]), 255)
    at = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    depth = np.zeros_like(at)  # of the half side; all waves together: half of the known pixels
    for waves in (2, 3, 5, 8, 13):
        depth += rng.uniform(0, 1) * (1 + np.cos(waves * at + rng.uniform(0, 2 * math.pi))) / 2
    depth *= 0.45 * (1 - target / pixels) / 2 / depth.mean()
    square = np.stack([np.cos(at), np.sin(at)], axis=1)
    square *= ((1 - depth) / (square**6).sum(axis=1) ** (1 / 6))[:, None]  # with round corners
    outline = (square + 1) / 2 * (size[1] - 1, size[0] - 1)
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in outline.tolist()], fill=0)
    if np.count_nonzero(np.asarray(canvas)) > pixels - least:
        canvas = Image.new("L", (size[1], size[0]))
    strokes, arcs, _ = rng.dirichlet((3, 2, 1))
    style = _Style(size, strokes, arcs, confined=False)
    thickness = math.sqrt(pixels) * rng.uniform(0.04, 0.08)
    known_counts = pixels - most, pixels - target, pixels - least
    known = _thrown(rng, canvas, known_counts, (style, thickness), to_edge=False)
    return ~_completed(rng, known, pixels - most, border=False)


def _thrown(
    rng: np.random.Generator,
    canvas: Image.Image,
    counts: tuple[int, float, int],
    pieces: tuple[_Style, float],
    *,
    to_edge: bool,
) -> Hole:
    """Add shapes to `canvas`; `counts` are the least, wanted and most pixels covered in the end.

    `pieces` are the style and thickness of the shapes; `to_edge` throws at an edge until one is
    met.
    """
    (least, target, most), (style, thickness) = counts, pieces
    covered: Hole = np.asarray(canvas) != 0
    count = int(np.count_nonzero(covered))
    for _ in range(_MAX_PIECES):
        if count >= target and not to_edge:
            break
        points, radius = _piece(rng, style, thickness)
        if to_edge:
            points += _edge_point(rng, style.size) - points.mean(axis=0)
        grown = canvas.copy()
        _draw(grown, points, radius)
        pixels = np.asarray(grown)
        now = int(np.count_nonzero(pixels))
        if now <= most:
            canvas, count, covered = grown, now, pixels != 0
            to_edge = to_edge and not touches_border(covered)
        elif count >= least and not to_edge:
            break
        else:
            thickness = max(1.0, thickness / 2)  # too much at once: go on with finer pieces
    return covered


def _piece(
    rng: np.random.Generator, style: _Style, thickness: float
) -> tuple[NDArray[np.float64], float]:
    """Points (n, 2) of x, y and the radius of the brush; 0 for an outline to be filled."""
    kind = rng.random()
    if kind < style.strokes:
        course, radius = random_walk(rng, style.size, thickness)
        points = np.array(course)
    else:
        arc = kind < style.strokes + style.arcs
        start, span = rng.uniform(0, 2 * math.pi), 2 * math.pi
        radius, reach = 0.0, thickness * rng.uniform(0.5, 2.0)
        if arc:
            radius, span = thickness * rng.uniform(0.15, 0.45), rng.uniform(0.8, 5.5)
            reach *= 2
        at = start + span * _STEPS
        distance = np.ones_like(at)
        if not arc:  # a few waves around make it a blob
            for waves in (2, 3, 5):
                distance += rng.uniform(0, 0.3) * np.cos(waves * at + rng.uniform(0, 2 * math.pi))
        flatness, tilt = rng.uniform(0.4, 1.0), rng.uniform(0, math.pi)
        along, across = distance * np.cos(at), flatness * distance * np.sin(at)
        cos, sin = math.cos(tilt), math.sin(tilt)
        points = reach * np.stack([cos * along - sin * across, sin * along + cos * across], axis=1)
        points += rng.uniform((0, 0), (style.size[1], style.size[0]))
    return (_put_inside(rng, points, radius, style.size) if style.confined else points), radius


def _put_inside(
    rng: np.random.Generator, points: NDArray[np.float64], radius: float, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Move a piece to somewhere within (height, width); one too long is reflected at the edges."""
    room = np.maximum(np.array((size[1], size[0])) - 1 - 2 * radius, 1e-3)
    low = points.min(axis=0)
    slack = room - (points.max(axis=0) - low)
    moved = points - low + rng.uniform(0, np.where(slack > 0, slack, room))
    inside: NDArray[np.float64] = radius + room - np.abs(moved % (2 * room) - room)
    return inside


def _edge_point(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """A point x, y on an edge of (height, width)."""
    height, width = size
    at = rng.uniform(0, 2 * (height + width))
    if at < 2 * width:
        return np.array([at % width, 0.0 if at < width else height - 1.0])
    at -= 2 * width
    return np.array([0.0 if at < height else width - 1.0, at % height])


def _draw(canvas: Image.Image, points: NDArray[np.float64], radius: float) -> None:
    course: list[Point] = [(x, y) for x, y in points.tolist()]
    if radius:
        draw_line(ImageDraw.Draw(canvas), course, radius)
    else:
        ImageDraw.Draw(canvas).polygon(course, fill=255)


def _completed(rng: np.random.Generator, hole: Hole, least: int, *, border: bool) -> Hole:
    """Add missing pixels at the hole's edge one by one; rarely needed."""
    if border and not touches_border(hole):
        hole = hole.copy()
        hole[0, rng.integers(hole.shape[1])] = True
    while (missing := least - int(np.count_nonzero(hole))) > 0:
        rim = dilated(hole, 1) & ~hole if hole.any() else np.ones_like(hole)
        at = rng.permutation(np.flatnonzero(rim))[: missing if hole.any() else 1]
        hole = hole.copy()
        hole.ravel()[at] = True
    return hole
