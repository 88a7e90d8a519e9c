import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.images.arrays import Bytes, Hole, dilated
from pconv_deploy.masks.irregular import area_bucket, touches_border
from pconv_deploy.masks.mask_set import CLASSES
from pconv_deploy.masks.occlusion import FlowMethod, fitted_hole, occlusions
from tests.masks.conftest import texture

SIDE, SQUARE, STEP = 160, 60, 8
# Measured: DIS finds 0.94 and 0.84 of the two strips, Farneback 0.71 and 0.48.
RECALL = {"dis": 0.75, "farneback": 0.4}


def frame(at: int) -> Bytes:
    rng = np.random.default_rng(5)
    background, square = texture(rng, SIDE, SIDE), texture(rng, SQUARE, SQUARE)
    picture: NDArray[np.uint8] = background.copy()
    picture[50 : 50 + SQUARE, at : at + SQUARE] = square
    return picture


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_what_a_moving_square_covers_and_uncovers(method: FlowMethod) -> None:
    covered, uncovered = occlusions(frame(40), frame(40 + STEP), method)
    for found, left in ((covered, 40 + SQUARE), (uncovered, 40)):
        true: Hole = np.zeros((SIDE, SIDE), np.bool_)
        true[50 : 50 + SQUARE, left : left + STEP] = True
        assert (found & true).sum() > RECALL[method] * true.sum()
        # The flow is unsure along all of the square's outline, not only where it moves to.
        assert (found & dilated(true, 12)).sum() > 0.55 * found.sum()


def test_nothing_is_occluded_where_nothing_moves() -> None:
    assert not any(hole.any() for hole in occlusions(frame(40), frame(40)))


def test_every_class_is_met() -> None:
    raw = [hole for hole in occlusions(frame(40), frame(40 + STEP)) if hole.any()]
    for area, border in CLASSES:
        hole = fitted_hole(np.random.default_rng(1), raw, (192, 256), area, border=border)
        assert hole is not None
        assert area_bucket(hole) == area
        assert touches_border(hole) is border


def test_a_hole_everywhere_fits_no_small_class() -> None:
    full = np.ones((64, 64), np.bool_)
    assert fitted_hole(np.random.default_rng(0), [full], (64, 64), (0.01, 0.1), border=True) is None
