"""Photos and hole masks as files: decoded with suspicion, encoded whole or not at all."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from pconv_deploy.decoding import decoded, require_one_page
from pconv_deploy.errors import HoleMaskError, ImageError, UsageError
from pconv_deploy.files import atomic_file
from pconv_deploy.images import MODES, Hole, to_pixels, to_rgb8

MaskConvention = Literal["hole-white", "hole-black", "alpha"]

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".avif")
)
# What we write, and the modes each holds without loss of depth, alpha or profile.
OUTPUT_MODES = {
    ".png": ("L", "LA", "RGB", "RGBA", "I;16"),
    ".tif": ("L", "LA", "RGB", "RGBA", "I;16"),
    ".tiff": ("L", "LA", "RGB", "RGBA", "I;16"),
    ".webp": ("L", "LA", "RGB", "RGBA"),
    ".jpg": ("L", "RGB"),
    ".jpeg": ("L", "RGB"),
}
DEFAULT_MAX_PIXELS = 8_400_000
# Measured with ONNX Runtime in fp32, see docs/measurements.md.
_GIB_PER_MEGAPIXEL = 1.1
# Mask files: JPEG noise in black areas stays below, every grey edge pixel is above.
_GREY_FLOOR = 16
_EXIF_ORIENTATION = 0x0112
# EXIF tags that speak of the picture: description, make, model, orientation, software, date,
# artist, copyright, and the directories of the camera and of the place. The others speak of the
# layout of the file they were in, and would be believed of the next one.
_LASTING_TAGS = {0x010E, 0x010F, 0x0110, _EXIF_ORIENTATION, 0x0131, 0x0132, 0x013B, 0x8298}
_LASTING_DIRECTORIES = (0x8769, 0x8825)
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


def read_image(
    path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, *, content: bytes | None = None
) -> Image.Image:
    """Decode one still image, with its size bounded before memory is taken for it.

    Its info holds `exif`, `icc_profile` and `dpi` where the file has them and they make sense.

    Args:
        path: of the file.
        max_pixels: more are refused.
        content: what to decode instead, with `path` as its name: a member of an archive.

    Raises:
        ImageError: missing, not an image, truncated, too large, animated, or of a colour type
            that would be damaged on the way (CMYK, 16 bits a colour channel).
    """

    def still(opened: Image.Image) -> Image.Image:
        _check_size(path, opened.size, max_pixels)
        _check_kind(path, opened)
        opened.load()
        image = opened.copy()
        image.info = _lasting_info(opened)
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
    path: Path, convention: MaskConvention = "hole-white", max_pixels: int = DEFAULT_MAX_PIXELS
) -> Hole:
    """Decode a mask file into (H, W) of booleans, true = to be filled.

    Grey pixels count as hole, so that no half-covered edge stays behind. The mask is turned
    upright if it says so itself (EXIF).

    Args:
        path: of an image of any mode but float.
        convention: whether white, black or transparent pixels are the hole.
        max_pixels: as in `read_image`.

    Raises:
        HoleMaskError: as `read_image`'s ImageError; no alpha channel with `alpha`; or values
            so small that they are hardly meant as grey levels.
    """

    def upright(opened: Image.Image) -> Image.Image:
        _check_size(path, opened.size, max_pixels)
        require_one_page(path, opened)
        opened.load()
        return ImageOps.exif_transpose(opened)

    image = decoded(path, upright, failure=HoleMaskError)
    transparent = image.has_transparency_data
    mode = image.mode
    if convention == "alpha" and transparent:
        values = np.asarray(image.convert("RGBA"))[:, :, 3]
    elif mode.startswith("I"):  # 16 bits; rounded up, so that no value turns into no hole
        values = ((np.asarray(image).clip(0, 65535).astype(np.uint32) + 255) >> 8).clip(0, 255)
    else:
        values = np.asarray(image.convert("RGB").convert("L"))
    if convention == "alpha" and not transparent:
        raise HoleMaskError(
            f"{path} has no alpha channel, so no transparent pixels can be its hole; "
            "use --mask-convention hole-white or hole-black"
        )
    if mode == "F":
        raise HoleMaskError(f"{path} holds floating point numbers; needed grey levels")
    if 0 < values.max() < _GREY_FLOOR:
        raise HoleMaskError(
            f"{path} holds no value above {values.max()} of 255: too dark to be told from black. "
            "Draw holes in white, 255"
        )
    light: Hole = values >= _GREY_FLOOR
    dark: Hole = values < 256 - _GREY_FLOOR
    return light if convention == "hole-white" else dark


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as viewers show the image, by its EXIF orientation."""
    height, width = image.height, image.width
    return (width, height) if _orientation(image) >= 5 else (height, width)


