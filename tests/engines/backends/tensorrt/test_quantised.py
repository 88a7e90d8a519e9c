"""Graphs in eight bits, built by NVIDIA's builder; none of these engines has run."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.layers import convolution_types
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.int8.graph import feature_convolutions
from pconv_deploy.engines.int8.quantise import in_eight_bits
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.graphs.file import ExportedGraph, inlined, read_graph
from pconv_deploy.masks.irregular import irregular_hole
from pconv_deploy.parity import Arrays, ParityInput, graph_inputs
from tests.engines.backends.tensorrt.conftest import SMALL, Exported

BACKEND = TensorRtBackend(options=TensorRtOptions(profiles=(SMALL,)))

pytestmark = pytest.mark.usefixtures("tensorrt")


def some_photo(exported: ExportedGraph) -> Arrays:
    rng = np.random.default_rng(0)
    size = exported.contract.size or (64, 64)
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    case = ParityInput("noise", photo, irregular_hole(rng, *size, (0.1, 0.2)))
    return graph_inputs([case], exported.contract)


def builds(quantised: onnx.ModelProto, exported: ExportedGraph, folder: Path) -> bool:
    backend = TensorRtBackend() if exported.contract.size else BACKEND
    backend.build(quantised.SerializeToString(), exported.contract, "int8", folder)
    return (folder / "engine.plan").stat().st_size > 0


def axes(quantised: onnx.ModelProto) -> Counter[Any]:
    """Of the scales of weights, by the convolutions that read them."""
    producers = {name: node for node in quantised.graph.node for name in node.output}
    found = Counter[Any]()
    for node in quantised.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in producers:
            weights = producers[node.input[1]]
            found[node.op_type, next(a.i for a in weights.attribute if a.name == "axis")] += 1
    return found


@pytest.mark.parametrize(
    ("upsampling", "expected"),
    [
        ("transposed", {("Conv", 0), ("ConvTranspose", 1)}),
        ("depth_to_space", {("Conv", 0)}),
        ("enlarged", {("Conv", 0)}),
    ],
)
def test_every_form_builds(
    graph: Path, tmp_path: Path, upsampling: Upsampling, expected: set[Any]
) -> None:
    exported = read_graph(graph)
    form = Arrangement(upsampling=(upsampling,), fused_epilogue=True)
    content = arranged(exported.model, form, exported.contract).SerializeToString()
    quantised = in_eight_bits(content, [some_photo(exported)], BACKEND)
    layers = feature_convolutions(onnx.load_from_string(inlined(content)))
    assert axes(quantised).keys() == expected  # the output channels
    assert axes(quantised).total() == len(layers)
    assert convolution_types(quantised)["int8"] == len(layers)
    assert builds(quantised, exported, tmp_path)


def test_another_level_builds(exported: Exported, tmp_path: Path) -> None:
    subject = exported("tensor", static=True, level=1)
    content = subject.model.SerializeToString()
    quantised = in_eight_bits(content, [some_photo(subject)], BACKEND)
    assert convolution_types(quantised)["int8"] > 0
    assert builds(quantised, subject, tmp_path)
