import numpy as np
import pytest

from pconv_deploy.errors import ParityError
from pconv_deploy.holes import AREA_BUCKETS
from pconv_deploy.parity import (
    ParityCase,
    ParityInput,
    ParityOutput,
    ParityReport,
    compare,
    parity_inputs,
)


def case() -> ParityInput:
    hole = np.zeros((8, 8), np.uint8)
    hole[2:4, 2:5] = 255
    return ParityInput("box", np.full((8, 8, 3), 100, np.uint8), hole)


def output(value: float = 0.5) -> ParityOutput:
    filled = case().image.copy()
    filled[case().hole_mask != 0] = 128
    return ParityOutput(filled, np.full((8, 8, 3), value))


def report(*cases: ParityCase) -> ParityReport:
    return ParityReport(
        reference="A", candidate="B", tolerance=1e-5, level_tolerance=1, cases=cases
    )


def test_equal_outputs_pass() -> None:
    result = report(compare(case(), output(), output()))
    assert result.failures() == []
    assert result.worst_error == 0
    assert result.worst_level_difference == 0
    result.require_success("x")


@pytest.mark.parametrize(("row", "where"), [(2, "inside"), (7, "outside")])
def test_a_raw_error_is_found_where_it_is(row: int, where: str) -> None:
    wrong = output()
    assert wrong.raw is not None
    wrong.raw[row, 3, 1] += 1e-4
    result = report(compare(case(), output(), wrong))
    assert result.failures() == [f"box: relative error 2.0e-04 {where} the hole, allowed 1e-05"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_fail(value: float) -> None:
    wrong = output()
    assert wrong.raw is not None
    wrong.raw[0, 0, 0] = value
    failures = report(compare(case(), output(), wrong)).failures()
    assert any("NaN or infinity" in line for line in failures)
    assert any("relative error" in line for line in failures)


def test_a_changed_known_pixel_fails_even_by_one() -> None:
    wrong = output()
    assert wrong.filled is not None
    wrong.filled[0, 0, 0] += 1
    assert report(compare(case(), output(), wrong)).failures() == ["box: known pixels changed"]


@pytest.mark.parametrize(("levels", "passes"), [(1, True), (2, False)])
def test_a_filled_pixel_may_round_either_way(levels: int, passes: bool) -> None:
    wrong = output()
    assert wrong.filled is not None
    wrong.filled[2, 2, 0] += levels
    failures = report(compare(case(), output(), wrong)).failures()
    assert failures == ([] if passes else ["box: composite off by 2 of 255, allowed 1"])


def test_a_network_that_answers_in_thousands_is_judged_on_its_scale() -> None:
    wrong = output(5000.0)
    assert wrong.filled is not None
    wrong.filled[2, 2, 0] += 10
    assert report(compare(case(), output(5000.0), wrong)).failures() == []  # 1e-5 of 5000 * 255


def test_all_zero_reference_needs_no_scale() -> None:
    exact = compare(case(), output(0.0), output(0.0))
    assert exact.error_inside == 0
    off = compare(case(), output(0.0), output(0.1))
    assert off.error_inside == pytest.approx(0.1)


def test_failure_says_who_and_how_many() -> None:
    wrong = output(0.6)
    with pytest.raises(ParityError, match="x differs from A in 2 of 1 cases"):
        report(compare(case(), output(), wrong)).require_success("x")


def test_cases_are_the_six_buckets_none_all_and_one_known_pixel() -> None:
    cases = parity_inputs(64, 96)
    shares = [float((c.hole_mask != 0).mean()) for c in cases]
    for (low, high), share in zip(AREA_BUCKETS, shares[:6], strict=True):
        assert low < share <= high
    assert shares[6:8] == [0, 1]
    assert (cases[8].hole_mask == 0).sum() == 1
    assert all(c.image.shape == (64, 96, 3) for c in cases)
