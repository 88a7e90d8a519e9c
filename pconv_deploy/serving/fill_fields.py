"""The options of a request that fills a photo: those of `pconv-deploy infer`, as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pconv_deploy.commands.photo import PhotoOptions
from pconv_deploy.images.feather import MOST_FEATHER
from pconv_deploy.images.files import Convertible
from pconv_deploy.images.hole_rule import MaskConvention, MaskRule
from pconv_deploy.images.writing import Compression, Encoding
from pconv_deploy.regions import REGIONS
from pconv_deploy.serving.errors import RequestError

FORMATS: Final = ("png", "jpg", "webp", "tif")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@dataclass(frozen=True)
class Field:
    """An option that a request may carry.

    schema   as JSON Schema has it
    meaning  one sentence
    """

    schema: Mapping[str, Any]
    meaning: str


_FLAG: Final = {"type": "boolean", "default": False}
FIELDS: Final[Mapping[str, Field]] = {
    "mask_convention": Field(
        {"type": "string", "enum": list(get_args(MaskConvention)), "default": "hole-white"},
        "Which pixels of the mask are the hole: white, black or transparent ones.",
    ),
    "mask_threshold": Field(
        {"type": "integer", "minimum": 1, "maximum": 255},
        "Smallest value from which a pixel is hole; 16 if not given, and a mask that holds only "
        "lower values is refused.",
    ),
    "masks_as_stored": Field(
        _FLAG, "The mask was drawn over the pixels as stored, not turned by EXIF orientation."
    ),
    "dilate": Field(
        {"type": "integer", "minimum": 0, "maximum": 200, "default": 0},
        "Pixels by which the hole grows.",
    ),
    "fit_masks": Field(_FLAG, "Scale a mask of another size to its photo."),
    "opaque": Field(_FLAG, "Make filled pixels opaque."),
    "feather": Field(
        {"type": "integer", "minimum": 0, "maximum": MOST_FEATHER, "default": 0},
        "Pixels of the hole's edge that keep some of what was there.",
    ),
    "region": Field(
        {"type": "string", "enum": list(REGIONS)},
        "What the network sees: exact is the whole photo, crop a part around each hole, auto the "
        "whole photo if the memory suffices; by default as the server was started.",
    ),
    "convert_cmyk": Field(_FLAG, "Convert a CMYK photo to sRGB instead of refusing it."),
    "convert_16_bit": Field(
        _FLAG, "Read 8 of the 16 bits of a 16-bit colour photo instead of refusing it."
    ),
    "format": Field(
        {"type": "string", "enum": [*FORMATS, "same"], "default": "same"},
        "Format of the answer; same is the photo's own, or PNG where that is not written. "
        "jpg changes known pixels too.",
    ),
    "quality": Field(
        {"type": "integer", "minimum": 1, "maximum": 100, "default": 95}, "Quality of JPEG."
    ),
    "compression": Field(
        {"type": "string", "enum": list(get_args(Compression)), "default": "fast"},
        "Compression of PNG and WebP: fast, or small for a smaller file.",
    ),
}


def read_fields(given: Mapping[str, str], max_pixels: int) -> tuple[PhotoOptions, str]:
    """Read the options of a request.

    Args:
        given: their text, by name.
        max_pixels: the server's limit.

    Returns:
        The options, and the format of the answer: one of `FORMATS`, or "same".

    Raises:
        RequestError: 400, an unknown name, or a value that it cannot have.
    """
    for name in given:
        if name not in FIELDS:
            raise RequestError(
                400,
                f"found a field {name[:80]!r}; needed image, mask, or one of {', '.join(FIELDS)}",
            )
    values: dict[str, Any] = {
        name: _value(name, given[name]) if name in given else field.schema.get("default")
        for name, field in FIELDS.items()
    }
    convertible: dict[Convertible, bool] = {
        "cmyk": values["convert_cmyk"],
        "16-bit": values["convert_16_bit"],
    }
    options = PhotoOptions(
        mask_rule=MaskRule(values["mask_convention"], values["mask_threshold"]),
        masks_as_stored=values["masks_as_stored"],
        dilate=values["dilate"],
        fit_masks=values["fit_masks"],
        opaque=values["opaque"],
        feather=values["feather"],
        region=values["region"],
        convert=frozenset(kind for kind, wanted in convertible.items() if wanted),
        encoding=Encoding(quality=values["quality"], compression=values["compression"]),
        max_pixels=max_pixels,
    )
    return options, values["format"]


def _value(name: str, text: str) -> Any:
    schema, text = FIELDS[name].schema, text.strip()
    if schema["type"] == "boolean":
        needed = "true or false"
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
    elif schema["type"] == "integer":
        least, most = schema["minimum"], schema["maximum"]
        needed = f"{least} to {most}"
        whole = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if whole and least <= int(text) <= most:
            return int(text)
    else:
        needed = f"one of {', '.join(schema['enum'])}"
        if text in schema["enum"]:
            return text
    raise RequestError(400, f"found {name}={text[:80]!r}; needed {needed}")
