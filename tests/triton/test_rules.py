"""The rules the other tests rely on do refuse what Triton would refuse."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.triton.configuration import ServeOptions, configuration
from pconv_deploy.triton.protobuf_text import to_text
from tests.triton import rules
from tests.triton.conftest import LADDER

WRONG: dict[str, Callable[[Any], object]] = {
    "another platform": lambda c: setattr(c, "platform", "onnxruntime_onnx"),
    "no version policy": lambda c: c.ClearField("version_policy"),
    "batches no profile takes": lambda c: setattr(c, "max_batch_size", 17),
    "preferred beyond the limit": lambda c: c.dynamic_batching.preferred_batch_size.append(17),
    "no instance": lambda c: setattr(c.instance_group[0], "count", 0),
    "on the CPU": lambda c: setattr(c.instance_group[0], "kind", c.instance_group[0].KIND_CPU),
    "a profile there is not": lambda c: c.instance_group[0].profile.append("3"),
    "one profile for all sizes": lambda c: c.instance_group[0].profile.pop(),
    "another type": lambda c: setattr(c.input[0], "data_type", model_config_pb2.TYPE_FP32),
    "another number of channels": lambda c: c.input[0].dims.__setitem__(2, 4),
    "the batch among the sides": lambda c: c.output[0].dims.insert(0, -1),
    "an input missing": lambda c: c.input.pop(),
    "warm-up of another type": lambda c: setattr(
        c.model_warmup[0].inputs["image"], "data_type", model_config_pb2.TYPE_INT8
    ),
    "warm-up of no profile": lambda c: c.model_warmup[0].inputs["image"].dims.__setitem__(0, 64),
    "warm-up beyond the limit": lambda c: setattr(c.model_warmup[0], "batch_size", 17),
    "warm-up without an input": lambda c: c.model_warmup[0].inputs.pop("hole_mask"),
    "a graph beyond the limit": lambda c: setattr(
        c.optimization.cuda.graph_spec[0], "batch_size", 17
    ),
    "graphs that are not switched on": lambda c: c.optimization.cuda.ClearField("graphs"),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_configurations_are_noticed(plan_manifest: Callable[..., Manifest], how: str) -> None:
    manifest = plan_manifest()
    text = to_text(configuration(manifest, "unet", ServeOptions(profiles=(1, 2))))
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    rules.check(config, manifest.contract, LADDER)
    WRONG[how](config)
    with pytest.raises((AssertionError, ValueError)):
        rules.check(config, manifest.contract, LADDER)
