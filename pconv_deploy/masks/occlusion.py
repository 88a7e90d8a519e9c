"""Holes as the paper makes them: occlusions between two consecutive video frames.

A pixel x of the first frame moves by the flow f(x); the flow b of the second frame should take it
back. Where it does not, the pixel is occluded in the other frame (N. Sundaram, T. Brox, K.
Keutzer, "Dense point trajectories by GPU-accelerated large displacement optical flow", ECCV
2010, eq. 5). With

    e = |f(x) + b(x + f(x))|^2    and    t = 0.01 (|f(x)|^2 + |b(x + f(x))|^2) + 0.5

their rule is e > t. The occlusion here is the soft e / (e + t), 0 to 1 and 0.5 at their rule,
and a pixel is occluded above 0.6, that is e > 1.5 t. 0.6 is the number the paper's authors give
for their occlusion maps; their measure is not published, so ours need not be the same.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.masks.irregular import area_bucket, border_band, touches_border

FlowMethod = Literal["dis", "farneback"]  # OpenCV's; DIS is faster and finer
_OCCLUDED_ABOVE = 0.6
# Widths of the round brush that grows a hole, pixels at 512: the paper's 9 to 49.
_GROWTH = tuple(range(9, 50, 2))
_MAX_TRIES = 80


def occlusions(first: Bytes, second: Bytes, method: FlowMethod = "dis") -> tuple[Hole, Hole]:
    """Return the pixels of two frames (H, W) of grey levels that the other does not show."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # DIS splits its work by threads, and so its result depends on them
    try:
        forward, backward = _flow(first, second, method), _flow(second, first, method)
        return _inconsistent(forward, backward), _inconsistent(backward, forward)
    finally:
        cv2.setNumThreads(threads)


def _flow(first: Bytes, second: Bytes, method: FlowMethod) -> NDArray[np.float32]:
    """(H, W, 2) of x, y displacements, pixels."""
    import cv2

    if method == "dis":
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = dis.calc(first, second, np.zeros((*first.shape, 2), np.float32))
    else:
        empty = np.zeros((*first.shape, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(first, second, empty, 0.5, 5, 15, 3, 7, 1.5, 0)
    return np.asarray(flow, np.float32)


def _inconsistent(there: NDArray[np.float32], back: NDArray[np.float32]) -> Hole:
    import cv2

    height, width = there.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    at_x, at_y = x + there[..., 0], y + there[..., 1]
    returned = cv2.remap(back, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = ((there + returned) ** 2).sum(axis=2)
    tolerance = 0.01 * ((there**2).sum(axis=2) + (returned**2).sum(axis=2)) + 0.5
    left = (at_x < -0.5) | (at_y < -0.5) | (at_x > width - 0.5) | (at_y > height - 0.5)
    occluded: Hole = (error / (error + tolerance) > _OCCLUDED_ABOVE) | left
    return occluded


def fitted_hole(
    rng: np.random.Generator,
    raw: Sequence[Hole],
    size: tuple[int, int],
    area: tuple[float, float],
    *,
    border: bool,
) -> Hole | None:
    """Rotate, scale, crop and dilate raw occlusions until the hole belongs to the wanted class.

    Where one occlusion is too small even if grown by 49 pixels, further ones are laid over it.
    `raw` are not empty, `size` is height and width, `area` one of AREA_BUCKETS, and `border` as
    `touches_border`. Returns None if no hole was found in a bounded number of tries.
    """
    seeds: Hole = np.zeros(size, np.bool_)
    for attempt in range(_MAX_TRIES):
        layers = seeds.copy()
        for _ in range(1 + attempt // 10):  # more at once where occlusions are specks
            layers |= _placed(rng, raw[int(rng.integers(len(raw)))], size)
        target = rng.uniform(*area)
        hole = _grown_to(layers, target, border)
        if area_bucket(hole) == area and touches_border(hole) is border:
            return hole
        if np.count_nonzero(hole) <= area[0] * hole.size:
            seeds = layers
    return None


def _placed(rng: np.random.Generator, raw: Hole, size: tuple[int, int]) -> Hole:
    """A raw occlusion randomly rotated, mirrored, scaled and moved, cropped to (height, width)."""
    import cv2

    height, width = raw.shape
    scale = rng.uniform(0.7, 2.0) * max(size[0] / height, size[1] / width)
    angle = rng.uniform(0, 360)
    turn = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale), np.float64)
    turn[:, 2] += (size[1] - width) / 2, (size[0] - height) / 2
    turn[:, 2] += rng.uniform(-0.3, 0.3, 2) * (size[1], size[0])
    levels = raw.astype(np.uint8)
    if rng.random() < 0.5:
        levels = np.ascontiguousarray(levels[:, ::-1])
    placed = cv2.warpAffine(levels, turn, (size[1], size[0]), flags=cv2.INTER_NEAREST)
    cut: Hole = np.asarray(placed) != 0
    return cut


def _grown_to(seeds: Hole, target: float, border: bool) -> Hole:
    """Grown by that of the paper's brushes that brings the share of hole nearest above `target`."""
    hole = _grown(seeds, _GROWTH[-1], border)
    if hole.mean() < target:
        return hole
    low, high = 0, len(_GROWTH) - 1  # `hole` is that of `high`
    while low < high:
        middle = (low + high) // 2
        grown = _grown(seeds, _GROWTH[middle], border)
        if grown.mean() < target:
            low = middle + 1
        else:
            high, hole = middle, grown
    return hole


def _grown(seeds: Hole, brush: int, border: bool) -> Hole:
    """Every pixel within half a brush's width of the seeds; without `border` far from edges."""
    import cv2

    radius = brush / 2 * min(seeds.shape) / 512
    if not border:  # cut before growing, so that the rim is round and not straight
        rows, columns = (
            band + int(radius) + 1 for band in border_band((seeds.shape[0], seeds.shape[1]))
        )
        inner = np.zeros_like(seeds)
        inside = slice(rows, -rows), slice(columns, -columns)
        inner[inside] = seeds[inside]
        seeds = inner
    if not seeds.any():
        return seeds
    known = (~seeds).astype(np.uint8)
    grown: Hole = np.asarray(cv2.distanceTransform(known, cv2.DIST_L2, 5)) <= radius
    return grown
