"""The ratio goes behind the activation where the formula lets it pass."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    IMAGE,
    KNOWN,
    Array,
    after,
    assert_close,
    collapsed,
    fires,
    freed,
    graph,
    literal,
    photos,
    refuses,
    run,
    weights,
)

RNG = np.random.default_rng(8)
FEEDS = photos(2, 5, 6)
LAYER = KNOWN + "held = Mul (x, known)" + collapsed("y, seen", "held", "known")
OUT = "float[N,8,H,W] out, float[N,1,H,W] mask"


def layer(nodes: str, outputs: str = OUT, more: str = LAYER, **given: Array) -> onnx.ModelProto:
    given = {"w": weights(RNG, 8, 3, 3, 3), "b": weights(RNG, 8), **given}
    return graph(IMAGE, outputs, more + nodes + " mask = Identity (seen)", **given)


@pytest.mark.parametrize(
    ("activation", "behind_the_ratio"),
    [
        ("out = Relu (y)", False),
        ("out = LeakyRelu (y)", False),
        ("out = LeakyRelu <alpha = -0.5> (y)", False),
        ("out = LeakyRelu <alpha = 0.3> (y)", False),
        ("out = Tanh (y)", True),
        ("out = Elu (y)", True),
        ("a = Relu (y) out = Sub (a, y)", True),
    ],
)
def test_fires(activation: str, behind_the_ratio: bool) -> None:
    model = layer(activation)
    found = fires("fuse-epilogue", model, FEEDS, ["y_ratio"])
    assert found["Renormalise"] == 0
    assert found["Conv"] == 3  # of the features, of the coverage by the bias, of the ratio
    nodes = list(after("fuse-epilogue", model).after.graph.node)
    (product,) = (n for n in nodes if n.op_type == "Mul" and n.output[0] != "held")
    kinds = {n.output[0]: n.op_type for n in nodes}
    behind = kinds[product.input[0]] == "Add"
    assert behind == behind_the_ratio
    assert not after("fuse-epilogue", model).after.functions


def test_against_the_formula() -> None:
    weight, bias = weights(RNG, 8, 3, 3, 3), weights(RNG, 8)
    model = layer("out = LeakyRelu <alpha = 0.25> (y)", w=weight, b=bias)
    for inputs in FEEDS:
        y, seen = literal(inputs["x"], 1 - inputs["hole_mask"], weight, bias)
        found, mask = run(after("fuse-epilogue", model).after, inputs)
        assert_close(found, np.where(y < 0, 0.25 * y, y))
        np.testing.assert_array_equal(mask, seen)


def test_an_activation_of_an_output_stays_behind() -> None:
    model = layer("out = Relu (y)", f"{OUT}, float[N,8,H,W] y")
    found = fires("fuse-epilogue", model, FEEDS, ["y_ratio"])
    assert found["Relu"] == 1


def test_an_activation_in_a_branch_stays_there() -> None:
    branch = "yes = Equal (zero, zero) out = If (yes) <then_branch = t () => (float[N,8,H,W] r) "
    branch += "{ r = Relu (y) }, else_branch = e () => (float[N,8,H,W] s) { s = Identity (held8) }>"
    eight = "held8 = Concat <axis = 1> (held, held, known, known)"
    fires("fuse-epilogue", layer(eight + branch), FEEDS[:2], ["y_ratio"])


def test_a_sum_of_convolutions_needs_no_ratio_of_every_channel() -> None:
    summed = LAYER.replace("y_w = Conv", "y_one = Conv").replace(
        "[y_ratio]", "[two] y_two = Conv <pads = [1, 1, 1, 1]> (held, w) y_w = Add (y_one, y_two)\n"
        "[y_ratio]"
    )  # fmt: skip
    found = fires("fuse-epilogue", layer("out = Relu (y)", more=summed), FEEDS, ["y_ratio"])
    assert found["Conv"] == 3  # two of the features, one of the coverage


def test_few_channels() -> None:
    seven = weights(RNG, 7, 3, 3, 3), weights(RNG, 7)
    model = layer("out = Relu (y)", OUT.replace("8", "7"), w=seven[0], b=seven[1])
    reason = "7 channels fill no vector, so their layout is not blocked"
    refuses("fuse-epilogue", model, FEEDS, reason, "y_ratio")


def test_a_bias_that_is_not_constant() -> None:
    model = layer("out = Relu (y)")
    bias = freed(model, "b")
    feeds = [inputs | bias for inputs in FEEDS]
    refuses("fuse-epilogue", model, feeds, "its bias is not constant", "y_ratio")
