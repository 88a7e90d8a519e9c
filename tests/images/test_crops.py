"""The parts of a photo around its holes."""

import numpy as np
import pytest

from pconv_deploy.images.boxes import Box
from pconv_deploy.images.crops import crop_of, crops_around
from pconv_deploy.masks.irregular import irregular_hole

SIZE = (1000, 1500)


def hole_of(*boxes: Box) -> np.ndarray:
    hole = np.zeros(SIZE, np.bool_)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def test_no_hole_has_no_crops() -> None:
    assert crops_around(hole_of(), 100, 64, SIZE) == []


def test_a_crop_holds_its_context() -> None:
    ((top, left, bottom, right),) = crops_around(hole_of((500, 700, 520, 740)), 100, 64, SIZE)
    assert (top, left) == (400, 600)
    assert (bottom - top, right - left) == (256, 256)


def test_a_crop_ends_with_the_photo() -> None:
    assert crops_around(hole_of((0, 1490, 5, 1500)), 100, 64, SIZE) == [(0, 1372, 128, 1500)]
    assert crops_around(hole_of((990, 0, 1000, 10)), 2000, 64, SIZE) == [(0, 0, *SIZE)]


def test_holes_that_are_far_apart_have_crops_of_their_own_and_near_ones_share_one() -> None:
    near, far = (10, 10, 30, 30), (900, 1400, 950, 1450)
    assert len(crops_around(hole_of(near, far), 100, 64, SIZE)) == 2
    assert len(crops_around(hole_of(near, (10, 200, 30, 230)), 100, 64, SIZE)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_crops_hold_all_of_a_hole_and_do_not_overlap(seed: int) -> None:
    hole = irregular_hole(np.random.default_rng(seed), *SIZE, (0.01, 0.1)) != 0
    seen = np.zeros(SIZE, int)
    for top, left, bottom, right in crops_around(hole, 32, 64, SIZE):
        seen[top:bottom, left:right] += 1
    assert seen.max() == 1
    assert seen[hole].min() == 1


def test_crops_are_no_larger_than_asked_for() -> None:
    far = (10, 10, 30, 30), (900, 1400, 950, 1450)
    for box, crop in zip(far, crops_around(hole_of(*far), 512, 128, (256, 320)), strict=True):
        assert (crop[2] - crop[0], crop[3] - crop[1]) == (256, 320)
        assert crop_of(box, [crop]) == 0  # it holds it
    ((top, left, bottom, right),) = crops_around(
        hole_of((500, 700, 520, 740)), 512, 128, (256, 320)
    )
    assert (top, bottom) == (510 - 128, 510 + 128)
    assert (left, right) == (720 - 160, 720 + 160)


def test_crops_that_would_be_too_large_in_one_stay_two() -> None:
    near = (100, 100, 140, 140), (100, 260, 140, 300)
    crops = crops_around(hole_of(*near), 100, 64, (256, 256))
    assert len(crops) == 2
    assert [crop_of(box, crops) for box in near] == [0, 1]
    assert len(crops_around(hole_of(*near), 100, 64, SIZE)) == 1
