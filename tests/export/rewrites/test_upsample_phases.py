"""A convolution of doubled features works on the features themselves; of others it stays."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    NEAREST,
    Array,
    after,
    assert_close,
    convolved,
    fires,
    freed,
    graph,
    refuses,
    run,
    weights,
)

RNG = np.random.default_rng(4)
FEEDS = [
    {"x": weights(RNG, batch, 3, *size)} for batch, size in ((1, (5, 4)), (3, (1, 6)), (2, (3, 3)))
]


def doubled(
    weight: Array,
    conv: str,
    resize: str = NEAREST,
    scales: tuple[float, ...] = (1, 1, 2, 2),
    more: str = "",
) -> onnx.ModelProto:
    outputs = f"float[N,{len(weight)},P,Q] y" + (", float[N,3,P,Q] large" if more else "")
    return graph(
        "float[N,3,H,W] x",
        outputs,
        f"[large] large = Resize <{resize}> (x, , scales)"
        f"[conv] y = Conv {f'<{conv}>' if conv else ''} (large, w, b) {more}",
        w=weight,
        b=weights(RNG, len(weight)),
        scales=np.array(scales, np.float32),
    )


@pytest.mark.parametrize(
    ("kernel", "conv"),
    [
        ((3, 3), "pads = [1, 1, 1, 1]"),
        ((5, 5), "pads = [2, 2, 2, 2], strides = [1, 1]"),
        ((3, 7), "pads = [1, 3, 1, 3]"),
        ((1, 1), ""),
        ((1, 1), "pads = [0, 0, 0, 0], dilations = [1, 1]"),
    ],
)
def test_every_odd_window_padded_by_half(kernel: tuple[int, int], conv: str) -> None:
    model = doubled(weights(RNG, 4, 3, *kernel), conv)
    assert fires("upsample-phases", model, FEEDS, ["conv"]) == {"ConvTranspose": 1}
    (weight, *_) = (t for t in after("upsample-phases", model).after.graph.initializer
                    if t.name.startswith("conv.summed"))  # fmt: skip
    assert list(weight.dims) == [3, 4, kernel[0] + 1, kernel[1] + 1]


def test_against_the_definition() -> None:
    weight, inputs = weights(RNG, 4, 3, 3, 3), FEEDS[0]
    model = doubled(weight, "pads = [1, 1, 1, 1]")
    bias = onnx.numpy_helper.to_array(model.graph.initializer[1])
    expected = convolved(inputs["x"].repeat(2, 2).repeat(2, 3), weight) + bias[:, None, None]
    assert_close(run(after("upsample-phases", model).after, inputs)[0], expected)


def test_the_enlarged_features_stay_for_others() -> None:
    model = doubled(weights(RNG, 2, 3, 3, 3), "pads = [1, 1, 1, 1]", more=" ")
    found = fires("upsample-phases", model, FEEDS, ["conv"])
    assert found == {"ConvTranspose": 1, "Resize": 1}


PADDED = "pads = [1, 1, 1, 1]"
HALF = 'mode = "nearest", nearest_mode = "floor"'
W33 = weights(RNG, 2, 3, 3, 3)
REFUSALS = {
    "linear": (doubled(W33, PADDED, 'mode = "linear"'), "linear half_pixel round_prefer_floor"),
    "half pixel": (doubled(W33, PADDED, HALF), "nearest half_pixel floor"),
    "rounded otherwise": (
        doubled(W33, PADDED, NEAREST.replace("floor", "ceil")),
        "nearest asymmetric ceil",
    ),
    "1.5x": (doubled(W33, PADDED, scales=(1, 1, 1.5, 1.5)), "nearest asymmetric floor"),
    "of batch too": (doubled(W33, PADDED, scales=(2, 1, 2, 2)), "nearest asymmetric floor"),
    "2x1": (doubled(W33, PADDED, scales=(1, 1, 2, 1)), "large enlarges by 2x1, needed 2x2"),
    "even window": (
        doubled(weights(RNG, 2, 3, 4, 3), PADDED),
        "a window of 4x3 padded by (1, 1, 1, 1), needed odd and padded by half",
    ),
    "no padding": (
        doubled(W33, ""),
        "a window of 3x3 padded by (0, 0, 0, 0), needed odd and padded by half",
    ),
    "stride": (
        doubled(W33, PADDED + ", strides = [2, 1]"),
        "a convolution with stride or dilation",
    ),
    "dilation": (
        doubled(W33, PADDED + ", dilations = [1, 2]"),
        "a convolution with stride or dilation",
    ),
    "groups": (
        doubled(weights(RNG, 3, 1, 3, 3), PADDED + ", group = 3"),
        "a convolution in groups",
    ),
}


@pytest.mark.parametrize(("model", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_stays(model: onnx.ModelProto, reason: str) -> None:
    if reason.startswith(("nearest", "linear")):
        reason = f"large resizes by {reason}, needed nearest asymmetric floor, whole scales"
    refuses("upsample-phases", model, FEEDS[::2], reason, "conv")


def by_sizes(height: int, width: int) -> onnx.ModelProto:
    return graph(
        "float[1,3,4,4] x",
        f"float[1,2,{height},{width}] y",
        f"[large] large = Resize <{NEAREST}> (x, , , sizes) [conv] y = Conv <{PADDED}> (large, w)",
        w=W33,
        sizes=np.array([1, 3, height, width]),
    )


def test_sizes_in_place_of_scales() -> None:
    feeds = [{"x": weights(RNG, 1, 3, 4, 4)}]
    assert fires("upsample-phases", by_sizes(8, 8), feeds, ["conv"]) == {"ConvTranspose": 1}
    reason = (
        "large resizes by nearest asymmetric floor from [1, 3, 4, 4] to [1, 3, 8, 9], "
        "needed nearest asymmetric floor, whole scales"
    )
    refuses("upsample-phases", by_sizes(8, 9), feeds, reason, "conv")


def test_weights_that_are_not_constant() -> None:
    model = doubled(W33, PADDED)
    weight = freed(model, "w")
    feeds = [inputs | weight for inputs in FEEDS]
    refuses("upsample-phases", model, feeds, "its weights are not constant", "conv")
