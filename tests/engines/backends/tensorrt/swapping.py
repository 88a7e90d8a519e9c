"""Two checkpoints, an engine of the one, and a pretended machine that swaps weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import torch

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import UNetConfig
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.network import as_read
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.engines.manifest import Manifest, describe, read_manifest, write_manifest
from pconv_deploy.engines.prepared_graph import prepare_again
from pconv_deploy.engines.refit import RefitRequest
from pconv_deploy.engines.sessions import EngineFiles
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.network.architectures import build_network
from tests.conftest import random_network
from tests.engines.backends.tensorrt import fake_refit
from tests.engines.backends.tensorrt.built import built_of
from tests.engines.backends.tensorrt.conftest import SMALL
from tests.engines.backends.tensorrt.fake_refit import FakeSession, fake_plan

NETWORK = UNetConfig(channels=(8, 12), kernels=(5, 3))
REFIT = TensorRtOptions(profiles=(SMALL,), refit=True)
WHY_NOT_RUN = TensorRtBackend.why_not_run


def checkpoint_of(path: Path, seed: int, config: UNetConfig = NETWORK, **more: Any) -> Path:
    save_checkpoint(path, random_network(config, seed), **more)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old.safetensors and new.safetensors, and their graphs; the new one has no biases yet."""
    path = tmp_path_factory.mktemp("refit")
    torch.manual_seed(1)
    for name, network in (
        ("old", random_network(NETWORK)),
        ("new", build_network(NETWORK).eval()),
    ):
        save_checkpoint(path / f"{name}.safetensors", network)
        export_checkpoint(path / f"{name}.safetensors", path / f"{name}.onnx")
    return path


@pytest.fixture(scope="session")
def built(folder: Path, tensorrt_module: ModuleType) -> tuple[Path, Manifest]:
    """An engine of TensorRT's own builder, and its manifest."""
    path = folder / "fp16.engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tensorrt", tensorrt_module)
        # With --refit the builder wants a GPU: what it is given then is tested in test_config.
        options = msgspec.structs.replace(REFIT, refit=False)
        wanted = BuildOptions(backend="tensorrt", precision="fp16", backend_options=options)
        return path, build_engine(folder / "old.onnx", path, wanted)


Engine = Callable[..., Path]


@pytest.fixture
def engine(built: tuple[Path, Manifest], folder: Path, tmp_path: Path) -> Engine:
    """Make a copy whose plan is a fake one, its options changed as told."""

    def make(*, stripped: bool = False, refittable: bool = True, **options: bool) -> Path:
        source, manifest = built
        path = tmp_path / "e.engine"
        shutil.copytree(source, path)
        exported, backend = read_graph(folder / "old.onnx"), TensorRtBackend()
        model = prepare_again(backend, exported, manifest.precision, manifest.arrangement)
        graph = as_read(model.SerializeToString()).SerializeToString()
        plan = fake_plan(graph, stripped=stripped, refittable=refittable)
        (path / "engine.plan").write_bytes(plan)
        chosen = msgspec.structs.replace(REFIT, strip_weights=stripped, **options)
        edit(path, engine=built_of(chosen, manifest.engine.profiles))
        return path

    return make


def edit(path: Path, **changes: Any) -> None:
    """Let the manifest say otherwise, and fit its file."""
    manifest = msgspec.structs.replace(read_manifest(path), **changes)
    plan = path / "engine.plan"
    files = {**manifest.files, "engine.plan": describe(plan.read_bytes())}
    write_manifest(path, msgspec.structs.replace(manifest, files=files))


@pytest.fixture
def gpu(folder: Path, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs fake plans."""

    def opened(_self: object, files: EngineFiles, precision: Any, _options: object) -> FakeSession:
        contract = msgspec.structs.replace(
            read_graph(folder / "old.onnx").contract, precision=precision
        )
        return FakeSession(files.read("engine.plan"), contract)

    monkeypatch.setattr(TensorRtBackend, "open", opened)
    monkeypatch.setattr(TensorRtBackend, "why_not_run", lambda _self: None)
    fakes: dict[str, type] = {
        "Runtime": fake_refit.FakeRuntime,
        "Refitter": fake_refit.FakeRefitter,
        "OnnxParserRefitter": fake_refit.FakeOnnxParserRefitter,
        "SerializationFlag": fake_refit.SerializationFlag,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(tensorrt, name, fake)


def in_place(path: Path, weights: Path) -> RefitRequest:
    return RefitRequest(engine=path, weights=weights, output=path, overwrite=True)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}