def hole_as_stored(hole: Hole, image: Image.Image) -> Hole:
    """Turn a hole drawn over the displayed image into the order its pixels are stored in."""
    turn = _UNTURN.get(_orientation(image))
    if turn is None:
        return hole
    stored: Hole = np.asarray(Image.fromarray(hole.astype(np.uint8)).transpose(turn)) != 0
    return stored


def require_writable(path: Path, mode: str) -> None:
    """Check that a format holds an image of this mode.

    Raises:
        ImageError: it would lose alpha or depth.
        UsageError: we do not write such files.
    """
    suffix = path.suffix.lower()
    if suffix not in OUTPUT_MODES:
        raise UsageError(f"cannot write {path}: needed one of {' '.join(OUTPUT_MODES)}")
    if mode not in OUTPUT_MODES[suffix]:
        raise ImageError(
            f"cannot write {path}: {suffix} holds {', '.join(OUTPUT_MODES[suffix])}, the image is "
            f"{mode}. Use --format png"
        )


def save_image(path: Path, image: Image.Image, quality: int = 95) -> None:
    """Encode by the suffix of `path`, with profile, EXIF and resolution; whole or not at all.

    Args:
        path: of the new file.
        image: of a mode that `require_writable` accepts.
        quality: of JPEG, 1..100; PNG, TIFF and WebP are lossless.

    Raises:
        ImageError: the format cannot hold the image or its EXIF.
        OutputError: the disk is full, the folder not writable, and the like.
    """
    require_writable(path, image.mode)
    kept: dict[str, Any] = {
        key: image.info[key] for key in ("exif", "icc_profile", "dpi") if key in image.info
    }
    if path.suffix.lower() in (".jpg", ".jpeg"):
        kept |= {"quality": quality, "subsampling": 0}
    elif path.suffix.lower() == ".webp":
        kept |= {"lossless": True, "exact": True}  # exact: colours under alpha 0 stay
    with atomic_file(path) as partial:
        try:
            image.save(partial, **kept)
        # Pillow's encoders raise whatever comes up; what the system says has a number.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ImageError(f"cannot write {path} as {path.suffix}: {error}") from error


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels; at most "
            f"{max_pixels / 1e6:.1f} are accepted. Raise the limit with --max-megapixels if "
            f"memory allows: the full-size network takes {_GIB_PER_MEGAPIXEL} GiB a megapixel"
        )


def _check_kind(path: Path, image: Image.Image) -> None:
    require_one_page(path, image)
    if image.mode not in MODES:
        raise ImageError(
            f"{path} is of mode {image.mode}; needed grey, RGB or palette, with or without "
            "alpha. Convert it first, so that its colours change where you can see it"
        )
    if image.mode.startswith("I;16") and "transparency" in image.info:
        raise ImageError(
            f"{path} is 16-bit grey with a transparent colour, which would be lost; convert it"
        )
    # The first tile names the layout in the file; Pillow's types do not know it.
    tiles = getattr(image, "tile", None)
    stored_as = str(tiles[0].args) if tiles else ""
    if ";16" in stored_as and not image.mode.startswith("I;16"):
        raise ImageError(
            f"{path} has 16 bits a colour channel, of which Pillow reads 8. Convert it to 8 bits, "
            "or pass a uint16 array to Inpainter"
        )


def _lasting_info(image: Image.Image) -> dict[str | tuple[int, int], Any]:
    """Facts of the picture that outlive its file, without those that are damaged."""
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
    """The lasting EXIF data, without what is damaged; empty if nothing is left."""
    kept = Image.Exif()
    # Orientation first: whatever else is damaged, the picture must stay upright.
    tags = (_EXIF_ORIENTATION, *sorted(_LASTING_TAGS - {_EXIF_ORIENTATION}), *_LASTING_DIRECTORIES)
    for tag in tags:
        try:
            found = image.getexif()
            value = found.get_ifd(tag) if tag in _LASTING_DIRECTORIES else found.get(tag)
            if value:
                kept[tag] = value
                kept.tobytes()
        except Exception:  # noqa: BLE001  damaged tags raise whatever comes up
            if tag in kept:
                del kept[tag]
    return kept.tobytes() if kept else b""


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return orientation if orientation in _UNTURN else 1
