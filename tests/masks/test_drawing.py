import numpy as np
import pytest

from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS, area_bucket, touches_border

SIZES = [(8, 8), (16, 16), (128, 128), (256, 256), (512, 512), (300, 480)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("border", [True, False, None])
@pytest.mark.parametrize("area", AREA_BUCKETS, ids=str)
def test_every_class_is_met(
    area: tuple[float, float], border: bool | None, size: tuple[int, int]
) -> None:
    for seed in range(2):
        hole = drawn_hole(np.random.default_rng(seed), *size, area, border=border)
        assert hole.shape == size
        assert hole.dtype == np.bool_
        assert area_bucket(hole) == area
        assert border is None or touches_border(hole) is border


def test_same_seed_same_hole() -> None:
    first, second = (
        drawn_hole(np.random.default_rng(3), 64, 64, (0.2, 0.3), border=False) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("size", "area", "border"),
    [((4, 4), (0.1, 0.2), None), ((64, 64), (0.7, 0.8), False), ((2, 64), (0.1, 0.2), False)],
)
def test_impossible_holes_are_refused(
    size: tuple[int, int], area: tuple[float, float], border: bool | None
) -> None:
    with pytest.raises(ValueError, match="is too small for a hole"):
        drawn_hole(np.random.default_rng(0), *size, area, border=border)
