"""Small films: a square that moves over a background, and one that stands still."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pconv_deploy.images.arrays import Bytes
from tests.cli.conftest import run as run  # a fixture

HEIGHT, WIDTH = 96, 128


def texture(rng: np.random.Generator, height: int, width: int) -> Bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (height // 4, width // 4), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def frames(count: int, step: int) -> list[Bytes]:
    rng = np.random.default_rng(5)
    background, square = texture(rng, HEIGHT, WIDTH), texture(rng, 40, 40)
    film = []
    for number in range(count):
        picture = background.copy()
        at = 10 + number * step
        picture[30:70, at : at + 40] = square
        film.append(picture)
    return film


def write_film(path: Path, count: int = 8, step: int = 6, code: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for picture in frames(count, step):
        writer.write(np.repeat(picture[..., None], 3, axis=2))
    writer.release()
    return path


def write_frames(folder: Path, count: int = 8, step: int = 6) -> Path:
    folder.mkdir()
    for number, picture in enumerate(frames(count, step)):
        Image.fromarray(picture).save(folder / f"frame{number}.png")
    return folder


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "film.avi")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
