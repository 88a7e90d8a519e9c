"""A transposed convolution of stride 2 becomes an ordinary one and an interleaving."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    Array,
    after,
    assert_close,
    doubled_by,
    fires,
    freed,
    graph,
    refuses,
    run,
    weights,
)

RNG = np.random.default_rng(6)
PLAIN = "strides = [2, 2], pads = [1, 1, 1, 1]"
FEEDS = [
    {"x": weights(RNG, batch, 3, *size)} for batch, size in ((1, (1, 1)), (2, (5, 3)), (3, (2, 6)))
]
INTERLEAVING = {"Reshape": 3, "Transpose": 2, "Slice": 1}


def transposed(
    how: str = PLAIN, *, bias: bool = True, weight: Array | None = None
) -> onnx.ModelProto:
    taps = weights(RNG, 3, 5, 4, 4) if weight is None else weight
    given = {"w": taps, "b": weights(RNG, taps.shape[1])} if bias else {"w": taps}
    nodes = f"[up] y = ConvTranspose <{how}> (x, w{', b' if bias else ''})"
    return graph("float[N,3,H,W] x", f"float[N,{taps.shape[1]},P,Q] y", nodes, **given)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [1, 5])
def test_fires(bias: bool, outputs: int) -> None:
    model = transposed(bias=bias, weight=weights(RNG, 3, outputs, 4, 4))
    found = fires("upsampling", model, FEEDS, ["up"])
    assert found["ConvTranspose"] == 0
    assert found["Conv"] == 1
    assert {name: found[name] for name in INTERLEAVING} == INTERLEAVING


def test_against_the_definition() -> None:
    weight, inputs = weights(RNG, 3, 2, 4, 4), FEEDS[1]
    model = transposed(bias=False, weight=weight)
    (found,) = run(after("upsampling", model).after, inputs)
    assert_close(found, doubled_by(inputs["x"], weight))


def needed(window: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]) -> str:
    return f"window, strides and pads are {(window, strides, pads)}, needed 4x4, 2, 1"


ONES = (1, 1, 1, 1)
CHOSEN = "its output's size is chosen, not that of its window"
REFUSALS = {
    "another window": (
        transposed(weight=weights(RNG, 3, 2, 6, 4)),
        needed((6, 4), (2, 2), ONES),
    ),
    "another stride": (
        transposed("strides = [2, 1], pads = [1, 1, 1, 1]"),
        needed((4, 4), (2, 1), ONES),
    ),
    "no padding": (transposed("strides = [2, 2]"), needed((4, 4), (2, 2), (0, 0, 0, 0))),
    "groups": (
        graph(
            "float[N,3,H,W] x",
            "float[N,3,P,Q] y",
            f"[up] y = ConvTranspose <{PLAIN}, group = 3> (x, w)",
            w=weights(RNG, 3, 1, 4, 4),
        ),
        "groups or dilation",
    ),
    "dilation": (transposed(f"{PLAIN}, dilations = [2, 2]"), "groups or dilation"),
    "one more row": (transposed(f"{PLAIN}, output_padding = [1, 0]"), CHOSEN),
}


@pytest.mark.parametrize(("model", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_stays(model: onnx.ModelProto, reason: str) -> None:
    refuses("upsampling", model, FEEDS, reason, "up")


def test_a_size_that_is_asked_for() -> None:
    model = transposed("strides = [2, 2], pads = [1, 1, 1, 1], output_shape = [11, 7]")
    refuses("upsampling", model, FEEDS[1:2], CHOSEN, "up")


@pytest.mark.parametrize("free", ["w", "b"])
def test_weights_and_biases_that_are_not_constant(free: str) -> None:
    model = transposed()
    weight = freed(model, free)
    feeds = [inputs | weight for inputs in FEEDS]
    refuses("upsampling", model, feeds, "its weights are not constant", "up")
