"""What does nothing goes; what does nearly nothing stays."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pconv_deploy.graphs.simplification import simplify

SMALL = [1e-6, 1e-8, -1e-8, 1e-9, 1e-12, 1e-30, 1e-45]
NEAR_ONE = [1 + 1e-6, 1 + 5e-6, 1 - 5e-6]


def graph(*nodes: onnx.NodeProto, **constants: float) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    weights = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in constants.items()]
    opset = [helper.make_opsetid("", 18)]
    made = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(made, opset_imports=opset, ir_version=9)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    edited = ir.serde.deserialize_model(model)
    simplify(edited)
    return ir.serde.serialize_model(edited)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def computed(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {"x": np.array([-3, 0, 1.5, 8], np.float32)})[0]
    return result


@pytest.mark.parametrize(
    ("operator", "inputs", "neutral"),
    [("Add", "xc", 0), ("Add", "cx", 0), ("Sub", "xc", 0), ("Mul", "xc", 1), ("Div", "xc", 1)],
)
def test_operations_on_exactly_0_and_1_go(operator: str, inputs: str, neutral: float) -> None:
    node = helper.make_node(operator, list(inputs), ["y"])
    assert operators(simplified(graph(node, c=neutral))) == ["Identity"]


@pytest.mark.parametrize("value", SMALL + NEAR_ONE)
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("inputs", ["xc", "cx"])
def test_operations_on_nearly_0_and_1_stay(value: float, operator: str, inputs: str) -> None:
    model = graph(helper.make_node(operator, list(inputs), ["y"]), c=value)
    assert operators(simplified(model)) == [operator]


@pytest.mark.parametrize("ranges", [(0, 1, 2, 3), (2, 3, 0, 1), (-1, 2, 0, 5)])
def test_clips_one_after_the_other_stay_what_they_are(ranges: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node("Clip", ["x", "a", "b"], ["inner"]),
        helper.make_node("Clip", ["inner", "c", "d"], ["y"]),
    ]
    model = graph(*nodes, **dict(zip("abcd", ranges, strict=True)))
    np.testing.assert_array_equal(computed(simplified(model)), computed(model))


def test_a_minimum_below_a_maximum_stays() -> None:
    nodes = [
        helper.make_node("Min", ["x", "a"], ["inner"]),
        helper.make_node("Max", ["inner", "b"], ["y"]),
    ]
    model = graph(*nodes, a=1, b=2)
    np.testing.assert_array_equal(computed(simplified(model)), computed(model))
