"""How the network that comes with the package was made: `python -m pconv_deploy.demo.recipe`.

Photographs that may be redistributed, cut into tiles at several scales, and pictures that are
computed. docs/demo-checkpoint.md says where the photographs come from, and gives all commands.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pconv_deploy.assets.photos import photos
from pconv_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from pconv_deploy.errors import InputError
from pconv_deploy.images.files import read_image

_TILE = 256
# Shorter sides the photographs are scaled to; whole scenes and details.
_SIDES = (320, 512, 800, 1280)
_MAX_PIXELS = 40_000_000
# File name, first digits of the SHA-256, author and licence. The Debian packages are
# lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and palapeli-data; grass, gravel and brick come
# in scikit-image's wheel.
PHOTOGRAPHS: dict[str, tuple[str, str]] = {
    "Bridge_by_Sander_Klootwijk.jpg": ("bd86b081f9975e2b", "Sander Klootwijk, CC BY-SA 4.0"),
    "Dragonfly_by_Bolly.jpg": ("af5af17841009732", "Bolly, CC BY-SA 4.0"),
    "Picture_0B_by_freespace.jpg": ("c8c0ab18e48d9e04", 'Trevor "Freespace", CC BY 4.0'),
    "Wine_by_Jakkub_Mede.jpg": ("d2e96e6d4da40dd8", "Jakub Mede, CC BY 4.0"),
    "aitzgorri_by_Aitzol_Berasategi.jpg": ("66268e7b48f8854d", "Aitzol Berasategi, CC BY 4.0"),
    "free_by_Peter_Nerlich.jpg": ("85a5453c2fed514c", "Peter Nerlich, CC BY-SA 4.0"),
    "friends_by_Aitzol_Berasategi.jpg": ("cc40e313c74e421e", "Aitzol Berasategi, CC BY 4.0"),
    "greentock_by_Peter_Nerlich.jpg": ("e7b20e2db9dcd6e2", "Peter Nerlich, CC BY-SA 4.0"),
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": ("414d0072b2f6f2c5", "Aitzol Berasategi, CC BY 4.0"),
    "seeding_by_Clements_Engelhardt.jpg": ("a5634d1ab5e41a35", "Clemens Engelhardt, CC0"),
    "sunset_by_Aitzol_Berasategi.jpg": ("474dab6a4b9f94dc", "Aitzol Berasategi, CC BY 4.0"),
    "Kleiber_by_Lukas_Baubkus.jpg": ("6572410c09f4492c", "Lukas Baubkus, CC BY-SA 3.0"),
    "cincinnati-bridge.jpg": ("09772d09318b34a5", "Derek Jensen, public domain"),
    "citrus-fruits.jpg": ("0cbd7154a1478980", "US Department of Agriculture, public domain"),
    "grass.png": ("b6b6022426b38936", "CC0Textures, CC0"),
    "gravel.png": ("c48615b451bf1e60", "CC0Textures, CC0"),
    "brick.png": ("7966caf324f6ba84", "CC0Textures, CC0"),
}
# Never trained on: these and the demo's own photographs show what the network makes of new ones.
HELD_OUT: dict[str, tuple[str, str]] = {
    "Picture_1A_by_freespace.jpg": ("89e86af38d04daae", 'Trevor "Freespace", CC BY 4.0'),
    "life_by_Aitzol_Berasategi.jpg": ("4c119350ead80201", "Aitzol Berasategi, CC BY 4.0"),
    "european-honey-bee.jpg": ("9d54ae706bddd899", "John Severns, public domain"),
}


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def pictures(
    photographs: Annotated[Path, typer.Argument(help="Folder with the photographs, at any depth.")],
    output: Annotated[Path, typer.Argument(help="Folder for train/ and held-out/.")],
    computed: Annotated[int, typer.Option(min=0, help="How many pictures to compute.")] = 1500,
) -> None:
    """Cut the photographs into tiles and compute the other pictures."""
    train, held_out = output / "train", output / "held-out"
    for folder in (train, held_out):
        folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, photo in _read(photographs, PHOTOGRAPHS):
        for number, tile in enumerate(_tiles(photo)):
            tile.save(train / f"{Path(name).stem}-{number:03d}.jpg", quality=92)
            count += 1
    for name, photo in _read(photographs, HELD_OUT):
        photo.thumbnail((768, 768), Image.Resampling.LANCZOS)
        photo.save(held_out / f"{Path(name).stem}.jpg", quality=92)
    for name, photo in photos().items():
        photo.save(held_out / f"{name}.jpg", quality=95)
    for number in range(computed):
        rng = np.random.default_rng([7, number])
        computed_picture(rng, _TILE).save(train / f"computed-{number:05d}.jpg", quality=92)
    typer.echo(f"{count} tiles of {len(PHOTOGRAPHS)} photographs, {computed} computed pictures")


@app.command()
def store(
    network: Annotated[Path, typer.Argument(help="network.safetensors of the training run.")],
    output: Annotated[Path, typer.Argument(help="Checkpoint to write.")],
) -> None:
    """Store a checkpoint in half precision."""
    checkpoint = load_checkpoint(network)
    save_checkpoint(
        output,
        checkpoint.model,
        normalisation=checkpoint.normalisation,
        training=checkpoint.source.training,
        half=True,
    )
    typer.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _read(folder: Path, wanted: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Image.Image]]:
    for name, (digits, _) in wanted.items():
        found = next(iter(sorted(folder.rglob(name))), None)
        if found is None:
            raise InputError(
                f"{folder} holds no {name}; docs/demo-checkpoint.md says where to get it"
            )
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        if not digest.startswith(digits):
            raise InputError(f"{found} is another file: SHA-256 {digest[:12]}, needed {digits}")
        yield name, read_image(found, _MAX_PIXELS).convert("RGB")


def _tiles(photo: Image.Image) -> Iterator[Image.Image]:
    for side in _SIDES:
        scale = side / min(photo.size)
        if scale > 1 and side != _SIDES[0]:
            continue
        width, height = (max(_TILE, round(length * scale)) for length in photo.size)
        scaled = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
        for top in _starts(height):
            for left in _starts(width):
                yield scaled.crop((left, top, left + _TILE, top + _TILE))


def _starts(length: int) -> list[int]:
    """Where tiles begin along one side: evenly, about three quarters of a tile apart."""
    count = 1 + math.ceil((length - _TILE) / (0.75 * _TILE))
    return [round(start) for start in np.linspace(0, length - _TILE, count)]


def computed_picture(rng: np.random.Generator, side: int) -> Image.Image:
    """Overlapping shapes of all sizes, shaded and textured, as objects hide each other.

    Sizes follow the power law of natural pictures ("dead leaves", Lee, Mumford and Huang 2001).
    """
    palette = rng.uniform(0, 255, (int(rng.integers(3, 8)), 3))
    picture = _shading(rng, side, palette)
    for _ in range(int(rng.integers(8, 60))):
        radius = min(0.6, 0.03 / rng.random() ** 0.7) * side
        outline = Image.new("L", (side, side))
        _shape(ImageDraw.Draw(outline), rng, side, radius)
        if rng.random() < 0.3:
            outline = outline.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
        alpha = np.asarray(outline, np.float32)[..., None] / 255
        picture = picture * (1 - alpha) + _shading(rng, side, palette) * alpha
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _shading(
    rng: np.random.Generator, side: int, palette: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A colour that runs into another, with stripes or cloudy texture; (side, side, 3)."""
    first, second = palette[rng.integers(len(palette), size=2)] + rng.normal(0, 12, (2, 3))
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    along = (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)
    share = 0.5 + along * rng.uniform(0, 1)
    kind = rng.random()
    if kind < 0.2:
        share = share + rng.uniform(0.05, 0.4) * np.sin(along * rng.uniform(20, 200))
    elif kind < 0.6:
        share = share + rng.uniform(0.05, 0.5) * _clouds(rng, side, rng.uniform(0.6, 1.8))
    shaded: NDArray[np.float64] = first + (second - first) * share[..., None]
    return shaded


def _clouds(rng: np.random.Generator, side: int, slope: float) -> NDArray[np.float64]:
    """Noise whose amplitude falls with frequency to the power of `slope`; deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) / frequency**slope
    noise: NDArray[np.float64] = np.fft.irfft2(spectrum, (side, side))
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def _shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, radius: float) -> None:
    x, y = rng.uniform(-0.1, 1.1, 2) * side
    if rng.random() < 0.3:  # a bar: branches, poles, horizons
        angle, half = rng.uniform(0, math.pi), radius * rng.uniform(1, 8)
        dx, dy = half * math.cos(angle), half * math.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=max(1, round(radius / 3)))
        return
    corners = int(rng.choice([3, 4, 4, 5, 30]))
    start = rng.uniform(0, 2 * math.pi)
    angles = start + np.linspace(0, 2 * math.pi, corners, endpoint=False)
    stretch = rng.uniform(0.4, 1, 2) * radius
    draw.polygon(
        [(x + stretch[0] * math.cos(a), y + stretch[1] * math.sin(a)) for a in angles], fill=255
    )


if __name__ == "__main__":
    app()
