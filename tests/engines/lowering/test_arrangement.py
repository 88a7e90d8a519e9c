"""Equal forms are equal: every choice, on graphs as `export` writes them and reads them back."""

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest

from pconv_deploy.engines.lowering.arrangement import arranged, upsampling_sites
from pconv_deploy.engines.lowering.enlarge_again import single_taps
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.export.rewrites.upsample_phases import summed_taps
from pconv_deploy.graphs.file import ExportedGraph, read_graph
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import Arrays, graph_inputs, parity_inputs
from tests.conftest import TINY

FORMS: tuple[Upsampling, ...] = get_args(Upsampling)
OFF_AND_ON = (False, True)
EVERY = [
    Arrangement(upsampling=(form,), narrow_input=first, narrow_output=last, fused_epilogue=epilogue)
    for form in FORMS
    for first in OFF_AND_ON
    for last in OFF_AND_ON
    for epilogue in OFF_AND_ON
]


@pytest.fixture(scope="module")
def exported(graph: Path) -> ExportedGraph:
    return read_graph(graph)


@pytest.fixture(scope="module")
def batches(exported: ExportedGraph) -> list[Arrays]:
    shapes = ((16, 16), (32, 48))
    return [graph_inputs(parity_inputs(*shape)[:8], exported.contract) for shape in shapes]


@pytest.fixture(scope="module")
def expected(exported: ExportedGraph, batches: list[Arrays]) -> list[Arrays]:
    run = graph_run(exported.model, exported.contract, optimised=False)
    return [run(inputs) for inputs in batches]


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("arrangement", EVERY, ids=Arrangement.describe)
def test_every_arrangement_computes_the_same(
    arrangement: Arrangement,
    exported: ExportedGraph,
    batches: list[Arrays],
    expected: list[Arrays],
) -> None:
    model = arranged(exported.model, arrangement, exported.contract)
    onnx.checker.check_model(model)
    run = graph_run(model, exported.contract, optimised=True)
    for inputs, wanted in zip(batches, expected, strict=True):
        found = run(inputs)
        scale = np.abs(wanted["raw_output"]).max()
        assert np.abs(found["raw_output"] - wanted["raw_output"]).max() < 1e-5 * scale
        known = inputs["hole_mask"] == 0
        assert (found["filled"][known] == inputs["image"][known]).all()


def test_forms_are_chosen_from_the_deepest_on(exported: ExportedGraph) -> None:
    assert upsampling_sites(exported.model) == TINY.levels
    choice = Arrangement(upsampling=("enlarged", "transposed", "interleaved"))
    nodes = kinds(arranged(exported.model, choice, exported.contract))
    assert nodes["ConvTranspose"] == 1
    assert nodes["Resize"] == TINY.levels + 1  # one for each mask, and one for features
    assert [choice.of_site(site) for site in range(4)] == [*choice.upsampling, "interleaved"]


def test_what_the_switches_do(exported: ExportedGraph) -> None:
    plain = kinds(arranged(exported.model, Arrangement(), exported.contract))
    assert plain == kinds(exported.model)
    every = Arrangement(narrow_input=True, narrow_output=True, fused_epilogue=True)
    nodes = kinds(arranged(exported.model, every, exported.contract))
    assert nodes["SpaceToDepth"] == 1
    assert nodes["ConvTranspose"] == TINY.levels - 1
    assert nodes["Renormalise"] == 1  # of three channels, which fill no vector


def test_the_graph_itself_stays_as_it_was(exported: ExportedGraph) -> None:
    before = exported.model.SerializeToString()
    arranged(exported.model, EVERY[-1], exported.contract)
    assert exported.model.SerializeToString() == before


def test_taps_are_found_again() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 4, 3, 3)).astype(np.float32)
    back = single_taps(summed_taps(weight).transpose(1, 0, 2, 3))
    np.testing.assert_allclose(back, weight, rtol=0, atol=4e-7 * np.abs(weight).max())
