"""Photos and hole masks as arrays: what a network takes, and back to what came in.

Pixels are filled as 8-bit RGB. Everything else an image carries (16 bits, grey, alpha, colour
profile, EXIF, resolution) stays with it: only the pixels in the hole are replaced, all others
are the very ones that came in.
"""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pconv_deploy.errors import HoleMaskError, ImageError

Pixels = NDArray[Any]
Bytes = NDArray[np.uint8]
Hole = NDArray[np.bool_]
AnyImage = TypeVar("AnyImage", Image.Image, NDArray[Any])

_MASK_MODES = ("1", "L", "RGB", "I;16", "I", "F")
MODES = ("L", "LA", "RGB", "RGBA", "P", "I;16", "I;16B", "1")


def to_pixels(image: Image.Image | NDArray[Any]) -> Pixels:
    """Give an image's own pixels as an array.

    Args:
        image: Pillow image of mode L, LA, RGB, RGBA, P, 1 or I;16, or an array (H, W) or
            (H, W, C) of uint8 or uint16 with 1 to 4 channels: grey, grey and alpha, RGB,
            RGB and alpha.

    Returns:
        (H, W, C) of uint8 or uint16, C from 1 to 4. Palettes become RGB or RGBA.

    Raises:
        ImageError: another mode, dtype or shape, or no pixels.
    """
    if isinstance(image, Image.Image):
        if image.mode not in MODES:
            raise ImageError(
                f"found an image of mode {image.mode}; needed one of {', '.join(MODES)}. "
                "Convert it first, for instance with image.convert('RGB')"
            )
        image = _plain(image)
    elif not isinstance(image, np.ndarray):
        raise ImageError(
            f"found a {type(image).__name__} as image; needed a numpy array or Pillow image"
        )
    pixels: Pixels = np.asarray(image)
    if pixels.dtype == np.dtype(">u2"):
        pixels = pixels.astype(np.uint16)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"found an array of {pixels.dtype}; needed uint8 (0..255) or uint16 (0..65535)"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise ImageError(
            f"found an array of shape {pixels.shape}; needed (height, width) or "
            "(height, width, channels) with 1 to 4 channels"
        )
    if 0 in pixels.shape:
        raise ImageError(f"found an image of {pixels.shape[1]}x{pixels.shape[0]}: no pixels")
    return pixels


def _plain(image: Image.Image) -> Image.Image:
    """Decode a lazily opened image; turn palette, bilevel and colour-key images into channels."""
    try:
        image.load()
        if image.mode == "P":
            return image.convert("RGBA" if "transparency" in image.info else "RGB")
        if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
            return image.convert("RGBA").convert("RGBA" if image.mode == "RGB" else "LA")
        return image.convert("L") if image.mode == "1" else image
    # Pillow's decoders raise whatever comes up on damaged files.
    except Exception as error:
        raise ImageError(f"the image cannot be decoded: {error}") from error


def to_rgb8(pixels: Pixels) -> Bytes:
    """(H, W, C) as `to_pixels` gives it -> (H, W, 3) uint8: what the network sees."""
    colour = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    if colour.dtype == np.uint16:
        return (colour >> 8).astype(np.uint8)
    return colour


