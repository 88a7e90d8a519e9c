"""CUDA graphs of a session: captured, checked, kept up to a bound, or done without."""

import logging

import pytest

from pconv_deploy.engines.tensorrt.session import TensorRtSession
from tests.engines.cuda.cuda_names import Status
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import (
    FakeTensorRt,
)
from tests.engines.cuda.sessions import Open, run_right


def test_a_graph_is_captured_once_a_shape(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open
) -> None:
    session = opened()
    for seed in range(3):
        run_right(session, (1, 32, 32), seed)
        run_right(session, (1, 16, 16), seed)
    assert gpu.calls["cudaStreamBeginCapture"] == 2
    assert gpu.calls["cudaGraphLaunch"] == 2 * 3  # its check, and each later run
    assert len(library.contexts) == 1 + 2  # each graph has its own
    assert gpu.left()["executables"] == 2
    assert "graphs" not in gpu.left()


def test_a_session_counts_the_runs_that_were_graphs(opened: Open) -> None:
    session, direct = opened(streams=2), opened(graphs=False)
    found = []
    for seed in range(5):
        run_right(session, (1, 32, 32), seed)
        run_right(direct, (1, 32, 32), seed)
        found.append(session.runs_by_graph)
    assert found == [0, 0, 1, 2, 3]  # of each worker the first captures
    assert direct.runs_by_graph == 0


def test_without_graphs_everything_is_executed_directly(gpu: FakeCuda, opened: Open) -> None:
    session = opened(graphs=False)
    for seed in range(3):
        run_right(session, (1, 32, 32), seed)
    assert gpu.calls["cudaStreamBeginCapture"] == gpu.calls["cudaGraphLaunch"] == 0


def test_graphs_are_kept_up_to_a_bound(gpu: FakeCuda, library: FakeTensorRt, opened: Open) -> None:
    session = opened()
    shapes = [(1, 16, width) for width in range(16, 33)] + [(1, 17, 17)]
    for shape in shapes:
        run_right(session, shape)
    assert gpu.left()["executables"] == 16
    assert len(library.contexts) == 17
    run_right(session, shapes[0])  # was dropped
    assert gpu.calls["cudaStreamBeginCapture"] == 19


def test_graphs_that_are_used_are_kept(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    shapes = [(1, 16, width) for width in range(16, 32)]
    for shape in (*shapes, shapes[0], (1, 17, 17), shapes[0]):
        run_right(session, shape)
    assert gpu.calls["cudaStreamBeginCapture"] == 17


def check_fallback(
    gpu: FakeCuda, session: TensorRtSession, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            run_right(session, (1, 32, 32), seed)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # said once
    assert f"running batch, height, width (1, 32, 32) without a CUDA graph: {why}" in caplog.text
    assert "executables" not in gpu.left()


def test_what_cannot_be_captured_is_executed_directly(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    library.captures = False
    session = opened()
    check_fallback(
        gpu,
        session,
        caplog,
        "TensorRT failed at batch, height, width (1, 32, 32): this cannot be captured",
    )
    assert gpu.calls["cudaStreamBeginCapture"] == 1
    assert len(library.contexts) == 1


def test_a_graph_that_computes_something_else_is_dropped(
    gpu: FakeCuda, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.graphs_do_nothing = True
    check_fallback(gpu, opened(), caplog, "its filled is not that of direct execution")
    assert gpu.calls["cudaGraphLaunch"] == 1


@pytest.mark.parametrize(
    "function",
    [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphLaunch",
        "cudaMemsetAsync",
    ],
)
def test_each_step_to_a_graph_may_fail(
    gpu: FakeCuda, opened: Open, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    gpu.fail_in = {function: Status.cudaErrorUnknown}
    check_fallback(gpu, opened(), caplog, f"{function} failed: cudaErrorUnknown")
