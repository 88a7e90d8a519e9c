"""Engines with a second entry: which one fills an image, and what the folder says of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, deployment_specs
from pconv_deploy.engines import folder as folders
from pconv_deploy.engines import memory
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.golden import Allowance
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.sessions import RunOptions, Session
from pconv_deploy.engines.windows import entry as entries
from pconv_deploy.engines.windows.entry import describe_windows
from pconv_deploy.engines.windows.plan import WindowCosts, WindowRule
from pconv_deploy.engines.windows.session import WindowSession
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.parity import Arrays

FRAME = (192, 208)
CHEAP = WindowCosts(whole=100, encoder=20, decoder=80)


class Counted:
    """A session that remembers what it was given."""

    def __init__(self, session: Session) -> None:
        self._session, self.calls = session, list[Arrays]()

    def run(self, inputs: Arrays) -> Arrays:
        self.calls.append(inputs)
        return self._session.run(inputs)

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def windows_engine(
    request: pytest.FixtureRequest, graph: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("windows") / "tiny.engine"
    build_engine(graph, path, BuildOptions(backend=request.param))
    return path


@pytest.fixture
def session(windows_engine: Path) -> Iterator[WindowSession]:
    """One for which windows are cheap, whatever was measured."""
    manifest = read_manifest(windows_engine)
    backend, files = folders._checked(windows_engine)[1:]
    opened = folders._open_entries(manifest, backend, files, RunOptions())
    assert isinstance(opened, WindowSession)
    whole, windowed = Counted(opened.whole), Counted(opened.windowed)
    yield WindowSession(whole, windowed, opened.rule, CHEAP)
    opened.close()


def calls(session: WindowSession) -> tuple[int, int]:
    assert isinstance(session.whole, Counted)
    assert isinstance(session.windowed, Counted)
    return len(session.whole.calls), len(session.windowed.calls)


def inputs(*holes: tuple[int, int, int, int]) -> dict[str, Any]:
    """One image for each hole."""
    rng = np.random.default_rng(0)
    hole_mask = np.zeros((len(holes), *FRAME), np.uint8)
    for number, (top, left, bottom, right) in enumerate(holes):
        hole_mask[number, top:bottom, left:right] = 255
    return {IMAGE: rng.integers(0, 256, (*hole_mask.shape, 3), np.uint8), HOLE_MASK: hole_mask}


def test_a_small_hole_is_filled_in_a_window(session: WindowSession) -> None:
    task = inputs((50, 60, 70, 90))
    filled = session.run(task)[FILLED]
    assert calls(session) == (0, 1)
    np.testing.assert_allclose(filled, session.whole.run(task)[FILLED], atol=1)


def test_a_large_hole_is_filled_in_the_whole_frame(session: WindowSession) -> None:
    task = inputs((0, 0, 190, 206))
    filled = session.run(task)[FILLED]
    assert calls(session) == (1, 0)
    np.testing.assert_array_equal(filled, session.whole.run(task)[FILLED])


def test_a_batch_of_large_and_small_holes_and_none(session: WindowSession) -> None:
    task = inputs((0, 0, 190, 206), (3, 3, 9, 9), (0, 0, 0, 0), (0, 0, 192, 206))
    filled = session.run(task)[FILLED]
    assert calls(session) == (1, 1)
    assert isinstance(session.whole, Counted)
    assert len(session.whole.calls[0][IMAGE]) == 2
    np.testing.assert_array_equal(filled[2], task[IMAGE][2])
    np.testing.assert_allclose(filled, session.whole.run(task)[FILLED], atol=1)


def test_known_pixels_of_a_window_stay_as_they_are(session: WindowSession) -> None:
    task = inputs((50, 60, 70, 90))
    task[HOLE_MASK][0, 55:60, 70:80] = 0
    known = task[HOLE_MASK] == 0
    np.testing.assert_array_equal(session.run(task)[FILLED][known], task[IMAGE][known])


def test_the_padding_of_an_image_is_not_filled(session: WindowSession) -> None:
    task = inputs((50, 60, 70, 90))
    task[HOLE_MASK][0, 170:] = task[HOLE_MASK][0, :, 190:] = 255
    filled = session.run_within(task, [(170, 190)])[FILLED]
    assert calls(session) == (0, 1)
    wanted = session.whole.run(task)[FILLED]
    np.testing.assert_allclose(filled[0, :170, :190], wanted[0, :170, :190], atol=1)


def test_an_image_is_filled_in_windows_whatever_its_size(
    windows_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding is hole for the network, and would make every photo's hole a large one."""
    monkeypatch.setattr(WindowCosts, "cheapest", lambda _self, boxes, *_: seen.append(boxes))
    seen: list[Any] = []
    hole_mask = np.zeros((101, 93), np.uint8)
    hole_mask[50:60, 40:50] = 255
    with Inpainter.load(windows_engine) as inpainter:
        inpainter(np.zeros((101, 93, 3), np.uint8), hole_mask)
    assert seen == [[(50, 40, 60, 50)]]


