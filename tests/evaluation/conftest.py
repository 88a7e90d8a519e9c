from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pconv_deploy.evaluation.methods import parse_methods
from pconv_deploy.evaluation.pairs import Protocol
from pconv_deploy.evaluation.worker import EvaluationRequest
from tests.cli.conftest import run as run  # a fixture

MakeRequest = Callable[..., EvaluationRequest]


def smooth_picture(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    """Blurred noise: something that can be filled better and worse."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    return noise.filter(ImageFilter.GaussianBlur(3))


def box_hole(share: float, *, border: bool, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A rectangle of about this share of the image."""
    hole = np.zeros((height, width), np.uint8)
    rows, columns = round(height * share**0.5), round(width * share**0.5)
    top, left = (0, 0) if border else ((height - rows) // 2, (width - columns) // 2)
    hole[top : top + rows, left : left + columns] = 255
    return hole


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        smooth_picture(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Two masks of 10-20 %, one with and one without border, two of 20-30 % without."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, share, border in (
        ("a", 0.15, True),
        ("b", 0.15, False),
        ("c", 0.25, False),
        ("d", 0.22, False),
    ):
        Image.fromarray(box_hole(share, border=border)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def request_for(tmp_path: Path, pictures: Path, masks: Path) -> MakeRequest:
    def make(*methods: str, **options: Any) -> EvaluationRequest:
        protocol = Protocol(images=pictures, masks=masks, max_pixels=10**6)
        given: dict[str, Any] = {"protocol": protocol, "output": tmp_path / "out"} | options
        return EvaluationRequest(methods=parse_methods(methods or ("mean", "telea")), **given)

    return make
