"""The soft edge of a fill."""

from typing import Any

import numpy as np
import pytest

from pconv_deploy.images.feather import feathered

SIZE = (60, 70)


def hole_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    hole = np.zeros(SIZE, np.bool_)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def blended(hole: np.ndarray, width: int) -> np.ndarray:
    """A fill of 10000 over 0: what is returned is 10000 times the share of the fill."""
    before: Any = np.zeros((*SIZE, 3), np.uint16)
    filled = before.copy()
    filled[hole] = 10_000
    return feathered(before, filled, hole, width)[..., 0]


def nearest_known(hole: np.ndarray) -> np.ndarray:
    """The distance of every pixel to every known one, one by one."""
    known = np.argwhere(~hole)
    places = np.argwhere(np.ones(SIZE, bool))
    return np.array([np.hypot(*(known - place).T).min() for place in places]).reshape(SIZE)


@pytest.mark.parametrize("width", [1, 4, 25])
def test_the_share_of_the_fill_grows_with_the_distance_to_known_pixels(width: int) -> None:
    rng = np.random.default_rng(0)
    hole = hole_of((3, 5, 30, 40), (20, 30, 55, 50), (0, 60, 12, 70)) & (rng.random(SIZE) < 0.98)
    share = np.minimum(1, nearest_known(hole) / (width + 1))
    expected = np.where(hole, np.rint(10_000 * share), 0)
    assert np.abs(blended(hole, width) - expected).max() <= 1


def test_what_is_known_stays_and_so_does_the_fill_without_a_soft_edge() -> None:
    rng = np.random.default_rng(0)
    hole = hole_of((10, 10, 40, 50))
    before, filled = (rng.integers(0, 256, (*SIZE, 4), np.uint8) for _ in range(2))
    filled[~hole] = before[~hole]
    np.testing.assert_array_equal(feathered(before, filled, hole, 0), filled)
    soft = feathered(before, filled, hole, 5)
    np.testing.assert_array_equal(soft[~hole], before[~hole])
    np.testing.assert_array_equal(soft[16:34, 16:44], filled[16:34, 16:44])
    assert (soft[10, 10:50] != filled[10, 10:50]).any()


def test_the_border_of_a_picture_is_no_edge() -> None:
    share = blended(hole_of((0, 0, 30, 70)), 3)
    assert (share[:26] == 10_000).all()
    np.testing.assert_array_equal(share[26:31, 0], [10_000, 7500, 5000, 2500, 0])
