"""What both sides fill: patterns with holes of every kind, and in the form a graph takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import HOLE_MASK, IMAGE, GraphContract
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.masks.irregular import AREA_BUCKETS, irregular_hole

Arrays = Mapping[str, NDArray[Any]]
_MIN_PIXELS = 64  # fewer cannot show the area classes
_LARGE = 1 << 20  # pixels of images of which one must do


@dataclass(frozen=True)
class ParityInput:
    """An image (H, W, 3) and its hole mask (H, W), nonzero = fill, both uint8."""

    name: str
    image: Bytes
    hole_mask: Bytes


Batch = Sequence[ParityInput]


def parity_inputs(height: int, width: int, seed: int = 0) -> list[ParityInput]:
    """Nine cases: irregular holes of the six area buckets, none, all, all but one pixel.

    Fewer than 64 pixels cannot show the buckets; there the last three remain.
    """
    rng = np.random.default_rng(seed)
    buckets = AREA_BUCKETS if height * width >= _MIN_PIXELS else ()
    cases = [_irregular(rng, height, width, area) for area in buckets]
    full = np.full((height, width), 255, np.uint8)
    for name, hole in (("no hole", full - full), ("all hole", full)):
        cases.append(ParityInput(name, pattern(rng, height, width), hole))
    return [*cases, _one_known(rng, height, width)]


def few_inputs(height: int, width: int) -> list[ParityInput]:
    """Three cases that take turns in batches of any length, or one of a large size.

    So places in a batch that are a power of two apart have different cases.
    """
    rng = np.random.default_rng(height * width)
    areas = (AREA_BUCKETS[2], AREA_BUCKETS[-1]) if height * width >= _MIN_PIXELS else ()
    cases = [_irregular(rng, height, width, area) for area in areas]
    return [*cases, _one_known(rng, height, width)][: 1 if height * width > _LARGE else None]


def _irregular(
    rng: np.random.Generator, height: int, width: int, area: tuple[float, float]
) -> ParityInput:
    name = f"irregular hole {area[0]:.0%}-{area[1]:.0%}, {width}x{height}"
    image = pattern(rng, height, width)
    return ParityInput(name, image, irregular_hole(rng, height, width, area))


def _one_known(rng: np.random.Generator, height: int, width: int) -> ParityInput:
    hole = np.full((height, width), 255, np.uint8)
    hole[height // 2, width // 3] = 0
    return ParityInput("one known pixel", pattern(rng, height, width), hole)


def parity_batches(contract: GraphContract) -> list[list[ParityInput]]:
    """The cases in batches that a graph of this contract takes.

    Where sizes are free, the nine cases are square and two more are twice as wide; batches are
    of three, so that neither batch size nor height and width can have been baked in unseen.
    """
    if contract.size is not None:
        cases = [parity_inputs(*contract.size)]
    else:
        side = contract.size_multiple * math.ceil(64 / contract.size_multiple)
        cases = [parity_inputs(side, side), parity_inputs(side, 2 * side, seed=1)[1:3]]
    count = contract.batch or 3
    return [
        group[start : start + count] for group in cases for start in range(0, len(group), count)
    ]


def graph_inputs(batch: Batch, contract: GraphContract) -> Arrays:
    """Stack cases of one size into what a graph of this contract takes."""
    # A fixed batch is filled up with repetitions, whose results are not looked at.
    padded = [*batch, *[batch[-1]] * ((contract.batch or len(batch)) - len(batch))]
    image: NDArray[Any] = np.stack([case.image for case in padded])
    hole_mask: NDArray[Any] = np.stack([case.hole_mask for case in padded])
    if contract.kind == "tensor":
        image = np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        hole_mask = (hole_mask[:, None] != 0).astype(np.float32)
    return {IMAGE: image, HOLE_MASK: hole_mask}


def pattern(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Colour gradients with texture: large and small structures, all byte values."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    frequency, phase = rng.uniform(1, 6, (3, 2)), rng.uniform(0, 6.28, 3)
    waves = [
        np.sin(6.28 * (f[0] * x + f[1] * y) + p) for f, p in zip(frequency, phase, strict=True)
    ]
    smooth = 127.5 + 100 * np.stack(waves, axis=-1)
    noisy = smooth + rng.normal(0, 15, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)