def with_hole_filled(pixels: Pixels, hole: Hole, filled: Bytes) -> Pixels:
    """Replace the hole's colour in `pixels` (H, W, C); alpha and all known pixels stay.

    `filled` (H, W, 3) uint8 is brought to the channels and depth of `pixels`.
    """
    colours: Pixels = filled[hole]  # (n, 3)
    if pixels.shape[2] < 3:
        weights = np.array([299, 587, 114], np.uint32)  # luma, ITU-R BT.601
        colours = ((colours @ weights + 500) // 1000).astype(np.uint8)[:, None]
    if pixels.dtype == np.uint16:
        colours = colours.astype(np.uint16) * 257  # 0..255 onto 0..65535
    result = pixels.copy()
    result[hole, : colours.shape[1]] = colours
    return result


def like(image: AnyImage, pixels: Pixels) -> AnyImage:
    """Give `pixels` (H, W, C) the type of `image`, with its profile, EXIF and resolution."""
    if not isinstance(image, Image.Image):
        return pixels.reshape(image.shape)
    result = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    # Both are about palette entries or one colour, and are an alpha channel now.
    gone = ("transparency", "background")
    result.info = {key: fact for key, fact in image.info.items() if key not in gone}
    return result


def to_hole(hole_mask: Image.Image | ArrayLike, size: tuple[int, int]) -> Hole:
    """Nonzero = to be filled -> (H, W) of booleans.

    Args:
        hole_mask: array (H, W), (H, W, 1) or (H, W, 3) of any number type, or a Pillow image of
            mode 1, L, RGB, I;16, I or F; of three channels any may be nonzero.
        size: height and width of the image it belongs to.

    Raises:
        HoleMaskError: another size or shape, NaN, or nothing known left.
    """
    values = _mask_values(hole_mask)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or values.dtype.kind not in "biuf":
        raise HoleMaskError(
            f"found a hole mask of shape {values.shape}, {values.dtype}; needed (height, width) "
            "numbers, nonzero = to be filled"
        )
    if values.shape[:2] != size:
        raise HoleMaskError(
            f"the hole mask is {values.shape[1]}x{values.shape[0]} (width x height), "
            f"its image is {size[1]}x{size[0]}; needed the same size"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise HoleMaskError("the hole mask holds NaN")
    hole: Hole = (values != 0).any(axis=2)
    if hole.all():
        raise HoleMaskError(
            "the hole mask covers the whole image: nothing is known to fill it from. "
            "Is it inverted, or grown too far?"
        )
    return hole


def _mask_values(hole_mask: Image.Image | ArrayLike) -> NDArray[Any]:
    if isinstance(hole_mask, Image.Image):
        if hole_mask.mode not in _MASK_MODES:
            raise HoleMaskError(
                f"found a hole mask of mode {hole_mask.mode}; needed one of "
                f"{', '.join(_MASK_MODES)}. Convert it first, for instance with .convert('L')"
            )
        try:
            hole_mask.load()
        # Pillow's decoders raise whatever comes up on damaged files.
        except Exception as error:
            raise HoleMaskError(f"the hole mask cannot be decoded: {error}") from error
    elif isinstance(hole_mask, str | Path) or hole_mask is None:
        raise HoleMaskError(
            f"found a {type(hole_mask).__name__} as hole mask; needed a numpy array or Pillow image"
        )
    try:
        return np.asarray(hole_mask)
    # Lists of uneven length, tensors on other devices: numpy asks the object itself.
    except Exception as error:
        raise HoleMaskError(f"the hole mask is no array: {error}") from error


def dilated(hole: Hole, pixels: int) -> Hole:
    """Grow a hole by `pixels` in every direction, diagonals included."""
    for axis, length in enumerate(hole.shape):
        at = np.arange(length)
        low, high = np.maximum(at - pixels, 0), np.minimum(at + pixels + 1, length)
        hole = _any_within(hole, low, high, axis)
    return hole


def resized_hole(hole: Hole, size: tuple[int, int]) -> Hole:
    """Scale a hole to (height, width); a pixel that touches the hole belongs to it."""
    for axis, (before, after) in enumerate(zip(hole.shape, size, strict=True)):
        at = np.arange(after)
        # The source pixels under each new one, cut ones included; whole numbers: no rounding.
        hole = _any_within(hole, at * before // after, -(-(at + 1) * before // after), axis)
    return hole


def _any_within(hole: Hole, low: NDArray[Any], high: NDArray[Any], axis: int) -> Hole:
    """Whether any of hole[low[i]:high[i]] along `axis` is set, for each i."""
    counts = np.cumsum(hole, axis=axis, dtype=np.int32)
    counts = np.concatenate([np.zeros_like(counts.take([0], axis)), counts], axis)
    found: Hole = counts.take(high, axis) > counts.take(low, axis)
    return found
