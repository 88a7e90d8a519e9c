"""Batch norms fold where nobody sees the holes they would leave, and stay where somebody does."""

import numpy as np
import onnx
import pytest

from tests.graphs.small_graphs import (
    IMAGE,
    KNOWN,
    NEAREST,
    Array,
    after,
    assert_close,
    collapsed,
    fires,
    graph,
    literal,
    photos,
    refuses,
    repeated,
    run,
    weights,
)

RNG = np.random.default_rng(1)
NORM = {
    "gamma": RNG.uniform(-1.5, 1.5, 3),
    "beta": RNG.standard_normal(3),
    "mean": RNG.standard_normal(3),
    "variance": RNG.uniform(0.1, 2, 3),
}
SCALES = np.array([1, 1, 2, 2], np.float32)
LAYER = KNOWN + "held = Mul (x, known)" + collapsed("y, seen", "held", "known")
BATCH_NORM = "[norm] z = BatchNormalization (y, gamma, beta, mean, variance)\n"
FEEDS = photos(2, 6, 9)


def normed(nodes: str, outputs: str, layer: str = LAYER, **more: Array) -> onnx.ModelProto:
    given = {"w": weights(RNG, 3, 3, 3, 3), "b": weights(RNG, 3), **NORM, "scales": SCALES, **more}
    text = layer + nodes
    used = {name: v for name, v in given.items() if f" {name}" in text or f"({name}" in text}
    return graph(IMAGE, outputs, text, **used)


MASKED = {
    "at once": "out = Mul (z, seen)",
    "by the mask of every channel": repeated("m", "seen", 3) + "out = Mul (m, z)",
    "behind an activation": "a = LeakyRelu <alpha = 0.3> (z) out = Mul (a, seen)",
    "twice": "a = Relu (z) b1 = Mul (a, seen) b2 = Mul (z, seen) out = Sub (b1, b2)",
    "beside others, enlarged": f"""large = Resize <{NEAREST}> (z, , scales)
        m = Resize <{NEAREST}> (seen, , scales)
        other = Resize <{NEAREST}> (x, , scales)
        all_m = Resize <{NEAREST}> (known, , scales)
        joined = Concat <axis = 1> (large, other)"""
    + repeated("m3", "m", 3)
    + repeated("k3", "all_m", 3)
    + "mask = Concat <axis = 1> (m3, k3) out = Mul (joined, mask)",
}


@pytest.mark.parametrize("nodes", MASKED.values(), ids=MASKED)
def test_folds_where_every_reader_masks(nodes: str) -> None:
    model = normed(BATCH_NORM + nodes, "float[N,C,P,Q] out")
    found = fires("fold-batch-norm", model, FEEDS, ["norm"])
    assert found["BatchNormalization"] == 0
    assert found["Conv"] == found["Renormalise"] == 1


def test_who_takes_the_shape_alone_sees_no_number() -> None:
    """As networks do that enlarge to the size of what they join."""
    sizes = "one = Shape (y) two = Shape (y_w) three = Shape (z) out = Mul (z, seen) "
    outputs = "float[N,3,H,W] out, int64[4] one, int64[4] two, int64[4] three"
    found = fires("fold-batch-norm", normed(BATCH_NORM + sizes, outputs), FEEDS, ["norm"])
    assert found["BatchNormalization"] == 0


