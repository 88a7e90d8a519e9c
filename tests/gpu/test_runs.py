"""A TensorRT engine on a GPU. These tests have never run: no GPU was at hand."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.backend import PLAN
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, load
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


def test_threads_do_not_disturb_each_other(
    session: TensorRtSession, direct: TensorRtSession
) -> None:
    cases = [images(SHAPES[seed % len(SHAPES)], seed) for seed in range(12)]
    expected = [direct.run(inputs)[FILLED] for inputs in cases]
    with ThreadPoolExecutor(6) as threads:
        for _ in range(5):
            for found, right in zip(threads.map(session.run, cases), expected, strict=True):
                np.testing.assert_array_equal(found[FILLED], right)


def test_a_thousand_runs_leak_nothing(session: TensorRtSession) -> None:
    cuda = Cuda.load()
    for shape in SHAPES:
        for _ in range(4):  # both workers, graphs and all
            session.run(images(shape))
    cases = [images(shape) for shape in SHAPES[:3]]
    free, _ = cuda.call("cudaMemGetInfo")
    for index in range(1000):
        session.run(cases[index % 3])
    assert cuda.call("cudaMemGetInfo")[0] >= free - (1 << 20)


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


def test_latency(
    session: TensorRtSession, direct: TensorRtSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints what it finds; the report of the GPU measures it with care."""
    inputs = images((1, 256, 256))
    found = {}
    for name, opened in (("graph", session), ("direct", direct)):
        for _ in range(50):
            opened.run(inputs)
        times = []
        for _ in range(300):
            start = time.perf_counter()
            opened.run(inputs)
            times.append((time.perf_counter() - start) * 1e3)
        found[name] = np.percentile(times, [50, 99])
    with capsys.disabled():
        for name, (median, late) in found.items():
            print(f"\n1x256x256, {name}: p50 {median:.3f} ms, p99 {late:.3f} ms")  # noqa: T201
    assert found["graph"][0] <= found["direct"][0] * 1.2


def test_a_damaged_plan_is_refused_in_words(folder: Path) -> None:
    plan = bytearray((folder / PLAN).read_bytes())
    plan[8:64] = bytes(56)
    with pytest.raises(EngineError, match=r"TensorRT does not load the plan: .+"):
        TensorRtSession(load(TENSORRT), bytes(plan))


def test_a_shape_outside_of_the_profiles_is_refused(session: TensorRtSession) -> None:
    with pytest.raises(EngineError, match=r"1x16x16 \.\. 8x512x512"):
        session.run(images((9, 64, 64)))


def test_too_little_memory_says_need_and_free() -> None:
    cuda = Cuda.load()
    _, total = cuda.call("cudaMemGetInfo")
    with pytest.raises(EngineError, match=r"out of memory: cudaMalloc needed .* MiB free of"):
        cuda.allocate("cudaMalloc", 2 * total)
