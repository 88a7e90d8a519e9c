"""Folders of masks, as sets and as what a check reports of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import HoleMaskError, InputError
from pconv_deploy.images.hole_rule import MaskConvention, MaskRule
from pconv_deploy.masks.checking import check_mask_set
from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.mask_set import CLASSES
from pconv_deploy.masks.reading import read_mask_set


def save(
    path: Path, area: tuple[float, float], *, border: bool = True, inverted: bool = False
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hole = drawn_hole(np.random.default_rng(1), 64, 64, area, border=border)
    Image.fromarray((hole ^ inverted).astype(np.uint8) * 255).save(path)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Laid out as NVIDIA's test set: numbered, nested, white = hole."""
    for number, (bucket, border) in enumerate(CLASSES):
        path = tmp_path / "mask" / "testing_mask_dataset" / f"{number:05}.png"
        save(path, bucket, border=border)
    return tmp_path


def test_the_released_layout_is_read_as_it_is(released: Path) -> None:
    found = read_mask_set(released)
    assert [mask.path.name for mask in found] == [f"{n:05}.png" for n in range(12)]
    assert [(mask.bucket, mask.border) for mask in found] == list(CLASSES)
    assert {(m.bucket, m.border) for m in read_mask_set(released, classify=False)} == {(None, None)}


@pytest.mark.parametrize(("value", "message"), [(0, "are empty"), (255, "are full")])
def test_one_polarity(tmp_path: Path, value: int, message: str) -> None:
    Image.new("L", (32, 32), value).save(tmp_path / "a.png")
    with pytest.raises(HoleMaskError, match=message):
        read_mask_set(tmp_path)
    assert message in (check_mask_set(tmp_path).complaint or "")


@pytest.mark.parametrize(
    ("convention", "other", "advice"),
    [
        ("hole-white", "hole-black", "--mask-convention hole-black"),
        ("hole-black", "hole-white", "another --mask-convention"),
    ],
)
def test_inverted_sets_are_named_and_read_the_other_way(
    tmp_path: Path, convention: MaskConvention, other: MaskConvention, advice: str
) -> None:
    save(tmp_path / "a.png", (0.1, 0.2), inverted=convention == "hole-white")
    with pytest.raises(HoleMaskError, match=advice):
        read_mask_set(tmp_path, MaskRule(convention))
    report = check_mask_set(tmp_path, MaskRule(convention))
    assert report.inverted
    assert advice in (report.complaint or "")
    assert {m.bucket for m in read_mask_set(tmp_path, MaskRule(other))} == {(0.1, 0.2)}


def test_what_cannot_be_read(released: Path, tmp_path: Path) -> None:
    (released / "broken.png").write_bytes(b"no picture")
    with pytest.raises(HoleMaskError, match=r"1 of 13 masks .*broken\.png is no image"):
        read_mask_set(released)
    with pytest.raises(InputError, match="does not exist"):
        read_mask_set(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        read_mask_set(tmp_path / "empty")
    (released / "holes.json").write_text("{}")
    with pytest.raises(InputError, match="not ours or damaged"):
        read_mask_set(released)


def test_a_check_counts_classes_sizes_and_what_cannot_be_used(tmp_path: Path) -> None:
    save(tmp_path / "1.png", (0.2, 0.3))
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
    (tmp_path / "drawing.psd").touch()
    report = check_mask_set(tmp_path)
    assert report.pictures == 8
    assert str(tmp_path / "broken.png") in report.unreadable[0]
    assert "drawing.psd is a picture of a kind that is not read" in report.unreadable[1]
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


def test_transparency_has_greys_of_its_own(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), 130, np.uint8)
    pixels[..., 3] = 255
    pixels[:20, :, 3] = 0
    pixels[20, :, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    report = check_mask_set(tmp_path, MaskRule("alpha"))
    assert report.grey == pytest.approx(1 / 64)
    assert report.classes[3].border == 1
