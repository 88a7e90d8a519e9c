"""What TensorRT's own parser and builder say, with the names of nodes."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pconv_deploy.engines.backends.tensorrt.library import new_log
from pconv_deploy.engines.backends.tensorrt.network import parse
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.errors import EngineError, GraphError
from tests.engines.backends.tensorrt.conftest import SMALL


def model_of(*nodes: onnx.NodeProto, **weights: Any) -> bytes:
    """A model from x to y, both (1, 3, 8, 8) float."""
    shape = (1, 3, 8, 8)
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def parsed(library: ModuleType, content: bytes) -> Any:
    builder = library.Builder(log := new_log(library))
    return parse(library, builder, log, content)


def test_the_parsers_errors_name_the_node(tensorrt: ModuleType) -> None:
    bad = model_of(
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("Reshape", ["r", "shape"], ["y"], name="decoder.reshape"),
        shape=np.array([5, 7], np.int64),
    )
    with pytest.raises(GraphError) as caught:
        parsed(tensorrt, bad)
    assert str(caught.value).startswith("TensorRT cannot read the graph: ")
    assert "node 'decoder.reshape' (Reshape): " in str(caught.value)
    assert "_src" not in str(caught.value)


def test_nodes_get_names_of_their_own(tensorrt: ModuleType) -> None:
    content = model_of(
        helper.make_node("Relu", ["x"], ["a"], name="twice"),
        helper.make_node("Sigmoid", ["a"], ["b"], name="twice"),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    )
    builder = tensorrt.Builder(log := new_log(tensorrt))
    found = parse(tensorrt, builder, log, content)
    names = [found.network.get_layer(i).name for i in range(found.network.num_layers)]
    assert names == ["twice", "twice_2", "Sigmoid"]
    assert not any("already exists" in warning for warning in log.warnings)


def test_functions_are_gone_and_types_are_the_files(tensorrt: ModuleType, graph: Path) -> None:
    builder = tensorrt.Builder(log := new_log(tensorrt))
    found = parse(tensorrt, builder, log, graph.read_bytes())
    inputs = [found.network.get_input(i) for i in range(found.network.num_inputs)]
    assert {value.name: value.dtype for value in inputs} == {
        "image": tensorrt.uint8,
        "hole_mask": tensorrt.uint8,
    }
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
