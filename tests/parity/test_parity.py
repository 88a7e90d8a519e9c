from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.errors import ParityError
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.parity import (
    PRECISIONS,
    TOLERANCES,
    ParityCase,
    ParityInput,
    ParityReport,
    compare,
    parity_inputs,
)

BEYOND = "beyond what a relative error of 1.0e-05 makes"
HOLE = np.zeros((8, 8), np.uint8)
HOLE[2:4, 2:5] = 255
CASE = ParityInput("box", np.full((8, 8, 3), 100, np.uint8), HOLE)


def expected(value: float = 0.5) -> NDArray[np.float64]:
    return np.full((8, 8, 3), value)


def filled(level: int = 128) -> NDArray[np.uint8]:
    """0.5 is halfway between 127 and 128."""
    composite = CASE.image.copy()
    composite[HOLE != 0] = level
    return composite


def report(*cases: ParityCase) -> ParityReport:
    return ParityReport(
        reference="A", candidate="B", tolerance=1e-5, level_tolerance=1, cases=cases
    )


def compared(
    reference: NDArray[np.float64],
    *,
    filled: NDArray[np.uint8] | None = None,
    raw: NDArray[np.float64] | None = None,
    tolerance: float = 1e-5,
    own_error: float | None = None,
) -> ParityCase:
    return compare(
        CASE, reference, filled=filled, raw=raw, tolerance=tolerance, reference_error=own_error
    )


def failures(reference: NDArray[np.float64], **found: Any) -> list[str]:
    return report(compared(reference, **found)).failures()


def test_equal_outputs_pass() -> None:
    result = report(compared(expected(), filled=filled(), raw=expected()))
    assert result.failures() == []
    assert result.worst_error == 0
    assert result.worst_level_difference == 0
    result.require_success("x")
    assert "known pixels identical" in result.describe()
    assert "FAILED" not in result.describe()


def test_comparing_nothing_is_no_success_and_failures_are_counted() -> None:
    assert report().failures() == ["nothing was compared"]
    with pytest.raises(ParityError, match="nothing was compared"):
        report().require_success("x")
    good, bad = (compared(expected(), raw=expected(value)) for value in (0.5, 0.6))
    with pytest.raises(ParityError, match="x differs from A in 1 of 2 cases"):
        report(good, bad).require_success("x")


@pytest.mark.parametrize(("row", "where"), [(2, "inside"), (7, "outside")])
def test_a_raw_error_is_found_where_it_is(row: int, where: str) -> None:
    wrong = expected()
    wrong[row, 3, 1] += 1e-4
    complaint = f"box: relative error 2.0e-04 {where} the hole, allowed 1.0e-05"
    assert failures(expected(), raw=wrong) == [complaint]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_fail_on_either_side(value: float) -> None:
    wrong = expected()
    wrong[0, 0, 0] = value
    assert failures(expected(), raw=wrong) == ["box: NaN or infinity in the output"]
    assert failures(wrong, raw=expected(), filled=filled()) == [
        "box: NaN or infinity in the output"
    ]


def test_a_changed_known_pixel_fails_even_by_one() -> None:
    wrong = filled()
    wrong[0, 0, 0] += 1
    assert failures(expected(), filled=wrong) == ["box: known pixels changed"]
    described = report(compared(expected(), filled=wrong)).describe()
    assert "FAILED" in described
    assert "known pixels CHANGED" in described


@pytest.mark.parametrize(
    ("level", "passes"), [(126, True), (129, True), (125, False), (130, False)]
)
def test_a_filled_pixel_may_round_either_way(level: int, passes: bool) -> None:
    found = failures(expected(), filled=filled(level))
    complaint = f"box: composite off by 2 of 255 {BEYOND}, allowed 1"
    assert found == ([] if passes else [complaint])


def test_a_network_that_answers_in_thousands_has_saturated_pixels() -> None:
    reference = expected(5000.0)
    reference[2, 2] = 0.5  # within 5000 * 1e-5 of anything from 0.45 to 0.55
    composite = filled(255)
    composite[2, 2] = (115, 128, 140)
    assert failures(reference, filled=composite) == []
    composite[2, 2] = 100
    complaint = f"box: composite off by 15 of 255 {BEYOND}, allowed 1"
    assert failures(reference, filled=composite) == [complaint]
    assert failures(reference, filled=filled(0)) != []


def test_the_report_says_what_the_composite_was_given_for_free() -> None:
    five_apart = filled(133)  # 0.02 of 0.5 is 2.6 levels, which either side may err
    case = compared(expected(), filled=five_apart, tolerance=2e-2)
    of_half = msgspec.structs.replace(report(case), tolerance=2e-2, level_tolerance=3)
    assert case.level_difference == 3
    assert of_half.failures() == []
    assert case.composite_difference == 5
    assert (
        "composite at most 5 of 255 off, 3 of 255 beyond what a relative error of 2.0e-02 makes"
        in of_half.describe()
    )
    # Reports of before it was measured are read as well.
    older = msgspec.json.decode(msgspec.json.encode(of_half).replace(b'"composite_dif', b'"x'))
    read = msgspec.convert(older, ParityReport)
    assert "composite 3 of 255 beyond what a relative error of 2.0e-02" in read.describe()


