"""A convolution of a concatenation is split where it alone reads it."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    Array,
    Feeds,
    after,
    assert_close,
    fires,
    graph,
    refuses,
    run,
    weights,
)

RNG = np.random.default_rng(3)
INPUTS = "float[N,2,H,W] a, float[N,1,H,W] b, float[N,3,H,W] c"


def feeds() -> list[Feeds]:
    """Batches of one and of three; odd and not square."""
    return [
        {n: weights(RNG, batch, k, *size) for n, k in (("a", 2), ("b", 1), ("c", 3))}
        for batch, size in ((1, (5, 8)), (3, (6, 6)))
    ]


def joined(
    conv: str = "pads = [1, 1, 1, 1]",
    join: str = "joined = Concat <axis = 1> (a, b, c)",
    more: str = "",
    outputs: str = "float[N,4,P,Q] y",
    weight: Array | None = None,
) -> onnx.ModelProto:
    taps = weights(RNG, 4, 6, 3, 3) if weight is None else weight
    nodes = f"{join} [conv] y = Conv <{conv}> (joined, w, bias) {more}"
    return graph(INPUTS, outputs, nodes, w=taps, bias=weights(RNG, 4))


@pytest.mark.parametrize(
    "conv",
    [
        "pads = [1, 1, 1, 1]",
        "strides = [2, 1], pads = [0, 2, 1, 0]",
        "dilations = [1, 2]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
    ],
)
@pytest.mark.parametrize("axis", [1, -3])
def test_every_part_has_a_convolution(conv: str, axis: int) -> None:
    model = joined(conv, f"joined = Concat <axis = {axis}> (a, b, c)")
    assert fires("split-concat", model, feeds(), ["conv"]) == {"Conv": 3, "Add": 2}


def test_against_the_sum_itself() -> None:
    weight, (inputs, _) = weights(RNG, 4, 6, 1, 1), feeds()
    model = joined("pads = [0, 0, 0, 0]", weight=weight)
    bias = onnx.numpy_helper.to_array(model.graph.initializer[1])
    features = np.concatenate([inputs[name] for name in "abc"], 1).astype(np.float64)
    expected = np.einsum("kc,nchw->nkhw", weight[:, :, 0, 0], features) + bias[:, None, None]
    assert_close(run(after("split-concat", model).after, inputs)[0], expected)


def test_one_part_twice_and_no_bias() -> None:
    nodes = "joined = Concat <axis = 1> (c, c) [conv] y = Conv (joined, w)"
    model = graph("float[N,3,H,W] c", "float[N,4,P,Q] y", nodes, w=weights(RNG, 4, 6, 3, 3))
    only_c = [{"c": each["c"]} for each in feeds()]
    assert fires("split-concat", model, only_c, ["conv"]) == {"Conv": 2, "Add": 1}


ALSO_Z = "float[N,4,P,Q] y, float[N,6,H,W] z"
OTHERS = "the concatenation is read by others too"
REFUSALS = {
    "by another node": (joined(more="z = Relu (joined)", outputs=ALSO_Z), OTHERS),
    "by the caller": (joined(outputs="float[N,4,P,Q] y, float[N,6,H,W] joined"), OTHERS),
    "groups": (
        joined("group = 2", weight=weights(RNG, 4, 3, 3, 3)),
        "a convolution in groups reads parts of its input already",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_stays(model: onnx.ModelProto, reason: str) -> None:
    refuses("split-concat", model, feeds(), reason, "conv")


def test_weights_and_channels_must_be_known() -> None:
    nodes = "joined = Concat <axis = 1> (a, b) [conv] y = Conv (joined, w)"
    taps = weights(RNG, 2, 3, 1, 1)
    ab = [{name: each[name] for name in "ab"} for each in feeds()]
    free = graph("float[N,2,H,W] a, float[N,K,H,W] b", "float[N,2,H,W] y", nodes, w=taps)
    refuses("split-concat", free, ab, "the number of channels of a part is not known", "conv")
    given = graph("float[N,2,H,W] a, float[N,1,H,W] b, float[2,3,1,1] w", "float[N,2,H,W] y", nodes)
    with_weight = [{**each, "w": taps} for each in ab]
    refuses("split-concat", given, with_weight, "its weights are not constant", "conv")


def test_other_axes_are_no_places() -> None:
    nodes = "joined = Concat <axis = 2> (c, c) [conv] y = Conv (joined, w)"
    model = graph("float[N,3,H,W] c", "float[N,4,P,Q] y", nodes, w=weights(RNG, 4, 3, 3, 3))
    assert after("split-concat", model).sites == ()
