"""Programs that fork after they have loaded an engine.

    python -m tests.engines.forking NAME ENGINE THREADS STREAMS

They run in processes of their own, as a child that never ends must not take the tests along.
"""

import itertools
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.commands.infer import fill_jobs
from pconv_deploy.commands.jobs import Job
from pconv_deploy.engines import folder
from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.base import Backend
from pconv_deploy.errors import EngineError, PConvError, UsageError
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.hole_rule import DEFAULT_RULE, MaskReading
from pconv_deploy.inpainter import Inpainter

_IMAGE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
_HOLE = np.zeros((48, 48), np.uint8)
_HOLE[9:30, 9:30] = 255
_PATIENCE = 150  # seconds for what takes one; the machine may be busy

inpaint: Inpainter


def filled(height: int = 48) -> Bytes:
    return inpaint(_IMAGE[:height], _HOLE[:height])


def exit_code_of_child(child: Callable[[], object]) -> int | str:
    """Fork, and let the child leave as programs do: through all that runs at exit."""
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)
    return exit_code(pid)


def exit_code(pid: int) -> int | str:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "still running"


def error_in_child(prepare: Callable[[], object] = lambda: None) -> str:
    """What a call in a child raises."""
    reader, writer = os.pipe()

    def call() -> None:
        try:
            filled()
        except PConvError as error:
            os.write(writer, str(error).encode())

    prepare()
    assert exit_code_of_child(call) == 0
    os.close(writer)
    with open(reader) as said:
        return said.read()


def the_child_calls_it() -> None:
    before = filled()

    def child() -> None:
        for _ in range(3):
            np.testing.assert_array_equal(filled(), before)

    for _ in range(3):
        assert exit_code_of_child(child) == 0
        np.testing.assert_array_equal(filled(), before)


def the_child_leaves_it_alone() -> None:
    assert exit_code_of_child(lambda: None) == 0  # nothing was computed yet
    filled()
    assert exit_code_of_child(lambda: None) == 0
    filled()


def the_child_closes_it() -> None:
    before = filled()

    def close_at_once() -> None:
        inpaint.close()
        _require_closed()

    def close_its_own() -> None:
        filled()
        inpaint.close()
        inpaint.close()
        _require_closed()

    def drop_it() -> None:
        global inpaint
        del inpaint

    for child in (close_at_once, close_its_own, drop_it):
        assert exit_code_of_child(child) == 0
        np.testing.assert_array_equal(filled(), before)
    inpaint.close()
    assert exit_code_of_child(_require_closed) == 0  # what the parent closed stays closed


def _require_closed() -> None:
    with pytest.raises(EngineError, match="closed"):
        filled()


def children_have_children() -> None:
    before = filled()

    def use() -> None:
        np.testing.assert_array_equal(filled(), before)

    def use_and_fork() -> None:
        use()
        assert exit_code_of_child(use) == 0
        use()

    assert exit_code_of_child(use_and_fork) == 0
    assert exit_code_of_child(lambda: exit_with(exit_code_of_child(use))) == 0  # not used itself


def exit_with(code: int | str) -> None:
    sys.exit(code)


def other_threads_are_inside_calls() -> None:
    """Of many sizes, so that OpenVINO compiles all the time."""
    before = filled()
    done = threading.Event()

    def keep_calling(start: int) -> None:
        for height in itertools.cycle((48, 24, 40, 32, 16)):
            if done.is_set():
                break
            filled(height - start)

    def child() -> None:
        with ThreadPoolExecutor(2) as pool:
            for found in pool.map(lambda _: filled(), range(2)):
                np.testing.assert_array_equal(found, before)

    with ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(keep_calling, start) for start in (0, 1, 8)]
        try:
            assert [exit_code_of_child(child) for _ in range(4)] == [0] * 4
        finally:
            done.set()
    for call in calls:
        call.result()


