"""What does nothing goes; what does nearly nothing stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pconv_deploy.graphs.simplification import simplify
from tests.graphs.small_graphs import graph, run

NEARLY = [1e-8, -1e-8, 1e-45, 1 + 1e-6, 1 - 5e-6]
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


@pytest.mark.parametrize("value", NEARLY)
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
def test_operations_on_nearly_0_and_1_stay(value: float, operator: str) -> None:
    for inputs in ("x, c", "c, x"):
        model = of(f"y = {operator} ({inputs})", c=value)
        assert operators(simplified(model)) == [operator]


@pytest.mark.parametrize(
    "nodes",
    [
        "inner = Clip (x, a, b) y = Clip (inner, c, d)",
        "inner = Clip (x, c, d) y = Clip (inner, a, b)",
        "inner = Min (x, a) y = Max (inner, c)",
    ],
)
def test_ranges_that_do_not_meet_stay_what_they_are(nodes: str) -> None:
    limits = {"a": 0, "b": 1, "c": 2, "d": 3}
    model = of(nodes, **{name: value for name, value in limits.items() if f" {name}" in nodes})
    np.testing.assert_array_equal(run(simplified(model), FEEDS)[0], run(model, FEEDS)[0])
