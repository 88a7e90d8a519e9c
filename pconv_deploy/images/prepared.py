"""Prepare image and hole for an engine, and composite its result."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.contract import FILLED
from pconv_deploy.errors import EngineError, HoleMaskError
from pconv_deploy.images.arrays import (
    Bytes,
    Hole,
    Pixels,
    exif_orientation,
    to_rgb8,
    with_hole_filled,
)
from pconv_deploy.images.boxes import Box, Size
from pconv_deploy.images.feather import feathered
from pconv_deploy.images.hole_rule import MaskConvention, MaskReading
from pconv_deploy.images.notes import (
    Note,
    looks_swapped,
    notes_on_alpha,
    notes_on_crops,
    notes_on_mask,
)

ImageLike = Image.Image | NDArray[Any]


class CallOptions(TypedDict, total=False):
    """Keywords of a call of `Inpainter`, described there."""

    mask_convention: MaskConvention
    mask_threshold: int | None
    opaque: bool
    feather: int


@dataclass(frozen=True)
class Prepared:
    """One image ready for the engine.

    pixels     (H, W, C) as they came
    hole       (H, W) of booleans
    image      (H', W', 3) uint8, padded below and right to what the engine takes
    hole_mask  (H', W') uint8, 255 in the hole; the padding is hole
    mask       what the hole was read from
    opaque     filled pixels lose their transparency
    crops      parts of it that the network sees, each by itself; none: all of it
    feather    pixels of the hole's edge that keep some of what was there
    """

    pixels: Pixels
    hole: Hole
    image: Bytes
    hole_mask: Bytes
    mask: MaskReading | None = None
    opaque: bool = False
    crops: tuple[Box, ...] = ()
    feather: int = 0

    @property
    def padded_size(self) -> Size:
        height, width = self.hole_mask.shape
        return height, width

    @property
    def notes(self) -> list[Note]:
        """What looks like a mistake: a hole of nearly everything, a fill that is invisible, ..."""
        height, width = self.hole.shape
        image = self.image[:height, :width]
        notes = notes_on_mask(self.hole, self.mask, image) if self.mask else []
        notes += notes_on_crops(self.crops, (height, width))
        return notes + ([] if self.opaque else notes_on_alpha(self.hole, self.pixels))


def prepared(
    pixels: Pixels,
    hole: Hole,
    mask: MaskReading,
    padded: Size,
    crops: tuple[Box, ...] = (),
    *,
    opaque: bool = False,
) -> Prepared:
    """Make an image (H, W, C) and its hole (H, W) ready for an engine that takes `padded`.

    Raises:
        HoleMaskError: the hole is everything.
    """
    rgb, hole_mask = to_rgb8(pixels), hole.astype(np.uint8) * np.uint8(255)
    if hole.all():
        if looks_swapped(mask, rgb):
            raise HoleMaskError(
                "the hole mask covers the whole image and looks like a photo, the image like a "
                "mask: are they swapped?"
            )
        raise HoleMaskError(
            "the hole mask covers the whole image: nothing is known to fill it from. "
            "Is it inverted, or grown too far? See --mask-convention and --mask-threshold"
        )
    below, right = padded[0] - hole.shape[0], padded[1] - hole.shape[1]
    if below or right:
        rgb = np.pad(rgb, ((0, below), (0, right), (0, 0)))
        hole_mask = np.pad(hole_mask, ((0, below), (0, right)), constant_values=255)
    return Prepared(pixels, hole, rgb, hole_mask, mask, opaque, crops)


def require_same_size(hole: Hole, image: ImageLike, hole_mask: Any) -> None:
    """Refuse a mask of another size, or turned otherwise, than the image as it is stored.

    Raises:
        HoleMaskError: naming both sizes, and EXIF orientation where it explains them.
    """
    orientations = [exif_orientation(one) for one in (image, hole_mask)]
    size = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
    as_stored = (
        "Images and masks are taken as they are stored; apply PIL.ImageOps.exif_transpose to what "
        "has an EXIF orientation"
    )
    if hole.shape == size and orientations[1] in (1, orientations[0]):
        return
    if hole.shape == size:
        raise HoleMaskError(
            f"the hole mask has EXIF orientation {orientations[1]}, its image {orientations[0]}. "
            f"{as_stored}"
        )
    sizes = (
        f"the hole mask is {hole.shape[1]}x{hole.shape[0]} (width x height), "
        f"its image is {size[1]}x{size[0]}; needed the same size"
    )
    if hole.shape == size[::-1]:
        sizes += f". It fits turned by 90 degrees. {as_stored}"
    raise HoleMaskError(sizes)


def name_in_list(index: int, image: Any, hole_mask: Any) -> str:
    """Name an image of a list by its index, and by its files if Pillow knows them."""
    files = [str(name) for one in (image, hole_mask) if (name := getattr(one, "filename", ""))]
    return f"images[{index}]" + (f" ({', '.join(files)})" if files else "")


def log_notes(log: logging.Logger, name: str, prepared: Prepared) -> None:
    """Log the notes on an image of this name as INFO."""
    if log.isEnabledFor(logging.INFO):  # notes take time
        for note in prepared.notes:
            log.info("%s: %s", name, note.text)


def filled_images(outputs: Mapping[str, NDArray[Any]], batch: Sequence[Prepared]) -> Bytes:
    """Return what an engine filled.

    Raises:
        EngineError: it returned something else: its files are not what its manifest says.
    """
    filled = outputs.get(FILLED)
    needed = (len(batch), *batch[0].image.shape)
    if filled is None or filled.dtype != np.uint8 or filled.shape != needed:
        found = "nothing" if filled is None else f"{filled.dtype} {list(filled.shape)}"
        raise EngineError(
            f"the engine returned {found} as {FILLED!r}; needed uint8 {list(needed)}: its files "
            "are not what its manifest says. Build it again"
        )
    return filled


def finish(prepared: Prepared, filled: Bytes) -> Pixels:
    """Crop the result and copy the hole's colours into the image's own pixels (H, W, C)."""
    height, width = prepared.hole.shape
    result = with_hole_filled(prepared.pixels, prepared.hole, filled[:height, :width])
    if prepared.feather:
        result = feathered(prepared.pixels, result, prepared.hole, prepared.feather)
    if prepared.opaque and result.shape[2] in (2, 4):
        result[prepared.hole, -1] = np.iinfo(result.dtype).max
    return result
