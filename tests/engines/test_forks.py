import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.forks import safe_to_fork
from pconv_deploy.engines.sessions import DeviceSession
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.inpainter import Inpainter
from tests.engines import forking

SCENARIOS = (
    forking.the_child_calls_it,
    forking.the_child_leaves_it_alone,
    forking.the_child_closes_it,
    forking.children_have_children,
    forking.other_threads_are_inside_calls,
    forking.another_thread_reads_a_mask,
    forking.a_pool_of_multiprocessing_shares_it,
    forking.files_are_being_filled,
    forking.the_parent_has_closed_others,
    forking.other_threads_load_and_close,
    forking.the_engine_is_found_from_elsewhere,
    forking.the_engine_is_no_longer_there,
)


@pytest.fixture(scope="module")
def engines(engine: Path, graph: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    openvino = tmp_path_factory.mktemp("openvino") / "tiny.engine"
    build_engine(graph, openvino, BuildOptions(backend="openvino"))
    return {"onnxruntime": engine, "openvino": openvino}


def require_done(scenario: Callable[[], None], engine: Path, folder: Path, *numbers: int) -> None:
    own = folder / "own.engine"
    shutil.copytree(engine, own)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.forking", scenario.__name__, own.name]
        + [str(number) for number in numbers],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_after_a_fork(
    scenario: Callable[[], None], backend: str, engines: Mapping[str, Path], tmp_path: Path
) -> None:
    require_done(scenario, engines[backend], tmp_path, 4, 2)


# Without threads of its own the runtime hung where it crashed with them.
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scenario", SCENARIOS[:3], ids=lambda scenario: scenario.__name__)
def test_after_a_fork_of_an_engine_with_one_thread(
    scenario: Callable[[], None], backend: str, engines: Mapping[str, Path], tmp_path: Path
) -> None:
    require_done(scenario, engines[backend], tmp_path, 1, 1)


def _call(inpaint: Inpainter) -> None:
    raise AssertionError(inpaint)  # it cannot be sent


def test_a_loaded_engine_cannot_be_sent_to_another_process(inpainter: Inpainter) -> None:
    needed = r"send the name of its folder, and load it there"
    with pytest.raises(UsageError, match=needed):
        pickle.dumps(inpainter)
    process = multiprocessing.get_context("spawn").Process(target=_call, args=(inpainter,))
    with pytest.raises(UsageError, match=needed):
        process.start()


class OnDevice:
    """A session that also takes arrays on the GPU."""

    def run(self, inputs: Any) -> Any:
        return inputs

    def run_on_device(self, *arguments: Any) -> Any:
        return arguments

    def close(self) -> None:
        pass


def test_arrays_on_the_device_go_through(engine: Path) -> None:
    assert isinstance(safe_to_fork(OnDevice, OnDevice), DeviceSession)
    session: Any = safe_to_fork(OnDevice, OnDevice)
    arguments = ({"image": 1}, 2, {"filled": 3})
    assert session.run_on_device(*arguments) == arguments
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run_on_device(*arguments)
    assert not isinstance(open_engine(engine)[1], DeviceSession)


def test_a_runtime_that_works_in_no_child(engine: Path, tmp_path: Path) -> None:
    require_done(forking.its_runtime_works_in_no_child, engine, tmp_path, 1, 1)
