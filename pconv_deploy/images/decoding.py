"""Decode untrusted image files with Pillow and translate its errors into ours."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.Image import DecompressionBombError, DecompressionBombWarning
from PIL.MpoImagePlugin import MpoImageFile

from pconv_deploy.errors import ImageError, InputError
from pconv_deploy.images.file_types import (
    FIRST_BYTES,
    RAW_SUFFIXES,
    READ_KINDS,
    UNREAD_SUFFIXES,
    UNSUPPORTED,
    picture_kind,
)
from pconv_deploy.images.png_metadata import lean_png

# Formats that Pillow may detect, whatever the name: none that starts other programs.
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF: this page is a smaller copy of another
Result = TypeVar("Result")


def decoded(
    path: Path,
    use: Callable[[Image.Image], Result],
    *,
    failure: type[InputError] = ImageError,
    content: bytes | None = None,
) -> Result:
    """Open a picture and give it to `use`, which decodes it while its file is open.

    Args:
        path: of the file.
        use: takes the opened picture; called again if its metadata had to be removed.
        failure: class of the error raised for anything wrong with the file.
        content: decoded instead, with `path` as its name.

    Raises:
        InputError: `failure`.
    """
    source = path if content is None else io.BytesIO(content)
    if path.suffix.lower() in RAW_SUFFIXES:
        raise failure(
            f"{path} is a camera's raw file, which is not read: convert it to PNG or TIFF"
        )
    with _translated(path, failure, content):
        try:
            with Image.open(source, formats=_FORMATS) as opened:
                return use(opened)
        except (ValueError, SyntaxError, UnidentifiedImageError):
            if not (lean := lean_png(source)):
                raise
        lean_content, profile = lean
        with Image.open(io.BytesIO(lean_content), formats=_FORMATS) as opened:
            if profile:
                opened.info["icc_profile"] = profile
            return use(opened)


def require_one_page(path: Path, image: Image.Image) -> None:
    """Check that an opened file holds one picture.

    Raises:
        ImageError: it is animated, or has pages.
    """
    # Phones append previews and gain maps to a photo (MPO): its first picture is the photo.
    pages = 1 if isinstance(image, MpoImageFile) else getattr(image, "n_frames", 1)
    if pages > 1:
        raise ImageError(
            f"{path} is animated or has pages ({pages}); needed one still image. "
            "Save the page that is meant as a file of its own"
        )
    if getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & _REDUCED:
        raise ImageError(
            f"{path} starts with the preview of a larger picture, as cameras' raw files do; "
            "convert it to PNG or TIFF"
        )


def further_pictures(image: Image.Image) -> int:
    """Count the pictures after the photo in its file: previews, gain maps, second views."""
    return max(0, image.n_frames - 1) if isinstance(image, MpoImageFile) else 0


@contextmanager
def _translated(path: Path, failure: type[InputError], content: bytes | None) -> Iterator[None]:
    """Translate the exceptions of Pillow's decoders for malicious or damaged files."""
    try:
        yield
    except failure:
        raise
    except InputError as error:
        raise failure(str(error)) from None
    except (DecompressionBombError, DecompressionBombWarning) as error:
        raise failure(f"{path} is refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise failure(f"{path} is {_unidentified(path, content)}") from error
    except FileNotFoundError as error:
        raise failure(f"{path} does not exist") from error
    except OSError as error:
        if error.errno is not None:
            raise failure(f"cannot read {path}: {error.strerror}") from error
        raise failure(f"{path} is damaged: {error}") from error
    # Decoders may raise any exception: SyntaxError, struct.error, RuntimeError, TypeError...
    except Exception as error:
        raise failure(f"{path} is damaged: {error}") from error


def _unidentified(path: Path, content: bytes | None) -> str:
    """Describe a file that no decoder reads."""
    with path.open("rb") if content is None else io.BytesIO(content) as stream:
        start = stream.read(FIRST_BYTES)
    if not start:
        return "empty"
    kind = picture_kind(start)
    if kind in READ_KINDS or (kind is None and path.suffix.lower() not in UNREAD_SUFFIXES):
        return "no image that can be read"
    return UNSUPPORTED.format(kind or path.suffix)
