import math

import numpy as np
import pytest

from pconv_deploy.errors import ImageError
from pconv_deploy.evaluation.metrics import compare_pictures

RNG = np.random.default_rng(0)
ORIGINAL = RNG.integers(0, 256, (17, 23, 3), np.uint8)
HOLE = RNG.random((17, 23)) < 0.4
FILLED = np.where(HOLE[:, :, None], RNG.integers(0, 256, (17, 23, 3), np.uint8), ORIGINAL)


def ssim_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, at every place where the window lies in the image."""
    at = np.arange(11) - 5
    line = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for channel in range(3):
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                a = x[row : row + 11, column : column + 11, channel].astype(np.float64)
                b = y[row : row + 11, column : column + 11, channel].astype(np.float64)
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (
                    (window * (a - mean_a) ** 2).sum(),
                    (window * (b - mean_b) ** 2).sum(),
                )
                shared = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + c1) * (2 * shared + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )  # fmt: skip
    return float(np.mean(values))


def test_against_loops_in_double_precision() -> None:
    found = compare_pictures(FILLED, ORIGINAL, HOLE)
    total = squares = in_hole = 0.0
    for row, column, channel in np.ndindex(ORIGINAL.shape):
        difference = float(FILLED[row, column, channel]) - float(ORIGINAL[row, column, channel])
        total += abs(difference) / 255
        squares += difference**2
        in_hole += abs(difference) / 255 if HOLE[row, column] else 0
    assert found.l1 == pytest.approx(100 * total / ORIGINAL.size)
    assert found.l1_hole == pytest.approx(100 * in_hole / (3 * HOLE.sum()))
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / (squares / ORIGINAL.size)))
    assert found.ssim == pytest.approx(ssim_by_loops(FILLED, ORIGINAL), abs=1e-12)


def test_a_perfect_fill_has_no_psnr() -> None:
    assert compare_pictures(ORIGINAL, ORIGINAL, HOLE) == (0, 0, None, 1)
    assert compare_pictures(ORIGINAL, ORIGINAL, HOLE & False).l1_hole is None


def test_pictures_smaller_than_the_window_are_refused() -> None:
    small = np.zeros((10, 30, 3), np.uint8)
    with pytest.raises(ImageError, match="30x10; SSIM needs at least 11x11"):
        compare_pictures(small, small, np.zeros((10, 30), np.bool_))
