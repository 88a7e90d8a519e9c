"""Which pixels of a hole mask are the hole: one rule for arrays, Pillow images and files.

The rule is written for users in docs/embedding.md, "What is a hole".
"""

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pconv_deploy.errors import HoleMaskError, UsageError
from pconv_deploy.images.arrays import (
    PAGES,
    Bytes,
    Hole,
    has_deep_colour_key,
    page_count,
    stored_in_16_bits,
)

MaskConvention = Literal["hole-white", "hole-black", "alpha"]

# JPEG noise in black areas stays below; every grey pixel of an edge is above.
DEFAULT_THRESHOLD = 16
# Their noise would pass for the values of labels.
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
# A picture with so many levels between black and white, on most of its pixels, is hardly a mask.
_PHOTO_LEVELS, _PHOTO_SHARE = 32, 0.5


@dataclass(frozen=True)
class MaskRule:
    """How a hole mask is read.

    convention  whether white, black or transparent pixels are the hole
    threshold   how much of a hole a pixel must be, 1..255; None is 16, and asks where a mask
                holds nothing but values below it
    """

    convention: MaskConvention = "hole-white"
    threshold: int | None = None

    def __post_init__(self) -> None:
        if self.convention not in get_args(MaskConvention):
            raise UsageError(
                f"found mask convention {self.convention!r}; needed one of "
                f"{', '.join(get_args(MaskConvention))}"
            )
        if self.threshold is None:
            return
        whole = isinstance(self.threshold, int | np.integer) and self.threshold is not True
        if not (whole and 1 <= self.threshold <= 255):
            raise UsageError(f"found mask threshold {self.threshold!r}; needed 1 to 255, or None")

    @property
    def least(self) -> int:
        """The level from which on a pixel is hole."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold


DEFAULT_RULE = MaskRule()


@dataclass(frozen=True)
class MaskReading:
    """A hole mask as it was read.

    levels       (H, W) uint8, how much of a hole each pixel is: its brightness, darkness or
                 transparency, by the convention
    transparent  the mask has transparent pixels
    lossy        it was compressed with loss, so that small values are noise
    hole         (H, W) of booleans, true = to be filled
    """

    levels: Bytes
    rule: MaskRule
    transparent: bool = False
    lossy: bool = False
    hole: Hole = field(init=False)

    def __post_init__(self) -> None:
        # No cached_property: until Python 3.12 it holds one lock for all instances, which stays
        # locked in a process that is forked meanwhile.
        object.__setattr__(self, "hole", self.levels >= self.rule.least)

    @property
    def grey_share(self) -> float:
        """The share of pixels that are hole with a level below 255."""
        return float((self.hole & (self.levels < 255)).mean())

    @property
    def looks_like_photo(self) -> bool:
        """Whether most pixels lie between black and white, on many levels."""
        if self.rule.convention == "alpha":
            return False
        between = Image.fromarray(self.levels).histogram()[16:240]
        most = sum(between) > _PHOTO_SHARE * self.levels.size
        return most and sum(map(bool, between)) >= _PHOTO_LEVELS

    @property
    def low_labels(self) -> int:
        """How many pixels of low values were taken as known, though they look like labels.

        Labels have areas of one value; noise and the edges of a brush have not.
        """
        if self.lossy or self.rule.threshold is not None or self.rule.convention != "hole-white":
            return 0
        low = (self.levels > 0) & ~self.hole
        return int(low.sum()) if low.any() and (low & _flat(self.levels)).any() else 0


def read_mask(hole_mask: Image.Image | ArrayLike, rule: MaskRule = DEFAULT_RULE) -> MaskReading:
    """Read a hole mask.

    Args:
        hole_mask: array (H, W) or (H, W, C) of booleans or numbers, C as in `images.to_pixels`,
            or a Pillow image.
        rule: which pixels are the hole.

    Raises:
        HoleMaskError: no numbers, no such shape, NaN, negative or larger than 65535; no alpha
            channel where it is the hole; or a mask whose meaning is not sure: nothing but low
            values, or a hole that is painted in transparent pixels only.
    """
    lossy = isinstance(hole_mask, Image.Image) and hole_mask.format in _LOSSY_FORMATS
    deep = isinstance(hole_mask, Image.Image) and stored_in_16_bits(hole_mask)
    values = _values(hole_mask)
    has_alpha = values.shape[2] in (2, 4)
    alpha = _in_bytes(values[:, :, -1]) if has_alpha else None
    transparent = alpha is not None and bool((alpha < 256 - DEFAULT_THRESHOLD).any())
    if rule.convention != "alpha":
        colours = _in_bytes(values[:, :, :-1] if has_alpha else values, labels=not lossy)
        levels = _painted(colours, alpha, rule)
    elif alpha is not None:
        levels = 255 - alpha
    else:
        raise HoleMaskError(
            "the hole mask has no alpha channel, so no transparent pixels can be its hole; use "
            "--mask-convention hole-white or hole-black"
        )
    reading = MaskReading(levels, rule, transparent, lossy)
    _require_meaning(reading)
    if deep:
        require_upper_bits(reading)
    return reading


def require_upper_bits(reading: MaskReading) -> None:
    """Refuse a mask of 16 bits a colour channel without anything in the upper 8, which are read.

    Raises:
        HoleMaskError: it may hold labels in the lower 8.
    """
    if reading.rule.convention == "hole-white" and not reading.levels.any():
        raise HoleMaskError(
            "the hole mask has 16 bits a colour channel, of which the upper 8 are read, and these "
            "are all 0. Save it in 8 bits or as 16-bit grey"
        )


def _painted(colours: Bytes, alpha: Bytes | None, rule: MaskRule) -> Bytes:
    """Hole level of each pixel (H, W) by its colour; transparent pixels are not painted."""
    if rule.convention == "hole-black":
        colours = 255 - colours
    levels: Bytes = reduce(np.maximum, np.moveaxis(colours, 2, 0))  # much faster than max(axis=2)
    if alpha is None or bool((alpha == 255).all()):
        return levels
    visible = ((levels.astype(np.uint16) * alpha + 254) // 255).astype(np.uint8)
    if int(visible.max()) < rule.least <= int(levels.max()):
        raise HoleMaskError(
            f"the hole mask has {int((levels >= rule.least).sum())} pixels of the hole's colour, "
            "but all of them are transparent, so they are invisible. Remove its alpha channel if "
            "they are the hole; --mask-convention alpha takes all transparent pixels"
        )
    return visible


def _require_meaning(reading: MaskReading) -> None:
    largest = int(reading.levels.max())
    rule = reading.rule
    sure = rule.threshold is not None or rule.convention != "hole-white" or reading.lossy
    if not sure and 0 < largest < DEFAULT_THRESHOLD:
        raise HoleMaskError(
            f"the hole mask holds no value above {largest} of 255, hardly different from "
            f"black. Are these labels? --mask-threshold 1 takes every pixel that is not 0 as "
            f"hole, --mask-threshold {DEFAULT_THRESHOLD} none of them"
        )


def _values(hole_mask: Image.Image | ArrayLike) -> NDArray[Any]:
    """Booleans or numbers (H, W, C), C from 1 to 4."""
    if isinstance(hole_mask, Image.Image):
        hole_mask = _with_transparent_value(_in_channels(hole_mask))
    elif isinstance(hole_mask, str | Path) or hole_mask is None:
        raise HoleMaskError(
            f"found a {type(hole_mask).__name__} as hole mask; needed a numpy array or Pillow image"
        )
    try:
        values = np.asarray(hole_mask)
    # Lists of uneven length, tensors on other devices: numpy asks the object itself.
    except Exception as error:
        raise HoleMaskError(f"the hole mask is no array: {error}") from error
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not 1 <= values.shape[2] <= 4 or values.dtype.kind not in "biuf":
        raise HoleMaskError(
            f"found a hole mask of shape {values.shape}, {values.dtype}; needed numbers, (height, "
            "width) or (height, width, channels) with 1 to 4 channels"
        )
    if 0 in values.shape:
        raise HoleMaskError(f"the hole mask is {values.shape[1]}x{values.shape[0]}: no pixels")
    return values


def _in_channels(image: Image.Image) -> Image.Image:
    """Decode a lazily opened mask; turn palettes and other colour spaces into RGB or RGBA."""
    if (pages := page_count(image)) > 1:
        raise HoleMaskError(f"the hole mask {PAGES.format(pages)}")
    try:
        image.load()
        if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and image.mode[0] != "I":
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        elif "transparency" in image.info and image.mode in ("1", "L", "RGB"):
            image = image.convert("RGBA")
    # Pillow's decoders may raise any exception on damaged files.
    except Exception as error:
        raise HoleMaskError(f"the hole mask cannot be decoded: {error}") from error
    return image


def _with_transparent_value(image: Image.Image) -> Image.Image | NDArray[Any]:
    """Give 16-bit grey with a transparent value an alpha channel, for which Pillow has no mode."""
    if not has_deep_colour_key(image):
        return image
    grey = np.asarray(image)
    return np.stack([grey, np.where(grey == image.info["transparency"], 0, 65535)], axis=2)


def _in_bytes(values: NDArray[Any], *, labels: bool = True) -> Bytes:
    """Scale booleans or numbers in 0..1, 0..255 or 0..65535, by their maximum, to 0..255.

    Where `labels`, numbers 0 and 1 are taken so. What is not 0 does not become 0.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise HoleMaskError("the hole mask holds NaN or infinite values")
    low, high = float(values.min()), float(values.max())  # not in 16 bits, where 65535 is infinite
    if low < 0 or high > 65535:
        raise HoleMaskError(
            f"the hole mask holds values from {low:g} to {high:g}; needed 0 to 1, 0 to 255 or 0 "
            "to 65535, where 0 is known"
        )
    if high <= 1 and labels:
        return _rounded(values * 255.0)
    if high > 255:
        return _rounded(values / 257.0)
    return values if values.dtype == np.uint8 else _rounded(values)


def _rounded(values: NDArray[Any]) -> Bytes:
    rounded: Bytes = np.maximum(np.rint(values), values > 0).astype(np.uint8)
    return rounded


def _flat(levels: Bytes) -> Hole:
    """Whether a pixel equals its eight neighbours; false at the edges."""
    height, width = levels.shape
    flat = np.zeros(levels.shape, bool)
    if min(levels.shape) < 3:
        return flat
    inner = flat[1:-1, 1:-1]
    inner[:] = True
    for down in range(3):
        for right in range(3):
            beside = levels[down : height - 2 + down, right : width - 2 + right]
            inner &= beside == levels[1:-1, 1:-1]
    return flat
