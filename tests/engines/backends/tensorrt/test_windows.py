"""Decoders of windows, built by NVIDIA's builder; none of them has run."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.backends.tensorrt.profiles import window_profiles, windows_within
from pconv_deploy.engines.int8.quantise import in_eight_bits
from pconv_deploy.engines.prepared_graph import prepare_again
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.engines.windows.graph import windowed
from pconv_deploy.engines.windows.plan import WINDOWS, WindowRule, common_size, rule_of
from pconv_deploy.errors import EngineError
from pconv_deploy.graphs.file import ExportedGraph, read_graph
from pconv_deploy.images.boxes import Box
from pconv_deploy.parity import Precision
from tests.engines.backends.tensorrt.test_quantised import BACKEND, some_photo

RULE = WindowRule(margins=(1, 1, 1), most=2)  # sides in multiples of 16
FRAMES = Profile(min=(1, 64, 64), opt=(1, 256, 256), max=(1, 256, 256))


@pytest.fixture
def exported(graph: Path) -> ExportedGraph:
    return read_graph(graph)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.usefixtures("tensorrt")
def test_the_builder_takes_windows_in_the_form_that_engines_have(
    exported: ExportedGraph, tmp_path: Path, precision: Precision
) -> None:
    form = BACKEND.usual_form(precision)
    model = prepare_again(BACKEND, exported, precision, form)
    if precision == "int8":
        model = in_eight_bits(model.SerializeToString(), [some_photo(exported)], BACKEND)
    content = windowed(model, 2)[0].SerializeToString()
    built = BACKEND.build(content, exported.contract, precision, tmp_path)
    assert (tmp_path / "engine.plan").stat().st_size > 1000
    assert [profile.describe() for profile in built.profiles] == [
        "1x32x32 .. 1x64x64, tuned for 1x64x64"
    ] * 2


@pytest.mark.usefixtures("tensorrt")
def test_the_usual_profiles_of_one_image_are_those_of_windows(
    exported: ExportedGraph, tmp_path: Path
) -> None:
    content = windowed(exported.model, 1)[0].SerializeToString()
    built = TensorRtBackend().build(content, exported.contract, "fp32", tmp_path)
    assert [profile.max for profile in built.profiles] == [(1, 512, 512), (1, 1024, 1024)]


def test_windows_are_read_on_the_host_and_need_values(
    exported: ExportedGraph, tmp_path: Path, tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt.IOptimizationProfile, "set_shape_input", lambda *_: None)
    second, _ = windowed(exported.model, 1)
    with pytest.raises(EngineError, match=f"missing values for shape input tensor {WINDOWS}"):
        TensorRtBackend().build(second.SerializeToString(), exported.contract, "fp32", tmp_path)


@pytest.mark.usefixtures("tensorrt")
def test_windows_need_no_more_memory_than_as_many_frames(
    exported: ExportedGraph, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def memory(model: onnx.ModelProto) -> list[int]:
        caplog.clear()
        backend = TensorRtBackend(options=TensorRtOptions(profiles=(FRAMES,)))
        with caplog.at_level(logging.INFO):
            backend.build(model.SerializeToString(), exported.contract, "fp32", tmp_path)
        return [int(n) for n in re.findall(r"Total Activation Memory: (\d+)", caplog.text)]

    (frame,) = memory(exported.model)
    assert frame > 256 * 256 * 4
    needed = memory(windowed(exported.model, 3)[0])
    assert len(needed) == 3
    assert all(n <= 1.1 * count * frame for count, n in enumerate(needed, start=1)), (needed, frame)


def test_a_graph_carries_the_rule_of_its_windows(exported: ExportedGraph) -> None:
    second, rule = windowed(exported.model, 3)
    assert rule_of(second) == rule
    del second.graph.input[-1]  # any other graph, whatever it says of itself
    assert rule_of(second) is None
    assert rule_of(exported.model) is None


def test_a_profile_for_each_number_of_windows_of_one_image_in_sizes_that_they_take() -> None:
    ladder = (
        Profile(min=(1, 8, 8), opt=(1, 72, 64), max=(1, 72, 64)),
        Profile(min=(1, 8, 8), opt=(8, 72, 64), max=(8, 72, 64)),
        Profile(min=(2, 8, 8), opt=(2, 8, 8), max=(2, 8, 8)),
    )
    frames = Profile(min=(1, 16, 16), opt=(1, 64, 64), max=(1, 64, 64))
    assert window_profiles(ladder, RULE) == ((frames, 1), (frames, 2))


def test_the_builder_is_told_how_many_windows_there_are() -> None:
    for count in (1, 2):
        least, usual, largest = (
            np.reshape(values, (RULE.rows, 3)) for values in windows_within(FRAMES, RULE, count)
        )
        assert least[:, 0].tolist() == usual[:, 0].tolist() == largest[:, 0].tolist()
        # Two rows are the start and the end of one slice, of one frame or of none.
        frames = (least[1::2, 0] - least[::2, 0]).reshape(-1, RULE.most)
        assert (frames.sum(axis=1) == count).all()


@pytest.mark.parametrize("frame", [FRAMES.min[1:], FRAMES.max[1:], (64, 256)])
def test_windows_of_every_hole_lie_within_their_profile(frame: Any) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2):
        least, usual, largest = map(np.array, windows_within(FRAMES, RULE, count))
        assert ((least <= usual) & (usual <= largest)).all()
        for _ in range(50):
            holes = [_box(rng, frame) for _ in range(count)]
            windows, _ = RULE.place(holes, common_size(holes, frame, RULE), frame)
            assert ((least <= windows.ravel()) & (windows.ravel() <= largest)).all()


def _box(rng: np.random.Generator, frame: Sequence[int]) -> Box:
    top, left = (int(rng.integers(side)) for side in frame)
    bottom, right = (
        int(rng.integers(low, side)) + 1 for low, side in zip((top, left), frame, strict=True)
    )
    return top, left, bottom, right
