import numpy as np
import pytest

from pconv_deploy.holes import AREA_BUCKETS, irregular_hole


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
