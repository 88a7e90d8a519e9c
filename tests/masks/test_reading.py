from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import HoleMaskError, InputError
from pconv_deploy.images.hole_rule import MaskRule
from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.masks.reading import read_mask_set

CLASSES = [(bucket, border) for bucket in AREA_BUCKETS for border in (True, False)]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Laid out as NVIDIA's test set: numbered, nested, white = hole."""
    folder = tmp_path / "mask" / "testing_mask_dataset"
    folder.mkdir(parents=True)
    for number, (bucket, border) in enumerate(CLASSES):
        hole = drawn_hole(np.random.default_rng(number), 64, 64, bucket, border=border)
        Image.fromarray(hole.astype(np.uint8) * 255).save(folder / f"{number:05}.png")
    return tmp_path


def test_the_released_layout_is_read_as_it_is(released: Path) -> None:
    found = read_mask_set(released)
    assert [mask.path.name for mask in found] == [f"{n:05}.png" for n in range(12)]
    assert [(mask.bucket, mask.border) for mask in found] == CLASSES


def test_without_classes(released: Path) -> None:
    assert {(m.bucket, m.border) for m in read_mask_set(released, classify=False)} == {(None, None)}


@pytest.mark.parametrize(("value", "message"), [(0, "are empty"), (255, "are full")])
def test_one_polarity(tmp_path: Path, value: int, message: str) -> None:
    for name in "ab":
        Image.new("L", (32, 32), value).save(tmp_path / f"{name}.png")
    with pytest.raises(HoleMaskError, match=message):
        read_mask_set(tmp_path)


def test_inverted_sets_are_named_and_read_the_other_way(tmp_path: Path) -> None:
    for number in range(4):
        hole = drawn_hole(np.random.default_rng(number), 64, 64, (0.1, 0.2))
        Image.fromarray((~hole).astype(np.uint8) * 255).save(tmp_path / f"{number}.png")
    with pytest.raises(HoleMaskError, match="--mask-convention hole-black"):
        read_mask_set(tmp_path)
    assert {m.bucket for m in read_mask_set(tmp_path, MaskRule("hole-black"))} == {(0.1, 0.2)}


def test_what_cannot_be_read(released: Path, tmp_path: Path) -> None:
    (released / "broken.png").write_bytes(b"no picture")
    with pytest.raises(HoleMaskError, match=r"1 of 13 masks .*broken\.png is no image"):
        read_mask_set(released)
    with pytest.raises(InputError, match="does not exist"):
        read_mask_set(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        read_mask_set(tmp_path / "empty")


def test_a_damaged_manifest(released: Path) -> None:
    (released / "holes.json").write_text("{}")
    with pytest.raises(InputError, match="not ours or damaged"):
        read_mask_set(released)
