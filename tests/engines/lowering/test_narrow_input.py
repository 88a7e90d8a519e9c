"""Few inputs and stride 2: blocks of pixels, where every size is known to be even."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    Array,
    after,
    assert_close,
    convolved,
    fires,
    graph,
    refuses,
    run,
    weights,
)

RNG = np.random.default_rng(5)


def first(
    weight: Array,
    conv: str,
    sides: str = "2*rows,16*columns",
    channels: int | None = None,
) -> onnx.ModelProto:
    height, width = sides.split(",")
    model = graph(
        f"float[N,{channels or weight.shape[1]},H,W] x",
        f"float[N,{len(weight)},P,Q] y",
        f"[conv] y = Conv <{conv}> (x, w, b)",
        w=weight,
        b=weights(RNG, len(weight)),
    )
    shape = model.graph.input[0].type.tensor_type.shape
    for dim, side in zip(shape.dim[2:], (height, width), strict=True):
        dim.ClearField("dim_param")
        if side.isdigit():
            dim.dim_value = int(side)
        elif side:
            dim.dim_param = side
    return model


def feeds(*sizes: tuple[int, int], channels: int = 3) -> list[dict[str, Array]]:
    return [{"x": weights(RNG, 1 + i, channels, *size)} for i, size in enumerate(sizes)]


WINDOWS = {
    "7x7": ((7, 7), "[3, 3, 3, 3]"),
    "5x5": ((5, 5), "[2, 2, 2, 2]"),
    "3x3": ((3, 3), "[1, 1, 1, 1]"),
    "1x1": ((1, 1), "[0, 0, 0, 0]"),
    "3x5": ((3, 5), "[1, 2, 1, 2]"),
}


@pytest.mark.parametrize(("kernel", "pads"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_odd_windows_padded_by_half(kernel: tuple[int, int], pads: str, channels: int) -> None:
    model = first(weights(RNG, 8, channels, *kernel), f"strides = [2, 2], pads = {pads}")
    inputs = feeds((4, 16), (6, 32), (2, 16), channels=channels)
    assert fires("narrow-input", model, inputs, ["conv"]) == {"SpaceToDepth": 1, "Conv": 1}


def test_numbers_are_even_too_and_the_formula_holds() -> None:
    weight, (inputs,) = weights(RNG, 9, 2, 3, 3), feeds((6, 10), channels=2)
    model = first(weight, "strides = [2, 2], pads = [1, 1, 1, 1]", "6,10")
    bias = onnx.numpy_helper.to_array(model.graph.initializer[1])
    expected = convolved(inputs["x"], weight, stride=2) + bias[:, None, None]
    assert_close(run(after("narrow-input", model).after, inputs)[0], expected)


W77 = weights(RNG, 8, 3, 7, 7)
HALVED = "strides = [2, 2], pads = [3, 3, 3, 3]"
ODD_WINDOW = "a window of {} padded by {}, needed odd and padded by half"


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ("5,8", (5, 8)),
        ("height,width", (5, 7)),
        ("3*rows,2*columns", (3, 4)),
        ("2*rows,2*columns + 1", (4, 5)),
        ("2*rows - 1,4*columns", (3, 8)),
        (",8", (5, 8)),
    ],
)
def test_sizes_that_may_be_odd(sides: str, size: tuple[int, int]) -> None:
    model = first(W77, HALVED, sides)
    ((_, reason),) = ((s.place, s.refused) for s in after("narrow-input", model).sites)
    assert reason is not None
    assert reason.endswith("are not known to be even")
    refuses("narrow-input", model, feeds(size), reason, "conv")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            first(weights(RNG, 8, 3, 4, 4), "strides = [2, 2], pads = [1, 1, 1, 1]"),
            ODD_WINDOW.format("4x4", (1, 1, 1, 1)),
        ),
        (
            first(weights(RNG, 8, 3, 3, 3), "strides = [2, 2]"),
            ODD_WINDOW.format("3x3", (0, 0, 0, 0)),
        ),
        (
            first(weights(RNG, 9, 1, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1], group = 3",
                  channels=3),
            "groups or dilation",
        ),
        (
            first(weights(RNG, 8, 3, 3, 3),
                  "strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 2]"),
            "groups or dilation",
        ),
    ],
)  # fmt: skip
def test_stays(model: onnx.ModelProto, reason: str) -> None:
    refuses("narrow-input", model, feeds((8, 16)), reason, "conv")


@pytest.mark.parametrize(
    "model",
    [
        first(weights(RNG, 8, 5, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]"),
        first(weights(RNG, 7, 3, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]"),
        first(weights(RNG, 8, 3, 3, 3), "strides = [2, 1], pads = [1, 1, 1, 1]"),
    ],
    ids=["many inputs", "few outputs", "another stride"],
)
def test_no_place(model: onnx.ModelProto) -> None:
    assert after("narrow-input", model).sites == ()
