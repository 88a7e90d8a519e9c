"""The session's states, on a fake GPU and a fake TensorRT: nothing here has seen a real one."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, OUTPUT, RAW_OUTPUT
from pconv_deploy.engines.backends.tensorrt.backend import PLAN as PLAN_FILE
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.errors import EngineError, InputError
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import ARENA, PLAN, FakeTensorRt, Type, filled, images, raw
from tests.engines.cuda.sessions import Open, run_right


def test_runs_of_every_shape_are_right_whatever_came_before(gpu: FakeCuda, opened: Open) -> None:
    session = opened()
    shapes = [(1, 32, 32), (4, 64, 64), (1, 16, 32), (2, 32, 32), (1, 32, 32), (4, 64, 64)]
    for seed, shape in enumerate(shapes * 2):
        run_right(session, shape, seed)
    session.close()
    assert gpu.left() == {}


@pytest.mark.parametrize("compatible", [False, True])
def test_the_backend_opens_its_file(
    gpu: FakeCuda,
    library: FakeTensorRt,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    compatible: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    (tmp_path / PLAN_FILE).write_bytes(PLAN)
    backend = TensorRtBackend(options=TensorRtOptions(version_compatible=compatible))
    session: Any = backend.open(files_just_built(tmp_path), "fp16", RunOptions(streams=3))
    # Such a plan may bring code along, which no other may run.
    assert session._plan._runtime.engine_host_code_allowed is compatible
    assert gpu.left()["streams"] == 3
    run_right(session, (2, 48, 32))
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
    arena = ARENA + 256  # so that it can be aligned
    assert [block.size for block in gpu.blocks.values()] == [arena]
    session.run(images((2, 16, 16)))
    sizes = [block.size for block in gpu.blocks.values()]
    assert sizes == [arena, 4 * 64 * 64 * 3, 4 * 64 * 64, 4 * 64 * 64 * 3]
    assert [len(block) for block in gpu.pinned.values()] == sizes[1:]
    session.run(images((4, 64, 64)))
    assert gpu.calls["cudaMalloc"] == 4
    session.run(images((1, 16, 32)))  # by the smallest profile that fits
    assert [block.size for block in gpu.blocks.values()][4:] == [3 * 32 * 32, 32 * 32, 3 * 32 * 32]


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
