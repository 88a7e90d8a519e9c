"""A TensorRT engine on a GPU. These tests have never run: no GPU was at hand."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.errors import EngineError
from pconv_deploy.inpainter import Inpainter
from tests.gpu.conftest import images

pytestmark = pytest.mark.gpu
SHAPES = [(1, 256, 256), (1, 64, 128), (3, 128, 128), (8, 512, 512)]


def test_an_engine_is_accepted_when_it_is_built(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.engine_parity is not None
    assert manifest.engine_parity.failures() == []
    assert manifest.executed[manifest.precision] > 0
    assert manifest.built_with.gpu is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_it_fills_as_the_cpu_does(folder: Path, engine: Path, shape: tuple[int, int, int]) -> None:
    inputs = images(shape)
    image, hole = list(inputs[IMAGE]), list(inputs[HOLE_MASK])
    with Inpainter.load(folder) as on_gpu, Inpainter.load(engine, threads=2) as on_cpu:
        for found, expected, known in zip(
            on_gpu(image, hole), on_cpu(image, hole), inputs[HOLE_MASK] == 0, strict=True
        ):
            np.testing.assert_array_equal(found[known], expected[known])
            apart = np.abs(found.astype(int) - expected.astype(int))
            limit = 1 if read_manifest(folder).precision == "fp32" else 8
            assert apart.max() <= limit, f"{apart.max()} levels, mean {apart.mean():.3f}"


@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_change_no_bit(
    session: TensorRtSession,
    direct: TensorRtSession,
    shape: tuple[int, int, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            inputs = images(shape, seed)
            found, expected = session.run(inputs)[FILLED], direct.run(inputs)[FILLED]
            np.testing.assert_array_equal(found, expected)
    assert caplog.text == ""  # no graph was refused
    assert (session.runs_by_graph, direct.runs_by_graph) == (2, 0)  # two workers captured first


def test_closing_gives_the_memory_back(folder: Path) -> None:
    cuda = Cuda.load()

    def cycle() -> int:
        with Inpainter.load(folder) as inpaint:
            inpaint.warm_up([(256, 256)])
        return int(cuda.call("cudaMemGetInfo")[0])

    cycle()  # CUDA and TensorRT keep something of the first time
    first = cycle()
    for _ in range(10):
        last = cycle()
    assert last >= first - (4 << 20)


def test_too_little_memory_says_need_and_free() -> None:
    cuda = Cuda.load()
    _, total = cuda.call("cudaMemGetInfo")
    with pytest.raises(EngineError, match=r"out of memory: cudaMalloc needed .* MiB free of"):
        cuda.allocate("cudaMalloc", 2 * total)
