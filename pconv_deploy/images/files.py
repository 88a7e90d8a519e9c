"""Read photos and hole masks from untrusted files."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from pconv_deploy.errors import HoleMaskError, ImageError, PictureSizeError
from pconv_deploy.images.arrays import (
    DEEP_COLOUR_KEY,
    EXIF_ORIENTATION,
    MODES,
    Bytes,
    Hole,
    exif_orientation,
    has_deep_colour_key,
    stored_in_16_bits,
    to_pixels,
    to_rgb8,
)
from pconv_deploy.images.decoding import decoded, further_pictures, require_one_page
from pconv_deploy.images.hole_rule import (
    DEFAULT_RULE,
    MaskReading,
    MaskRule,
    read_mask,
    require_upper_bits,
)

# Colour types that are lost by conversion, which has to be allowed.
Convertible = Literal["cmyk", "16-bit"]

# In the info of an image: how many more its file holds, which are not kept.
FURTHER_PICTURES = "further_pictures"
DEFAULT_MAX_PIXELS = 25_000_000
# Measured with ONNX Runtime in fp32, see docs/measurements.md.
_GIB_PER_MEGAPIXEL = 1.1
# EXIF tags about the picture: description, make, model, orientation, software, date, artist,
# copyright, and the directories of camera and place. Others describe the layout of their file.
_LASTING_TAGS = {0x010E, 0x010F, 0x0110, EXIF_ORIENTATION, 0x0131, 0x0132, 0x013B, 0x8298}
_LASTING_DIRECTORIES = (0x8769, 0x8825)
_INVERSE_ORIENTATIONS = {6: 8, 8: 6}  # the others are their own inverse


def read_image(
    path: Path,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    *,
    content: bytes | None = None,
    allow: Collection[Convertible] = (),
) -> Image.Image:
    """Decode one still image, with its size bounded before memory is taken for it.

    Its info holds `exif`, `icc_profile` and `dpi` where the file has them and they make sense.

    Args:
        path: of the file.
        max_pixels: more are refused.
        content: what to decode instead, with `path` as its name: a member of an archive.
        allow: colour types that are refused otherwise. CMYK is returned as it is; of 16 bits a
            colour channel, the upper 8 are.

    Raises:
        ImageError: missing, not an image, truncated, too large, animated, or of a colour type
            that would be damaged on the way (CMYK, 16 bits a colour channel).
    """

    def still(opened: Image.Image) -> Image.Image:
        _check_size(path, opened.size, max_pixels)
        _check_kind(path, opened, allow)
        opened.load()
        image = opened.copy()
        image.info = _lasting_info(opened)
        if further := further_pictures(opened):
            image.info[FURTHER_PICTURES] = further
        return image

    return decoded(path, still, content=content)


def read_rgb(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode one still image into what a network sees: upright, 8-bit RGB without alpha.

    Raises:
        ImageError: as `read_image`.
    """
    upright = ImageOps.exif_transpose(read_image(path, max_pixels))
    return Image.fromarray(to_rgb8(to_pixels(upright)))


def read_hole_mask(
    path: Path, rule: MaskRule = DEFAULT_RULE, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Hole:
    """Decode a mask file into (H, W) of booleans, true = to be filled; see `read_mask_file`."""
    return read_mask_file(path, rule, max_pixels).hole


def read_mask_file(
    path: Path,
    rule: MaskRule = DEFAULT_RULE,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    *,
    content: bytes | None = None,
    as_stored: bool = False,
) -> MaskReading:
    """Decode a mask file, upright by its EXIF orientation, and read it as `read_mask` does.

    Args:
        path: of an image of any mode.
        rule: which pixels are the hole.
        max_pixels: as in `read_image`.
        content: as there.
        as_stored: do not turn it.

    Raises:
        HoleMaskError: as `read_image`'s ImageError, and as `read_mask`.
    """

    def upright(opened: Image.Image) -> MaskReading:
        _check_size(path, opened.size, max_pixels)
        require_one_page(path, opened)
        deep = stored_in_16_bits(opened)
        opened.load()
        try:
            reading = read_mask(opened, rule)
            if deep:
                require_upper_bits(reading)
        except HoleMaskError as error:
            raise HoleMaskError(f"{path}: {error}") from error
        if as_stored:
            return reading
        return replace(reading, levels=_turned(reading.levels, exif_orientation(opened)))

    return decoded(path, upright, failure=HoleMaskError, content=content)


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as viewers show the image, by its EXIF orientation."""
    height, width = image.height, image.width
    return (width, height) if exif_orientation(image) >= 5 else (height, width)


def hole_as_stored(hole: Hole, image: Image.Image) -> Hole:
    """Turn a hole drawn over the displayed image into the order its pixels are stored in."""
    orientation = exif_orientation(image)
    orientation = _INVERSE_ORIENTATIONS.get(orientation, orientation)
    stored: Hole = _turned(hole.astype(np.uint8), orientation) != 0
    return stored


def _turned(levels: Bytes, orientation: int) -> Bytes:
    image = Image.fromarray(levels)
    image.getexif()[EXIF_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureSizeError(
            f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels; at most "
            f"{max_pixels / 1e6:.1f} are accepted. Raise the limit with --max-megapixels if "
            f"memory allows: the full-size network takes {_GIB_PER_MEGAPIXEL} GiB a megapixel"
        )


def _check_kind(path: Path, image: Image.Image, allow: Collection[Convertible]) -> None:
    require_one_page(path, image)
    if image.mode not in MODES and not (image.mode == "CMYK" and "cmyk" in allow):
        remedy = "; infer does so with --convert-cmyk" if image.mode == "CMYK" else ""
        raise ImageError(
            f"{path} is of mode {image.mode}; needed grey, RGB or palette, with or without "
            f"alpha. Convert it first, so that its colours change where you can see it{remedy}"
        )
    if has_deep_colour_key(image):
        raise ImageError(f"{path} {DEEP_COLOUR_KEY}")
    if stored_in_16_bits(image) and "16-bit" not in allow:
        raise ImageError(
            f"{path} has 16 bits a colour channel, of which Pillow reads 8. Convert it to 8 bits "
            "(infer does so with --convert-16-bit), or pass a uint16 array to Inpainter"
        )


def _lasting_info(image: Image.Image) -> dict[str | tuple[int, int], Any]:
    """Metadata to copy into the output, without damaged entries."""
    lasting: dict[str | tuple[int, int], Any] = {}
    if exif := _exif(image):
        lasting["exif"] = exif
    for key in ("icc_profile", "transparency"):
        if key in image.info:
            lasting[key] = image.info[key]
    try:
        dpi = tuple(float(value) for value in image.info.get("dpi", ()))
    except (TypeError, ValueError, ZeroDivisionError):
        dpi = ()
    if len(dpi) == 2 and all(0 < value < 1e5 for value in dpi):
        lasting["dpi"] = dpi
    return lasting


def _exif(image: Image.Image) -> bytes:
    """EXIF data to copy into the output, without damaged entries; empty if none is left."""
    kept = Image.Exif()
    # Orientation first: whatever else is damaged, the picture must stay upright.
    tags = (EXIF_ORIENTATION, *sorted(_LASTING_TAGS - {EXIF_ORIENTATION}), *_LASTING_DIRECTORIES)
    for tag in tags:
        try:
            found = image.getexif()
            value = found.get_ifd(tag) if tag in _LASTING_DIRECTORIES else found.get(tag)
            if value:
                kept[tag] = value
                kept.tobytes()
        except Exception:  # noqa: BLE001  damaged tags raise any exception
            if tag in kept:
                del kept[tag]
    return kept.tobytes() if kept else b""
