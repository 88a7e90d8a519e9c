"""Convert photos and hole masks to arrays for a network, and results back.

Pixels are filled as 8-bit RGB. Only pixels in the hole are replaced: all others, and depth, alpha,
colour profile, EXIF and resolution, are kept.
"""

import contextlib
import io
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.errors import ImageError

Pixels = NDArray[Any]
Bytes = NDArray[np.uint8]
Hole = NDArray[np.bool_]
AnyImage = TypeVar("AnyImage", Image.Image, NDArray[Any])

EXIF_ORIENTATION = 0x0112
PAGES = "is animated or has pages ({}); needed one. Pass the one that is meant, as image.copy()"
DEEP_COLOUR_KEY = "is 16-bit grey with a transparent colour, which would be lost; convert it"
MODES = ("L", "LA", "RGB", "RGBA", "P", "I;16", "I;16B", "1")


def to_pixels(image: Image.Image | NDArray[Any]) -> Pixels:
    """Give an image's own pixels as an array.

    Args:
        image: Pillow image of mode L, LA, RGB, RGBA, P, 1, I;16 or I;16B, or an array (H, W) or
            (H, W, C) of uint8 or uint16 with 1 to 4 channels: grey, grey and alpha, RGB,
            RGB and alpha.

    Returns:
        (H, W, C) of uint8 or uint16, C from 1 to 4. Palettes become RGB or RGBA.

    Raises:
        ImageError: another mode, dtype or shape, or no pixels.
    """
    if isinstance(image, Image.Image):
        _require_kind(image)
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


def _require_kind(image: Image.Image) -> None:
    """Refuse Pillow images whose colours, depth or pages would be lost."""
    if image.mode not in MODES:
        raise ImageError(
            f"found an image of mode {image.mode}; needed one of {', '.join(MODES)}. "
            f"{_how_to_convert(image.mode)}"
        )
    if (pages := page_count(image)) > 1:
        raise ImageError(f"the image {PAGES.format(pages)}")
    if stored_in_16_bits(image):
        raise ImageError(
            "the image has 16 bits a colour channel, of which Pillow reads 8. Pass a uint16 "
            "array, or image.convert(image.mode) for 8 bits"
        )
    if has_deep_colour_key(image):
        raise ImageError(f"the image {DEEP_COLOUR_KEY}")


def _how_to_convert(mode: str) -> str:
    """How to convert a Pillow image of an unsupported mode."""
    if mode in ("I", "F"):  # convert would cut off what is above 255
        return "Pass its numbers as an array of uint8 or uint16"
    if mode == "LAB":  # which convert does not know
        return "Convert it first, with PIL.ImageCms"
    kept = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}.get(mode, "RGB")
    by_profile = ", or by its profile with images.cmyk_to_srgb" * (mode == "CMYK")
    return f"Convert it first, for instance with image.convert({kept!r}){by_profile}"


def page_count(image: Image.Image) -> int:
    """Number of pages or frames of an opened file; previews of a photo (MPO) do not count."""
    try:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  any decoder error: decoding reports it
        return 1


def stored_in_16_bits(image: Image.Image) -> bool:
    """Whether an image file that is not decoded yet has 16 bits a colour channel.

    Pillow's modes have 8: it reads the upper ones.
    """
    # The first tile names the layout in the file; Pillow's types do not know it.
    tiles = getattr(image, "tile", None) or []
    return bool(tiles) and ";16" in str(tiles[0].args) and not image.mode.startswith("I;16")


def has_deep_colour_key(image: Image.Image) -> bool:
    """Whether a 16-bit grey image has a transparent value, for which Pillow has no mode."""
    return image.mode.startswith("I;16") and "transparency" in image.info


def exif_orientation(image: Any) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1, as it is stored, for anything else."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  arrays have none; damaged EXIF raises anything
        return 1
    return orientation if orientation in range(1, 9) else 1


def cmyk_to_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Convert a CMYK image to RGB, by its colour profile if that is usable.

    Returns:
        the image without the profile, which means sRGB; and whether a profile was used.
    """
    from PIL import ImageCms

    facts = {key: fact for key, fact in image.info.items() if key != "icc_profile"}
    converted = None
    if profile := image.info.get("icc_profile"):
        # A damaged profile, or one of another colour space.
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            srgb = ImageCms.createProfile("sRGB")
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    result = converted or image.convert("RGB")
    result.info = facts
    return result, converted is not None


def _plain(image: Image.Image) -> Image.Image:
    """Decode a lazily opened image; turn palette, bilevel and colour-key images into channels."""
    try:
        image.load()
        if image.mode == "P":
            return image.convert("RGBA" if "transparency" in image.info else "RGB")
        if "transparency" in image.info and image.mode in ("1", "L", "RGB"):
            return image.convert("RGBA").convert("RGBA" if image.mode == "RGB" else "LA")
        return image.convert("L") if image.mode == "1" else image
    # Pillow's decoders may raise any exception on damaged files.
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
