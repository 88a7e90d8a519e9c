"""What TensorRT builds on a GPU. These tests have never run: no GPU was at hand."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.commands.inspect import inspect_file
from pconv_deploy.commands.refit import refit
from pconv_deploy.contract import UNetConfig
from pconv_deploy.engines.backends.tensorrt.cuda.streams import on_device
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.manifest import Manifest, read_manifest, write_manifest
from pconv_deploy.engines.refit import RefitRequest
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.errors import EngineError, PConvError
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.inpainter import Inpainter
from tests.conftest import random_network
from tests.gpu.conftest import images

pytestmark = pytest.mark.gpu
NETWORK = UNetConfig(channels=(8, 12), kernels=(5, 3))
SMALL = Profile(min=(1, 32, 32), opt=(1, 64, 64), max=(3, 64, 64))


def built(graph: Path, output: Path, **options: Any) -> Manifest:
    """An fp16 engine of one small profile."""
    chosen = msgspec.structs.replace(TensorRtOptions(profiles=(SMALL,)), **options)
    wanted = BuildOptions(backend="tensorrt", precision="fp16", backend_options=chosen)
    return build_engine(graph, output, wanted)


def filled(engine: Path) -> NDArray[np.uint8]:
    """What it makes of a fixed image."""
    inputs = images((1, 64, 64))
    with Inpainter.load(engine) as inpaint:
        return np.stack(inpaint(list(inputs["image"]), list(inputs["hole_mask"])))


def test_the_inspector_lists_layers(folder: Path) -> None:
    """As `inspect` shows them; layers.json has all that it says."""
    shown = inspect_file(folder)["layers"]
    assert isinstance(shown, dict)
    assert sum(map(int, shown.values())) >= 1


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """Two graphs of one network with different weights."""
    found = []
    for seed in (0, 1):
        checkpoint, graph = tmp_path / f"{seed}.safetensors", tmp_path / f"{seed}.onnx"
        save_checkpoint(checkpoint, random_network(NETWORK, seed))
        export_checkpoint(checkpoint, graph)
        found.append(graph)
    return found[0], found[1]


@pytest.mark.parametrize("stripped", [False, True])
def test_weights_are_swapped(graphs: tuple[Path, Path], tmp_path: Path, stripped: bool) -> None:
    """And swapped back, for which TensorRT has to be 10.14 or later."""
    old, new = graphs
    path = tmp_path / "old.engine"
    built(old, path, refit=True, strip_weights=stripped)
    built(new, tmp_path / "new.engine")
    output = tmp_path / "swapped.engine"
    manifest = refit(RefitRequest(engine=path, weights=new, output=output))
    assert manifest.engine_parity is not None
    assert manifest.engine_parity.failures() == []
    apart = np.abs(filled(output).astype(int) - filled(tmp_path / "new.engine"))
    assert apart.max() <= 2
    back = refit(RefitRequest(engine=output, weights=old, output=tmp_path / "back.engine"))
    assert back.graph_sha256 == read_manifest(path).graph_sha256


def test_a_version_compatible_plan_opens_where_it_was_built(graph: Path, tmp_path: Path) -> None:
    built(graph, tmp_path / "usual.engine")
    manifest = built(graph, tmp_path / "x.engine", version_compatible=True)
    assert manifest.engine_parity is not None
    apart = np.abs(filled(tmp_path / "x.engine").astype(int) - filled(tmp_path / "usual.engine"))
    assert apart.max() <= 2


def test_a_second_build_takes_its_kernels_from_the_timing_cache(
    graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    with caplog.at_level(logging.WARNING):
        first = built(graph, tmp_path / "1.engine", timing_cache=str(cache))
        measured = cache.read_bytes()
        second = built(graph, tmp_path / "2.engine", timing_cache=str(cache))
    assert caplog.text == ""  # what was written is read as it is
    assert len(cache.read_bytes()) >= len(measured) > 0
    took = [m.engine.details["build_seconds"] for m in (first, second)]
    assert took[1] < took[0]
    np.testing.assert_array_equal(filled(tmp_path / "1.engine"), filled(tmp_path / "2.engine"))


def test_a_damaged_timing_cache_is_put_aside(
    graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"neither TensorRT's nor anyone's")
    with caplog.at_level(logging.WARNING):
        built(graph, tmp_path / "x.engine", timing_cache=str(cache))
    assert "is damaged, or no timing cache of this release" in caplog.text
    assert cache.read_bytes().startswith(b"ptrt")
    assert (tmp_path / "cache.damaged").read_bytes() == b"neither TensorRT's nor anyone's"


def test_an_engine_of_another_model_of_gpu_does_not_open(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    manifest = built(graph, path)
    gpu = manifest.built_with.gpu
    assert gpu is not None
    other = msgspec.structs.replace(gpu, name="NVIDIA Imagined")
    told = msgspec.structs.replace(manifest.built_with, gpu=other)
    write_manifest(path, msgspec.structs.replace(manifest, built_with=told))
    with pytest.raises(EngineError, match="a plan is for one model of GPU"):
        open_engine(path)


def test_an_engine_runs_on_the_gpu_that_is_current_where_it_is_loaded(
    graph: Path, tmp_path: Path
) -> None:
    cuda = Cuda.load()
    if cuda.call("cudaGetDeviceCount") < 2:
        pytest.skip("not run: it needs two GPUs, there is one")
    path = tmp_path / "x.engine"
    built(graph, path, hardware_compatibility="same-compute-capability")
    expected = filled(path)
    inputs = images((1, 64, 64))
    try:
        with on_device(cuda, 1):
            _, session = open_engine(path)
    except PConvError as error:
        pytest.skip(f"not run: the second GPU is of another kind: {error}")
    # Called from where the first GPU is current.
    assert cuda.call("cudaGetDevice") == 0
    np.testing.assert_array_equal(session.run(inputs)["filled"], expected)
    assert cuda.call("cudaGetDevice") == 0
    session.close()
