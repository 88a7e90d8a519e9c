"""A multiplication by a mask goes where it changes nothing, and stays where it does."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    IMAGE,
    KNOWN,
    NEAREST,
    Array,
    after,
    collapsed,
    graph,
    photos,
    repeated,
    run,
    same,
    weights,
)

RNG = np.random.default_rng(2)
LAYER = KNOWN + "[entrance] held = Mul (x, known)" + collapsed("y, seen", "held", "known")
UNPROVED = "what it masks is not proved to be 0 in its holes"
FEEDS = photos(2, 7, 6)
SCALES = {"scales": np.array([1, 1, 2, 2], np.float32)}


def masked(nodes: str, outputs: str, **more: Array) -> onnx.ModelProto:
    given = {"w": weights(RNG, 3, 3, 3, 3), "b": weights(RNG, 3), **more}
    return graph(IMAGE, outputs, LAYER + nodes, **given)


OUT = "float[N,C,P,Q] out"
CHANGES_NOTHING: dict[str, tuple[str, dict[str, Array], int]] = {
    "at once": ("[again] z = Mul (y, seen) out = Abs (z)", {}, 1),
    "the mask first": ("[again] z = Mul (seen, y) out = Abs (z)", {}, 1),
    "the graph's output": ("[again] out = Mul (y, seen)", {}, 1),
    "every channel": (repeated("m", "seen", 3) + "[again] z = Mul (y, m) out = Abs (z)", {}, 1),
    "ones": (
        "a = Tanh (x) [again] z = Mul (a, one) out = Abs (z)",
        {"one": np.ones((1, 1, 1, 1), np.float32)},
        0,
    ),
    "behind activations": (
        "a = LeakyRelu <alpha = 0.1> (y) b1 = Relu (a) [again] z = Mul (b1, seen) out = Abs (z)",
        {},
        1,
    ),
    "enlarged": (
        f"large = Resize <{NEAREST}> (y, , scales) m = Resize <{NEAREST}> (seen, , scales)"
        "[again] z = Mul (large, m) out = Abs (z)",
        SCALES,
        1,
    ),
    "joined": (
        "both = Concat <axis = 1> (y, held)"
        + repeated("m", "seen", 3)
        + repeated("k", "known", 3)
        + "mask = Concat <axis = -3> (m, k) [again] z = Mul (both, mask) out = Abs (z)",
        {},
        1,
    ),
    "joined with what is not masked yet": (
        "both = Concat <axis = 1> (y, x)"
        + repeated("m", "seen", 3)
        + repeated("k", "known", 3)
        + "mask = Concat <axis = 1> (m, k) [again] z = Mul (both, mask) out = Abs (z)",
        {},
        2,
    ),
}


@pytest.mark.parametrize(("nodes", "more", "left"), CHANGES_NOTHING.values(), ids=CHANGES_NOTHING)
def test_goes(nodes: str, more: dict[str, Array], left: int) -> None:
    model = masked(nodes, OUT, **more)
    outcome = after("mask-once", model)
    assert [(site.place, site.refused) for site in outcome.sites] == [("again", None)]
    assert outcome.nodes["Mul"] == left
    same(model, outcome.after, FEEDS)
    for inputs in FEEDS:  # exactly, not within rounding
        before, after_it = (run(m, inputs)[0] for m in (model, outcome.after))
        np.testing.assert_array_equal(before, after_it)


def test_two_outputs_of_one_value_keep_their_names() -> None:
    model = masked("[again] out = Mul (y, seen)", f"{OUT}, float[N,3,P,Q] y")
    outcome = after("mask-once", model)
    assert [(site.place, site.refused) for site in outcome.sites] == [("again", None)]
    assert outcome.nodes["Identity"] == 1
    same(model, outcome.after, FEEDS)


SMALLER = {
    "pixels": ("a = GlobalAveragePool (x)", (1, 1, 7, 6)),
    "rows": ("a = ReduceMax <keepdims = 1> (x, rows)", (1, 1, 7, 1)),
    "channels": ("a = ReduceMax <keepdims = 1> (x, channels)", (1, 3, 1, 1)),
    "images": ("a = ReduceMax <keepdims = 1> (x, images)", (2, 1, 1, 1)),
    "what is not known": ("a = AveragePool <kernel_shape = [7, 1]> (x)", (1, 1, 7, 1)),
}


@pytest.mark.parametrize(("nodes", "shape"), SMALLER.values(), ids=SMALLER)
def test_ones_of_another_size_repeat_what_is_smaller(nodes: str, shape: tuple[int, ...]) -> None:
    axes = {"images": [0], "channels": [1], "rows": [2]}
    more = {name: np.array(axis) for name, axis in axes.items() if name in nodes}
    more["one"] = np.ones(shape, np.float32)
    model = masked(f"{nodes} [again] out = Mul (a, one)", OUT, **more)
    outcome = after("mask-once", model)
    assert [(site.place, site.refused) for site in outcome.sites] == [("again", UNPROVED)]
    same(model, outcome.after, FEEDS)


@pytest.mark.parametrize(("a", "left"), [("Tanh (x)", 0), ("GlobalAveragePool (x)", 1)])
def test_ones_of_the_size_of_the_image(a: str, left: int) -> None:
    filled = "size = Shape (x) one = ConstantOfShape <value = float[1] {1.0}> (size)"
    model = masked(f"{filled} a = {a} [again] z = Mul (a, one) out = Abs (z)", OUT)
    outcome = after("mask-once", model)
    assert outcome.nodes["Mul"] == left
    same(model, outcome.after, FEEDS)


CHANGES_SOMETHING: dict[str, str] = {
    "another mask": "[again] out = Mul (y, known)",
    "what has no holes": "t = Tanh (y) s = Sigmoid (t) [again] out = Mul (s, seen)",
    # Its first group has one channel, but it is not a mask of one channel.
    "a mask of several groups": repeated("k2", "known", 2)
    + "mask = Concat <axis = 1> (seen, k2) [again] out = Mul (y, mask)",
    "parts of other channels than the masks'": "both = Concat <axis = 1> (y, x)"
    + repeated("m", "seen", 2)
    + repeated("k", "known", 4)
    + "mask = Concat <axis = 1> (m, k) [again] out = Mul (both, mask)",
    "joined along another axis": "both = Concat <axis = 2> (y, y)"
    "mask = Concat <axis = 2> (known, known)"
    "flag = Greater (mask, zero) m = Cast <to = 1> (flag) [again] out = Mul (both, m)",
    "enlarged in another way": f"large = Resize <{NEAREST}> (y, , scales)"
    'm = Resize <mode = "linear"> (seen, , scales)'
    "flag = Greater (m, zero) hard = Cast <to = 1> (flag) [again] out = Mul (large, hard)",
}


@pytest.mark.parametrize("nodes", CHANGES_SOMETHING.values(), ids=CHANGES_SOMETHING)
def test_stays(nodes: str) -> None:
    model = masked(nodes, OUT, **(SCALES if "scales" in nodes else {}))
    outcome = after("mask-once", model)
    assert [(site.place, site.refused) for site in outcome.sites] == [("again", UNPROVED)]
    assert outcome.nodes["Mul"] == 2
    same(model, outcome.after, FEEDS)
