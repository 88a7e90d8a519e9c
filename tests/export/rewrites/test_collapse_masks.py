"""Masks of many channels collapse where they are proved to repeat one, and nowhere else."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.graphs.small_graphs import (
    IMAGE,
    KNOWN,
    NEAREST,
    after,
    assert_close,
    fires,
    graph,
    literal,
    partial,
    photos,
    repeated,
    run,
    same,
    weights,
)

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Window:
    """A layer of 6 channels to 4."""

    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    averages_by: str = field(default="AveragePool", kw_only=True)


WINDOWS = {
    "3x3": Window(),
    "7x7 stride 2": Window((7, 7), (2, 2), (3, 3, 3, 3)),
    "even, not square": Window((2, 4), (1, 2), (0, 1, 1, 2)),
    "no padding": Window((3, 5), pads=(0, 0, 0, 0)),
    "dilated": Window((3, 3), pads=(2, 3, 2, 3), dilations=(2, 3), averages_by="Conv"),
    "groups": Window(group=2),
    "a window that may lie outside": Window((1, 1), pads=(1, 1, 1, 1), averages_by="Conv"),
}


@pytest.mark.parametrize("mask_channels", [1, 6])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_every_window_and_what_the_paper_says_of_it(window: Window, mask_channels: int) -> None:
    weight, bias = weights(RNG, 4, 6 // window.group, *window.kernel), weights(RNG, 4)
    how: dict[str, Any] = {
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
        "group": window.group,
    }
    mask = "known" if mask_channels == 1 else "mask"
    layer = partial("y, seen", f"x, {mask}, w, b", weight, mask_channels=mask_channels, **how)
    model = graph(
        "float[N,6,H,W] x, float[N,1,H,W] hole_mask",
        "float[N,4,P,Q] y, float[N,M,P,Q] seen",
        KNOWN + (repeated("mask", "known", 6) if mask_channels > 1 else "") + layer,
        w=weight,
        b=bias,
    )
    feeds = photos(2, 9, 12, channels=6)
    nodes = fires("collapse-masks", model, feeds, ["layer"])
    assert nodes["PartialConv2d"] == 0
    assert nodes["Renormalise"] == 1
    assert nodes["AveragePool"] == (window.averages_by == "AveragePool")
    assert nodes["Conv"] == 1 + (window.averages_by == "Conv")
    for inputs in feeds:
        y, seen = run(after("collapse-masks", model).after, inputs)
        expected_y, expected_seen = literal(
            inputs["x"], 1 - inputs["hole_mask"], weight, bias, **how
        )
        assert_close(y, expected_y)
        np.testing.assert_array_equal(seen, np.broadcast_to(expected_seen, seen.shape))


def skip_graph(resize: str = NEAREST) -> tuple[onnx.ModelProto, tuple[np.ndarray, ...]]:
    """Down to half the size, up again beside the image twice: three groups, two masks."""
    down, up = weights(RNG, 4, 3, 3, 3), weights(RNG, 2, 10, 3, 3)
    nodes = (
        KNOWN
        + repeated("mask3", "known", 3)
        + partial("h, seen", "x, mask3, w0, b0", down, mask_channels=3, name="down", strides=(2, 2))
        + f"large = Resize <{resize}> (h, , scales)\n"
        + "seen1 = Slice (seen, c0, c1, c1)\n"
        + f"large_seen = Resize <{resize}> (seen1, , scales)\n"
        + repeated("mask4", "large_seen", 4)
        + """joined = Concat <axis = -3> (x, large, x)
        mask = Concat <axis = 1> (mask3, mask4, mask3)
        """
        + partial("y, updated", "joined, mask, w1, b1", up, mask_channels=10, name="up")
    )
    biases = weights(RNG, 4), weights(RNG, 2)
    model = graph(
        IMAGE,
        "float[N,2,H,W] y, float[N,2,H,W] updated",
        nodes,
        w0=down,
        b0=biases[0],
        w1=up,
        b1=biases[1],
        scales=np.array([1, 1, 2, 2], np.float32),
        c0=np.array([0]),
        c1=np.array([1]),
    )
    return model, (down, biases[0], up, biases[1])


def test_three_groups_of_two_masks_are_weighed_by_their_channels() -> None:
    model, (down, b0, up, b1) = skip_graph()
    feeds = photos(3, 8, 6)
    nodes = fires("collapse-masks", model, feeds, ["down", "up"])
    assert nodes["Renormalise"] == nodes["AveragePool"] == nodes["Conv"] == 2
    rewritten_model = after("collapse-masks", model).after
    shares = [
        numpy_helper.to_array(t).item()
        for t in rewritten_model.graph.initializer
        if t.name.startswith("up.share")
    ]
    assert sorted(shares) == pytest.approx([0.4, 0.6])
    x, known = feeds[0]["x"], np.repeat(1 - feeds[0]["hole_mask"], 3, 1)
    h, seen = literal(x, known, down, b0, strides=(2, 2))
    h, seen = (v.repeat(2, 2).repeat(2, 3) for v in (h, seen))
    y, updated = literal(
        np.concatenate([x, h, x], 1), np.concatenate([known, seen.repeat(4, 1), known], 1), up, b1
    )
    found_y, found = run(rewritten_model, feeds[0])
    assert_close(found_y, y)
    np.testing.assert_array_equal(found[:, :1], updated)


@pytest.mark.parametrize(("height", "fired"), [(8, ["down", "up"]), (7, ["down"])])
def test_enlarged_by_sizes(height: int, fired: list[str]) -> None:
    """Of 8 rows and of 7 four remain, which are one half of 8 alone."""
    down, up = weights(RNG, 4, 3, 3, 3), weights(RNG, 2, 4, 3, 3)
    model = graph(
        f"float[1,3,{height},6] x, float[1,1,{height},6] hole_mask",
        f"float[1,2,{height},6] y, float[1,2,{height},6] updated",
        KNOWN
        + repeated("mask3", "known", 3)
        + partial("h, seen", "x, mask3, w0, b0", down, mask_channels=3, name="down", strides=(2, 2))
        + f"large = Resize <{NEAREST}> (h, , , sizes) mask = Resize <{NEAREST}> (seen, , , sizes)"
        + partial("y, updated", "large, mask, w1, b1", up, mask_channels=4, name="up"),
        w0=down,
        b0=weights(RNG, 4),
        w1=up,
        b1=weights(RNG, 2),
        sizes=np.array([1, 4, height, 6]),
    )
    feeds = photos(1, height, 6)
    assert fires("collapse-masks", model, feeds, fired)["Renormalise"] == len(fired)


def test_masks_of_masks_are_followed_from_layer_to_layer() -> None:
    weight = weights(RNG, 3, 3, 3, 3)
    model = graph(
        IMAGE,
        "float[N,3,H,W] y, float[N,M,H,W] seen",
        KNOWN
        + repeated("mask", "known", 3)
        + partial("a, mask_a", "x, mask, w, b", weight, mask_channels=3, name="first")
        + partial("c, mask_c", "a, mask_a, w, b", weight, mask_channels=3, name="second")
        + partial("y, seen", "c, mask_c, w, b", weight, mask_channels=3, name="third"),
        w=weight,
        b=weights(RNG, 3),
    )
    nodes = fires("collapse-masks", model, photos(2, 7, 5), ["first", "second", "third"])
    assert nodes["PartialConv2d"] == 0


def test_of_a_soft_mask_a_layer_makes_another() -> None:
    weight = weights(RNG, 3, 3, 3, 3)
    model = graph(
        IMAGE,
        "float[N,3,H,W] y",
        repeated("mask", "hole_mask", 3)
        + partial("a, mask_a", "x, mask, w, b", weight, mask_channels=3, name="first")
        + partial("y, seen", "a, mask_a, w, b", weight, mask_channels=3, name="second"),
        w=weight,
        b=weights(RNG, 3),
    )
    outcome = after("collapse-masks", model)
    assert outcome.reasons == ["its mask is not made from hole_mask"] * 2
    soft = [{**feeds, "hole_mask": feeds["hole_mask"] * 0.5} for feeds in photos(1, 5, 4)]
    same(model, outcome.after, soft)
    assert [f.name for f in outcome.after.functions] == ["PartialConv2d"]


def test_weights_may_be_anything() -> None:
    weight = weights(RNG, 4, 3, 3, 3)
    model = graph(
        f"{IMAGE}, float[K,3,3,3] w, float[K] b",
        "float[N,K,H,W] y",
        KNOWN
        + repeated("mask", "known", 3)
        + partial("y, seen", "x, mask, w, b", weight, mask_channels=3),
    )
    feeds = [{**f, "w": weight, "b": weights(RNG, 4)} for f in photos(1, 5, 4)]
    fires("collapse-masks", model, feeds, ["layer"])


def test_half_precision_stays_half_precision() -> None:
    """No weight of another precision gets in: the graph is still well typed."""
    model, _ = skip_graph()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name != "scales":
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float16), tensor.name
                )
            )
    del model.graph.value_info[:]
    for value in (model.graph.input[0], *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    (cast,) = (node for node in model.graph.node if node.op_type == "Cast")
    cast.attribute[0].i = onnx.TensorProto.FLOAT16
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    outcome = after("collapse-masks", model)
    assert outcome.reasons == [None, None]
    onnx.shape_inference.infer_shapes(outcome.after, check_type=True, strict_mode=True)
