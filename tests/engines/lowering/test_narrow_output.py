"""The last layer's two parts are computed together as phases where nobody else sees them."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    Array,
    Feeds,
    after,
    assert_close,
    convolved,
    doubled_by,
    fires,
    freed,
    graph,
    refuses,
    run,
    weights,
)

RNG = np.random.default_rng(7)
UP, SKIP = "strides = [2, 2], pads = [1, 1, 1, 1]", "pads = [1, 1, 1, 1]"
NODES = """
    [up] a = ConvTranspose <{up}> (h, wu{bu})
    [skip] b = Conv <{skip}> (x, ws{bs})
    [sum] y = Add ({order})
"""


def feeds(*sizes: tuple[int, int]) -> list[Feeds]:
    return [
        {"h": weights(RNG, n, 4, i, j), "x": weights(RNG, n, 3, 2 * i, 2 * j)}
        for n, (i, j) in enumerate(sizes or ((3, 2), (1, 1), (4, 5)), start=1)
    ]


def summed(
    up: str = UP,
    skip: str = SKIP,
    order: str = "a, b",
    biases: str = "us",
    sides: str = "2*rows,2*columns",
    outputs: str = "float[N,3,P,Q] y",
    **given: Array,
) -> onnx.ModelProto:
    names = {f"b{part}": f", b{part}" if part in biases else "" for part in "us"}
    given = {"wu": weights(RNG, 4, 3, 4, 4), "ws": weights(RNG, 3, 3, 3, 3), **given}
    given |= {f"b{part}": weights(RNG, 3) for part in biases}
    nodes = NODES.format(up=up, skip=skip, order=order, **names)
    model = graph("float[N,4,R,C] h, float[N,3,H,W] x", outputs, nodes, **given)
    for dim, side in zip(
        model.graph.input[1].type.tensor_type.shape.dim[2:], sides.split(","), strict=True
    ):
        dim.dim_param = side
    return model


@pytest.mark.parametrize("order", ["a, b", "b, a"])
@pytest.mark.parametrize("biases", ["", "u", "s", "us"])
def test_fires(order: str, biases: str) -> None:
    found = fires("narrow-output", summed(order=order, biases=biases), feeds(), ["up"])
    assert found["ConvTranspose"] == 0
    assert found["Conv"] == 2
    assert found["Add"] == 1
    assert found["Transpose"] == 2


def test_against_the_definition() -> None:
    inputs = feeds((3, 2))[0]
    wu, ws = weights(RNG, 4, 3, 4, 4), weights(RNG, 3, 3, 3, 3)
    model = summed(biases="", wu=wu, ws=ws)
    expected = doubled_by(inputs["h"], wu) + convolved(inputs["x"], ws)
    assert_close(run(after("narrow-output", model).after, inputs)[0], expected)


NOT_PLAIN = "skip is no plain 3x3 convolution"
READ_TWICE = "one of the summands is read by others too"
BROADCAST = "skip is not known to be of its size, and may be broadcast"
REFUSALS = {
    "5x5": (summed(skip="pads = [2, 2, 2, 2]", ws=weights(RNG, 3, 3, 5, 5)), NOT_PLAIN),
    "dilated": (summed(skip="pads = [2, 2, 2, 2], dilations = [2, 2]"), NOT_PLAIN),
    "groups": (summed(skip=SKIP + ", group = 3", ws=weights(RNG, 3, 1, 3, 3)), NOT_PLAIN),
    "the skip is an output": (
        summed(outputs="float[N,3,P,Q] y, float[N,3,P,Q] b"), READ_TWICE,
    ),
    "the features are an output": (
        summed(outputs="float[N,3,P,Q] y, float[N,3,P,Q] a"), READ_TWICE,
    ),
    "sizes that are not known": (summed(sides="height,width"), BROADCAST),
    "one channel for all": (
        summed(ws=weights(RNG, 1, 3, 3, 3), biases="u"), BROADCAST,
    ),
    "another window above": (
        summed(up="strides = [2, 2], pads = [2, 2, 2, 2]", wu=weights(RNG, 4, 3, 6, 6)),
        "window, strides and pads are ((6, 6), (2, 2), (2, 2, 2, 2)), needed 4x4, 2, 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_stays(model: onnx.ModelProto, reason: str) -> None:
    refuses("narrow-output", model, feeds(), reason, "up")


def test_a_larger_skip_that_is_not_padded() -> None:
    inputs = [{"h": weights(RNG, 1, 4, 3, 2), "x": weights(RNG, 1, 3, 8, 6)}]
    refuses("narrow-output", summed(skip="strides = [1, 1]"), inputs, NOT_PLAIN, "up")


def test_a_skip_of_one_pixel_is_broadcast() -> None:
    inputs = [{"h": weights(RNG, 1, 4, 3, 2), "x": weights(RNG, 1, 3, 1, 1)}]
    refuses("narrow-output", summed(sides="height,width"), inputs, BROADCAST, "up")


@pytest.mark.parametrize("free", ["wu", "ws", "bu", "bs"])
def test_weights_that_are_not_constant(free: str) -> None:
    model = summed()
    weight = freed(model, free)
    inputs = [each | weight for each in feeds()]
    refuses("narrow-output", model, inputs, "its weights are not constant", "up")


def test_many_outputs_are_no_place() -> None:
    model = summed(
        biases="", wu=weights(RNG, 4, 8, 4, 4), ws=weights(RNG, 8, 3, 3, 3),
        outputs="float[N,8,P,Q] y",
    )  # fmt: skip
    assert after("narrow-output", model).sites == ()
