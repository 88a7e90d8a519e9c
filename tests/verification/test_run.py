import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import Normalisation, UNetConfig
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.errors import (
    ParityError,
)
from pconv_deploy.verification import run
from pconv_deploy.verification.candidates import Candidate, Dtype, open_candidate
from pconv_deploy.verification.pictures import BUCKETS, PictureOptions
from pconv_deploy.verification.results import VerifyResult
from tests.conftest import NORMALISATION, TINY, random_network
from tests.verification.conftest import (
    FEW,
    Compare,
    doctored_checkpoint,
    doctored_graph,
    engine_of,
)

SIDES = ("checkpoint", "graph", "engine", "tensor_graph", "tensor_engine")
GIVES = {
    "checkpoint": ("raw_output",),
    "graph": ("raw_output", "composite"),
    "engine": ("composite",),
    "tensor_graph": ("raw_output",),
    "tensor_engine": ("raw_output",),
}
EXTREMES = ("no hole", "all hole", "one hole pixel", "one known pixel")
PIXELS = 32 * 48 * 3


AsIf = Callable[..., None]


@pytest.fixture
def as_if(monkeypatch: pytest.MonkeyPatch) -> AsIf:
    """Have a side counted as one of another precision, such as few machines can run.

    Its export is taken to have found that rounding alone makes the relative error `rounding`.
    """

    def count(path: Path, precision: str, rounding: float | None = None) -> None:
        def opened(named: Path, dtype: Dtype, weights_key: str | None = None) -> Candidate:
            side = open_candidate(named, dtype, weights_key)
            if named != path:
                return side
            facts = msgspec.structs.replace(side.facts, precision=precision)
            return dataclasses.replace(side, facts=facts, recorded_rounding=rounding)

        monkeypatch.setattr(run, "open_candidate", opened)

    return count


def failed_classes(outcome: VerifyResult) -> list[str]:
    return [row.hole_class for row in outcome.verification.classes if row.failed]


PAIRS = [*itertools.combinations_with_replacement(SIDES, 2), ("engine", "checkpoint")]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_pairing_agrees(
    compare: Compare, request: pytest.FixtureRequest, a: str, b: str
) -> None:
    outcome = compare(request.getfixturevalue(a), request.getfixturevalue(b))
    outcome.verification.require_success()
    found = outcome.verification
    assert found.passed
    assert found.warnings == ()
    assert (found.a.gives, found.b.gives) == (GIVES[a], GIVES[b])
    raw = "engine" not in (a, b)
    assert found.raw_output_compared is raw
    assert [row.hole_class for row in found.classes] == [*BUCKETS, *EXTREMES]
    for case in found.cases:
        inside, outside = case.raw_inside, case.raw_outside
        compared = sum(d.values for d in (inside, outside) if d)
        assert compared == (PIXELS if raw else 0)
        assert all(d.relative_error < 1e-5 for d in (inside, outside) if d)
        filled = case.composite_inside
        assert (filled is None) is (case.hole_class == "no hole")
        assert filled is None or filled.levels <= 1
        known = None if case.hole_class == "all hole" else True
        assert case.known_identical_a is (known if "composite" in GIVES[a] else None)
        assert case.known_identical_b is (known if "composite" in GIVES[b] else None)


@pytest.mark.parametrize("side", ["checkpoint", "engine"])
def test_a_doctored_weight_is_found_and_its_classes_named(
    compare: Compare, checkpoint: Path, request: pytest.FixtureRequest, tmp_path: Path, side: str
) -> None:
    doctored = doctored_checkpoint(checkpoint, tmp_path / "doctored.safetensors")
    outcome = compare(request.getfixturevalue(side), doctored)
    assert not outcome.verification.passed
    assert set(BUCKETS) <= set(failed_classes(outcome))
    assert outcome.worst.result.failures
    with pytest.raises(ParityError, match=r"doctored.* differs from .*hole 1-10%, pattern 1: "):
        outcome.verification.require_success()
    assert "they come from different checkpoints" in outcome.verification.warnings[0]


