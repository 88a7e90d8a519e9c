from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.manifest import Manifest, describe_parity
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.triton.configuration import ServeOptions, configuration
from pconv_deploy.triton.protobuf_text import to_text
from pconv_deploy.triton.shapes import joinable
from tests.triton import rules
from tests.triton.conftest import LADDER, fixed

MakeManifest = Callable[..., Manifest]
ONE = Profile(min=(1, 256, 256), opt=(1, 512, 512), max=(8, 512, 512))


def configured(manifest: Manifest, **options: Any) -> Any:
    """Write a configuration, read it by Triton's schema, and hold it against Triton's rules."""
    text = to_text(configuration(manifest, "unet", ServeOptions(**options)))
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    rules.check(config, manifest.contract, manifest.engine.profiles)
    return config


def warm_ups(config: Any) -> list[str]:
    return [sample.name for sample in config.model_warmup]


def test_an_onnx_engine_of_free_shapes(manifest: Manifest) -> None:
    config = configured(manifest)
    assert config.platform == "onnxruntime_onnx"
    assert [(t.name, list(t.dims)) for t in (*config.input, *config.output)] == [
        ("image", [-1, -1, 3]),
        ("hole_mask", [-1, -1]),
        ("filled", [-1, -1, 3]),
    ]
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    (group,) = config.instance_group
    assert (group.Kind.Name(group.kind), group.count) == ("KIND_CPU", 1)
    assert warm_ups(config) == ["1x512x512", "4x512x512"]
    assert not config.HasField("optimization")
    assert config.version_policy.latest.num_versions == 1


def test_options_reach_the_configuration(manifest: Manifest) -> None:
    config = configured(manifest, max_batch_size=2, max_queue_delay=500, instances=3, threads=2)
    assert config.max_batch_size == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.instance_group[0].count == 3
    assert config.parameters["intra_op_thread_count"].string_value == "2"


def test_batches_of_one_are_not_joined(manifest: Manifest) -> None:
    config = configured(manifest, max_batch_size=1)
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert warm_ups(config) == ["1x512x512"]


@pytest.mark.parametrize("kind", ["deployment", "tensor"])
@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("size", [None, (256, 128)])
def test_fixed_batches_and_sizes(
    manifest: Manifest, kind: str, batch: int | None, size: tuple[int, int] | None
) -> None:
    contract = fixed(manifest.contract, kind=kind, batch=batch, size=size)
    config = configured(msgspec.structs.replace(manifest, contract=contract))
    assert config.max_batch_size == (0 if batch else 4)
    assert config.HasField("dynamic_batching") == (batch is None)
    height, width = size or (-1, -1)
    sides = [3, height, width] if kind == "tensor" else [height, width, 3]
    assert list(config.input[0].dims) == ([batch, *sides] if batch else sides)
    for sample in config.model_warmup:
        given = sample.inputs["image"].WhichOneof("input_data_type")
        # Random bits of floats are no numbers.
        assert given == ("zero_data" if kind == "tensor" else "random_data")


def test_sizes_are_rounded_up_for_the_warm_up(manifest: Manifest) -> None:
    contract = msgspec.structs.replace(manifest.contract, size_multiple=1024)
    config = configured(msgspec.structs.replace(manifest, contract=contract))
    assert warm_ups(config) == ["1x1024x1024", "4x1024x1024"]


def test_parameters_tell_clients_and_operators_the_facts(manifest: Manifest) -> None:
    facts = {key: value.string_value for key, value in configured(manifest).parameters.items()}
    contract = msgspec.json.decode(facts.pop("pconv_deploy.contract"), type=GraphContract)
    assert contract == manifest.contract
    assert facts == {
        "pconv_deploy.size_multiple": "16",
        "pconv_deploy.precision": "fp32",
        "pconv_deploy.engine_sha256": manifest.files["model.onnx"].sha256,
        "pconv_deploy.graph_sha256": manifest.graph_sha256,
        "pconv_deploy.engine_parity": describe_parity(manifest),
        "pconv_deploy.built_with": manifest.built_with.runtime().describe(),
    }


def test_an_onnx_engine_for_the_gpu(manifest: Manifest) -> None:
    built_with = msgspec.structs.replace(manifest.built_with, device="gpu (CUDAExecutionProvider)")
    on_gpu = msgspec.structs.replace(manifest, backend="onnxruntime-cuda", built_with=built_with)
    config = configured(on_gpu, gpus=(1,))
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    (group,) = config.instance_group
    assert (group.Kind.Name(group.kind), list(group.gpus)) == ("KIND_GPU", [1])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "cuda"
    assert accelerator.parameters["use_tf32"] == "0"


def test_the_usual_ladder_of_profiles(plan_manifest: MakeManifest) -> None:
    rungs = ((1, 512), (1, 1024), (8, 512), (8, 1024), (32, 512))
    ladder = [
        Profile(min=(1, 256, 256), opt=(n, side, side), max=(n, side, side)) for n, side in rungs
    ]
    config = configured(plan_manifest(*ladder))
    # Up to 1024x1024, batches of 32 are not taken.
    assert config.max_batch_size == 8
    assert warm_ups(config) == ["1x512x512", "1x1024x1024", "8x512x512", "8x1024x1024"]
    assert configured(plan_manifest(*ladder), profiles=(0, 2, 4)).max_batch_size == 32


