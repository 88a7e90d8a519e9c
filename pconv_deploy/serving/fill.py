"""A photo and a mask as files of a request, and the picture that answers them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pconv_deploy.commands.photo import NamedPhoto, PhotoOptions, prepare_photo, read_photo
from pconv_deploy.images.arrays import Pixels, like
from pconv_deploy.images.file_types import FIRST_BYTES, picture_kind
from pconv_deploy.images.files import read_mask_file
from pconv_deploy.images.notes import Note
from pconv_deploy.images.writing import encode_image, require_writable
from pconv_deploy.inpainter import Inpainter, Prepared
from pconv_deploy.serving.pipeline import Stages

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "TIFF": ".tif"}
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".tif": "image/tiff",
}
_MAX_NAME = 100


@dataclass(frozen=True)
class Upload:
    """A file that a request carries; `name` is what its client calls it."""

    name: str
    content: bytes

    @property
    def path(self) -> Path:
        """A name for messages, and for the rules that go by suffix; nothing is read there."""
        name = self.name.replace("\\", "/").rpartition("/")[2]
        return Path("".join(c for c in name if c.isprintable())[-_MAX_NAME:] or "picture")


@dataclass(frozen=True)
class FilledPhoto:
    """The answer: an encoded picture.

    name        for whoever saves it
    hole_share  0..1
    """

    content: bytes
    name: str
    media_type: str
    hole_share: float
    notes: Sequence[Note]


@dataclass
class PhotoWork:
    """The two halves of a request to fill a photo, in the shape of `pipeline.Work`.

    image_format  of the answer: png, jpg, webp, tif, or same
    """

    inpainter: Inpainter
    image: Upload
    mask: Upload
    options: PhotoOptions
    image_format: str
    _photo: Image.Image = field(init=False)
    _prepared: Prepared = field(init=False)
    _notes: list[Note] = field(init=False)

    def load(self, stages: Stages) -> Prepared:
        """Decode photo and mask, and make them ready.

        Raises:
            InputError: a picture or mask that cannot be used, or a format that cannot hold it.
        """
        options = self.options
        with stages.timed("decode"):
            photo, self._notes = read_photo(self.image.path, options, self.image.content)
            mask = read_mask_file(
                self.mask.path,
                options.mask_rule,
                options.max_pixels,
                content=self.mask.content,
                as_stored=options.masks_as_stored,
            )
        with stages.timed("pre"):
            named = NamedPhoto(self.image.path, self.mask.path, photo)
            self._photo, self._prepared = photo, prepare_photo(self.inpainter, named, mask, options)
            self._notes += self._prepared.notes
            require_writable(self._answer_path, like(photo, self._prepared.pixels).mode)
        return self._prepared

    def answer(self, pixels: Pixels, stages: Stages) -> FilledPhoto:
        """Encode what was filled, (H, W, C)."""
        path, stream = self._answer_path, io.BytesIO()
        with stages.timed("encode"):
            encode_image(path, like(self._photo, pixels), stream, self.options.encoding)
        return FilledPhoto(
            stream.getvalue(),
            path.name,
            MEDIA_TYPES[path.suffix],
            float(self._prepared.hole.mean()),
            self._notes,
        )

    @property
    def _answer_path(self) -> Path:
        kind = picture_kind(self.image.content[:FIRST_BYTES])
        own = _SUFFIXES.get(kind or "", ".png")
        suffix = own if self.image_format == "same" else f".{self.image_format}"
        return Path(f"{self.image.path.stem}-filled{suffix}")
