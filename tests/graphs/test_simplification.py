"""What does nothing goes; what does nearly nothing stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pconv_deploy.graphs.simplification import simplify
from tests.graphs.small_graphs import graph, run

SMALL = [1e-6, 1e-8, -1e-8, 1e-9, 1e-12, 1e-30, 1e-45]
NEAR_ONE = [1 + 1e-6, 1 + 5e-6, 1 - 5e-6]
FEEDS = {"x": np.array([-3, 0, 1.5, 8], np.float32)}


def of(nodes: str, **constants: float) -> onnx.ModelProto:
    weights = {name: np.array(value, np.float32) for name, value in constants.items()}
    return graph("float[4] x", "float[4] y", nodes, **weights)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    edited = ir.serde.deserialize_model(model)
    simplify(edited)
    return ir.serde.serialize_model(edited)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("nodes", "neutral"),
    [
        ("y = Add (x, c)", 0),
        ("y = Add (c, x)", 0),
        ("y = Sub (x, c)", 0),
        ("y = Mul (x, c)", 1),
        ("y = Div (x, c)", 1),
    ],
)
def test_operations_on_exactly_0_and_1_go(nodes: str, neutral: float) -> None:
    assert operators(simplified(of(nodes, c=neutral))) == ["Identity"]


@pytest.mark.parametrize("value", SMALL + NEAR_ONE)
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("inputs", ["x, c", "c, x"])
def test_operations_on_nearly_0_and_1_stay(value: float, operator: str, inputs: str) -> None:
    model = of(f"y = {operator} ({inputs})", c=value)
    assert operators(simplified(model)) == [operator]


@pytest.mark.parametrize("ranges", [(0, 1, 2, 3), (2, 3, 0, 1), (-1, 2, 0, 5)])
def test_clips_one_after_the_other_stay_what_they_are(ranges: tuple[int, ...]) -> None:
    nodes = "inner = Clip (x, a, b) y = Clip (inner, c, d)"
    model = of(nodes, **dict(zip("abcd", ranges, strict=True)))
    np.testing.assert_array_equal(run(simplified(model), FEEDS)[0], run(model, FEEDS)[0])


def test_a_minimum_below_a_maximum_stays() -> None:
    model = of("inner = Min (x, a) y = Max (inner, b)", a=1, b=2)
    np.testing.assert_array_equal(run(simplified(model), FEEDS)[0], run(model, FEEDS)[0])
