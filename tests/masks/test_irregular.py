import numpy as np
import pytest

from pconv_deploy.masks.irregular import AREA_BUCKETS, area_bucket, irregular_hole, touches_border


@pytest.mark.parametrize("area", AREA_BUCKETS)
@pytest.mark.parametrize("size", [(8, 8), (16, 50), (256, 256), (300, 480)])
def test_area_is_in_its_bucket(area: tuple[float, float], size: tuple[int, int]) -> None:
    for seed in range(5):
        hole = irregular_hole(np.random.default_rng(seed), *size, area)
        assert hole.shape == size
        assert set(np.unique(hole)) == {0, 255}
        assert area[0] < (hole > 0).mean() <= area[1]


def test_same_seed_same_hole() -> None:
    first, second = (irregular_hole(np.random.default_rng(3), 64, 64, (0.2, 0.3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_too_small() -> None:
    with pytest.raises(ValueError, match="4x4 is too small"):
        irregular_hole(np.random.default_rng(0), 4, 4, (0.1, 0.2))


@pytest.mark.parametrize(
    ("size", "row", "near"),
    [
        ((512, 512), 49, True),
        ((512, 512), 50, False),
        ((256, 256), 24, True),
        ((256, 256), 25, False),
    ],
)
def test_the_border_rule_is_fifty_pixels_of_512(
    size: tuple[int, int], row: int, near: bool
) -> None:
    hole = np.zeros(size, np.bool_)
    hole[row, size[1] // 2] = True
    assert touches_border(hole) is near
    assert touches_border(hole[::-1].copy()) is near
    assert touches_border(hole.T.copy()) is near
    assert not touches_border(np.zeros(size, np.bool_))


def test_buckets_exclude_their_lower_bound() -> None:
    for filled, expected in [
        (1, None),
        (2, (0.01, 0.1)),
        (10, (0.01, 0.1)),
        (11, (0.1, 0.2)),
        (61, None),
    ]:
        hole = (np.arange(100) < filled).reshape(10, 10)
        assert area_bucket(hole) == expected
