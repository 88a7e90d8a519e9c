import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.sessions import RunOptions
from pconv_deploy.errors import EngineError
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import PLAN, FakeTensorRt, filled, images

SHAPES = [(1, 32, 32), (2, 48, 48), (1, 16, 16)]


def opened(library: FakeTensorRt, streams: int) -> TensorRtSession:
    return TensorRtSession(library, PLAN, RunOptions(streams=streams))  # type: ignore[arg-type]


def test_many_threads_share_few_workers_and_none_sees_anothers_result(
    gpu: FakeCuda, library: FakeTensorRt
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
    session = opened(library, streams=2)

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
    gpu: FakeCuda, library: FakeTensorRt
) -> None:
    session = opened(library, streams=1)
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


def test_a_failed_run_gives_its_worker_back(gpu: FakeCuda, library: FakeTensorRt) -> None:
    session = opened(library, streams=1)
    library.runs_left = 0
    for _ in range(3):
        with pytest.raises(EngineError, match="a kernel was not found"):
            session.run(images((1, 32, 32)))
    library.runs_left = None
    session.run(images((1, 32, 32)))
    session.close()
    assert gpu.left() == {}
