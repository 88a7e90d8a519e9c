"""Read a photo and its hole mask and prepare them for an engine, for files and requests."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pconv_deploy.errors import HoleMaskError, ImageError, InputError, PictureSizeError
from pconv_deploy.images.arrays import (
    Hole,
    cmyk_to_srgb,
    dilated,
    exif_orientation,
    resized_hole,
    to_pixels,
)
from pconv_deploy.images.files import (
    DEFAULT_MAX_PIXELS,
    FURTHER_PICTURES,
    Convertible,
    displayed_size,
    hole_as_stored,
    read_image,
)
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskReading, MaskRule
from pconv_deploy.images.notes import Note
from pconv_deploy.images.writing import DEFAULT_ENCODING, Encoding
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.regions import Region


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How photos and masks are read, filled and written.

    mask_rule        which pixels of a mask are hole
    masks_as_stored  EXIF orientations, of images and masks, say nothing of where the hole is
    dilate           pixels by which every hole grows, so that no seam of the removed thing stays
    fit_masks        scale a mask of another size to its image instead of refusing it
    opaque           filled pixels lose their transparency
    feather          pixels of a hole's edge that keep some of what was there
    region           how much of a photo the network sees; None: as the engine was loaded
    convert          colour types that may be converted instead of refused
    encoding         of the output
    max_pixels       larger images are refused before they are decoded
    """

    mask_rule: MaskRule = DEFAULT_RULE
    masks_as_stored: bool = False
    dilate: int = 0
    fit_masks: bool = False
    opaque: bool = False
    feather: int = 0
    region: Region | None = None
    convert: frozenset[Convertible] = frozenset()
    encoding: Encoding = DEFAULT_ENCODING
    max_pixels: int = DEFAULT_MAX_PIXELS


def read_photo(
    path: Path, options: PhotoOptions, content: bytes | None = None
) -> tuple[Image.Image, list[Note]]:
    """Decode a photo, and note what of its file is left out or changed.

    Args:
        path: of its file.
        options: those of reading are used.
        content: what to decode instead, with `path` as its name.

    Raises:
        ImageError: as `images.files.read_image`.
    """
    image = read_image(path, options.max_pixels, content=content, allow=options.convert)
    notes = []
    if further := image.info.get(FURTHER_PICTURES):
        left_out = f"{further} more in its file (previews, gain maps, second views) left out"
        notes.append(Note("further pictures", left_out))
    if image.mode == "CMYK":
        image, by_profile = cmyk_to_srgb(image)
        if not by_profile:
            plain = "the CMYK image has no colour profile of use; converted without, colours differ"
            notes.append(Note("no profile", plain))
    return image, notes


@dataclass(frozen=True)
class NamedPhoto:
    """A decoded photo and the names of its file and its mask's, for messages."""

    path: Path
    mask_path: Path
    image: Image.Image


def prepare_photo(
    inpainter: Inpainter, photo: NamedPhoto, mask: MaskReading, options: PhotoOptions
) -> Prepared:
    """Orient the mask as the photo is stored, and prepare both for the engine.

    Raises:
        ImageError: larger than the engine takes, or than `max_pixels` when padded for it.
        HoleMaskError: of another size, or nothing known left.
    """
    image = photo.image
    size = (image.height, image.width)
    require_padded_size(inpainter, photo.path, size, options.max_pixels, options.region)
    hole = _hole_as_stored(mask.hole, photo, options)
    try:
        return inpainter.prepare_hole(
            to_pixels(image),
            hole,
            mask,
            region=options.region,
            opaque=options.opaque,
            feather=options.feather,
        )
    except HoleMaskError as error:
        raise HoleMaskError(f"{photo.path}, {photo.mask_path}: {error}") from error
    except InputError as error:
        raise type(error)(f"{photo.path}: {error}") from error


def require_padded_size(
    inpainter: Inpainter,
    name: Path | str,
    size: tuple[int, int],
    max_pixels: int,
    region: Region | None = None,
) -> None:
    """Check what an image of (height, width) takes, before memory is taken for it.

    A long and narrow one is padded to many times its size.

    Raises:
        ImageError: larger than the engine takes, or than `max_pixels` when padded for it.
    """
    try:
        padded = inpainter.padded_size(*size, region)
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from error
    if padded[0] * padded[1] > max_pixels:
        raise PictureSizeError(
            f"{name} is {size[1]}x{size[0]} and padded for the network {padded[1]}x{padded[0]}, "
            f"more than {max_pixels / 1e6:.1f} megapixels; see --max-megapixels"
        )


def _hole_as_stored(hole: Hole, photo: NamedPhoto, options: PhotoOptions) -> Hole:
    """The hole in the size of the image, in the order its pixels are stored in."""
    image = photo.image
    stored, shown = (image.height, image.width), displayed_size(image)
    # By default, masks are drawn over the picture as viewers show it.
    height, width = stored if options.masks_as_stored else shown
    if hole.shape != (height, width):
        sizes = (
            f"{photo.mask_path} is {hole.shape[1]}x{hole.shape[0]}, "
            f"{photo.path} is {width}x{height}"
        )
        if _fits_turned(hole, (height, width)):
            raise HoleMaskError(f"{sizes}; {_why_turned(image, options)}")
        if not options.fit_masks:
            raise HoleMaskError(
                f"{sizes}; needed the same size. Scale masks to their images with --fit-masks"
            )
        hole = resized_hole(hole, (height, width))
    hole = dilated(hole, options.dilate)
    return hole if options.masks_as_stored else hole_as_stored(hole, image)


def _fits_turned(hole: Hole, size: tuple[int, int]) -> bool:
    """Whether a mask has the proportions of an image of (height, width) turned by 90 degrees."""
    rows, columns = hole.shape
    height, width = size
    rounding = max(size)  # sides of a scaled mask are whole numbers
    upright = abs(rows * width - columns * height) <= rounding
    return not upright and abs(rows * height - columns * width) <= rounding


def _why_turned(image: Image.Image, options: PhotoOptions) -> str:
    orientation = exif_orientation(image)
    if orientation < 5:
        return (
            "the mask fits turned by 90 degrees. Was one of them turned by its EXIF orientation? "
            "Turn the mask"
        )
    if options.masks_as_stored:
        return (
            f"the mask fits the image as viewers show it (EXIF orientation {orientation}): leave "
            "out --masks-as-stored"
        )
    return (
        f"the mask fits turned by 90 degrees, as the image is stored: viewers turn it (EXIF "
        f"orientation {orientation}). If masks were drawn over images as they are stored, use "
        "--masks-as-stored"
    )
