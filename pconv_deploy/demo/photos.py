"""The photos that come with the package; SOURCES.md beside them names authors and licences."""

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


def _load(name: str) -> Image.Image:
    resource = files("pconv_deploy.demo").joinpath("pictures", f"{name}.jpg")
    with resource.open("rb") as stream, Image.open(stream) as image:
        return image.convert("RGB")