def test_measures_are_those_of_their_definitions(
    compare: Compare, checkpoint: Path, tmp_path: Path
) -> None:
    doctored = doctored_checkpoint(checkpoint, tmp_path / "doctored.safetensors")
    outcome = compare(checkpoint, doctored, pictures=PictureOptions(count=2))
    case, a, b, result, *_ = outcome.worst
    assert a.raw is not None
    assert b.raw is not None
    squares, largest, scale = [], 0.0, 0.0
    for y in range(32):
        for x in range(48):
            for one, other in zip(a.raw[y, x], b.raw[y, x], strict=True):
                scale = max(scale, abs(one))
                if case.hole_mask[y, x]:
                    squares.append((one - other) ** 2)
                    largest = max(largest, abs(one - other))
    found = result.raw_inside
    assert found is not None
    assert found.psnr is not None
    assert found.values == len(squares)
    assert found.relative_error == pytest.approx(largest / scale)
    assert found.levels == pytest.approx(largest * 255)
    assert found.psnr == pytest.approx(10 * np.log10(1 / np.mean(squares)))
    row = outcome.verification.classes[0]
    cases = [c.raw_inside for c in outcome.verification.cases if c.hole_class == row.hole_class]
    assert (row.cases, len(cases)) == (2, 2)
    assert row.raw_inside is not None
    total = sum(c.mean_square * c.values for c in cases if c)
    assert row.raw_inside.mean_square * row.raw_inside.values == pytest.approx(total)
    assert row.raw_inside.levels == max(c.levels for c in cases if c)


def test_a_tolerance_and_a_precision_of_ones_own(
    compare: Compare, checkpoint: Path, tmp_path: Path
) -> None:
    doctored = doctored_checkpoint(checkpoint, tmp_path / "doctored.safetensors", by=1e-3)
    exact = compare(checkpoint, doctored).verification
    single = compare(checkpoint, doctored, dtype="fp32").verification
    assert single.a.precision == "fp32"
    assert exact.classes[0].raw_inside != single.classes[0].raw_inside
    cases = exact.cases
    found = [d.relative_error for c in cases for d in (c.raw_inside, c.raw_outside) if d]
    worst = max(found)
    assert worst > 1e-5
    assert compare(checkpoint, doctored, tolerance=worst * 1.01).verification.passed
    assert not compare(checkpoint, doctored, tolerance=worst * 0.99).verification.passed


def test_nan_is_found(compare: Compare, graph: Path, tmp_path: Path) -> None:
    doctored = doctored_graph(graph, tmp_path / "nan.onnx", float("nan"))
    for a, b in ((graph, doctored), (doctored, graph)):
        outcome = compare(a, b)
        row = outcome.verification.classes[0]
        assert (row.finite, row.failed, row.raw_inside) == (False, 1, None)
        assert "NaN or infinity in the output" in outcome.verification.failures[0]
    assert outcome.verification.cases[0].finite_a is False
    assert outcome.verification.cases[0].finite_b is True


def test_an_engine_that_fills_otherwise_is_found(
    compare: Compare, graph: Path, engine: Path, tmp_path: Path
) -> None:
    other = doctored_graph(graph, tmp_path / "other.onnx", 1000.0)
    changed = engine_of(engine, other, tmp_path / "changed.engine")
    assert compare(other, changed).verification.passed
    for a, b in ((engine, changed), (graph, changed), (changed, graph)):
        outcome = compare(a, b)
        assert set(BUCKETS) <= set(failed_classes(outcome))
        assert "composite off by" in outcome.verification.failures[0]


def test_engines_of_two_runtimes(
    compare: Compare, graph: Path, engine: Path, tmp_path: Path
) -> None:
    other = tmp_path / "openvino.engine"
    build_engine(graph, other, BuildOptions(backend="openvino", precision="fp32"))
    found = compare(engine, other).verification
    found.require_success()
    assert found.b.computed_by.startswith("openvino ")
    assert found.classes[0].composite_inside is not None
    assert found.classes[0].composite_inside.levels <= 1


def test_the_lower_precision_decides(
    compare: Compare, graph: Path, checkpoint: Path, tmp_path: Path, as_if: AsIf
) -> None:
    near = doctored_checkpoint(checkpoint, tmp_path / "near.safetensors", by=2e-3)
    assert not compare(graph, near).verification.passed
    as_if(near, "bf16")
    found = compare(graph, near).verification
    found.require_success()
    assert (found.tolerance, found.level_tolerance) == (5e-2, 4)
    assert not found.outside_judged
    assert compare(near, graph).verification.tolerance == 5e-2


