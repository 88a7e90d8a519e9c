"""Every rule is proved by TensorRT's own parser and builder: they refuse what it complains of."""

from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pconv_deploy.engines.backends.tensorrt.lint import Complaint, lint, refuse
from pconv_deploy.engines.backends.tensorrt.lint_rules import MISSING
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.errors import GraphError
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.graphs.half_precision import in_half_precision
from tests.engines.backends.tensorrt.conftest import Exported
from tests.engines.backends.tensorrt.lint_cases import QUIET, REFUSED, TAKEN, Case
from tests.engines.backends.tensorrt.small_graphs import other, small, the


@pytest.fixture(scope="module")
def build(tensorrt_module: ModuleType) -> Any:
    """Whether TensorRT makes a plan of a graph, by its own word."""
    log = tensorrt_module.Logger(tensorrt_module.Logger.INTERNAL_ERROR)
    builder = tensorrt_module.Builder(log)

    def built(model: onnx.ModelProto) -> bool:
        network = builder.create_network(
            1 << int(tensorrt_module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        parser = tensorrt_module.OnnxParser(network, log)
        if not parser.parse(model.SerializeToString()):
            return False
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            value = network.get_input(index)
            if -1 in value.shape:
                profile.set_shape(value.name, *[[max(4, n) for n in value.shape]] * 3)
        config.add_optimization_profile(profile)
        return builder.build_serialized_network(network, config) is not None

    return built


def ids(cases: list[Case]) -> list[str]:
    assert len({case.name for case in cases}) == len(cases)
    return [case.name for case in cases]


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_what_tensorrt_refuses_is_named(case: Case, build: Any) -> None:
    found = lint(case.graph)
    assert found, "the lint says nothing"
    assert found[0].node.split(" ")[0] == case.place
    with pytest.raises(GraphError, match=case.words):
        raise refuse(found)
    assert not build(case.graph), "TensorRT takes it: the rule has no ground"


@pytest.mark.parametrize("case", TAKEN, ids=ids(TAKEN))
def test_what_tensorrt_takes_is_not_complained_of(case: Case, build: Any) -> None:
    assert lint(case.graph) == []
    assert build(case.graph)


@pytest.mark.parametrize("case", QUIET, ids=ids(QUIET))
def test_what_tensorrt_would_compute_otherwise_is_named(case: Case, build: Any) -> None:
    found = lint(case.graph)
    assert found[0].node.split(" ")[0] == case.place
    with pytest.raises(GraphError, match=case.words):
        raise refuse(found)
    assert build(case.graph), "TensorRT refuses it: then it belongs among the refused"


def test_operators_are_missing_as_the_parser_says(tensorrt_module: ModuleType) -> None:
    log = tensorrt_module.Logger(tensorrt_module.Logger.INTERNAL_ERROR)
    network = tensorrt_module.Builder(log).create_network(0)
    parser = tensorrt_module.OnnxParser(network, log)
    # DeformConv is a plugin, which one of NVIDIA's packages has and the other has not.
    every = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert {name for name in every if not parser.supports_operator(name)} - {"DeformConv"} == (
        MISSING & every
    )


@pytest.mark.parametrize("upsampling", ["transposed", "interleaved", "enlarged"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_our_graphs_are_clean(graph: Path, precision: Any, upsampling: Upsampling) -> None:
    exported = read_graph(graph)
    typed = exported.model
    if precision != "fp32":
        typed = in_half_precision(typed, precision)
    for switches in (False, True):
        form = Arrangement(
            upsampling=(upsampling,),
            narrow_input=switches,
            narrow_output=switches,
            fused_epilogue=switches,
        )
        found = lint(arranged(typed, form, exported.contract))
        if (precision, upsampling) == ("bf16", "transposed"):
            assert {complaint.node.split("(")[1] for complaint in found} == {"ConvTranspose)"}
            assert all("enlarged or interleaved" in complaint.text for complaint in found)
        else:
            assert found == []


@pytest.mark.parametrize("level", [0, 1, 3])
def test_graphs_of_every_level_are_clean(exported: Exported, level: int) -> None:
    assert lint(exported("tensor", level=level).model) == []


def test_many_complaints_are_cut() -> None:
    error = refuse([Complaint(f"n{i} (Op)", "no. Do") for i in range(10)])
    lines = str(error).splitlines()
    assert lines[0] == "TensorRT cannot take this graph:"
    assert lines[1] == "  n0 (Op): no. Do"
    assert lines[-1] == "  and 2 more"
    assert "more" not in str(refuse([Complaint("", "it is odd")]))


def test_graphs_inside_of_graphs_are_looked_into() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(operator, TensorProto.FLOAT, None)
        return helper.make_graph([the(operator, "x", operator)], operator, [], [result])

    choose = other("If", "c", "y", then_branch=branch("Relu"), else_branch=branch("Det"))
    found = lint(small(choose, x=(TensorProto.FLOAT, (4, 4)), more={"c": (TensorProto.BOOL, ())}))
    assert [complaint.node for complaint in found] == ["the_node (Det)"]
