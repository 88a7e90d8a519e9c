"""Images and holes of every class that both candidates fill, with extreme cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pconv_deploy.images.arrays import Bytes, resized_hole
from pconv_deploy.images.files import read_hole_mask, read_rgb
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskRule
from pconv_deploy.masks.irregular import AREA_BUCKETS, irregular_hole
from pconv_deploy.masks.reading import picture_paths, read_mask_set
from pconv_deploy.parity import ParityInput, pattern

BUCKETS = {f"{low * 100:.0f}-{high * 100:.0f}%": (low, high) for low, high in AREA_BUCKETS}
# Of a mask file that covers less than the first bucket or more than the last.
_OTHER = "other"
_EXTREMES = ("no hole", "all hole", "one hole pixel", "one known pixel")
HOLE_CLASSES = (*BUCKETS, _OTHER, *_EXTREMES)


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Pictures and holes of a verification.

    photos           file or folder; None draws patterns
    holes            folder of mask files; None draws the holes
    mask_rule        which pixels of a mask file are hole
    count            holes of each class of areas; of the extreme ones there is one each
    seed             of the choice of photos and masks, and of what is drawn
    max_pixels       of what is filled, and of photos and masks before they are decoded
    """

    photos: Path | None = None
    holes: Path | None = None
    mask_rule: MaskRule = DEFAULT_RULE
    count: int = 3
    seed: int = 0
    max_pixels: int = 8_400_000


class PlannedCase(NamedTuple):
    """A case before it is read or drawn; None for what is drawn."""

    number: int
    hole_class: str
    photo: Path | None
    hole_mask: Path | None


def plan_cases(options: PictureOptions) -> list[PlannedCase]:
    """Choose the cases; equal folders and seeds give equal lists.

    Raises:
        InputError: a folder that does not exist or holds no pictures.
        HoleMaskError: mask files that cannot be read, or look inverted.
    """
    rng = np.random.default_rng(options.seed)
    photos: Sequence[Path | None] = _photos(options, rng) if options.photos else [None]
    holes = [*_holes(options, rng), *((name, None) for name in _EXTREMES)]
    return [
        PlannedCase(number, hole_class, photos[number % len(photos)], hole_mask)
        for number, (hole_class, hole_mask) in enumerate(holes)
    ]


def _photos(options: PictureOptions, rng: np.random.Generator) -> list[Path]:
    assert options.photos is not None
    if options.photos.is_file():
        return [options.photos]
    paths = picture_paths(options.photos, aside=[options.holes] if options.holes else [])
    return [paths[i] for i in rng.permutation(len(paths))]


def _holes(options: PictureOptions, rng: np.random.Generator) -> list[tuple[str, Path | None]]:
    if options.holes is None:
        return [(name, None) for name in BUCKETS for _ in range(options.count)]
    names = {bucket: name for name, bucket in BUCKETS.items()}
    by_class: dict[str, list[Path]] = {name: [] for name in (*BUCKETS, _OTHER)}
    for mask in read_mask_set(options.holes, options.mask_rule, classify=True):
        if mask.share not in (0, 1):  # the extremes are there anyway
            by_class[names[mask.bucket] if mask.bucket else _OTHER].append(mask.path)
    return [
        (name, paths[i])
        for name, paths in by_class.items()
        for i in rng.permutation(len(paths))[: options.count]
    ]


def load_case(planned: PlannedCase, options: PictureOptions, size: tuple[int, int]) -> ParityInput:
    """Read or draw one case of (height, width).

    A photo is scaled until it covers the size, and its middle is taken; a mask is stretched.

    Raises:
        ImageError: the photo cannot be read.
        HoleMaskError: the mask file cannot be read.
    """
    rng = np.random.default_rng([options.seed, planned.number])
    height, width = size
    if planned.photo is None:
        image = pattern(rng, height, width)
    else:
        photo = read_rgb(planned.photo, options.max_pixels)
        image = np.asarray(ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS))
    if planned.hole_mask is None:
        hole_mask = _drawn(planned.hole_class, rng, size)
    else:
        hole = read_hole_mask(planned.hole_mask, options.mask_rule, options.max_pixels)
        hole_mask = resized_hole(hole, size).astype(np.uint8) * np.uint8(255)
    return ParityInput(_name(planned), image, hole_mask)


def _drawn(hole_class: str, rng: np.random.Generator, size: tuple[int, int]) -> Bytes:
    height, width = size
    if hole_class in BUCKETS:
        return irregular_hole(rng, height, width, BUCKETS[hole_class])
    hole = np.full(size, 255 if hole_class in ("all hole", "one known pixel") else 0, np.uint8)
    if hole_class.startswith("one "):
        hole[rng.integers(height), rng.integers(width)] ^= 255
    return hole


def _name(planned: PlannedCase) -> str:
    hole = f"hole {planned.hole_class}" if planned.hole_class in BUCKETS else planned.hole_class
    if planned.hole_mask:
        hole += f" ({planned.hole_mask.name})"
    picture = planned.photo.name if planned.photo else f"pattern {planned.number + 1}"
    return f"{hole}, {picture}".encode(errors="replace").decode()
