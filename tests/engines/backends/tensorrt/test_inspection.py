"""The inspector's JSON, written after NVIDIA's description: none was read from a GPU yet."""

import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from pconv_deploy.engines.backends.tensorrt import inspection
from pconv_deploy.engines.backends.tensorrt.inspection import (
    complaints,
    convolution_types,
    executed_by,
    joined,
    layers_of,
)
from pconv_deploy.engines.backends.tensorrt.options import Layers
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import inlined, read_graph
from pconv_deploy.graphs.half_precision import in_half_precision
from tests.engines.backends.tensorrt.small_graphs import quantised_convolution

NCHW8 = "Channel major FP16 format where channel % 8 == 0"
FREE = "N/A due to dynamic shapes"


def tensor(form: str, *dimensions: int, name: str = "t") -> dict[str, Any]:
    return {
        "Name": name,
        "Location": "Device",
        "Dimensions": list(dimensions),
        "Format/Datatype": form,
    }


def convolution(
    form: str,
    weights: str,
    *,
    count: int = 100,
    size: tuple[int, ...] = (1, 8, 10, 10),
    kind: str = "Convolution",
) -> dict[str, Any]:
    return {
        "Name": "encoder.0.conv",
        "LayerType": f"Cask{kind}",
        "Inputs": [tensor(form, 1, 8, 20, 20)],
        "Outputs": [tensor(form, *size)],
        "ParameterType": kind,
        "Kernel": [3, 3],
        "Weights": {"Type": weights, "Count": count},
        "Bias": {"Type": "Float", "Count": 8},
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
        "TacticValue": "0x11bde0e1d9f2f35d",
        "Metadata": "[ONNX Layer: encoder.0.conv]",
    }


def reformat(reads: str, gives: str, origin: str = "REFORMAT") -> dict[str, Any]:
    return {
        "Name": "Reformatting CopyNode for Input Tensor 0 to encoder.0.conv",
        "LayerType": "Reformat",
        "Inputs": [tensor("Row major linear FP16 format", 1, 8, 20, 20, name=reads)],
        "Outputs": [tensor(NCHW8, 1, 8, 20, 20, name=gives)],
        "ParameterType": "Reformat",
        "Origin": origin,
        "TacticValue": "0x00000000000003e8",
    }


def told(*layers: dict[str, Any] | str) -> Layers:
    engine = {"Layers": list(layers), "Bindings": ["image", "hole_mask", "filled"]}
    return layers_of(msgspec.json.encode(engine).decode())


@pytest.mark.parametrize(
    ("form", "weights", "precision"),
    [
        ("Half", "Half", "fp16"),
        (NCHW8, "Half", "fp16"),
        (FREE, "Half", "fp16"),
        ("Row major linear FP32", "Float", "fp32"),
        ("Float", "Float", "fp32"),
        ("BFloat16", "BFloat16", "bf16"),
        ("Row major linear BF16", "BFloat16", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "Int8", "int8"),
        ("FP8", "FP8", "fp8"),
        (FREE, "", "unknown"),
        ("Half", "Int8", "unknown"),
    ],
)
def test_the_precision_of_a_convolution(form: str, weights: str, precision: str) -> None:
    assert told(convolution(form, weights)).convolutions == {precision: 1}


def test_work_is_counted_where_sizes_are_known() -> None:
    layers = told(
        convolution("Half", "Half", count=90, size=(1, 8, 10, 10)),  # 9000
        convolution("Float", "Float", count=2, size=(1, 1, 5, 10)),  # 100
        convolution("Half", "Half", count=2, kind="Deconvolution"),  # 20 * 20 of its input: 800
        {"Name": "relu", "LayerType": "PointWiseV2", "ParameterType": "PointWise"},
    )
    assert (layers.count, layers.convolutions) == (4, {"fp16": 2, "fp32": 1})
    assert layers.work == {"fp16": 0.9899, "fp32": 0.0101}
    assert complaints(layers, "fp16") == []
    assert told(convolution("Half", "Half", size=(-1, 8, -1, -1))).work == {}


def test_a_transposed_convolution_may_have_the_parameters_of_another() -> None:
    """Its work is counted by its input's size."""
    transposed = convolution("Half", "Half", count=1) | {"LayerType": "CaskDeconvolutionV2"}
    layers = told(transposed, convolution("Float", "Float", count=4))
    assert layers.work == {"fp16": 0.5, "fp32": 0.5}  # 20 * 20 and 4 * 10 * 10


