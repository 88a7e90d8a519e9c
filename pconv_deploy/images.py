"""Photos and hole masks as people have them, as the arrays a network takes, and back.

Pixels are filled as 8-bit RGB. Everything else an image carries (16 bits, grey, alpha, colour
profile, orientation, resolution) stays with it: only the pixels in the hole are replaced, all
others are the very ones that came in.
"""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from pconv_deploy.errors import HoleMaskError, ImageError, InputError
from pconv_deploy.files import atomic_file

Pixels = NDArray[Any]
AnyImage = TypeVar("AnyImage", Image.Image, NDArray[Any])
Bytes = NDArray[np.uint8]
Hole = NDArray[np.bool_]
MaskConvention = Literal["hole-white", "hole-black", "alpha"]

DEFAULT_MAX_PIXELS = 16 << 20  # 4096 x 4096
_MODES = ("L", "LA", "RGB", "RGBA", "P", "I;16", "I;16B", "1")
# Mask files: JPEG noise in black areas stays below, every grey edge pixel is above.
_GREY_FLOOR = 16
_EXIF_ORIENTATION = 0x0112


# --- arrays -------------------------------------------------------------------------------


def to_pixels(image: Image.Image | ArrayLike) -> Pixels:
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
        if image.mode not in _MODES:
            raise ImageError(
                f"found an image of mode {image.mode}; needed one of {', '.join(_MODES)}. "
                "Convert it first, for instance with image.convert('RGB')"
            )
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode == "1":
            image = image.convert("L")
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
    palette_facts = ("transparency", "background") if image.mode == "P" else ()
    result.info = {k: v for k, v in image.info.items() if k not in palette_facts}
    return result


def to_hole(hole_mask: Image.Image | ArrayLike, size: tuple[int, int]) -> Hole:
    """Nonzero = to be filled -> (H, W) of booleans.

    Args:
        hole_mask: array (H, W) or (H, W, 1) of any number type, or a one-channel image.
        size: height and width of the image it belongs to.

    Raises:
        HoleMaskError: another size or shape, NaN, or nothing known left.
    """
    values = np.asarray(hole_mask)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise HoleMaskError(
            f"found a hole mask of shape {values.shape}, {values.dtype}; needed (height, width) "
            "numbers, nonzero = to be filled"
        )
    if values.shape != size:
        raise HoleMaskError(
            f"the hole mask is {_size_text(values.shape)}, its image is {_size_text(size)}; "
            "needed the same size"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise HoleMaskError("the hole mask holds NaN")
    hole: Hole = values != 0
    if hole.all():
        raise HoleMaskError(
            "the hole mask covers the whole image: nothing is known to fill it from. "
            "Is it inverted? Here nonzero (white) means fill"
        )
    return hole


def dilated(hole: Hole, pixels: int) -> Hole:
    """Grow a hole by `pixels` in every direction, diagonals included."""
    if pixels == 0:
        return hole
    grown = Image.fromarray(hole.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    result: Hole = np.asarray(grown) != 0
    return result


def resized_hole(hole: Hole, size: tuple[int, int]) -> Hole:
    """Scale a hole to (height, width); a pixel only partly in the hole belongs to it."""
    height, width = size
    grey = Image.fromarray(hole.astype(np.uint8) * np.uint8(255))
    return np.asarray(grey.resize((width, height), Image.Resampling.BOX)) > 0


# --- files --------------------------------------------------------------------------------


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode one still image, with its size bounded before memory is taken for it.

    Raises:
        ImageError: missing, not an image, truncated, too large, animated, or of a colour type
            that would be damaged on the way (CMYK, 16 bits a colour channel).
    """
    with _decoding(path, ImageError), Image.open(path) as image:
        _check_header(path, image, max_pixels)
        image.load()
        # What the file says of its pixels is kept; what it says of its own encoding is not.
        kept = ("exif", "icc_profile", "dpi", "transparency")
        image.info = {k: v for k, v in image.info.items() if k in kept}
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
        return values >= _GREY_FLOOR if convention == "hole-white" else values < 256 - _GREY_FLOOR


def as_displayed(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation, as viewers show it."""
    return ImageOps.exif_transpose(image)


def hole_as_stored(hole: Hole, image: Image.Image) -> Hole:
    """Turn a hole drawn over the displayed image into the order its pixels are stored in."""
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    turns: dict[int, Callable[[Hole], Hole]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1, :],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turns.get(orientation, lambda a: a)(hole))


def save_image(path: Path, image: Image.Image, quality: int = 95) -> None:
    """Encode by the suffix of `path`, with profile, EXIF and resolution; whole or not at all.

    Raises:
        ImageError: the format cannot hold such an image, as JPEG cannot hold alpha.
        OutputError: the disk is full, the folder not writable, and the like.
    """
    kept: dict[str, Any] = {
        k: image.info[k] for k in ("exif", "icc_profile", "dpi", "transparency") if k in image.info
    }
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


def _check_size(path: Path, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels; at most "
            f"{max_pixels / 1e6:.1f} are accepted. Raise the limit with --max-megapixels"
        )


def _check_header(path: Path, image: Image.Image, max_pixels: int) -> None:
    _check_size(path, image, max_pixels)
    # Phones append previews to a photo (MPO): its first picture is the photo.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{path} is animated or has pages ({frames}); needed one still image")
    if image.mode not in _MODES:
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


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]} (width x height)"
