"""Threads that share a session, and how execution contexts are made for them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.errors import EngineError
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_rtx import Compiling, FakeRtx, FakeRtxContext
from tests.engines.cuda.fake_tensorrt import (
    LARGE,
    PLAN,
    SMALL,
    FakeTensorRt,
    Verbosity,
    filled,
    images,
)
from tests.engines.cuda.sessions import Open, run_right

SHAPES = [(1, 32, 32), (2, 48, 48), (1, 16, 16)]


def test_many_threads_share_few_workers_and_none_sees_anothers_result(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open
) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def at_run() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    library.at_run = at_run
    session = opened(streams=2)

    def work(seed: int) -> None:
        inputs = images(SHAPES[seed % len(SHAPES)], seed)
        found = session.run(inputs)[FILLED]
        np.testing.assert_array_equal(found, filled(inputs[IMAGE], inputs[HOLE_MASK]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(120)))
    assert most == 2
    assert gpu.left()["streams"] == 2
    assert gpu.calls["cudaStreamBeginCapture"] <= 2 * len(SHAPES)
    session.close()
    assert gpu.left() == {}
    assert len(library.contexts) == 0


def test_closing_waits_for_what_runs_and_refuses_what_waits(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open
) -> None:
    session = opened(streams=1)
    started, go_on = threading.Event(), threading.Event()

    def at_run() -> None:
        started.set()
        assert go_on.wait(10)

    library.at_run = at_run
    inputs = images((1, 32, 32))
    with ThreadPoolExecutor(3) as threads:
        running = threads.submit(session.run, inputs)
        assert started.wait(10)
        waiting = threads.submit(session.run, inputs)
        closing = threads.submit(session.close)
        with pytest.raises(EngineError, match="the engine is closed"):
            waiting.result(10)
        assert not closing.done()
        assert gpu.left()
        go_on.set()
        expected = filled(inputs[IMAGE], inputs[HOLE_MASK])
        np.testing.assert_array_equal(running.result(10)[FILLED], expected)
        closing.result(10)
    assert gpu.left() == {}
    with pytest.raises(EngineError, match="the engine is closed"):
        session.run(inputs)
    session.close()


@pytest.fixture
def rtx(gpu: FakeCuda) -> FakeRtx:
    return FakeRtx(gpu, SMALL, LARGE)


def test_runs_do_not_tell_profilers_every_layer(library: FakeTensorRt, opened: Open) -> None:
    session = opened(streams=2)
    run_right(session, (1, 32, 32))
    assert library.alignment == 512  # which it gets: the fake GPU's blocks are aligned to 256
    assert [each.nvtx_verbosity for each in library.contexts] == [Verbosity.NONE] * 3


def test_memory_that_tensorrt_refuses_is_not_worked_in(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open
) -> None:
    library.alignment = 1 << 40
    with pytest.raises(EngineError, match="does not take the memory: memory must be aligned"):
        opened()
    assert gpu.left() == {}


def test_a_failed_run_says_why_and_gives_its_worker_back(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open
) -> None:
    session = opened(streams=1)
    library.runs_left = 0
    words = r"TensorRT failed at batch, height, width \(1, 32, 32\): a kernel was not found"
    for _ in range(3):
        with pytest.raises(EngineError, match=words):
            session.run(images((1, 32, 32)))
    library.runs_left = None
    run_right(session, (1, 32, 32))
    session.close()
    assert gpu.left() == {}


def test_threads_make_their_contexts_one_after_the_other(
    library: FakeTensorRt, opened: Open
) -> None:
    session = opened(streams=4)
    library.at_context = lambda: time.sleep(0.005)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: run_right(session, (1, 32, 32), seed), range(8)))
    assert len(library.contexts) == 4 + 4


def test_a_thread_is_told_its_own_errors(library: FakeTensorRt, opened: Open) -> None:
    session = opened(streams=2)
    with ThreadPoolExecutor(1) as threads:
        library.runs_left = 0
        with pytest.raises(EngineError, match="a kernel was not found"):
            threads.submit(run_right, session, (1, 32, 32)).result(10)
        log: Any = session._plan._log
        threads.submit(log.log, log.Severity.ERROR, "of another thread").result(10)
    with pytest.raises(EngineError, match=r"\(1, 32, 32\): a kernel was not found$"):
        run_right(session, (1, 32, 32))


def test_tensorrt_for_rtx_compiles_before_a_graph_is_captured(rtx: FakeRtx, gpu: FakeCuda) -> None:
    session = TensorRtSession(rtx, PLAN)  # type: ignore[arg-type]
    for seed in range(3):
        run_right(session, (1, 32, 32), seed)
    assert session.runs_by_graph == 2
    contexts = [each for each in rtx.contexts if isinstance(each, FakeRtxContext)]
    assert len(contexts) == 2
    for each in contexts:
        assert each.config.dynamic_shapes_kernel_specialization_strategy == Compiling.EAGER
        assert each.config.cache is contexts[0].config.cache is not None
    session.close()
    assert gpu.left() == {}


def test_tensorrt_for_rtx_tells_beforehand_what_cannot_be_captured(
    rtx: FakeRtx, gpu: FakeCuda
) -> None:
    rtx.captures = False
    session = TensorRtSession(rtx, PLAN)  # type: ignore[arg-type]
    for seed in range(5):
        run_right(session, (1, 32, 32), seed)
    assert gpu.calls["cudaStreamBeginCapture"] == session.runs_by_graph == 0