def as_int8(*cases: ParityCase) -> ParityReport:
    row = TOLERANCES["int8"]
    return msgspec.structs.replace(
        report(*cases),
        tolerance=row.relative,
        level_tolerance=row.levels,
        psnr_needed=row.pattern_psnr,
        outside_judged=row.outside,
    )


def test_eight_bits_are_judged_by_a_psnr_that_can_fail() -> None:
    tolerance = TOLERANCES["int8"].relative
    near, far = (
        compared(expected(), filled=filled(level), tolerance=tolerance) for level in (133, 158)
    )
    assert (far.level_difference, far.composite_difference) == (0, 30)  # any composite is within
    assert as_int8(near).failures() == []
    psnr = 20 * np.log10(255 / 5)
    assert (
        f"at most 5 of 255 off, PSNR {psnr:.1f} dB in all holes, needed 28.0"
        in as_int8(near).describe()
    )
    assert as_int8(far).failures() == ["all holes: PSNR 18.6 dB, needed 28.0 dB"]
    with pytest.raises(ParityError, match=r"x differs from A: all holes: PSNR 18\.6 dB, needed"):
        as_int8(far).require_success("x")
    # Pooled, and of raw outputs where there is no composite.
    assert as_int8(near, near, near, far).hole_psnr == pytest.approx(
        20 * np.log10(255) - 10 * np.log10((3 * 25 + 900) / 4)
    )
    raw = compared(expected(), raw=expected(0.6), tolerance=tolerance)
    assert as_int8(raw).hole_psnr == pytest.approx(20)
    assert as_int8(raw).failures() == ["all holes: PSNR 20.0 dB, needed 28.0 dB"]
    same = compared(expected(), filled=filled(), tolerance=tolerance)
    assert as_int8(same).failures() == []


def test_only_holes_of_the_papers_areas_count_for_the_psnr() -> None:
    whole = ParityInput("all hole", CASE.image, np.full((8, 8), 255, np.uint8))
    far = np.full((8, 8, 3), 255, np.uint8)
    case = compare(whole, expected(), filled=far, raw=None, tolerance=1.0)
    assert case.hole_square_error is not None
    assert as_int8(case).hole_psnr is None


def test_all_zero_reference_needs_no_scale() -> None:
    exact = compared(expected(0.0), raw=expected(0.0))
    assert exact.error_inside == 0
    off = compared(expected(0.0), raw=expected(0.1))
    assert off.error_inside == pytest.approx(0.1)


def test_cases_are_the_six_buckets_if_large_enough_none_all_and_one_known_pixel() -> None:
    cases = parity_inputs(64, 96)
    shares = [float((c.hole_mask != 0).mean()) for c in cases]
    for (low, high), share in zip(AREA_BUCKETS, shares[:6], strict=True):
        assert low < share <= high
    assert shares[6:8] == [0, 1]
    assert (cases[8].hole_mask == 0).sum() == 1
    assert all(c.image.shape == (64, 96, 3) for c in cases)
    assert [c.name for c in parity_inputs(4, 4)] == ["no hole", "all hole", "one known pixel"]


@pytest.mark.parametrize(
    ("own_error", "error", "passes"),
    [
        (None, 2e-5, False),
        (1e-6, 2e-5, False),  # the reference does better than that
        (2e-5, 3.9e-5, True),
        (2e-5, 4.1e-5, False),
        (0.1, 2e-3, False),  # at some point it is no rounding any more
    ],
)
def test_a_network_that_magnifies_rounding_may_err_as_its_reference_does(
    own_error: float | None, error: float, passes: bool
) -> None:
    case = compared(expected(1.0), raw=expected(1.0 + error), own_error=own_error)
    assert (report(case).failures() == []) is passes
    assert ("the reference's own rounding" in report(case).describe()) is ((own_error or 0) > 1e-5)


def test_half_precisions_are_judged_where_the_composite_takes_from_them() -> None:
    far_off = expected()
    far_off[7, 3, 1] += 0.3  # known: dropped
    case = compared(expected(), filled=filled(), raw=far_off, tolerance=5e-2)
    of_half = msgspec.structs.replace(report(case), tolerance=5e-2, outside_judged=False)
    assert of_half.failures() == []
    assert of_half.worst_error == 0
    assert "relative error in the holes at most 0.0e+00" in of_half.describe()
    assert msgspec.structs.replace(of_half, outside_judged=True).failures() == [
        "box: relative error 6.0e-01 outside the hole, allowed 5.0e-02"
    ]
    far_off[2, 3, 1] += 0.3
    inside = compared(expected(), filled=filled(), raw=far_off, tolerance=5e-2)
    assert msgspec.structs.replace(of_half, cases=(inside,)).failures() == [
        "box: relative error 6.0e-01 inside the hole, allowed 5.0e-02"
    ]


def test_the_table_loosens_from_precision_to_precision() -> None:
    rows = list(TOLERANCES.values())
    assert list(TOLERANCES) == ["fp32", "fp16", "tf32", "bf16", "int8"]
    assert [name for name in TOLERANCES if name != "tf32"] == list(PRECISIONS)
    for finer, coarser in pairwise(rows):
        assert finer.relative < coarser.relative
    levels = [row.levels for row in rows if row.levels is not None]
    assert levels == [1, 2, 2, 4]
    assert rows[-1].pattern_psnr == 28.0
