"""Multiply-adds, counted by hand."""

import numpy as np
import onnx
import pytest

from pconv_deploy.errors import GraphError
from pconv_deploy.graphs.multiply_adds import multiply_adds
from tests.graphs.small_graphs import KNOWN, graph, partial, repeated, weights

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


# Rows a half as many and twice as long, which shape inference does not follow.
FOLDED = """
    rows = Shape <start = 2, end = 3> (x) half = Div (rows, two)
    shape = Concat <axis = 0> (same, half, rest) folded = Reshape (x, shape)
"""
SIZES = {"two": np.array([2]), "same": np.array([1, 4]), "rest": np.array([-1])}


@pytest.mark.parametrize(
    ("nodes", "shape", "outputs", "work"),
    [
        ("y = Conv (folded, w)", (6, 4, 3, 3), 6, 6 * 4 * 9 * (3 - 2) * (16 - 2)),
        ("y = ConvTranspose (folded, w)", (4, 5, 4, 4), 5, 4 * 5 * 16 * 48),
        ("y = Conv (folded, w) z = Conv (x, w)", (6, 4, 1, 1), 6, 2 * 6 * 4 * 48),
    ],
)
def test_sizes_that_follow_from_what_is_computed(
    nodes: str, shape: tuple[int, ...], outputs: int, work: int
) -> None:
    folded = model(FOLDED + nodes, outputs, weights(RNG, *shape), **SIZES)
    assert multiply_adds(folded, 6, 8) == work


def test_a_size_that_the_graph_does_not_take() -> None:
    sizes = {**SIZES, "two": np.array([4])}
    folded = model(FOLDED + "y = Conv (folded, w)", 6, weights(RNG, 6, 4, 1, 1), **sizes)
    assert multiply_adds(folded, 8, 8) == 6 * 4 * 64
    with pytest.raises(GraphError, match=r"(?s)work at 14x8 is not known: .* --size with sides"):
        multiply_adds(folded, 14, 8)


def test_masks_count_where_they_are_convolved() -> None:
    weight = weights(RNG, 6, 4, 3, 3)
    layer = partial("y, seen", "x, mask, w, b", weight, mask_channels=4)
    whole = model(
        KNOWN + repeated("mask", "known", 4) + layer, 6, weight, b=np.zeros(6, np.float32)
    )
    assert multiply_adds(whole, 6, 8) == 2 * 6 * 4 * 9 * 48