def test_the_manifest_says_what_a_small_hole_costs(windows_engine: Path) -> None:
    manifest = read_manifest(windows_engine)
    assert manifest.windows is not None
    assert manifest.no_windows == ""
    assert manifest.windows.worst_difference <= 1
    assert "of the whole frame's time" in describe_windows(manifest.windows, "")
    names = {name.removeprefix("windows-") for name in manifest.files if "windows-" in name}
    both = {name for name in manifest.files if "windows-" not in name}
    assert names == both - set(manifest.windows.shared)


def test_an_engine_without_windows(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.engine"
    build_engine(graph, path, BuildOptions(windows=False))
    manifest = build_engine(path)  # again, as it was built
    assert manifest.windows is None
    assert describe_windows(None, manifest.no_windows) == "none: not asked for"
    assert set(manifest.files) == {"model.onnx"}
    assert not isinstance(open_engine(path)[1], WindowSession)


def test_an_engine_whose_windows_differ_gets_none(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any, most: int) -> Any:
        second, rule = right(model, most)
        return second, replace(rule, margins=(0,) * len(rule.margins))

    from pconv_deploy.engines.windows import graph as graphs

    right = graphs.windowed
    monkeypatch.setattr(graphs, "windowed", wrong)
    monkeypatch.setattr(entries, "_MEASURED_AT", 64)
    manifest = build_engine(graph, tmp_path / "tiny.engine")
    assert manifest.windows is None
    assert manifest.no_windows.startswith("in windows, ")
    assert set(manifest.files) == {"model.onnx"}


def test_a_changed_second_entry_is_refused(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.engine"
    build_engine(graph, path)
    file = path / "windows-model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(EngineError, match=r"windows-model\.onnx was changed"):
        open_engine(path)


def test_both_entries_prove_themselves_elsewhere(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.engine"
    build_engine(graph, path)
    facts = json.loads((path / "manifest.json").read_bytes())
    facts["built_with"]["version"] = "1.0.0"
    facts["windows"]["rule"]["margins"] = [0, 0, 0]
    (path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(EngineError, match=r"in windows, .* is filled otherwise"):
        open_engine(path)


def test_frames_to_compare_are_of_a_size_that_both_entries_take(graph: Path) -> None:
    """A network may take more sizes than its windows: there the whole frame would be compared."""
    rule = WindowRule(margins=(1, 1, 1), most=4)
    assert rule.multiple == 16
    contract = replace(read_graph(graph).contract, size_multiple=6)
    assert entries._frame(contract, rule, 100) == (144, 192)


def test_a_fixed_size_that_windows_do_not_take(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WindowRule, "multiple", 48)
    inputs, outputs = deployment_specs(None, (64, 64))
    sized = {"size": (64, 64), "inputs": inputs, "outputs": outputs}
    first = entries.FirstEntry(
        backend=backend_named("onnxruntime"),
        contract=replace(read_graph(graph).contract, **sized),
        precision="fp32",
        model=read_graph(graph).model,
        folder=tmp_path,
    )
    why = entries.add_windows(first, Allowance(levels=1), lambda _step: None)
    assert why == "sides of its fixed size are no multiples of 48"


def test_an_engine_whose_memory_cannot_be_measured_is_kept(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> int:
        raise EngineError("bad allocation")

    monkeypatch.setattr(memory, "_taken", too_large)
    assert build_engine(graph, tmp_path / "tiny.engine").memory is None