def test_one_description_of_several_profiles() -> None:
    """What was told in each profile's context, without the layers of other profiles."""
    names = ["a", "b", "a [profile 1]", "b [profile 1]"]
    both = [
        [reformat("image", "x") | {"Name": name, "TacticName": str(context)} for name in names]
        for context in (0, 1)
    ]
    answers = [json.dumps({"Layers": layers, "Bindings": ["image"]}) for layers in both]
    found = json.loads(joined(answers))
    assert [layer["Name"] for layer in found["Layers"]] == names
    assert [layer["TacticName"] for layer in found["Layers"]] == ["0", "0", "1", "1"]
    assert found["Bindings"] == ["image"]
    alone = json.loads(joined(['{"Layers": ["a", "b"]}', '{"Layers": ["a", "c"]}']))
    assert alone["Layers"] == ["a", "b", "a", "c"]  # a context that tells of its own alone
    with pytest.raises(EngineError, match="in an unknown form"):
        joined(["{"])


def test_layers_that_move_numbers_inside_are_counted() -> None:
    layers = told(
        reformat("image", "a"),
        convolution("Half", "Half"),
        reformat("b", "c"),
        reformat("c", "d", origin="QDQ"),
        reformat("d", "filled"),
    )
    assert (layers.count, layers.reformats) == (5, 1)
    assert complaints(layers, "fp16") == [
        "1 of 5 layers, between others, only change how numbers are laid out"
    ]


def test_an_engine_in_another_precision_is_complained_of() -> None:
    layers = told(*[convolution("Float", "Float")] * 3, convolution("Half", "Half"))
    assert complaints(layers, "fp16") == [
        "25 % of the convolutions' work is in fp16, needed 90 %; found 1 in fp16, 3 in fp32"
    ]
    free = {"size": (-1, 8, -1, -1)}
    layers = told(convolution("Half", "Half", **free), convolution("Float", "Float", **free))  # type: ignore[arg-type]
    assert complaints(layers, "fp32") == [
        "50 % of the convolutions is in fp32, needed 100 %; found 1 in fp16, 1 in fp32"
    ]
    assert executed_by(layers, {"fp32": 2}) == {"fp16": 1, "fp32": 1}


def test_fused_nodes_tell_nothing_of_their_convolutions() -> None:
    name = "{ForeignNode[encoder.0.conv...decoder.3.conv]}"
    for layers in (
        told({"Name": name, "LayerType": "Myelin", "Inputs": [tensor("Half", 1, 3, 8, 8)]}),
        told(name, "Reformatting CopyNode for Output Tensor 0"),
        told({"Name": name, "LayerType": "Myelin"}, convolution("Half", "Half")),
    ):
        assert layers.convolutions["unknown"] == 1
        assert layers.work == {}
        assert complaints(layers, "fp16") == []
        assert executed_by(layers, {"fp16": 25, "fp32": 9}) == {"fp16": 25, "fp32": 9}
    assert executed_by(None, {"fp16": 25}) == {"fp16": 25}


def test_names_alone_tell_of_no_precision() -> None:
    layers = told("encoder.0.conv + relu", "decoder.0.conv")
    assert layers == Layers(count=2, reformats=0, convolutions={})
    assert complaints(layers, "fp16") == [
        "the engine does not tell what its layers compute in; "
        "build it with --profiling-verbosity detailed"
    ]
    assert executed_by(layers, {"fp16": 25}) == {"fp16": 25}


def test_what_is_unlike_the_description_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "{", '{"Layers": 3}', '{"Layers": [{"Name": 1}]}'):
        with pytest.raises(EngineError, match="in an unknown form"):
            layers_of(text)
    monkeypatch.setattr(inspection, "_LONGEST", 10)
    with pytest.raises(EngineError, match="in 14 characters; needed at most 10"):
        layers_of('{"Layers": []}')


def test_the_types_of_a_graph_tell_where_the_engine_does_not(graph: Path) -> None:
    exported = read_graph(graph)
    single = onnx.load_from_string(inlined(exported.content))
    half = onnx.load_from_string(
        inlined(in_half_precision(exported.model, "bf16").SerializeToString())
    )
    every = convolution_types(single)
    assert set(every) == {"fp32"}
    assert convolution_types(half) == {"bf16": every["fp32"]}
    assert convolution_types(quantised_convolution()) == {"int8": 1}
