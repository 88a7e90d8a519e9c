"""Photos and hole masks as files: decoded with suspicion, encoded whole or not at all."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pconv_deploy.errors import HoleMaskError, ImageError, InputError
from pconv_deploy.files import atomic_file
from pconv_deploy.images import MODES, Hole

MaskConvention = Literal["hole-white", "hole-black", "alpha"]

DEFAULT_MAX_PIXELS = 8_400_000
# Measured with ONNX Runtime in fp32, see docs/measurements.md.
_GIB_PER_MEGAPIXEL = 1.1
# Facts of the picture that outlive its file; all others are about the file's own encoding.
_KEPT_INFO = ("exif", "icc_profile", "dpi", "transparency")
# Mask files: JPEG noise in black areas stays below, every grey edge pixel is above.
_GREY_FLOOR = 16
_EXIF_ORIENTATION = 0x0112
# Description, make, model, orientation, software, date, artist, copyright.
_DESCRIPTIVE_TAGS = {0x010E, 0x010F, 0x0110, _EXIF_ORIENTATION, 0x0131, 0x0132, 0x013B, 0x8298}
# From the displayed order back to the stored one, by EXIF orientation.
_UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode one still image, with its size bounded before memory is taken for it.

    Raises:
        ImageError: missing, not an image, truncated, too large, animated, or of a colour type
            that would be damaged on the way (CMYK, 16 bits a colour channel).
    """
    with _decoding(path, ImageError), Image.open(path) as image:
        _check_header(path, image, max_pixels)
        image.load()
        image.info = {k: v for k, v in image.info.items() if k in _KEPT_INFO}
        if image.format == "TIFF" and (exif := _descriptive_tags(image)):
            image.info["exif"] = exif
        return image.copy()


def read_hole_mask(
    path: Path, convention: MaskConvention = "hole-white", max_pixels: int = DEFAULT_MAX_PIXELS
) -> Hole:
    """Decode a mask file into (H, W) of booleans, true = to be filled.

    Grey pixels count as hole, so that no half-covered edge stays behind. The mask is turned
    upright if it says so itself (EXIF).

    Args:
        path: of an image of any mode.
        convention: whether white, black or transparent pixels are the hole.
        max_pixels: as in `read_image`.

    Raises:
        HoleMaskError: as `read_image`'s ImageError; or no alpha channel with `alpha`.
    """
    with _decoding(path, HoleMaskError), Image.open(path) as image:
        _check_size(path, image, max_pixels)
        upright = ImageOps.exif_transpose(image)
        if convention == "alpha":
            if not upright.has_transparency_data:
                raise HoleMaskError(
                    f"{path} has no alpha channel, so no transparent pixels can be its hole; "
                    "use --mask-convention hole-white or hole-black"
                )
            values = np.asarray(upright.convert("RGBA"))[:, :, 3]
        elif upright.mode.startswith("I;16"):
            values = (np.asarray(upright) >> 8).astype(np.uint8)
        else:
            values = np.asarray(upright.convert("RGB").convert("L"))
        light: Hole = values >= _GREY_FLOOR
        dark: Hole = values < 256 - _GREY_FLOOR
        return light if convention == "hole-white" else dark


def as_displayed(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation, as viewers show it."""
    return ImageOps.exif_transpose(image)


def hole_as_stored(hole: Hole, image: Image.Image) -> Hole:
    """Turn a hole drawn over the displayed image into the order its pixels are stored in."""
    turn = _UNTURN.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    if turn is None:
        return hole
    stored: Hole = np.asarray(Image.fromarray(hole.astype(np.uint8)).transpose(turn)) != 0
    return stored


def save_image(path: Path, image: Image.Image, quality: int = 95) -> None:
    """Encode by the suffix of `path`, with profile, EXIF and resolution; whole or not at all.

    Raises:
        ImageError: the format cannot hold such an image, as JPEG cannot hold alpha.
        OutputError: the disk is full, the folder not writable, and the like.
    """
    kept: dict[str, Any] = {k: image.info[k] for k in _KEPT_INFO if k in image.info}
    if path.suffix.lower() in (".jpg", ".jpeg"):
        kept |= {"quality": quality, "subsampling": 0}
        kept.pop("transparency", None)
    elif path.suffix.lower() == ".webp":
        kept |= {"lossless": True, "exact": True}  # exact: colours under alpha 0 stay
    with atomic_file(path) as partial:
        try:
            image.save(partial, **kept)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the image's
            raise ImageError(f"cannot write {path} as {path.suffix}: {error}") from error


@contextmanager
def _decoding(path: Path, failure: type[InputError]) -> Iterator[None]:
    """Say in our words what Pillow's decoders raise on hostile or broken files."""
    try:
        with warnings.catch_warnings():
            # Damaged EXIF and the like: Pillow warns and goes on; so do we.
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        raise failure(str(error)) from None
    except Image.DecompressionBombError as error:
        raise failure(f"{path} is refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise failure(f"{path} is {'empty' if empty else 'no image that can be read'}") from error
    except FileNotFoundError as error:
        raise failure(f"{path} does not exist") from error
    except (IsADirectoryError, PermissionError) as error:
        raise failure(f"cannot read {path}: {error.strerror}") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise failure(f"{path} is damaged: {error}") from error


def _descriptive_tags(image: Image.Image) -> bytes:
    """The tags of a TIFF that speak of the picture; its others speak of the file's own layout."""
    found, kept = image.getexif(), Image.Exif()
    for tag in _DESCRIPTIVE_TAGS & found.keys():
        kept[tag] = found[tag]
    return kept.tobytes() if kept else b""


def _check_size(path: Path, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels; at most "
            f"{max_pixels / 1e6:.1f} are accepted. Raise the limit with --max-megapixels if "
            f"memory allows: the full-size network takes {_GIB_PER_MEGAPIXEL} GiB a megapixel"
        )


def _check_header(path: Path, image: Image.Image, max_pixels: int) -> None:
    _check_size(path, image, max_pixels)
    # Phones append previews to a photo (MPO): its first picture is the photo.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{path} is animated or has pages ({frames}); needed one still image")
    if image.mode not in MODES:
        raise ImageError(
            f"{path} is of mode {image.mode}; needed grey, RGB or palette, with or without "
            "alpha. Convert it first, so that its colours change where you can see it"
        )
    # The first tile names the layout in the file; Pillow's types do not know it.
    tiles = getattr(image, "tile", None)
    stored_as = str(tiles[0].args) if tiles else ""
    if ";16" in stored_as and not image.mode.startswith("I;16"):
        raise ImageError(
            f"{path} has 16 bits a colour channel, of which Pillow reads 8. Convert it to 8 bits, "
            "or pass a uint16 array to Inpainter"
        )