def the_parent_has_closed_others() -> None:
    """The runtime may keep their threads for the next engine: the child has none of them."""
    before = filled()

    def load_another() -> None:
        with load() as another:
            np.testing.assert_array_equal(another(_IMAGE, _HOLE), before)

    for height in (8, 16, 24, 32, 40):  # OpenVINO frees what it compiled first
        filled(height)
    load_another()
    for child in (load_another, filled):
        assert exit_code_of_child(child) == 0
    assert exit_code_of_child(lambda: exit_with(exit_code_of_child(load_another))) == 0


def other_threads_load_and_close() -> None:
    before = filled()
    done = threading.Event()

    def keep_loading() -> None:
        while not done.is_set():
            with load() as another:
                another(_IMAGE, _HOLE)

    def child() -> None:
        np.testing.assert_array_equal(filled(), before)

    with ThreadPoolExecutor(2) as loaders:
        loading = [loaders.submit(keep_loading) for _ in range(2)]
        try:
            assert [exit_code_of_child(child) for _ in range(4)] == [0] * 4
        finally:
            done.set()
    for each in loading:
        each.result()


def a_pool_of_multiprocessing_shares_it() -> None:
    before = filled()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map_async(filled, [48] * 6).get(_PATIENCE):
            np.testing.assert_array_equal(found, before)
    np.testing.assert_array_equal(filled(), before)


def files_are_being_filled() -> None:
    """Its threads do not exist in the child."""
    photo, hole = Path("photo.png"), Path("hole.png")
    Image.fromarray(_IMAGE).save(photo)
    Image.fromarray(_HOLE).save(hole)
    jobs = [Job(photo, hole, Path(f"{number}.png")) for number in range(6)]
    outcomes = fill_jobs(inpaint, jobs)
    assert next(outcomes).error is None
    assert exit_code_of_child(lambda: None) == 0
    assert exit_code_of_child(outcomes.close) == 0

    def go_on() -> None:
        with pytest.raises(UsageError, match="begin anew"):
            next(outcomes)

    assert exit_code_of_child(go_on) == 0
    assert [outcome.error for outcome in outcomes] == [None] * 5


def the_engine_is_found_from_elsewhere() -> None:
    before = filled()

    def child() -> None:
        os.chdir("/")
        np.testing.assert_array_equal(filled(), before)

    assert exit_code_of_child(child) == 0


def the_engine_is_no_longer_there() -> None:
    engine = Path(sys.argv[2])
    manifest = engine / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"size_multiple": ', '"size_multiple": 1'))
    assert "was replaced after the parent of this process had loaded it" in error_in_child()
    manifest.write_text(text)
    assert error_in_child() == ""
    assert str(engine.absolute()) in error_in_child(lambda: shutil.rmtree(engine))


def another_thread_reads_a_mask() -> None:
    reading, done = threading.Event(), threading.Event()

    class SlowLevels(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
        def __ge__(self, other: Any) -> Any:
            reading.set()
            done.wait()
            return super().__ge__(other)

    thread = threading.Thread(
        target=lambda: MaskReading(_HOLE.view(SlowLevels), DEFAULT_RULE).hole.all()
    )
    thread.start()
    reading.wait()
    assert exit_code_of_child(filled) == 0
    done.set()
    thread.join()


def its_runtime_works_in_no_child() -> None:
    """As CUDA does not."""
    refuses: Backend = OnnxRuntimeBackend(
        traits=replace(OnnxRuntimeBackend.traits, opens_after_fork=False)
    )
    with mock.patch.object(folder, "backend_named", return_value=refuses):
        inpaint = Inpainter.load(sys.argv[2])
    before = inpaint(_IMAGE, _HOLE)

    def child() -> None:
        for _ in range(2):
            with pytest.raises(EngineError, match="load it in each worker, and not before"):
                inpaint(_IMAGE, _HOLE)
        inpaint.close()

    assert exit_code_of_child(child) == 0
    np.testing.assert_array_equal(inpaint(_IMAGE, _HOLE), before)


def load() -> Inpainter:
    engine, threads, streams = sys.argv[2:]
    return Inpainter.load(engine, threads=int(threads), streams=int(streams))


if __name__ == "__main__":
    inpaint = load()
    program: Callable[[], None] = globals()[sys.argv[1]]
    program()
    print("done")  # noqa: T201
