"""Pair images with holes; every method gets the same pairs.

In each of the paper's classes (six areas, with and without border) the shuffled pictures meet
the shuffled holes one by one. The pictures come in the same order in every class, so classes
differ by their holes; but where only so many pairs of each class are wanted, each class goes on
with the pictures that the one before did not take, so that all of them are seen.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image, ImageOps

from pconv_deploy.errors import HoleMaskError, ImageError
from pconv_deploy.evaluation.metrics import SSIM_WINDOW
from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.images.files import read_hole_mask, read_rgb
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskRule
from pconv_deploy.images.listing import list_pictures
from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.masks.reading import by_numbers, read_mask_set

Size = tuple[int, int]  # height, width


class HoleClass(msgspec.Struct, frozen=True):
    """One of the paper's classes; `bucket` counts AREA_BUCKETS."""

    bucket: int
    border: bool


CLASSES = tuple(HoleClass(i, border) for i in range(len(AREA_BUCKETS)) for border in (False, True))


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One picture and one hole; without a mask file the hole is drawn."""

    number: int
    image: str
    hole_mask: str | None
    hole_class: HoleClass


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Images and holes to evaluate on.

    images           picture file, or folder with subfolders
    masks            folder; None draws the holes
    mask_rule        which pixels of a mask file are hole
    size             height and width everything is brought to; None takes that of each mask, or
                     of each picture where holes are drawn
    per_class        pairs of each class; None takes as many as there are masks in it, or pictures
                     where holes are drawn
    seed             of the order and of drawn holes
    max_pixels       larger pictures are refused before they are decoded
    """

    images: Path
    masks: Path | None = None
    mask_rule: MaskRule = DEFAULT_RULE
    size: Size | None = None
    per_class: int | None = None
    seed: int = 0
    max_pixels: int


@dataclass(frozen=True)
class Pairing:
    """The pairs, and the files that are in none.

    unclassed  how many masks are of no class (outside of 1 to 60 % of the image)
    unread     for each picture of a kind that is not read, which it is and why
    """

    pairs: tuple[Pair, ...]
    unclassed: int = 0
    unread: tuple[str, ...] = ()


def plan_pairs(protocol: Protocol, aside: Sequence[Path] = ()) -> Pairing:
    """Pair pictures with holes; equal folders and seeds give equal pairs.

    Args:
        protocol: where both are found.
        aside: folders whose pictures are none of those, such as the output.

    Raises:
        InputError: no pictures.
        HoleMaskError: no usable masks.
    """
    rng = np.random.default_rng(protocol.seed)
    found, unread = _images(protocol, aside)
    images = _shuffled(rng, found)
    if protocol.masks is None:
        by_class: Mapping[HoleClass, Sequence[str | None]] = {c: [None] for c in CLASSES}
        unclassed = 0
    else:
        by_class, unclassed = _masks_by_class(protocol, rng)
    pairs: list[Pair] = []
    for hole_class in CLASSES:
        masks = by_class.get(hole_class, ())
        first = len(pairs) if protocol.per_class else 0
        for index in range(_count(protocol, len(images), len(masks))):
            pairs.append(
                Pair(
                    number=len(pairs),
                    image=images[(first + index) % len(images)],
                    hole_mask=masks[index % len(masks)],
                    hole_class=hole_class,
                )
            )
    return Pairing(tuple(pairs), unclassed, unread)


def _images(protocol: Protocol, aside: Sequence[Path]) -> tuple[list[str], tuple[str, ...]]:
    if protocol.images.is_file():
        return [_name(protocol.images)], ()
    left_out = [*aside, protocol.masks] if protocol.masks else aside
    listed = list_pictures(protocol.images, aside=left_out)
    listed.require_some()
    listed.warn()
    names = [_name(path) for path in sorted(listed.paths, key=by_numbers)]
    return names, tuple(one.why for one in listed.unread)


def _name(path: Path) -> str:
    """The same in every current folder, so that an evaluation goes on from another one."""
    return os.path.abspath(path)


def _masks_by_class(
    protocol: Protocol, rng: np.random.Generator
) -> tuple[dict[HoleClass, list[str]], int]:
    assert protocol.masks is not None
    masks = read_mask_set(protocol.masks, protocol.mask_rule, classify=True)
    by_class: dict[HoleClass, list[str]] = {}
    for mask in masks:
        if mask.bucket is not None:
            hole_class = HoleClass(AREA_BUCKETS.index(mask.bucket), bool(mask.border))
            by_class.setdefault(hole_class, []).append(_name(mask.path))
    usable = sum(map(len, by_class.values()))
    if not usable:
        raise HoleMaskError(
            f"none of the {len(masks)} masks in {protocol.masks} is of a class: holes must cover "
            "more than 1% and at most 60% of the image. See --mask-convention"
        )
    shuffled = {c: _shuffled(rng, by_class[c]) for c in CLASSES if c in by_class}
    return shuffled, len(masks) - usable


def _count(protocol: Protocol, images: int, masks: int) -> int:
    """How many pairs a class gets; never the same pair twice."""
    if not masks:
        return 0
    if protocol.masks is None:  # every picture gets holes of its own
        return protocol.per_class or images
    return min(protocol.per_class or masks, math.lcm(images, masks))


def _shuffled(rng: np.random.Generator, names: Sequence[str]) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]


def load_pair(pair: Pair, protocol: Protocol) -> tuple[Bytes, Hole]:
    """Read or draw both and bring them to one size.

    The picture is scaled until it covers the size, and its middle is taken; a mask is stretched,
    each pixel staying hole or known.

    Returns:
        image (H, W, 3) uint8 as viewers show it, hole (H, W) of booleans.

    Raises:
        InputError: one of them cannot be read, or is too small to be judged.
    """
    picture = read_rgb(Path(pair.image), protocol.max_pixels)
    size = protocol.size or (picture.height, picture.width)
    if pair.hole_mask is not None:
        path = Path(pair.hole_mask)
        hole = read_hole_mask(path, protocol.mask_rule, protocol.max_pixels)
        size = protocol.size or (hole.shape[0], hole.shape[1])
    if min(size) < SSIM_WINDOW:
        raise ImageError(
            f"{pair.image} would be compared at {size[1]}x{size[0]}; needed at least "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}. See --size"
        )
    if pair.hole_mask is None:
        hole = _drawn(pair, protocol, size)
    elif hole.shape != size:
        hole = _stretched(hole, size)
    if picture.size != (size[1], size[0]):
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(picture), hole


def _drawn(pair: Pair, protocol: Protocol, size: Size) -> Hole:
    rng = np.random.default_rng([protocol.seed, pair.number])
    area = AREA_BUCKETS[pair.hole_class.bucket]
    try:
        return drawn_hole(rng, *size, area, border=pair.hole_class.border)
    except ValueError as error:
        raise HoleMaskError(f"no hole can be drawn for {pair.image}: {error}") from error


def _stretched(hole: Hole, size: Size) -> Hole:
    scaled = Image.fromarray(hole).resize((size[1], size[0]), Image.Resampling.NEAREST)
    stretched: Hole = np.asarray(scaled) != 0
    return stretched
