"""The session's states, on a fake GPU and a fake TensorRT: nothing here has seen a real one."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, OUTPUT, RAW_OUTPUT
from pconv_deploy.engines.base import RunOptions
from pconv_deploy.engines.tensorrt.options import Profile
from pconv_deploy.engines.tensorrt.session import TensorRtSession
from pconv_deploy.errors import EngineError, InputError
from tests.engines.cuda.fake_cuda import FakeCuda, Status
from tests.engines.cuda.fake_tensorrt import (
    ARENA,
    LARGE,
    PLAN,
    SMALL,
    FakeRuntime,
    FakeTensorRt,
    Type,
    filled,
    images,
    raw,
)

Open = Callable[..., TensorRtSession]


@pytest.fixture
def library(gpu: FakeCuda) -> FakeTensorRt:
    return FakeTensorRt(gpu, SMALL, LARGE)


@pytest.fixture
def opened(library: FakeTensorRt) -> Open:
    def open_session(plan: bytes = PLAN, streams: int = 1, **more: Any) -> TensorRtSession:
        return TensorRtSession(library, plan, RunOptions(streams=streams), **more)  # type: ignore[arg-type]

    return open_session


def run_right(session: TensorRtSession, shape: tuple[int, int, int], seed: int = 0) -> None:
    inputs = images(shape, seed)
    outputs = session.run(inputs)
    assert list(outputs) == [FILLED]
    np.testing.assert_array_equal(outputs[FILLED], filled(inputs[IMAGE], inputs[HOLE_MASK]))


def test_runs_of_every_shape_are_right_whatever_came_before(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    shapes = [(1, 32, 32), (4, 64, 64), (1, 16, 32), (2, 32, 32), (1, 32, 32), (4, 64, 64)]
    for seed, shape in enumerate(shapes * 2):
        run_right(session, shape, seed)
    session.close()
    assert gpu.left() == {}


def test_inputs_need_not_be_contiguous_on_the_host(opened: Open) -> None:
    session = opened()
    inputs = {name: array[:, ::2, ::2] for name, array in images((1, 64, 64)).items()}
    expected = filled(inputs[IMAGE], inputs[HOLE_MASK])
    np.testing.assert_array_equal(session.run(inputs)[FILLED], expected)


def test_results_are_the_callers_own(opened: Open) -> None:
    session = opened()
    first = session.run(images((1, 32, 32), 1))[FILLED]
    kept = first.copy()
    session.run(images((1, 32, 32), 2))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0


def test_a_warm_run_allocates_nothing_and_does_the_least(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    for shape in ((1, 32, 32), (4, 64, 64), (2, 48, 48)):
        session.run(images(shape))
    left = gpu.left()
    gpu.calls.clear()
    for seed in range(10):
        run_right(session, (2, 48, 48), seed)
    assert {name: count / 10 for name, count in gpu.calls.items()} == {
        "cudaGetDevice": 1,
        "cudaMemcpyAsync": 3,
        "cudaGraphLaunch": 1,
        "cudaStreamSynchronize": 2,
    }
    assert gpu.left() == left


def test_buffers_are_made_once_a_profile_for_its_largest_shape(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    assert [block.size for block in gpu.blocks.values()] == [ARENA]
    session.run(images((2, 16, 16)))
    sizes = [block.size for block in gpu.blocks.values()]
    assert sizes == [ARENA, 4 * 64 * 64 * 3, 4 * 64 * 64, 4 * 64 * 64 * 3]
    assert [len(block) for block in gpu.pinned.values()] == sizes[1:]
    session.run(images((4, 64, 64)))
    assert gpu.calls["cudaMalloc"] == 4


def test_the_smallest_profile_that_fits_is_used(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    session.run(images((1, 16, 32)))
    assert max(block.size for block in gpu.blocks.values()) == ARENA
    assert sum(block.size for block in gpu.blocks.values()) == ARENA + 7 * 32 * 32


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


def test_any_call_may_fail_and_nothing_is_lost(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open
) -> None:
    """Every call of loading and running once: an error or the right result, and all is freed."""
    errors = 0
    for n in range(1, 100):
        gpu.fail_at = gpu.may_fail + n
        session = None
        try:
            session = opened(streams=2)
            run_right(session, (1, 32, 32))
        except EngineError:
            errors += 1
        if session:
            gpu.fail_at = None
            run_right(session, (1, 32, 32))
            run_right(session, (2, 64, 64))
            session.close()
        assert (n, gpu.left(), len(library.contexts)) == (n, {}, 0)
        if gpu.fail_at is None and n > 60:
            break
    assert errors > 20


@pytest.mark.parametrize("contexts", [0, 1])
def test_a_context_that_cannot_be_made(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open, contexts: int
) -> None:
    library.contexts_left = contexts
    with pytest.raises(
        EngineError, match=r"no execution context: no room for the context. The GPU has .* free"
    ):
        opened(streams=2)
    assert gpu.left() == {}
    assert len(library.contexts) == 0


def test_a_run_that_fails_says_what_tensorrt_says(library: FakeTensorRt, opened: Open) -> None:
    session = opened()
    library.runs_left = 0
    words = r"TensorRT failed at batch, height, width \(1, 32, 32\): a kernel was not found"
    with pytest.raises(EngineError, match=words):
        session.run(images((1, 32, 32)))
    library.runs_left = None
    run_right(session, (1, 32, 32))


def test_a_shape_that_tensorrt_does_not_take_leaves_no_trace(
    library: FakeTensorRt, opened: Open
) -> None:
    session = opened(graphs=False)
    run_right(session, (1, 32, 32))
    library.takes_shapes = False
    with pytest.raises(EngineError, match=r"does not take .* \(1, 16, 16\) with profile 0"):
        session.run(images((1, 16, 16)))
    library.takes_shapes = True
    run_right(session, (1, 32, 32), seed=1)


def test_too_little_memory_for_a_profile_says_need_and_free(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    gpu.memory = 100_000
    with pytest.raises(EngineError, match=r"out of memory: cudaMalloc needed 0\.\d MiB; the GPU"):
        session.run(images((4, 64, 64)))
    assert gpu.left() == {"device": 1, "streams": 1, "events": 1}
    run_right(session, (1, 32, 32))


def test_too_little_memory_to_load(gpu: FakeCuda, opened: Open) -> None:
    gpu.memory = ARENA + 100
    with pytest.raises(EngineError, match="Run fewer streams"):
        opened(streams=2)
    assert gpu.left() == {}


def test_shapes_outside_of_every_profile_are_told_which_there_are(opened: Open) -> None:
    session = opened()
    with pytest.raises(EngineError, match=r"batch 5 of 64x64") as error:
        session.run(images((5, 64, 64)))
    for profile in (SMALL, LARGE):
        assert profile.describe() in str(error.value)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (IMAGE, np.zeros((1, 32, 32, 3), np.float32), "found image of float32; needed uint8"),
        (IMAGE, np.zeros((1, 3, 32, 32), np.uint8), r"\[1, 3, 32, 32\]; needed \[1, 32, 32, 3\]"),
        (IMAGE, np.zeros((2, 32, 32, 3), np.uint8), r"\[2, 32, 32, 3\]; needed \[1, 32, 32, 3\]"),
        (HOLE_MASK, np.zeros((32, 32), np.uint8), r"hole_mask of shape \[32, 32\]; needed \(NHW"),
        (HOLE_MASK, np.zeros((1, 32, 32), bool), "found hole_mask of bool; needed uint8"),
        (IMAGE, [[1]], "found image as list; needed a NumPy array. Arrays on the GPU go to"),
        ("mask", np.zeros(1), r"found inputs \['image', 'hole_mask', 'mask'\]; needed \['image'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    opened: Open, name: str, array: Any, words: str
) -> None:
    session = opened()
    with pytest.raises(InputError, match=words):
        session.run({**images((1, 32, 32)), name: array})


def test_a_plan_that_tensorrt_refuses(gpu: FakeCuda, opened: Open) -> None:
    with pytest.raises(EngineError, match="does not load the plan: the plan has another version"):
        opened(b"x")
    assert gpu.left() == {}


def test_a_plan_of_somebody_else(library: FakeTensorRt, opened: Open) -> None:
    library.tensors = {"x": Type.UINT8, "y": Type.UINT8}
    with pytest.raises(EngineError, match=r"tensors \['x', 'y'\]; it was not built by us"):
        opened()
    library.tensors = {IMAGE: Type.INT8, HOLE_MASK: Type.INT8, FILLED: Type.INT8}
    with pytest.raises(EngineError, match="whose image is of 2; it was not built by us"):
        opened()


def test_a_plan_of_fixed_shapes_has_one_profile(gpu: FakeCuda) -> None:
    fixed = Profile(min=(2, 32, 48), opt=(2, 32, 48), max=(2, 32, 48))
    session = TensorRtSession(FakeTensorRt(gpu, fixed), PLAN)  # type: ignore[arg-type]
    run_right(session, (2, 32, 48))
    with pytest.raises(EngineError, match="2x32x48"):
        session.run(images((1, 32, 48)))


def test_without_a_gpu_tensorrt_is_not_touched(gpu: FakeCuda, opened: Open) -> None:
    gpu.fail_in = {"cudaGetDeviceCount": Status.cudaErrorNoDevice}
    with pytest.raises(EngineError, match="no GPU can be used: CUDA sees no GPU"):
        opened()


def test_a_session_stays_on_its_gpu(gpu: FakeCuda, opened: Open) -> None:
    gpu.device = 1
    session = opened()
    gpu.device = 0
    run_right(session, (1, 32, 32))
    assert gpu.calls["cudaSetDevice"] == 2
    assert gpu.device == 0


def test_a_version_compatible_plan_may_bring_code_only_if_told(
    monkeypatch: pytest.MonkeyPatch, library: FakeTensorRt, opened: Open
) -> None:
    made: list[FakeRuntime] = []

    def runtime(log: Any) -> FakeRuntime:
        made.append(FakeRuntime(library, log))
        return made[-1]

    monkeypatch.setattr(library, "Runtime", runtime)
    opened()
    opened(host_code=True)
    assert [each.engine_host_code_allowed for each in made] == [False, True]


def test_a_session_that_shows_the_networks_own_output(
    gpu: FakeCuda, library: FakeTensorRt, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    library.tensors[RAW_OUTPUT] = Type.FLOAT
    session = opened()
    for seed in range(3):
        inputs = images((2, 32, 48), seed)
        outputs = session.run(inputs)
        assert set(outputs) == {FILLED, RAW_OUTPUT}
        np.testing.assert_array_equal(outputs[RAW_OUTPUT], raw(inputs[IMAGE]))
    assert caplog.text == ""
    assert gpu.left()["executables"] == 1


def test_plans_of_float_tensors(library: FakeTensorRt, opened: Open) -> None:
    library.tensors = {HOLE_MASK: Type.FLOAT, IMAGE: Type.FLOAT, OUTPUT: Type.FLOAT}
    session = opened()
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, 32, 48), np.float32)
    hole_mask = rng.integers(0, 2, (2, 1, 32, 48)).astype(np.float32)
    for _ in range(3):
        outputs = session.run({IMAGE: image, HOLE_MASK: hole_mask})
        np.testing.assert_array_equal(outputs[OUTPUT], np.where(hole_mask != 0, 1 - image, image))
    with pytest.raises(InputError, match=r"hole_mask of shape \[2, 32, 48\]; needed \(NCHW\)"):
        session.run({IMAGE: image, HOLE_MASK: hole_mask[:, 0]})
    with pytest.raises(InputError, match=r"\[2, 3, 32, 48\]; needed \[2, 1, 32, 48\]"):
        session.run({IMAGE: image, HOLE_MASK: image})
