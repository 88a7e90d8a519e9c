"""The parts of a hole, and what windows and crops they are worth."""

import numpy as np
import pytest

from pconv_deploy.engines.windows.plan import WindowCosts, WindowRule
from pconv_deploy.images.boxes import Box, crop_of, crops_around, hole_boxes, merged
from pconv_deploy.masks.irregular import irregular_hole

RULE = WindowRule(margins=(1, 1, 1), most=4)
COSTS = WindowCosts(whole=100, encoder=30, decoder=70)
FRAME, PHOTO = (512, 512), (1000, 1500)


def drawn(*boxes: Box, frame: tuple[int, int] = FRAME) -> np.ndarray:
    hole = np.zeros(frame, np.bool_)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def hole_of(*boxes: Box) -> np.ndarray:
    return drawn(*boxes, frame=PHOTO)


def covered(hole: np.ndarray, boxes: list[Box]) -> bool:
    return not (hole & ~drawn(*boxes, frame=hole.shape)).any()


@pytest.mark.parametrize(
    ("parts", "frame"),
    [
        ([], FRAME),
        ([(511, 511, 512, 512)], FRAME),
        ([(31, 31, 33, 33)], FRAME),
        ([(0, 0, 20, 30), (200, 200, 240, 216), (480, 10, 512, 90)], FRAME),
        ([(90, 40, 100, 52)], (100, 52)),  # no multiple of the cells
    ],
)
def test_parts_far_apart_have_boxes_of_their_own(parts: list[Box], frame: tuple[int, int]) -> None:
    assert sorted(hole_boxes(drawn(*parts, frame=frame))) == parts


@pytest.mark.parametrize("seed", range(2))
def test_boxes_hold_all_of_a_hole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for hole in (
        irregular_hole(rng, 300, 470, (0.05, 0.3)) != 0,
        rng.random((256, 256)) < 0.002,
    ):
        boxes = hole_boxes(hole)
        assert covered(hole, boxes)
        assert 1 <= len(boxes) <= 8


def test_the_nearest_boxes_are_merged_first() -> None:
    near, beside, far = (0, 0, 10, 10), (0, 20, 10, 30), (300, 300, 310, 310)
    assert merged([near, far, beside]) == [far, (0, 0, 10, 30)]


def test_a_small_hole_gets_a_window_and_a_large_one_the_frame() -> None:
    small, large = (100, 100, 160, 160), (0, 0, 500, 500)
    assert COSTS.cheapest([small], FRAME, RULE) == [small]
    assert COSTS.cheapest([large], FRAME, RULE) is None


def test_two_far_holes_get_a_window_each_and_two_near_ones_share_one() -> None:
    one, near, far = (0, 0, 20, 20), (0, 22, 5, 28), (480, 480, 500, 500)
    assert COSTS.cheapest([one, far], FRAME, RULE) == [one, far]
    assert COSTS.cheapest([one, near], FRAME, RULE) == [(0, 0, 20, 28)]


def test_more_holes_than_windows_share_them() -> None:
    boxes = [(100 * n, 100 * n, 100 * n + 9, 100 * n + 9) for n in range(5)]
    chosen = COSTS.cheapest(boxes, FRAME, RULE)
    assert chosen is not None
    assert len(chosen) <= RULE.most
    assert covered(drawn(*boxes), chosen)


def test_windows_that_cost_more_than_the_frame_are_not_taken() -> None:
    costs = WindowCosts(whole=100, encoder=99, decoder=70)
    assert costs.cheapest([(0, 0, 1, 1)], FRAME, RULE) is None


def test_a_crop_holds_its_context_and_ends_with_the_photo() -> None:
    assert crops_around(hole_of(), 100, 64, PHOTO) == []
    ((top, left, bottom, right),) = crops_around(hole_of((500, 700, 520, 740)), 100, 64, PHOTO)
    assert (top, left) == (400, 600)
    assert (bottom - top, right - left) == (256, 256)
    assert crops_around(hole_of((0, 1490, 5, 1500)), 100, 64, PHOTO) == [(0, 1372, 128, 1500)]
    assert crops_around(hole_of((990, 0, 1000, 10)), 2000, 64, PHOTO) == [(0, 0, *PHOTO)]


@pytest.mark.parametrize("seed", range(2))
def test_crops_hold_all_of_a_hole_and_do_not_overlap(seed: int) -> None:
    hole = irregular_hole(np.random.default_rng(seed), *PHOTO, (0.01, 0.1)) != 0
    seen = np.zeros(PHOTO, int)
    for top, left, bottom, right in crops_around(hole, 32, 64, PHOTO):
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
    assert len(crops_around(hole_of(*near), 100, 64, PHOTO)) == 1
