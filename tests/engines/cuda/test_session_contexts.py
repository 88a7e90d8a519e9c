"""How execution contexts are made: of TensorRT and of TensorRT for RTX, by several threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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
)
from tests.engines.cuda.sessions import Open, run_right


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
