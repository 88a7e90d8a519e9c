import numpy as np
import pytest

from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS, area_bucket, irregular_hole, touches_border


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [(8, 8), (128, 128), (300, 480)], ids=str)
@pytest.mark.parametrize("area", AREA_BUCKETS, ids=str)
def test_every_class_is_met(area: tuple[float, float], size: tuple[int, int]) -> None:
    for seed in range(2):
        for border in (True, False, None):
            hole = drawn_hole(rng(seed), *size, area, border=border)
            assert hole.shape == size
            assert hole.dtype == np.bool_
            assert area_bucket(hole) == area
            assert border is None or touches_border(hole) is border
        levels = irregular_hole(rng(seed), *size, area)
        assert levels.shape == size
        assert set(np.unique(levels)) == {0, 255}
        assert area_bucket(levels != 0) == area


def test_same_seed_same_hole() -> None:
    first, second = (drawn_hole(rng(), 64, 64, (0.2, 0.3), border=False) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    first, second = (irregular_hole(rng(), 64, 64, (0.2, 0.3)) != 0 for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("size", "area", "border"),
    [((4, 4), (0.1, 0.2), None), ((64, 64), (0.7, 0.8), False), ((2, 64), (0.1, 0.2), False)],
)
def test_impossible_holes_are_refused(
    size: tuple[int, int], area: tuple[float, float], border: bool | None
) -> None:
    with pytest.raises(ValueError, match="is too small for a hole"):
        drawn_hole(rng(), *size, area, border=border)
    with pytest.raises(ValueError, match="4x4 is too small"):
        irregular_hole(rng(), 4, 4, area)


@pytest.mark.parametrize(
    ("size", "row", "near"), [(512, 49, True), (512, 50, False), (256, 24, True), (256, 25, False)]
)
def test_the_border_rule_is_fifty_pixels_of_512(size: int, row: int, near: bool) -> None:
    hole = np.zeros((size, size), np.bool_)
    assert not touches_border(hole)
    hole[row, size // 2] = True
    for turned in (hole, hole[::-1], hole.T):
        assert touches_border(turned) is near


def test_buckets_exclude_their_lower_bound() -> None:
    expected = {1: None, 2: (0.01, 0.1), 10: (0.01, 0.1), 11: (0.1, 0.2), 61: None}
    for filled, bucket in expected.items():
        assert area_bucket((np.arange(100) < filled).reshape(10, 10)) == bucket
