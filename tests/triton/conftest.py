"""Engines to be served. Those for TensorRT hold a pretend plan: Triton alone would open it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pconv_deploy.contract import GraphContract, deployment_specs, tensor_specs
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.base import Gpu
from pconv_deploy.engines.manifest import (
    EngineFile,
    Manifest,
    read_manifest,
    write_manifest,
)
from pconv_deploy.engines.shapes import Profile
from tests.cli.conftest import run as run  # a fixture
from tests.engines.backends.tensorrt.built import built_of

PLAN = b"a pretend TensorRT plan"
H200 = Gpu(name="NVIDIA H200", compute_capability="9.0", memory=141 << 30, driver="1", cuda="13.0")
LADDER = (
    Profile(min=(1, 256, 256), opt=(1, 512, 512), max=(1, 1024, 1024)),
    Profile(min=(1, 256, 256), opt=(8, 256, 256), max=(32, 256, 256)),
    Profile(min=(1, 512, 512), opt=(8, 512, 512), max=(16, 1024, 1024)),
)

MakePlan = Callable[..., Path]


def parsed(config: Path) -> Any:
    """The configuration as Triton's own schema reads it; unknown fields are errors."""
    return text_format.Parse(config.read_text(encoding="ascii"), model_config_pb2.ModelConfig())


def fixed(contract: GraphContract, **changes: Any) -> GraphContract:
    """The contract as an export with --batch or --size, or of a tensor-level graph, has it."""
    new = msgspec.structs.asdict(contract) | changes
    specs = tensor_specs if new["kind"] == "tensor" else deployment_specs
    inputs, outputs = specs(new["batch"], new["size"])
    return GraphContract(**new | {"inputs": inputs, "outputs": outputs})


@pytest.fixture(scope="session")
def manifest(engine: Path) -> Manifest:
    return read_manifest(engine)


@pytest.fixture(scope="session")
def plan_manifest(manifest: Manifest) -> Callable[..., Manifest]:
    """Make the manifest of a TensorRT engine that was built where it could not be run."""

    def make(
        *profiles: Profile, options: TensorRtOptions | None = None, **contract: Any
    ) -> Manifest:
        built_with = msgspec.structs.replace(
            manifest.built_with, package="tensorrt", version="10.13.2", device="gpu", gpu=H200
        )
        built = built_of(options or TensorRtOptions(), profiles or LADDER)
        described = EngineFile(size=len(PLAN), sha256=hashlib.sha256(PLAN).hexdigest())
        return msgspec.structs.replace(
            manifest,
            backend="tensorrt",
            precision="fp16",
            executed={},
            built_with=built_with,
            contract=fixed(manifest.contract, **contract),
            files={"engine.plan": described},
            engine_parity=None,
            engine=built,
        )

    return make


@pytest.fixture
def plan_engine(plan_manifest: Callable[..., Manifest], tmp_path: Path) -> MakePlan:
    """Make a folder like that of a TensorRT engine."""

    def make(*profiles: Profile, **facts: Any) -> Path:
        folder = tmp_path / "unet.engine"
        folder.mkdir()
        (folder / "engine.plan").write_bytes(PLAN)
        write_manifest(folder, plan_manifest(*profiles, **facts))
        return folder

    return make
