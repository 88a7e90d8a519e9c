"""All rewrites together: every level, and every one left out, computes the same function."""

from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pconv_deploy.errors import UsageError
from pconv_deploy.export.rewrites.pipeline import (
    LEVELS,
    REWRITES,
    Level,
    select_rewrites,
)
from pconv_deploy.graphs.passes import GraphPass, PassError, Site
from tests.graphs.random_networks import RandomNetwork
from tests.graphs.small_graphs import (
    IMAGE,
    KNOWN,
    Feeds,
    assert_close,
    collapsed,
    graph,
    holes,
    photos,
    rewritten,
    run,
    same,
    weights,
)

SEEDS = range(6)


@cache
def network(seed: int) -> tuple[onnx.ModelProto, Feeds]:
    """A random network, and one batch with every kind of hole."""
    rng = np.random.default_rng(seed)
    model, multiple = RandomNetwork(rng).model()
    height, width = (multiple * int(rng.integers(1, 4)) for _ in range(2))
    hole_mask = np.concatenate(list(holes(height, width, seed).values()))
    x = rng.standard_normal((len(hole_mask), 3, height, width)).astype(np.float32)
    return model, {"x": x, "hole_mask": hole_mask}


@cache
def literally(seed: int) -> tuple[np.ndarray, np.ndarray]:
    y, seen = run(*network(seed))
    return y, seen


def all_of(model: onnx.ModelProto, rewrites: tuple[GraphPass, ...]) -> onnx.ModelProto:
    for _, after in rewritten(model, rewrites):
        model = after
    onnx.checker.check_model(model)
    return model


def agrees(model: onnx.ModelProto, seed: int) -> None:
    y, seen = run(model, network(seed)[1])
    expected, expected_seen = literally(seed)
    assert np.abs(expected).max() > 0
    assert_close(y, expected)
    np.testing.assert_array_equal(seen, expected_seen)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_and_so_every_level_computes_the_same(seed: int) -> None:
    fired = set()
    for step, model in rewritten(network(seed)[0], select_rewrites(Level.WORK)):
        onnx.checker.check_model(model)
        agrees(model, seed)
        fired |= {step.name} if step.fired else set()
        if step.name == "upsample-phases":
            nodes = Counter(node.op_type for node in model.graph.node)
            assert nodes["PartialConv2d"] == 0
            assert nodes["ConvTranspose"] >= 1
    assert fired >= {"collapse-masks", "mask-once", "split-concat", "upsample-phases"}
    assert len(fired) >= 5


@pytest.mark.parametrize(
    ("seed", "left_out"), [(i % len(SEEDS), rewrite.name) for i, rewrite in enumerate(REWRITES)]
)
def test_each_one_can_be_left_out(seed: int, left_out: str) -> None:
    rewrites = select_rewrites(Level.WORK, [left_out])
    assert left_out not in [rewrite.name for rewrite in rewrites]
    agrees(all_of(network(seed)[0], rewrites), seed)


@pytest.mark.parametrize("alone", REWRITES, ids=lambda rewrite: rewrite.name)
def test_each_one_can_be_alone(alone: GraphPass) -> None:
    agrees(all_of(network(3)[0], (alone,)), 3)


def test_levels_and_names() -> None:
    names = [rewrite.name for rewrite in REWRITES]
    assert len(set(names)) == len(names)
    assert list(LEVELS) == sorted(LEVELS)
    assert select_rewrites(Level.LITERAL) == ()
    assert select_rewrites(Level.WORK) == REWRITES
    assert [r.name for r in select_rewrites(1, ["mask-once"])] == [
        "collapse-masks",
        "fold-batch-norm",
        "fold-constants",
    ]
    with pytest.raises(UsageError, match="unknown rewrite a, b; available: collapse-masks, "):
        select_rewrites(0, ["mask-once", "b", "a"])


def test_a_step_counts_and_groups_its_places() -> None:
    def speaks(_model: ir.Model) -> list[Site]:
        return [Site("a"), Site("b", "why"), Site("c", "why"), Site("d", "else")]

    model, _ = network(0)
    before = model.SerializeToString()
    ((step, _),) = rewritten(model, [GraphPass("speaks", speaks)])
    assert step.fired == 1
    assert step.refusals() == {"why": ["b", "c"], "else": ["d"]}
    assert model.SerializeToString() == before


@pytest.mark.parametrize("left_out", [[], ["fold-constants"]])
def test_new_names_meet_no_old_ones(left_out: list[str]) -> None:
    """Inputs, weights and values that are called as new ones would be."""
    layer = KNOWN + "held = Mul (val_0, known)" + collapsed("y, seen", "held", "known", "val_1")
    nodes = layer + "[norm] z = BatchNormalization (y, val_2, val_3, val_3, val_2)"
    taken = """ masked = Mul (z, seen) y_conv.bias = Abs (val_0) y_conv.weight = Neg (y_conv.bias)
    both = Concat <axis = 1> (masked, val_0)
    [last] last = Conv <pads = [1, 1, 1, 1]> (both, w) out = Sub (last, y_conv.weight)"""
    model = graph(
        IMAGE.replace(" x,", " val_0,"),
        "float[N,3,H,W] out",
        nodes + taken.replace("y_conv.", "y_conv_"),
        val_1=weights(np.random.default_rng(0), 3, 3, 3, 3),
        val_2=np.array([1.0, 2, 3]),
        val_3=np.array([0.5, 0, -1]),
        b=np.array([1.0, 2, 3]),
        w=weights(np.random.default_rng(1), 3, 6, 3, 3),
    )
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("y_conv_", "y_conv.") for name in names]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    feeds = [{"val_0": f["x"], "hole_mask": f["hole_mask"]} for f in photos(2, 6, 8)]
    same(model, all_of(model, select_rewrites(Level.WORK, left_out)), feeds)


def reads_a_later_value(model: ir.Model) -> list[Site]:
    nodes = list(model.graph)
    next(node for node in nodes if node.inputs).replace_input_with(0, nodes[-1].outputs[0])
    return []


def renames_the_output(model: ir.Model) -> list[Site]:
    model.graph.outputs[0].name = "other"
    return []


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (
            [GraphPass("wrong", lambda _model: [], removes=("PartialConv2d",))],
            "pass wrong: it left PartialConv2d; passes before it: none",
        ),
        (
            [GraphPass("wrong", reads_a_later_value)],
            "pass wrong: node .* reads .* not defined before it",
        ),
        (
            [REWRITES[0], GraphPass("late", renames_the_output)],
            "pass late: it changed the graph's inputs or outputs; passes before it: collapse-masks",
        ),
        ([REWRITES[1], REWRITES[0]], "fold-batch-norm has to run after collapse-masks"),
    ],
)
def test_a_pass_that_breaks_its_promise_is_named(passes: list[GraphPass], message: str) -> None:
    with pytest.raises(PassError, match=message):
        list(rewritten(network(0)[0], passes))
