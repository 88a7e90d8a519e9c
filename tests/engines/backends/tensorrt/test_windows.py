"""Decoders of windows, built by NVIDIA's builder; none of them has run."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.backends.tensorrt.profiles import window_profiles, windows_within
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.engines.windows.graph import windowed
from pconv_deploy.engines.windows.plan import WINDOWS, WindowRule, rule_of
from pconv_deploy.graphs.file import ExportedGraph, read_graph
from pconv_deploy.graphs.half_precision import in_half_precision

RULE = WindowRule(margins=(1, 1, 1), most=2)  # sides in multiples of 16


@pytest.fixture
def exported(graph: Path) -> ExportedGraph:
    return read_graph(graph)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("most", [1, 4])
def test_the_builder_takes_windows(
    exported: ExportedGraph,
    tmp_path: Path,
    tensorrt: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
    most: int,
) -> None:
    told: list[tuple[str, int]] = []
    profile_type = tensorrt.IOptimizationProfile
    set_values = profile_type.set_shape_input

    def seen(self: Any, name: str, *values: Any) -> Any:
        told.append((name, len(values[0])))
        return set_values(self, name, *values)

    monkeypatch.setattr(profile_type, "set_shape_input", seen)
    model = exported.model if precision == "fp32" else in_half_precision(exported.model, precision)
    second, rule = windowed(model, most)
    content = second.SerializeToString()
    built = TensorRtBackend().build(content, exported.contract, precision, tmp_path)
    assert (tmp_path / "engine.plan").stat().st_size > 1000
    assert {profile.max[0] for profile in built.profiles} == {1}
    assert told == [(WINDOWS, 3 * rule.rows)] * len(built.profiles)


def test_a_graph_carries_the_rule_of_its_windows(exported: ExportedGraph) -> None:
    second, rule = windowed(exported.model, 3)
    assert rule_of(second) == rule
    del second.graph.input[-1]  # any other graph, whatever it says of itself
    assert rule_of(second) is None
    assert rule_of(exported.model) is None


def test_windows_are_for_one_image_in_sizes_that_they_take() -> None:
    ladder = (
        Profile(min=(1, 8, 8), opt=(1, 72, 64), max=(1, 72, 64)),
        Profile(min=(1, 8, 8), opt=(8, 72, 64), max=(8, 72, 64)),
        Profile(min=(2, 8, 8), opt=(2, 8, 8), max=(2, 8, 8)),
    )
    assert window_profiles(ladder, RULE) == (
        Profile(min=(1, 16, 16), opt=(1, 64, 64), max=(1, 64, 64)),
    )


def test_usual_windows_lie_between_the_least_and_the_largest() -> None:
    (profile,) = window_profiles(
        [Profile(min=(1, 64, 64), opt=(1, 512, 256), max=(1, 1024, 512))], RULE
    )
    least, usual, largest = windows_within(profile, RULE)
    assert len(least) == len(usual) == len(largest) == 3 * RULE.rows
    assert all(low <= value <= high for low, value, high in zip(least, usual, largest, strict=True))
    assert len(set(usual)) > 4
