"""Masks that are proved to be 0 or 1 and equal over channels, and masks that are not."""

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pconv_deploy.export.rewrites.mask_facts import MaskFacts
from tests.graphs.small_graphs import (
    IMAGE,
    KNOWN,
    NEAREST,
    after,
    fires,
    graph,
    partial,
    photos,
    refuses,
    repeated,
    weights,
)

RNG = np.random.default_rng(0)
CONSTANTS = {
    "c0": np.array([0]),
    "c1": np.array([1]),
    "c2": np.array([2]),
    "c3": np.array([3]),
    "c4": np.array([4]),
    "c6": np.array([6]),
    "half": np.array(0.5),
    "one": np.array(1.0),
    "over3": np.array([1, 3, 1, 1]),
    "rows_and_columns": np.array([2, 3]),
    "scales": np.array([1, 1, 1, 1], np.float32),
    "six_by_six": np.array([6, 6]),
    "as_one": np.array([1, 1, 6, 6]),
    "twice": np.array([1, 1, 2, 1]),
    "two_three": np.array([2, 3]),
    "yes": np.array(True),
}


def one_layer(mask_nodes: str, **more: np.ndarray) -> onnx.ModelProto:
    weight = weights(RNG, 4, 3, 3, 3)
    used = {name: v for name, v in CONSTANTS.items() if re.search(rf"\b{name}\b", mask_nodes)}
    return graph(
        IMAGE,
        "float[N,4,P,Q] y, float[N,4,P,Q] seen",
        KNOWN + mask_nodes + partial("y, seen", "x, mask, w, b", weight, mask_channels=3),
        w=weight,
        b=weights(RNG, 4),
        **used,
        **more,
    )


MASK3 = repeated("mask3", "known", 3)
FILLED = "size = Shape (x) all = ConstantOfShape <value = float[1] {{{}}}> (size)"
ENLARGED = "".join(f"{m}1 = Resize <{NEAREST}> ({m}, , scales)" for m in ("known", "mask3"))
PROVED = {
    "cast there and back": MASK3
    + "half_mask = Cast <to = 10> (mask3) flag = Cast <to = 9> (half_mask)"
    "mask = Cast <to = 1> (flag)",
    "joined and split": MASK3 + "five = Concat <axis = 1> (known, mask3, known)"
    "a, mask = Split <axis = -3> (five, two_three)",
    "a slice of one mask": repeated("mask4", "known", 4) + "mask = Slice (mask4, c0, c3, c1)",
    "enlarged in groups, and equal": MASK3 + ENLARGED + "mask = Mul (known1, mask31)",
    "tiled over channels": "mask = Tile (known, over3)",
    "a product with itself": MASK3 + "mask = Mul (known, mask3)",
    "a product with ones": FILLED.format(1.0) + "mask = Mul (all, known)",
    "filled with ones": FILLED.format(1.0) + "mask = Identity (all)",
    "flags expanded": "size = Shape (x) flags = Expand (yes, size) mask = Cast <to = 1> (flags)",
    "ones beside what has holes": "one1 = Expand (one, as_one) two = Expand (known, over3)"
    "known2 = Slice (two, c0, c2, c1) mask = Concat <axis = 1> (known2, one1)",
}


@pytest.mark.parametrize("nodes", PROVED.values(), ids=PROVED)
def test_proved(nodes: str) -> None:
    feeds = [f for f in photos(1, 6, 6) if len(f["x"]) == 1]
    assert fires("collapse-masks", one_layer(nodes), feeds, ["layer"])["Renormalise"] == 1


def test_a_constant_mask_is_proved_if_it_is_one_everywhere() -> None:
    mask = np.ones((1, 3, 6, 6))
    fires("collapse-masks", one_layer("", mask=mask), photos(1, 6, 6), ["layer"])
    mask[0, 1, 2, 3] = 0
    reason = "its mask is not made from hole_mask"
    refuses("collapse-masks", one_layer("", mask=mask), photos(1, 6, 6), reason, "layer")


def unproved(by: str) -> str:
    return f"its mask passes {by}, which is not proved to keep it 0 or 1 and equal over channels"


REFUSALS = {
    "enlarged linearly": (
        'soft = Resize <mode = "linear"> (known, , scales)' + repeated("mask", "soft", 3),
        unproved("Resize of mode linear (Resize soft)"),
    ),
    "nearest, but half a pixel off": (
        'other = Resize <mode = "nearest"> (known, , scales)' + repeated("mask", "other", 3),
        unproved("Resize of mode nearest (Resize other)"),
    ),
    "by sizes": (
        "two = Shape <start = 0, end = 2> (known) sizes = Concat <axis = 0> (two, six_by_six)"
        f"other = Resize <{NEAREST}> (known, , , sizes)" + repeated("mask", "other", 3),
        unproved("Resize of mode nearest from [N, 1, H, W] to [?, 1, 6, 6] (Resize other)"),
    ),
    "halved in value": (
        "soft = Mul (known, half)" + repeated("mask", "soft", 3),
        unproved("Mul (Mul soft)"),
    ),
    "a product with twos": (
        FILLED.format(2.0) + "mask = Mul (all, known)",
        unproved("Mul (Mul mask)"),
    ),
    "not from a comparison": (
        repeated("mask", "hole_mask", 3),
        "its mask is not made from hole_mask",
    ),
    "a mask of each channel": (
        "each = Greater (x, zero) mask = Cast <to = 1> (each)",
        "the mask may differ from channel to channel",
    ),
    "the pixels of one repeated": (
        """top = ReduceMax <keepdims = 1> (hole_mask, rows_and_columns)
        flag = Equal (top, zero) first = Cast <to = 1> (flag)
        size = Shape (x) mask = Expand (first, size)""",
        unproved("Expand (Expand mask)"),
    ),
    "channels of several masks picked": (
        """hole = Greater (hole_mask, zero) other = Cast <to = 1> (hole)
        two = Concat <axis = 1> (known, known, known, other) mask = Slice (two, c1, c4, c1)""",
        unproved("Slice (Slice mask)"),
    ),
    "every other channel": (
        repeated("mask6", "known", 6) + "mask = Slice (mask6, c0, c6, c1, c2)",
        unproved("Slice (Slice mask)"),
    ),
    "joined along another axis": (
        "wide = Concat <axis = 3> (known, known) mask3 = Slice (wide, c0, c6, c3)"
        + repeated("mask", "mask3", 3),
        unproved("Concat (Concat wide)"),
    ),
    "tiled over pixels": (
        "tall = Tile (known, twice) mask3 = Slice (tall, c0, c6, c2)"
        + repeated("mask", "mask3", 3),
        unproved("Tile (Tile tall)"),
    ),
}


@pytest.mark.parametrize(("nodes", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_not_proved(nodes: str, reason: str) -> None:
    refuses("collapse-masks", one_layer(nodes), photos(2, 6, 6), reason, "layer")


def test_operators_of_others_prove_nothing() -> None:
    model = one_layer(MASK3 + "mask = Identity (mask3)")
    (node,) = (n for n in model.graph.node if n.op_type == "Identity")
    node.domain = "someone.else"
    model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))
    assert after("collapse-masks", model).reasons == [unproved("Identity (Identity mask)")]


def test_sizes_that_are_not_known_may_be_repeated_pixels() -> None:
    model = one_layer(repeated("mask", "known", 3))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.Clear()
    read = ir.serde.deserialize_model(model)  # no shape inference
    mask = ir.convenience.create_value_mapping(read.graph)["mask"]
    assert MaskFacts.of(read.graph).why_unproved(mask) == unproved("Expand (Expand mask)")
