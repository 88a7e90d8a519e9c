from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.images.hole_rule import MaskConvention, MaskRule
from pconv_deploy.masks.checking import check_mask_set
from pconv_deploy.masks.drawing import drawn_hole


def save(path: Path, area: tuple[float, float] = (0.2, 0.3), *, border: bool = True) -> None:
    hole = drawn_hole(np.random.default_rng(1), 64, 64, area, border=border)
    Image.fromarray(hole.astype(np.uint8) * 255).save(path)


def test_what_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    save(tmp_path / "2.png", (0.5, 0.6), border=False)
    (tmp_path / "below").mkdir()
    Image.new("L", (32, 20), 0).save(tmp_path / "below" / "empty.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "full.png")
    dot = np.zeros((64, 64), np.uint8)
    dot[3, 3:5] = 100, 255
    Image.fromarray(dot).save(tmp_path / "dot.png")
    most = np.full((64, 64), 255, np.uint8)
    most[:20] = 0
    Image.fromarray(most).save(tmp_path / "most.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    report = check_mask_set(tmp_path)
    assert report.pictures == 7
    assert [str(tmp_path / "broken.png") in message for message in report.unreadable] == [True]
    assert report.sizes == {"64x64": 5, "20x32": 1}
    assert (report.empty, report.full, report.below, report.above) == (1, 1, 1, 1)
    counts = {c.area: (c.border, c.no_border) for c in report.classes}
    assert counts[0.2, 0.3] == (1, 0)
    assert counts[0.5, 0.6] == (0, 1)
    assert sum(map(sum, counts.values())) == 2
    assert report.grey_masks == 1
    assert report.grey == pytest.approx(1 / (5 * 64 * 64 + 32 * 20))
    assert report.complaint is None
    assert not report.inverted


def test_low_labels_are_counted(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[4:30, 4:30], labels[40:50, 4:30] = 200, 3
    Image.fromarray(labels).save(tmp_path / "mask.png")
    report = check_mask_set(tmp_path)
    assert (report.low_labels, report.grey) == (1, 26 * 26 / 64**2)
    assert check_mask_set(tmp_path, MaskRule(threshold=1)).low_labels == 0


@pytest.mark.parametrize(
    ("mode", "convention", "grey"),
    [("1", "hole-white", 0), ("L", "hole-white", 0), ("I;16", "hole-white", 0)],
)
def test_modes_without_greys(
    tmp_path: Path, mode: str, convention: MaskConvention, grey: float
) -> None:
    hole = drawn_hole(np.random.default_rng(1), 64, 64, (0.2, 0.3))
    values = hole.astype(np.uint16) * 65535 if mode == "I;16" else hole.astype(np.uint8) * 255
    picture = Image.fromarray(values)
    (picture.convert("1") if mode == "1" else picture).save(tmp_path / "mask.png")
    assert check_mask_set(tmp_path, MaskRule(convention)).grey == grey


def test_transparency_has_greys_of_its_own(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), 130, np.uint8)
    pixels[..., 3] = 255
    pixels[:20, :, 3] = 0
    pixels[20, :, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    report = check_mask_set(tmp_path, MaskRule("alpha"))
    assert report.grey == pytest.approx(1 / 64)
    assert report.classes[3].border == 1


@pytest.mark.parametrize("convention", ["hole-white", "hole-black"])
def test_inverted_sets_are_told_what_to_use(tmp_path: Path, convention: MaskConvention) -> None:
    for number in range(3):
        hole = drawn_hole(np.random.default_rng(number), 64, 64, (0.1, 0.2))
        light = ~hole if convention == "hole-white" else hole
        Image.fromarray(light.astype(np.uint8) * 255).save(tmp_path / f"{number}.png")
    report = check_mask_set(tmp_path, MaskRule(convention))
    assert report.inverted
    wanted = {"hole-white": "hole-black", "hole-black": "another --mask-convention"}[convention]
    assert wanted in (report.complaint or "")
