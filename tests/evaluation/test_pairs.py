from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.errors import HoleMaskError, ImageError, InputError
from pconv_deploy.evaluation.pairs import CLASSES, HoleClass, Protocol, load_pair, plan_pairs
from pconv_deploy.images.hole_rule import MaskRule
from pconv_deploy.masks.irregular import AREA_BUCKETS, area_bucket, touches_border
from tests.evaluation.conftest import box_hole, smooth_picture


def protocol(images: Path, masks: Path | None = None, **options: object) -> Protocol:
    return Protocol(**{"images": images, "masks": masks, "max_pixels": 10**6} | options)  # type: ignore[arg-type]


def test_every_mask_once_and_pictures_in_turn(pictures: Path, masks: Path) -> None:
    pairing = plan_pairs(protocol(pictures, masks))
    names = [Path(pair.hole_mask or "").stem for pair in pairing.pairs]
    assert sorted(names) == ["a", "b", "c", "d"]
    assert [pair.number for pair in pairing.pairs] == [0, 1, 2, 3]
    by_class = [pair.hole_class for pair in pairing.pairs]
    assert by_class == [
        HoleClass(1, border=False),
        HoleClass(1, border=True),
        HoleClass(2, border=False),
        HoleClass(2, border=False),
    ]
    # The first picture of each class is the same: classes differ by their holes.
    assert len({pair.image for pair in pairing.pairs[:3]}) == 1
    assert pairing.pairs[2].image != pairing.pairs[3].image


def test_a_few_pairs_of_each_class_show_all_pictures(tmp_path: Path) -> None:
    for seed in range(7):
        smooth_picture(seed).save(tmp_path / f"{seed}.png")
    pairs = plan_pairs(protocol(tmp_path, per_class=2)).pairs
    assert {Path(pair.image).stem for pair in pairs} == set("0123456")
    seen: list[set[str]] = [
        {pair.image for pair in pairs if pair.hole_class == hole_class} for hole_class in CLASSES
    ]
    assert all(len(images) == 2 for images in seen)
    assert all(a != b for a, b in pairwise(seen))


def test_equal_seeds_give_equal_pairs(pictures: Path, masks: Path) -> None:
    first = plan_pairs(protocol(pictures, masks, per_class=3))
    assert plan_pairs(protocol(pictures, masks, per_class=3)) == first
    others = [plan_pairs(protocol(pictures, masks, per_class=3, seed=s)) for s in range(1, 5)]
    assert any(other != first for other in others)


def test_no_pair_comes_twice(pictures: Path, masks: Path) -> None:
    pairs = plan_pairs(protocol(pictures, masks, per_class=100)).pairs
    assert len(pairs) == 3 + 3 + 6
    assert len({(pair.image, pair.hole_mask) for pair in pairs}) == len(pairs)
    assert len(plan_pairs(protocol(pictures, masks, per_class=1)).pairs) == 3


def test_drawn_holes_are_of_their_class(pictures: Path) -> None:
    wanted = protocol(pictures, per_class=1)
    pairs = plan_pairs(wanted).pairs
    assert tuple(pair.hole_class for pair in pairs) == CLASSES
    assert len(plan_pairs(protocol(pictures)).pairs) == 12 * 3
    for pair in pairs:
        image, hole = load_pair(pair, wanted)
        assert area_bucket(hole) == AREA_BUCKETS[pair.hole_class.bucket]
        assert touches_border(hole) is pair.hole_class.border
        assert image.shape == (*hole.shape, 3)
        np.testing.assert_array_equal(hole, load_pair(pair, wanted)[1])


def test_pictures_are_brought_to_their_masks(tmp_path: Path) -> None:
    picture = smooth_picture(0, 96, 96)
    picture.save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(box_hole(0.15, border=False)).save(tmp_path / "masks" / "m.png")
    wanted = protocol(tmp_path / "a.png", tmp_path / "masks")
    image, hole = load_pair(plan_pairs(wanted).pairs[0], wanted)
    assert hole.shape == (48, 64)
    # 96x96 covers 48x64 at two thirds; the middle 48 of the 64 rows are taken.
    expected = picture.resize((64, 48), Image.Resampling.LANCZOS, box=(0, 12, 96, 84))
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_size_brings_both_to_it(pictures: Path, masks: Path) -> None:
    wanted = protocol(pictures, masks, size=(24, 32))
    for pair in plan_pairs(wanted).pairs:
        image, hole = load_pair(pair, wanted)
        assert image.shape == (24, 32, 3)
        assert hole.shape == (24, 32)
        share = np.asarray(Image.open(pair.hole_mask or "")).astype(bool).mean()
        assert hole.mean() == pytest.approx(share, abs=0.05)


def test_pictures_are_seen_as_displayed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    smooth_picture(0).save(tmp_path / "a.png", exif=exif)
    wanted = protocol(tmp_path, per_class=1)
    image, _ = load_pair(plan_pairs(wanted).pairs[0], wanted)
    turned = smooth_picture(0).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(image, np.asarray(turned))


def test_masks_and_output_among_the_pictures_are_none(pictures: Path, masks: Path) -> None:
    (pictures / "out").mkdir()
    smooth_picture(9).save(pictures / "out" / "x.png")
    masks.rename(pictures / "masks")
    wanted = protocol(pictures, pictures / "masks")
    pairs = plan_pairs(wanted, aside=(pictures / "out",)).pairs
    assert {Path(pair.image).parent.name for pair in pairs} == {"pictures"}


def test_masks_of_no_class_are_counted(pictures: Path, masks: Path) -> None:
    Image.fromarray(box_hole(0.8, border=False)).save(masks / "large.png")
    Image.new("L", (64, 48)).save(masks / "empty.png")
    assert plan_pairs(protocol(pictures, masks)).unclassed == 2


def test_masks_of_one_kind_only(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for colour, words in ((0, "empty"), (255, "full")):
        Image.new("L", (64, 48), colour).save(folder / "m.png")
        with pytest.raises(HoleMaskError, match=words):
            plan_pairs(protocol(pictures, folder))
    hole = np.zeros((48, 64), np.uint8)
    hole[:1, :3] = 255
    Image.fromarray(hole).save(folder / "m.png")
    with pytest.raises(HoleMaskError, match=r"none of the 1 masks .* is of a class"):
        plan_pairs(protocol(pictures, folder))


def test_empty_and_missing_folders(pictures: Path, masks: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for images, holes in ((empty, masks), (pictures, empty), (tmp_path / "no", masks)):
        with pytest.raises(InputError, match=r"holds no pictures|does not exist"):
            plan_pairs(protocol(images, holes))


def test_too_small_to_be_judged(pictures: Path, masks: Path) -> None:
    wanted = protocol(pictures, masks, size=(10, 20))
    with pytest.raises(ImageError, match=r"at least 11x11\. See --size"):
        load_pair(plan_pairs(wanted).pairs[0], wanted)


def test_black_holes(pictures: Path, masks: Path) -> None:
    wanted = protocol(pictures, masks)
    pairs = plan_pairs(wanted).pairs
    holes = [load_pair(pair, wanted)[1] for pair in pairs]
    for path in masks.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    inverted = protocol(pictures, masks, mask_rule=MaskRule("hole-black"))
    assert plan_pairs(inverted).pairs == pairs
    for pair, hole in zip(pairs, holes, strict=True):
        np.testing.assert_array_equal(load_pair(pair, inverted)[1], hole)
