"""The photos that come with the package; SOURCES.md beside them names authors and licences."""

import io
from importlib.resources import files

from PIL import Image

# By name: author and licence, as the report credits them.
CREDITS = {
    "astronaut": "NASA, public domain",
    "chelsea": "Stefan van der Walt, CC0",
    "china": "Daniel Büchele, CC BY 2.0",
    "coffee": "Rachel Michetti, CC0",
    "flower": "vultilion, CC BY 2.0",
    "rocket": "SpaceX, public domain",
}


def photos() -> dict[str, Image.Image]:
    """All photos by name, RGB, at most 512 pixels a side."""
    return {name: _load(name) for name in CREDITS}


def sample_photo() -> Image.Image:
    """One of them, 512x512."""
    return _load("astronaut")


def photo_file(name: str) -> bytes:
    """The JPEG file of one of them."""
    return files("pconv_deploy.assets").joinpath("pictures", f"{name}.jpg").read_bytes()


def _load(name: str) -> Image.Image:
    with Image.open(io.BytesIO(photo_file(name))) as image:
        return image.convert("RGB")
