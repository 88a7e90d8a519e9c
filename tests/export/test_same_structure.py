"""Networks that differ in nothing but their weights become graphs that differ in nothing else.

That is what lets an engine take other weights: see `pconv-deploy refit`.
"""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from pconv_deploy.checkpoints.native import Checkpoint
from pconv_deploy.contract import (
    GraphContract,
    Normalisation,
    Source,
    UNetConfig,
    deployment_specs,
)
from pconv_deploy.engines.lowering.arrangement import arranged
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.export.rewrites.pipeline import Level, select_rewrites
from pconv_deploy.export.target import target_of
from pconv_deploy.export.trace import trace_target
from pconv_deploy.graphs.file import inlined
from pconv_deploy.graphs.half_precision import in_half_precision
from pconv_deploy.network.architectures import Network
from tests.conftest import random_network
from tests.graphs.small_graphs import rewritten
from tests.traces import Traces

CONFIGS = {
    "partial": UNetConfig(channels=(12, 12), kernels=(5, 3)),
    "ordinary": UNetConfig(channels=(12, 12), kernels=(5, 3), convolution="ordinary"),
    "sigmoid head": UNetConfig(channels=(12, 12), kernels=(5, 3), head="sigmoid"),
}
# Mean and deviation are what weights may be as well.
UNIT = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
FORMS = (
    Arrangement(),
    Arrangement(upsampling=("interleaved",)),
    Arrangement(upsampling=("enlarged",)),
    Arrangement(upsampling=("transposed", "enlarged", "interleaved")),
    Arrangement(narrow_input=True, narrow_output=True),
    Arrangement(fused_epilogue=True),
)


def degenerate(network: Network) -> None:
    """Make every weight exactly 0 or 1, as before any training and after none: all are equal."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.fill_(name.endswith(("norm.weight", "running_var")))


def contract(config: UNetConfig) -> GraphContract:
    """One size: with free ones a trace takes several times as long."""
    size = (16, 24)
    inputs, outputs = deployment_specs(1, size)
    return GraphContract(
        kind="deployment",
        inputs=inputs,
        outputs=outputs,
        batch=1,
        size=size,
        normalisation=UNIT,
        size_multiple=config.size_multiple,
        source=Source(file="x", sha256="0" * 64, network=config),
    )


def traced(network: Network, name: str, traces: Traces) -> onnx.ModelProto:
    facts = contract(network.config)
    target = target_of(Checkpoint(network, UNIT, facts.source))
    return ir.serde.serialize_model(traces.get(name, lambda: trace_target(target, facts)))


def at(level: int, model: onnx.ModelProto) -> onnx.ModelProto:
    for _step, rewritten_model in rewritten(model, select_rewrites(level)):
        model = rewritten_model
    return model


def skeleton(model: onnx.ModelProto) -> list[object]:
    """All of a graph but the numbers of its floating-point weights; functions written out."""
    plain = onnx.load_from_string(inlined(model.SerializeToString()))
    kept: list[object] = [
        (node.op_type, node.name, *node.input, *node.output, *sorted(map(str, node.attribute)))
        for node in plain.graph.node
    ]
    for tensor in sorted(plain.graph.initializer, key=lambda tensor: tensor.name):
        values = numpy_helper.to_array(tensor)
        integers = values.tolist() if np.issubdtype(values.dtype, np.integer) else None
        kept.append((tensor.name, tensor.data_type, *tensor.dims, integers))
    return kept


@pytest.fixture(scope="module", params=CONFIGS)
def networks(request: pytest.FixtureRequest, traces: Traces) -> dict[str, onnx.ModelProto]:
    """The traced graphs of one network with random and with degenerate weights."""
    kind = request.param
    network = random_network(CONFIGS[kind])
    graphs = {kind: traced(network, f"{kind} random", traces)}
    degenerate(network)
    return graphs | {"degenerate": traced(network, f"{kind} degenerate", traces)}


@pytest.mark.parametrize("level", list(Level))
def test_at_every_level(networks: dict[str, onnx.ModelProto], level: int) -> None:
    one, other = (skeleton(at(level, model)) for model in networks.values())
    assert one == other


@pytest.mark.parametrize("form", FORMS, ids=Arrangement.describe)
def test_in_every_form_and_precision(
    networks: dict[str, onnx.ModelProto], form: Arrangement
) -> None:
    facts = contract(CONFIGS[next(iter(networks))])
    models = [at(Level.WORK, model) for model in networks.values()]
    for precision in ("fp32", "fp16", "bf16"):
        typed = (m if precision == "fp32" else in_half_precision(m, precision) for m in models)
        one, other = (skeleton(arranged(model, form, facts)) for model in typed)
        assert one == other, precision
