"""The parts of a hole, and what windows they are worth."""

import numpy as np
import pytest

from pconv_deploy.engines.windows.plan import WindowCosts, WindowRule
from pconv_deploy.images.boxes import Box, hole_boxes, merged
from pconv_deploy.masks.irregular import irregular_hole

RULE = WindowRule(margins=(1, 1, 1), most=4)
COSTS = WindowCosts(whole=100, encoder=30, decoder=70)
FRAME = (512, 512)


def drawn(*boxes: Box, frame: tuple[int, int] = FRAME) -> np.ndarray:
    hole = np.zeros(frame, np.bool_)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def covered(hole: np.ndarray, boxes: list[Box]) -> bool:
    return not (hole & ~drawn(*boxes, frame=hole.shape)).any()


def test_no_hole_has_no_boxes() -> None:
    assert hole_boxes(drawn()) == []


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (511, 511, 512, 512), (31, 31, 33, 33), (5, 0, 300, 512)]
)
def test_one_part_has_its_own_box(box: Box) -> None:
    assert hole_boxes(drawn(box)) == [box]


def test_parts_far_apart_have_boxes_of_their_own() -> None:
    parts = [(0, 0, 20, 30), (200, 200, 240, 216), (480, 10, 512, 90)]
    assert sorted(hole_boxes(drawn(*parts))) == parts


def test_a_size_that_is_no_multiple_of_the_cells() -> None:
    box = (90, 40, 100, 52)
    assert hole_boxes(drawn(box, frame=(100, 52))) == [box]


@pytest.mark.parametrize("seed", range(4))
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
