"""What TensorRT's own parser and builder take, and then compute otherwise than ONNX says."""

from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pconv_deploy.engines.backends.tensorrt.lint import lint, refuse
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.graphs.file import inlined, read_graph
from pconv_deploy.graphs.half_precision import in_half_precision

F = TensorProto.FLOAT


def node(operator: str, reads: str, gives: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, reads.split(), gives.split(), name=operator, **attributes)


def small(*nodes: onnx.NodeProto, opset: int = 19, **constants: Any) -> onnx.ModelProto:
    """A graph from x to y, float of (1, 4, 16, 16)."""
    x, y = (helper.make_tensor_value_info(name, F, (1, 4, 16, 16)) for name in "xy")
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(list(nodes), "g", [x], [y], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def quantised(codes: type) -> onnx.ModelProto:
    return small(
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "y"),
        s=np.array(0.1, np.float32),
        z=np.array(0, codes),
    )


OTHERWISE = {
    "QuantizeLinear (QuantizeLinear) has codes of uint8": quantised(np.uint8),
    "'d' is double": small(
        node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Cast", "d", "y", to=F)
    ),
    "operator set 8; TensorRT reads 9 to 24": small(node("Relu", "x", "y"), opset=8),
    "operator set 25": small(node("Relu", "x", "y"), opset=25),
}


@pytest.mark.parametrize("words", OTHERWISE)
def test_what_tensorrt_takes_and_computes_otherwise_is_named(
    words: str, tensorrt_module: ModuleType
) -> None:
    model = OTHERWISE[words]
    assert words in str(refuse(lint(model)))
    log = tensorrt_module.Logger(tensorrt_module.Logger.INTERNAL_ERROR)
    builder = tensorrt_module.Builder(log)
    flag = int(tensorrt_module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(1 << flag)
    parser = tensorrt_module.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString()), "the parser refuses it: the rule is needless"
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


def test_codes_of_int8_are_as_onnx_has_them() -> None:
    assert lint(quantised(np.int8)) == []


@pytest.mark.parametrize("upsampling", get_args(Upsampling))
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_nothing_of_ours_is_complained_of(
    graph: Path, precision: Any, upsampling: Upsampling
) -> None:
    exported = read_graph(graph)
    typed = exported.model
    if precision != "fp32":
        typed = in_half_precision(typed, precision)
    form = Arrangement(
        upsampling=(upsampling,), narrow_input=True, narrow_output=True, fused_epilogue=True
    )
    model = arranged(typed, form, exported.contract)
    assert lint(onnx.load_from_string(inlined(model.SerializeToString()))) == []


def test_many_complaints_are_cut() -> None:
    lines = str(refuse([f"n{i}: no" for i in range(10)])).splitlines()
    assert lines[1] == "  n0: no"
    assert lines[-1] == "  and 2 more"


def test_graphs_inside_of_graphs_are_looked_into() -> None:
    def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("r", F, None)
        return helper.make_graph(list(nodes), "branch", [], [result])

    double = (node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Cast", "d", "r", to=F))
    choose = node(
        "If", "c", "y", then_branch=branch(node("Relu", "x", "r")), else_branch=branch(*double)
    )
    (complaint,) = lint(small(choose, c=np.array(1, np.bool_)))
    assert "'d' is double" in complaint
