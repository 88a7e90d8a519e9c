import numpy as np
import pytest
import torch

from pconv_deploy.training.monitor import picture_grid, validation_score


def test_the_score_is_that_of_the_composite() -> None:
    rng = np.random.default_rng(0)
    image, output = rng.random((2, 3, 6, 5)), rng.random((2, 3, 6, 5)) * 1.4 - 0.2
    known = rng.random((2, 1, 6, 5)) > 0.4
    differences, ratios = [], []
    for n in range(2):
        squares = 0.0
        for c, y, x in np.ndindex(3, 6, 5):
            if not known[n, 0, y, x]:
                difference = min(max(output[n, c, y, x], 0), 1) - image[n, c, y, x]
                differences.append(abs(difference))
                squares += difference**2
        ratios.append(-10 * np.log10(squares / (3 * 6 * 5)))
    score = validation_score(*map(torch.from_numpy, (image, known.astype(np.float64), output)))
    assert score["validation hole L1 (%)"] == pytest.approx(100 * np.mean(differences))
    assert score["validation PSNR (dB)"] == pytest.approx(np.mean(ratios))


def test_the_grid_shows_hole_output_composite_and_truth() -> None:
    image, output = torch.full((1, 3, 2, 2), 0.25), torch.full((1, 3, 2, 2), 2.0)
    known = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    grid = picture_grid(image, known, output)
    assert grid.shape == (3, 2, 8)
    assert grid[0, 0].tolist() == [0.25, 0.5, 1, 1, 0.25, 1, 0.25, 0.25]
