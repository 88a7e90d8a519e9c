import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pconv_deploy.checkpoints.native import load_checkpoint, save_checkpoint
from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.manifest import describe, read_manifest, write_manifest
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.verification.pictures import PictureOptions
from pconv_deploy.verification.results import VerifyRequest, VerifyResult
from pconv_deploy.verification.run import verify
from tests.conftest import NORMALISATION

Compare = Callable[..., VerifyResult]
FEW = PictureOptions(count=1)


@pytest.fixture(scope="session")
def tensor_graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensor") / "tensor.onnx"
    export_checkpoint(checkpoint, path, ExportOptions(kind="tensor", batch=2, size=(32, 48)))
    return path


@pytest.fixture(scope="session")
def tensor_engine(tensor_graph: Path) -> Path:
    path = tensor_graph.with_suffix(".engine")
    build_engine(tensor_graph, path)
    return path


@pytest.fixture
def compare() -> Compare:
    def run(a: Path, b: Path, **options: object) -> VerifyResult:
        settings = {"size": (32, 48), "pictures": FEW, **options}
        return verify(VerifyRequest(a=a, b=b, **settings))  # type: ignore[arg-type]

    return run


def doctored_checkpoint(checkpoint: Path, target: Path, by: float = 0.05) -> Path:
    """A copy of which one weight of the outermost decoder layer is another."""
    original = load_checkpoint(checkpoint)
    with torch.no_grad():
        weights = original.model.state_dict()["decoder.3.conv.weight"]
        weights.view(-1)[0] += by
    save_checkpoint(target, original.model, normalisation=NORMALISATION)
    return target


def doctored_graph(graph: Path, target: Path, value: float) -> Path:
    """A copy of which one number of the largest stored tensor is another."""
    model = onnx.load(graph)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = np.array(numpy_helper.to_array(largest))
    array.flat[5] = value  # a tap in the middle, which every pixel reads
    largest.CopyFrom(numpy_helper.from_array(array, largest.name))
    onnx.save(model, target)
    return target


def engine_of(engine: Path, graph: Path, target: Path) -> Path:
    """An engine folder that holds another graph than it was accepted with, hashes in order."""
    shutil.copytree(engine, target)
    shutil.copyfile(graph, target / "model.onnx")
    manifest = read_manifest(target)
    manifest.files["model.onnx"] = describe((target / "model.onnx").read_bytes())  # type: ignore[index]
    write_manifest(target, manifest)
    return target