def test_half_precision_may_err_as_its_export_found(
    compare: Compare, graph: Path, checkpoint: Path, tmp_path: Path, as_if: AsIf
) -> None:
    near = doctored_checkpoint(checkpoint, tmp_path / "near.safetensors", by=2e-2)
    cases = compare(near, graph).verification.cases
    worst = max(c.raw_inside.relative_error for c in cases if c.raw_inside)
    assert 1e-2 < worst < 5e-2  # beyond fp16's tolerance, below what a network may magnify it to
    for rounding, passes in ((None, False), (worst / 2.1, False), (worst / 1.9, True)):
        as_if(graph, "fp16", rounding)
        for a, b in ((near, graph), (graph, near)):
            found = compare(a, b, pictures=FEW).verification
            assert found.passed is passes
            assert (max(c.allowed for c in found.cases) == worst / 1.9 * 2) is passes


def test_eight_bits_are_judged_by_the_psnr_of_photographs(
    compare: Compare, engine: Path, graph: Path, tmp_path: Path, as_if: AsIf
) -> None:
    other = doctored_graph(graph, tmp_path / "other.onnx", 30.0)
    as_if(other, "int8")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 48, 3), np.uint8)).save(tmp_path / "a.png")
    on_photos = PictureOptions(photos=tmp_path, count=1)
    found = compare(engine, other, pictures=on_photos, tolerance=None).verification
    assert found.hole_psnr_needed == 38
    assert found.hole_psnr is not None
    assert found.hole_psnr < 38
    complaint = f"all holes: PSNR {found.hole_psnr:.1f} dB, needed 38.0 dB"
    assert found.failures[-1] == complaint
    with pytest.raises(ParityError):
        found.require_success()
    drawn = compare(engine, other).verification
    assert drawn.hole_psnr_needed == 28
    assert drawn.level_tolerance is None
    assert drawn.hole_psnr is not None
    assert drawn.passed is (drawn.hole_psnr >= 28)
    garbage = doctored_graph(graph, tmp_path / "garbage.onnx", 1000.0)
    as_if(garbage, "int8")
    failed = compare(engine, garbage).verification
    assert failed.failures[-1].startswith("all holes: PSNR ")
    assert compare(engine, garbage, tolerance=1.0).verification.hole_psnr_needed is None
    squares = []
    for case in found.cases:
        if case.hole_class in BUCKETS and case.composite_inside:
            squares += [case.composite_inside.mean_square] * case.composite_inside.values
    assert found.hole_psnr == pytest.approx(-10 * np.log10(np.mean(squares)))


def test_photos_and_mask_files(compare: Compare, graph: Path, engine: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        photo = rng.integers(0, 256, (50, 70, 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
    for rows in (0, 10, 40):  # of 50: none; 20 %; 80 %, which is no class of the paper
        mask = np.zeros((50, 50), np.uint8)
        mask[:rows] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{rows}.png")
    options = PictureOptions(photos=tmp_path, holes=tmp_path / "masks", count=2)
    found = compare(graph, engine, pictures=options).verification
    assert found.passed
    assert [row.hole_class for row in found.classes] == ["10-20%", "other", *EXTREMES]
    names = [case.name for case in found.cases]
    assert names[0].startswith("hole 10-20% (10.png), ")
    assert {name[-5:] for name in names} == {"a.png", "b.png"}
    again = compare(graph, engine, pictures=options).verification
    assert again == found
    single = compare(graph, engine, pictures=PictureOptions(photos=tmp_path / "a.png", count=1))
    assert {case.name[-5:] for case in single.verification.cases} == {"a.png"}


def test_other_networks_are_compared_with_a_warning(
    compare: Compare, checkpoint: Path, tmp_path: Path
) -> None:
    small = UNetConfig(channels=(4, 4), kernels=(3, 3))
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, random_network(small), normalisation=Normalisation())
    found = compare(checkpoint, other).verification
    assert not found.passed
    assert [warning.split(":")[0] for warning in found.warnings] == [
        "the networks differ",
        "they come from different checkpoints",
        "the normalisations differ",
    ]
    same = tmp_path / "same.safetensors"
    save_checkpoint(same, random_network(TINY), normalisation=NORMALISATION)
    copied = compare(checkpoint, same).verification
    assert copied.passed
    assert copied.classes[0].raw_inside is not None
    assert copied.classes[0].raw_inside.psnr is None
