"""The file that other tools read: no model-local functions, and all that holds for ours."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import version_converter

from pconv_deploy.engines.backends.openvino.library import shared_core
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.parity import graph_inputs, parity_inputs

SIDE = 64


@pytest.fixture(scope="module")
def inlined(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inlined") / "model.onnx"
    export_checkpoint(checkpoint, path, ExportOptions(inline=True))
    return path


def inputs_of(path: Path) -> dict[str, NDArray[np.uint8]]:
    case = parity_inputs(SIDE, SIDE)[3]
    return dict(graph_inputs([case], read_graph(path).contract))


def filled(path: Path) -> NDArray[np.uint8]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: NDArray[np.uint8] = session.run(None, inputs_of(path))[0]
    return result


def test_contract_and_evidence_hold(inlined: Path, graph: Path) -> None:
    found, usual = read_graph(inlined), read_graph(graph)
    assert not found.model.functions
    assert {entry.domain for entry in found.model.opset_import} == {""}
    assert {node.domain for node in found.model.graph.node} == {""}
    assert found.contract == usual.contract
    assert found.unproved is None
    assert found.parity is not None
    assert not found.parity.failures()
    np.testing.assert_array_equal(filled(inlined), filled(graph))


def test_openvino_itself_reads_it(inlined: Path) -> None:
    # Left alone, it would compute in bf16 where the processor can.
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = shared_core().compile_model(shared_core().read_model(inlined), "CPU", precise)
    found = next(iter(compiled(inputs_of(inlined)).values()))
    assert np.abs(found.astype(int) - filled(inlined)).max() <= 1


def test_opencv_reads_it(inlined: Path) -> None:
    network = cv2.dnn.readNetFromONNX(str(inlined))
    for name, value in inputs_of(inlined).items():
        network.setInput(value, name)
    assert np.abs(network.forward().astype(int) - filled(inlined)).max() <= 1


@pytest.mark.parametrize("opset", [17, 23])
def test_other_operator_sets(inlined: Path, opset: int) -> None:
    converted = version_converter.convert_version(onnx.load(inlined), opset)
    onnx.checker.check_model(converted, full_check=True)
