import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from pconv_deploy.training.config import LossWeights
from pconv_deploy.training.losses import hole_variation, inpainting_loss


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    output, target = (
        torch.rand(2, 3, 9, 11, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    known = (torch.rand(2, 1, 9, 11, generator=generator) > 0.4).double()
    return output, target, known


def fake_features(image: Tensor) -> list[Tensor]:
    """Two levels of something differentiable; the formulas do not care what they are."""
    return [image[:, :2].square(), torch.cat([image, image.sin()], dim=1)[..., ::2, ::3]]


def brute_force(output: Tensor, target: Tensor, known: Tensor) -> dict[str, float]:
    o, t = output.numpy(), target.numpy()
    m = np.broadcast_to(known.numpy(), o.shape)
    composite = np.where(m == 1, t, o)
    size = o.size
    terms = {
        "valid": float(sum(abs(o - t)[m == 1]) / size),
        "hole": float(sum(abs(o - t)[m == 0]) / size),
        "variation": 0.0,
        "perceptual": 0.0,
        "style": 0.0,
    }
    count, channels, height, width = o.shape

    def near_hole(n: int, row: int, column: int) -> bool:
        rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        return bool((m[n, 0, rows, columns] == 0).any())

    for n, row, column in itertools.product(range(count), range(height), range(width)):
        for below, right in ((1, 0), (0, 1)):
            r, c = row + below, column + right
            if r < height and c < width and near_hole(n, row, column) and near_hole(n, r, c):
                for k in range(channels):
                    step = composite[n, k, r, c] - composite[n, k, row, column]
                    terms["variation"] += abs(step) / size
    levels = [
        [level.numpy() for level in fake_features(torch.from_numpy(image))]
        for image in (o, composite, t)
    ]
    for painted, (a, b) in itertools.product((0, 1), enumerate(levels[2])):
        p = levels[painted][a]
        terms["perceptual"] += float(abs(p - b).mean())
        scale = p[0].size
        grams = [np.einsum("nihw,njhw->nij", x, x) / scale for x in (p, b)]
        terms["style"] += float(abs(grams[0] - grams[1]).mean())
    return terms


def test_every_term_equals_its_formula() -> None:
    output, target, known = pictures()
    total, terms = inpainting_loss(output, target, known, features=fake_features)
    expected = brute_force(output, target, known)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-12), name
    weights = {"valid": 1, "hole": 6, "perceptual": 0.05, "style": 120, "variation": 0.1}
    assert float(total) == pytest.approx(sum(weights[n] * v for n, v in expected.items()))


def test_without_features_two_terms_are_left_out() -> None:
    total, terms = inpainting_loss(*pictures(), weights=LossWeights(variation=0))
    assert terms.keys() == {"valid", "hole", "variation"}
    assert float(total) == pytest.approx(float(terms["valid"] + 6 * terms["hole"]))


def test_the_seam_counts_and_the_rest_does_not() -> None:
    known = torch.ones(1, 1, 7, 7)
    known[0, 0, 3, 3] = 0
    composite = torch.zeros(1, 3, 7, 7)
    composite[0, :, 3, 3] = 1  # differs from its four neighbours, in three channels
    assert float(hole_variation(composite, known)) == pytest.approx(4 * 3 / (3 * 49))
    composite = torch.zeros(1, 3, 7, 7)
    composite[0, :, 0, 0] = 1  # far from the hole
    assert float(hole_variation(composite, known)) == 0


def test_gradients_match_numeric_ones_where_it_is_smooth() -> None:
    output, target, known = pictures()
    output = (output[:1, :, :4, :4] + 3).requires_grad_()  # above the target: no kink of |x|
    target, known = target[:1, :, :4, :4], known[:1, :, :4, :4]
    assert torch.autograd.gradcheck(
        lambda x: inpainting_loss(x, target, known, features=fake_features)[0], (output,)
    )
