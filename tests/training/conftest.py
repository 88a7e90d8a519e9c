from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.training.config import TrainingConfig, load_config

SMALL = (
    "network={channels=[4,6], kernels=[3,3]}",
    "data.size=16",
    "batch=4",
    "ema=0.9",
    "log_every=2",
    "save_every=3",
    "pictures_every=4",
    "phases=[{steps=4, learning_rate=1e-3}, "
    "{steps=4, learning_rate=1e-3, freeze_encoder_norm=true}]",
)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth random pictures, one of them damaged, one no picture at all."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        coarse.resize((30 + number, 24), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def small(photos: Path) -> Callable[..., TrainingConfig]:
    """Settings of a run of eight steps that takes a moment."""

    def make(*overrides: str) -> TrainingConfig:
        return load_config("mini", [*SMALL, f"data.photos={photos}", *overrides])

    return make
