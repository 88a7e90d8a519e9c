"""Multiply-adds, counted by hand."""

import numpy as np
import onnx
import pytest

from pconv_deploy.export.rewrites.work import multiply_adds
from tests.export.rewrites.graphs import KNOWN, graph, partial, repeated, weights

RNG = np.random.default_rng(10)


def model(nodes: str, outputs: int, weight: np.ndarray, **more: np.ndarray) -> onnx.ModelProto:
    return graph(
        "float[batch,4,height,width] x, float[batch,1,height,width] hole_mask",
        f"float[batch,{outputs},P,Q] y",
        nodes,
        w=weight,
        **more,
    )


@pytest.mark.parametrize(
    ("nodes", "shape", "outputs", "work"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", (6, 4, 3, 3), 6, 6 * 4 * 9 * 48),
        (
            "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)",
            (6, 4, 3, 3),
            6,
            6 * 4 * 9 * 12,
        ),
        ("y = Conv <group = 4> (x, w)", (8, 1, 1, 1), 8, 8 * 48),
        (
            "y = ConvTranspose <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)",
            (4, 5, 4, 4),
            5,
            4 * 5 * 16 * 48,
        ),
        ("y = Mul (x, x)", (1,), 4, 0),
    ],
)
def test_convolutions(nodes: str, shape: tuple[int, ...], outputs: int, work: int) -> None:
    assert multiply_adds(model(nodes, outputs, weights(RNG, *shape)), 6, 8) == work


def test_masks_count_where_they_are_convolved() -> None:
    weight = weights(RNG, 6, 4, 3, 3)
    layer = partial("y, seen", "x, mask, w, b", weight, mask_channels=4)
    whole = model(
        KNOWN + repeated("mask", "known", 4) + layer, 6, weight, b=np.zeros(6, np.float32)
    )
    assert multiply_adds(whole, 6, 8) == 2 * 6 * 4 * 9 * 48