def test_against_the_formula() -> None:
    weight, bias = weights(RNG, 3, 3, 3, 3), weights(RNG, 3)
    model = normed(BATCH_NORM + "out = Mul (z, seen)", "float[N,3,H,W] out", w=weight, b=bias)
    for inputs in FEEDS:
        y, seen = literal(inputs["x"], 1 - inputs["hole_mask"], weight, bias)
        gamma, beta, mean, variance = (NORM[k].reshape(3, 1, 1) for k in NORM)
        expected = ((y - mean) / np.sqrt(variance + 1e-5) * gamma + beta) * seen
        assert_close(run(after("fold-batch-norm", model).after, inputs)[0], expected)


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("group", [1, 3])
def test_folds_into_an_ordinary_convolution_whoever_reads_it(bias: str, group: int) -> None:
    conv = f"y = Conv <pads = [1, 1, 1, 1], group = {group}> (x, w{bias})"
    nodes = "[norm] out = BatchNormalization <epsilon = 0.1> (y, gamma, beta, mean, variance)"
    weight = weights(RNG, 3, 3 // group, 3, 3)
    given = {**NORM, "w": weight} | ({"b": weights(RNG, 3)} if bias else {})
    model = graph("float[N,3,H,W] x", "float[N,3,H,W] out", conv + nodes, **given)
    feeds = [{"x": f["x"]} for f in FEEDS[:2]]
    assert fires("fold-batch-norm", model, feeds, ["norm"]) == {"Conv": 1}


def test_a_shared_weight_stays_as_it_is_for_others() -> None:
    nodes = BATCH_NORM + "masked = Mul (z, seen) other = Conv (x, w) "
    model = normed(nodes, "float[N,3,H,W] masked, float[N,3,P,Q] other")
    assert fires("fold-batch-norm", model, FEEDS, ["norm"])["Conv"] == 2


MASK = "out = Mul (z, seen)"
READ_TWICE = "the convolution's output is read by others too"
NOT_CONSTANT = "its weights are not constant"
OUT = "float[N,C,P,Q] out"
UNMASKED = "reader reads its holes without masking them"
REFUSALS = {
    "the graph's output": (
        MASK,
        f"{OUT}, float[N,3,P,Q] z",
        "its holes are part of the graph's output",
    ),
    "a Tanh": ("[reader] out = Tanh (z)", OUT, UNMASKED),
    "one of two readers": ("one = Mul (z, seen) [reader] out = Add (z, one)", OUT, UNMASKED),
    "another mask": ("[reader] out = Mul (z, known)", OUT, UNMASKED),
    "no mask": ("[reader] out = Mul (z, x)", OUT, UNMASKED),
    "masks in another order": (
        "both = Concat <axis = 1> (z, x)"
        + repeated("s3", "seen", 3)
        + repeated("k3", "known", 3)
        + "m = Concat <axis = 1> (k3, s3) [reader] out = Mul (both, m)",
        OUT,
        UNMASKED,
    ),
    "joined along another axis": ("[reader] out = Concat <axis = 2> (z, x)", OUT, UNMASKED),
    "the layer is read by others": ("one = Mul (z, seen) out = Add (one, y)", OUT, READ_TWICE),
    "the layer is an output": (MASK, f"{OUT}, float[N,3,P,Q] y", READ_TWICE),
    "the convolution is an output": (
        MASK,
        f"{OUT}, float[N,3,P,Q] y_w",
        "no convolution of its own stands before the ratio",
    ),
}
NORMS = {
    "no convolution": (BATCH_NORM.replace("(y", "(x"), "it follows no convolution"),
    "moments that depend on the input": (
        "size = Size (x) one = CastLike (size, gamma) half = Div (one, one) g = Mul (gamma, half)"
        + BATCH_NORM.replace("gamma", "g"),
        NOT_CONSTANT,
    ),
}


@pytest.mark.parametrize(("norm", "reason"), NORMS.values(), ids=NORMS)
def test_other_norms_stay(norm: str, reason: str) -> None:
    refuses("fold-batch-norm", normed(norm + MASK, OUT), FEEDS, reason, "norm")


@pytest.mark.parametrize(("nodes", "outputs", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_stays(nodes: str, outputs: str, reason: str) -> None:
    refuses("fold-batch-norm", normed(BATCH_NORM + nodes, outputs), FEEDS, reason, "norm")


def test_operators_of_others_may_do_anything_with_holes() -> None:
    model = normed(BATCH_NORM + "[theirs] a = Relu (z) out = Mul (a, seen)", OUT)
    (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
    relu.domain = "someone.else"
    model.opset_import.append(onnx.helper.make_opsetid(relu.domain, 1))
    reason = "theirs reads its holes without masking them"
    assert after("fold-batch-norm", model).reasons == [reason]


def test_a_bias_before_the_ratio_stays() -> None:
    layer = LAYER.replace("(held, w)", "(held, w, b)")
    assert layer != LAYER
    reason = "the convolution adds a bias before the ratio"
    refuses("fold-batch-norm", normed(BATCH_NORM + MASK, OUT, layer), FEEDS, reason, "norm")


def test_statistics_of_the_batch_stay() -> None:
    nodes = """y = Conv <pads = [1, 1, 1, 1]> (x, w)
    [norm] out, m, v = BatchNormalization <training_mode = 1> (y, gamma, beta, mean, variance)"""
    model = graph(
        "float[N,3,H,W] x", "float[N,3,H,W] out", nodes, w=weights(RNG, 3, 3, 3, 3), **NORM
    )
    feeds = [{"x": f["x"]} for f in FEEDS[:1]]
    refuses("fold-batch-norm", model, feeds, "it takes the statistics of the batch", "norm")


def test_a_weight_that_the_caller_may_replace_stays() -> None:
    """An initializer that is an input as well is only its default."""
    conv = "y = Conv <pads = [1, 1, 1, 1]> (x, w)"
    nodes = "[norm] out = BatchNormalization (y, gamma, beta, mean, variance)"
    model = graph(
        "float[N,3,H,W] x, float[3,3,3,3] w",
        "float[N,3,H,W] out",
        conv + nodes,
        w=weights(RNG, 3, 3, 3, 3),
        **NORM,
    )
    feeds = [{"x": FEEDS[0]["x"], "w": weights(RNG, 3, 3, 3, 3)}]
    refuses("fold-batch-norm", model, feeds, NOT_CONSTANT, "norm")
