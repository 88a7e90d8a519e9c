"""The parts of a photo around its holes."""

import numpy as np
import pytest

from pconv_deploy.images.boxes import Box
from pconv_deploy.images.crops import crops_around
from pconv_deploy.masks.irregular import irregular_hole

SIZE = (1000, 1500)


def hole_of(*boxes: Box) -> np.ndarray:
    hole = np.zeros(SIZE, np.bool_)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def test_no_hole_has_no_crops() -> None:
    assert crops_around(hole_of(), 100, 64) == []


def test_a_crop_holds_its_context() -> None:
    ((top, left, bottom, right),) = crops_around(hole_of((500, 700, 520, 740)), 100, 64)
    assert (top, left) == (400, 600)
    assert (bottom - top, right - left) == (256, 256)


def test_a_crop_ends_with_the_photo() -> None:
    assert crops_around(hole_of((0, 1490, 5, 1500)), 100, 64) == [(0, 1372, 128, 1500)]
    assert crops_around(hole_of((990, 0, 1000, 10)), 2000, 64) == [(0, 0, *SIZE)]


def test_holes_that_are_far_apart_have_crops_of_their_own_and_near_ones_share_one() -> None:
    near, far = (10, 10, 30, 30), (900, 1400, 950, 1450)
    assert len(crops_around(hole_of(near, far), 100, 64)) == 2
    assert len(crops_around(hole_of(near, (10, 200, 30, 230)), 100, 64)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_crops_hold_all_of_a_hole_and_do_not_overlap(seed: int) -> None:
    hole = irregular_hole(np.random.default_rng(seed), *SIZE, (0.01, 0.1)) != 0
    seen = np.zeros(SIZE, int)
    for top, left, bottom, right in crops_around(hole, 32, 64):
        seen[top:bottom, left:right] += 1
    assert seen.max() == 1
    assert seen[hole].min() == 1