def test_a_ladder_with_a_profile_of_single_images(plan_manifest: MakeManifest) -> None:
    config = configured(plan_manifest())
    assert config.platform == "tensorrt_plan"
    (group,) = config.instance_group
    assert group.Kind.Name(group.kind) == "KIND_GPU"
    assert list(group.gpus) == []
    assert list(group.profile) == ["0", "1", "2"]
    assert list(config.input[0].dims) == [-1, -1, 3]
    # Between 256 and 512 the first profile is alone.
    assert config.max_batch_size == 1
    assert warm_ups(config) == ["1x512x512", "1x1024x1024", "1x256x256"]


def test_profiles_can_be_chosen(plan_manifest: MakeManifest) -> None:
    config = configured(plan_manifest(), profiles=(1, 2), gpus=(0, 3))
    assert list(config.instance_group[0].profile) == ["1", "2"]
    assert list(config.instance_group[0].gpus) == [0, 3]
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert warm_ups(config) == ["8x256x256", "16x256x256", "8x512x512", "16x1024x1024"]
    graphs = config.optimization.cuda.graph_spec
    assert [(g.batch_size, *g.input["hole_mask"].dim) for g in graphs] == [
        (1, 256, 256),
        (8, 256, 256),
        (16, 256, 256),
        (1, 512, 512),
        (8, 512, 512),
        (16, 512, 512),
    ]


def test_one_size_is_written_as_numbers(plan_manifest: MakeManifest) -> None:
    config = configured(plan_manifest(), profiles=(1,), max_batch_size=4)
    assert list(config.input[0].dims) == [256, 256, 3]
    assert list(config.output[0].dims) == [256, 256, 3]
    assert config.max_batch_size == 4
    # Batches of eight, which it was tuned for, are not sent.
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert warm_ups(config) == ["4x256x256"]


def test_a_plan_of_a_fixed_batch(plan_manifest: MakeManifest) -> None:
    profile = Profile(min=(4, 256, 256), opt=(4, 256, 512), max=(4, 512, 512))
    config = configured(plan_manifest(profile, batch=4))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, -1, -1, 3]
    (graph,) = config.optimization.cuda.graph_spec
    assert graph.batch_size == 0
    assert list(graph.input["image"].dim) == [4, 256, 512, 3]
    assert [(s.name, s.batch_size) for s in config.model_warmup] == [
        ("4x256x512", 1),
        ("4x512x512", 1),
    ]


@pytest.mark.parametrize(
    ("profiles", "most"),
    [
        ((ONE,), 8),
        (LADDER, 1),
        (LADDER[1:], 16),
        # Another profile of the same sizes takes up where the first one ends.
        ((ONE, Profile(min=(9, 256, 256), opt=(9, 512, 512), max=(32, 512, 512))), 32),
        # There is a gap between them.
        ((ONE, Profile(min=(16, 256, 256), opt=(16, 512, 512), max=(32, 512, 512))), 8),
        # Larger images alone are taken in smaller batches.
        ((ONE, Profile(min=(1, 256, 256), opt=(1, 512, 512), max=(2, 1024, 512))), 2),
        ((Profile(min=(2, 256, 256), opt=(2, 256, 256), max=(4, 256, 256)),), 0),
    ],
)
def test_what_is_joined_is_taken_at_every_size(profiles: tuple[Profile, ...], most: int) -> None:
    assert joinable(profiles) == most
    assert joinable(reversed(profiles)) == most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 2}, "at some size this engine takes 1 at most: it has 0: 1x256x256"),
        ({"max_queue_delay": 100}, "batches are of one image"),
        ({"profiles": (3,)}, "found --profiles 3; this engine has 0: 1x256x256 .. 1x1024x1024"),
        ({"threads": 2}, "--threads is for engines that run on the CPU"),
    ],
)
def test_options_that_contradict_a_plan(
    plan_manifest: MakeManifest, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        configured(plan_manifest(), **options)


def test_options_that_contradict_an_onnx_engine(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="--gpus is for engines that run on a GPU"):
        configured(manifest, gpus=(0,))
    with pytest.raises(UsageError, match="found --profiles 0; this engine has no profiles"):
        configured(manifest, profiles=(0,))
    three = msgspec.structs.replace(manifest, contract=fixed(manifest.contract, batch=3))
    with pytest.raises(UsageError, match="batches of 3 and no others"):
        configured(three, max_batch_size=3)
    with pytest.raises(UsageError, match="batches are of 3"):
        configured(three, max_queue_delay=100)


def test_plans_that_take_no_single_image_are_refused(plan_manifest: MakeManifest) -> None:
    profile = Profile(min=(2, 256, 256), opt=(2, 256, 256), max=(4, 256, 256))
    with pytest.raises(EngineError, match="does not take a single image: it has 0: 2x256x256"):
        configured(plan_manifest(profile))
