"""By how much an engine of half precision may differ, on any processor: a stand-in computes it."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import onnx
import pytest

from pconv_deploy.assets.network import copy_network
from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.acceptance import (
    accept,
    describe_mixed,
    require_precision,
    why_rejected,
)
from pconv_deploy.engines.base import Built, Layer, Runtime, Traits
from pconv_deploy.engines.sessions import files_just_built
from pconv_deploy.errors import ParityError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.graphs.file import ExportedGraph, read_graph
from pconv_deploy.graphs.half_precision import in_half_precision
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import TOLERANCES, Run


@dataclass(frozen=True)
class Computes:
    """A backend whose only engine is `run`."""

    run: Run

    def runtime(self) -> Runtime:
        return Runtime(package="stand-in", version="1")

    traits = Traits(device="cpu", extra="openvino")

    def open(self, *_anything: Any) -> Any:
        return SimpleNamespace(run=self.run, close=lambda: None)

    def layers(self, *_anything: Any) -> list[Layer]:
        return [Layer("bf16")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "compact.safetensors"
    copy_network(path)
    return path


def exported(checkpoint: Path, level: int) -> ExportedGraph:
    path = checkpoint.with_name(f"level{level}.onnx")
    options = ExportOptions(kind="tensor", batch=1, size=(64, 64), level=level)
    export_checkpoint(checkpoint, path, options)
    return read_graph(path)


def as_bf16(contract: GraphContract) -> GraphContract:
    return msgspec.structs.replace(contract, precision="bf16")


def test_a_bf16_engine_may_err_as_the_network_does_in_bf16(trained: Path, tmp_path: Path) -> None:
    graph = exported(trained, 2)
    rounded = in_half_precision(graph.model, "bf16")
    run = graph_run(rounded, as_bf16(graph.contract), optimised=False)
    backend: Any = Computes(run)
    parity = accept(backend, files_just_built(tmp_path), graph, graph.model, "bf16", Built()).parity
    assert parity.worst_error is not None
    assert parity.worst_error > TOLERANCES["bf16"].relative
    assert why_rejected(backend, tmp_path, graph, graph.model, "bf16", Built()) is None

    brighter: Any = Computes(lambda inputs: {"output": run(inputs)["output"] + 0.02})
    why = why_rejected(brighter, tmp_path, graph, graph.model, "bf16", Built())
    assert why is not None
    assert why.startswith("it differs from the exported graph")
    assert "PSNR 33" in why


def test_a_graph_without_a_half_precision_has_the_usual_allowance(
    trained: Path, tmp_path: Path
) -> None:
    graph = exported(trained, 0)
    backend: Any = Computes(graph_run(graph.model, graph.contract, optimised=True))
    assert why_rejected(backend, tmp_path, graph, graph.model, "bf16", Built()) is None


def test_mixed_precisions_are_counted() -> None:
    assert describe_mixed({"bf16": 18}, "bf16") is None
    assert describe_mixed({}, "bf16") is None  # the runtime was not asked
    found = describe_mixed({"int8": 12, "fp32": 6}, "int8")
    assert found == "12 of 18 convolutions compute in int8, 6 in fp32"


def test_work_in_another_precision_than_asked_for() -> None:
    layers = [Layer("bf16", "first", 90), Layer("fp32", "second", 10)]
    require_precision(layers, "bf16", "x.engine")
    why = r"x\.engine was to compute in bf16; 89% of the work does, .* computes second in fp32"
    with pytest.raises(ParityError, match=why):
        require_precision([layers[0], layers[1]._replace(work=11)], "bf16", "x.engine")


def test_layers_that_int8_was_not_asked_for_do_not_count() -> None:
    make = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            make("DequantizeLinear", ["c", "s"], ["x"]),
            make("DequantizeLinear", ["d", "s"], ["w"]),
            make("Conv", ["x", "w"], ["y"], name="first"),
            make("Conv", ["y", "v"], ["z"], name="second"),
        ],
        "graph",
        [],
        [],
    )
    model = onnx.helper.make_model(graph)
    layers = [Layer("int8", "first", 1), Layer("fp32", "second", 99)]
    require_precision(layers, "int8", "x.engine", model)
    with pytest.raises(ParityError, match="1% of the work"):
        require_precision(layers, "int8", "x.engine")
