"""What TensorRT's own parser refuses, and what it takes and then computes otherwise than ONNX."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pconv_deploy.engines.backends.tensorrt.library import new_log
from pconv_deploy.engines.backends.tensorrt.network import lint, parse, refuse
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.errors import EngineError, GraphError
from tests.engines.backends.tensorrt.conftest import SMALL

F = TensorProto.FLOAT


def node(operator: str, reads: str, gives: str, **attributes: Any) -> onnx.NodeProto:
    named = {"name": operator} | attributes
    return helper.make_node(operator, reads.split(), gives.split(), **named)


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


def test_the_parsers_errors_name_the_node(tensorrt: ModuleType) -> None:
    bad = small(
        node("Relu", "x", "r"),
        node("Reshape", "r shape", "y", name="decoder.reshape"),
        shape=np.array([5, 7], np.int64),
    )
    builder = tensorrt.Builder(log := new_log(tensorrt))
    with pytest.raises(GraphError) as caught:
        parse(tensorrt, builder, log, bad.SerializeToString())
    assert str(caught.value).startswith("TensorRT cannot read the graph: ")
    assert "node 'decoder.reshape' (Reshape): " in str(caught.value)
    assert "_src" not in str(caught.value)


def test_nodes_get_names_of_their_own(tensorrt: ModuleType) -> None:
    content = small(
        node("Relu", "x", "a", name="twice"),
        node("Sigmoid", "a", "b", name="twice"),
        node("Sigmoid", "b", "y", name=""),
    )
    builder = tensorrt.Builder(log := new_log(tensorrt))
    found = parse(tensorrt, builder, log, content.SerializeToString())
    names = [found.network.get_layer(i).name for i in range(found.network.num_layers)]
    assert names == ["twice", "twice_2", "Sigmoid"]
    assert not any("already exists" in warning for warning in log.warnings)


@pytest.mark.usefixtures("tensorrt")
def test_a_builder_that_fails_says_so_and_leaves_nothing(graph: Path, tmp_path: Path) -> None:
    # Its lean runtime is not among the libraries here.
    options = TensorRtOptions(profiles=(SMALL,), version_compatible=True)
    with pytest.raises(EngineError) as caught:
        build_engine(
            graph, tmp_path / "x.engine", BuildOptions(backend="tensorrt", backend_options=options)
        )
    message = str(caught.value)
    assert message.startswith("TensorRT cannot build the engine: ")
    assert "Unable to load library: libnvinfer_lean" in message
    assert "It may need a GPU to build this: no NVIDIA driver" in message
    assert list(tmp_path.iterdir()) == []
