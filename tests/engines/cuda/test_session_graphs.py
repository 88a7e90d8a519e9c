"""CUDA graphs of a session: captured, checked, kept up to a bound, or done without."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from pconv_deploy.engines.backends.tensorrt import graphs
from pconv_deploy.engines.backends.tensorrt.graphs import MOST_ATTEMPTS, MOST_GRAPHS
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_device import Status
from tests.engines.cuda.fake_tensorrt import FakeTensorRt
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


def test_a_session_counts_the_runs_that_were_graphs(gpu: FakeCuda, opened: Open) -> None:
    session, direct = opened(streams=2), opened(graphs=False)
    found = []
    for seed in range(5):
        run_right(session, (1, 32, 32), seed)
        run_right(direct, (1, 32, 32), seed)
        found.append(session.runs_by_graph)
    assert found == [0, 0, 1, 2, 3]  # of each worker the first captures
    assert direct.runs_by_graph == 0
    assert gpu.calls["cudaStreamBeginCapture"] == 2


def test_graphs_are_kept_up_to_a_bound(gpu: FakeCuda, library: FakeTensorRt, opened: Open) -> None:
    session = opened()
    shapes = [(1, 16, width) for width in range(16, 33)] + [(1, 17, 17)]
    for _ in range(3):
        for shape in shapes:
            run_right(session, shape)
    assert gpu.calls["cudaStreamBeginCapture"] == gpu.left()["executables"] == MOST_GRAPHS
    assert len(library.contexts) == 1 + MOST_GRAPHS
    assert session.runs_by_graph == 2 * MOST_GRAPHS


def test_the_graph_that_was_idle_for_longest_makes_room(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "IDLE_RUNS", MOST_GRAPHS)
    session = opened()
    for width in range(16, 16 + MOST_GRAPHS):
        run_right(session, (1, 16, width))
    run_right(session, (1, 16, 16))  # in use again
    for width in range(16, 15 + MOST_GRAPHS):
        run_right(session, (1, 17, width))
    assert gpu.calls["cudaStreamBeginCapture"] == 2 * MOST_GRAPHS - 1
    assert gpu.left()["executables"] == len(library.contexts) - 1 == MOST_GRAPHS
    before = session.runs_by_graph
    run_right(session, (1, 16, 16))
    assert session.runs_by_graph == before + 1


def check_fallback(
    gpu: FakeCuda, session: TensorRtSession, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    with caplog.at_level(logging.INFO):
        for seed in range(MOST_ATTEMPTS + 3):
            run_right(session, (1, 32, 32), seed)
    ours = [record for record in caplog.records if record.name.endswith("worker")]
    assert [record.levelname for record in ours] == ["INFO"] * (MOST_ATTEMPTS - 1) + ["WARNING"]
    words = "running batch, height, width (1, 32, 32) without a CUDA graph"
    assert ours[0].getMessage().startswith(f"{words} for now: {why}")
    assert ours[-1].getMessage().startswith(f"{words}: {why}")
    assert "executables" not in gpu.left()
    assert session.runs_by_graph == 0


def test_a_capture_that_another_thread_spoils_is_tried_again(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for the whole GPU gets an error, too, whatever the mode of the capture."""
    seen: list[Status] = []

    def meanwhile() -> None:
        if gpu.is_capturing(next(iter(gpu.streams))) and len(seen) < 2:
            with ThreadPoolExecutor(1) as threads:
                seen.append(threads.submit(gpu.cudaDeviceSynchronize).result(10)[0])

    library.at_run = meanwhile
    session = opened()
    for seed in range(5):
        run_right(session, (1, 32, 32), seed)
    assert seen == [Status.cudaErrorStreamCaptureUnsupported] * 2
    assert session.runs_by_graph == 2  # the third run captured
    assert caplog.text == ""


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
    assert gpu.calls["cudaStreamBeginCapture"] == MOST_ATTEMPTS
    assert len(library.contexts) == 1


def test_a_graph_that_computes_something_else_is_dropped(
    gpu: FakeCuda, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.graphs_do_nothing = True
    check_fallback(gpu, opened(), caplog, "its filled is not that of direct execution")
    assert gpu.calls["cudaGraphLaunch"] == MOST_ATTEMPTS


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
