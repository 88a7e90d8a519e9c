from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import nn

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import GraphPrecision, UNetConfig
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.errors import CheckpointError, ParityError, UsageError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.graphs.file import inlined, read_graph
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import Run, graph_inputs, parity_inputs
from tests.conftest import random_network

SMALL = UNetConfig(channels=(8, 12), kernels=(5, 3))
FIXED = ExportOptions(precision="fp16", batch=1, size=(32, 48))  # all share one trace
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "small.safetensors"
    save_checkpoint(path, random_network(SMALL))
    return path


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(
    request: pytest.FixtureRequest, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GraphPrecision, Path]:
    precision: GraphPrecision = request.param
    path = tmp_path_factory.mktemp(precision) / "half.onnx"
    options = replace(FIXED, precision=precision)
    assert not export_checkpoint(small, path, options).parity.failures()
    return precision, path


def inferred(path: Path) -> onnx.ModelProto:
    model = onnx.load_from_string(inlined(path.read_bytes()))
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def test_the_types_say_what_is_half(half: tuple[GraphPrecision, Path]) -> None:
    precision, path = half
    exported = read_graph(path)
    assert exported.contract.precision == precision
    model = inferred(path)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            assert {types[name] for name in (*node.input, *node.output)} == {TYPES[precision]}
        if node.op_type in ("AveragePool", "Div", "Greater"):  # coverage, ratio, known
            assert types[node.input[0]] == TensorProto.FLOAT
    ends = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert ends == {TensorProto.UINT8}
    assert types["raw_output"] == TensorProto.FLOAT


def test_every_form_keeps_the_types(half: tuple[GraphPrecision, Path]) -> None:
    _precision, path = half
    exported = read_graph(path)
    inputs = graph_inputs(parity_inputs(32, 48)[1:2], exported.contract)
    plain = graph_run(exported.model, exported.contract, optimised=True)(inputs)["raw_output"]
    every = Arrangement(
        upsampling=("interleaved", "enlarged"),
        narrow_input=True,
        narrow_output=True,
        fused_epilogue=True,
    )
    model = arranged(exported.model, every, exported.contract)
    onnx.checker.check_model(model, full_check=True)
    raw = graph_run(model, exported.contract, optimised=True)(inputs)["raw_output"]
    assert np.abs(raw - plain).max() < 2e-2 * np.abs(plain).max()


@pytest.mark.parametrize("half", ["fp16"], indirect=True)  # it has no bf16 convolution
def test_it_is_run_as_the_types_say(half: tuple[GraphPrecision, Path]) -> None:
    """Against ONNX's own reference implementation, which computes in NumPy's halves."""
    _precision, path = half
    exported = read_graph(path)
    inputs = graph_inputs(parity_inputs(32, 48)[1:2], exported.contract)
    raw = graph_run(exported.model, exported.contract, optimised=True)(inputs)["raw_output"]
    evaluator = ReferenceEvaluator(exported.model)
    (expected,) = evaluator.run(["raw_output"], dict(inputs))
    scale = np.abs(expected).max()
    # Both round what they store; the order of additions differs.
    assert np.abs(raw - expected).max() < 1e-2 * scale
    exact = graph_run_in_single(path)(inputs)["raw_output"]
    assert np.abs(raw - exact).max() > 1e-5 * scale  # it does round


def graph_run_in_single(path: Path) -> Run:
    """The half graph's numbers, computed in single precision without any rounding."""
    exported = read_graph(path)
    graph = ir.serde.deserialize_model(onnx.load_from_string(inlined(path.read_bytes())))
    for value in graph.graph.initializers.values():
        assert value.const_value is not None
        if value.const_value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32))
            value.dtype = ir.DataType.FLOAT
    for node in graph.graph:
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) in TYPES.values():
            node.attributes["to"] = ir.AttrInt64("to", TensorProto.FLOAT)
    model = ir.serde.serialize_model(graph)
    del model.graph.value_info[:]
    contract = msgspec.structs.replace(exported.contract, precision="fp32")
    return graph_run(model, contract, optimised=True)


def test_masks_must_be_collapsed(small: Path, tmp_path: Path) -> None:
    options = replace(FIXED, level=0)
    with pytest.raises(UsageError, match=r"encoder\.0\.conv convolves its mask.*-O1 or higher"):
        export_checkpoint(small, tmp_path / "x.onnx", options)
    assert not list(tmp_path.iterdir())


def test_weights_that_overflow_are_named(tmp_path: Path) -> None:
    network = random_network(SMALL)
    norm = network.encoder[1].norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_var.fill_(1e-9)
        norm.weight.fill_(1e5)
    save_checkpoint(tmp_path / "c.safetensors", network)
    with pytest.raises(CheckpointError, match=r"encoder\.1\.conv: its weights reach .*fp16 holds"):
        export_checkpoint(tmp_path / "c.safetensors", tmp_path / "x.onnx", FIXED)


def test_features_that_overflow_are_told_with_what_to_do(tmp_path: Path) -> None:
    network = random_network(SMALL)
    with torch.no_grad():
        for level in network.encoder:
            for parameter in level.parameters():
                parameter.mul_(1e2)  # fp16 holds each, but not what they make of each other
    save_checkpoint(tmp_path / "c.safetensors", network)
    message = (
        r"^the exported graph in fp16 returns NaN or infinity in \d+ of \d+ cases, such as: "
        r"[^.]*\. Features may overflow, beyond 65504: export --precision bf16 or fp32\n[^\n]*$"
    )
    with pytest.raises(ParityError, match=message):
        export_checkpoint(tmp_path / "c.safetensors", tmp_path / "x.onnx", FIXED)


def test_the_first_level_can_be_half(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    result = export_checkpoint(small, path, replace(FIXED, level=1))
    assert not result.parity.failures()
    assert result.parity.worst_error is not None
    assert 0 < result.parity.worst_error < 2e-2
    inferred(path)
