"""Differences between A and B: of one case and of one class of holes."""

import math
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.parity import ParityCase, ParityInput, compare
from pconv_deploy.verification.candidates import Filled, Floats

_WHERE = ("inside", "outside")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """B against A over some pixels' colours, on a scale where white is 1.

    values          how many were compared
    relative_error  max |A - B| over max |A| of the whole picture
    levels          max |A - B| in steps of 0..255; a whole number for composites
    mean_square     of A - B
    psnr            dB; None where nothing differs, which would be infinite
    """

    values: int
    relative_error: float
    levels: float
    mean_square: float
    psnr: float | None


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """One picture with one hole; None where there is nothing to compare.

    inside, outside    the hole
    known_identical_*  every known pixel of the candidate's own composite is the picture's own
    finite_*           the candidate's raw output holds neither NaN nor infinity
    allowed            relative error that passes
    failures           complaints, in words
    """

    name: str
    hole_class: str
    hole_share: float
    raw_inside: Difference | None
    raw_outside: Difference | None
    composite_inside: Difference | None
    composite_outside: Difference | None
    known_identical_a: bool | None
    known_identical_b: bool | None
    finite_a: bool | None
    finite_b: bool | None
    allowed: float
    failures: tuple[str, ...]


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """All cases of one class of holes: the largest errors, PSNR over all their pixels together."""

    hole_class: str
    cases: int
    failed: int
    raw_inside: Difference | None
    raw_outside: Difference | None
    composite_inside: Difference | None
    composite_outside: Difference | None
    known_identical: bool | None
    finite: bool | None


def composite_of(filled: Filled, case: ParityInput) -> Bytes:
    """The candidate's own composite (H, W, 3), or its raw output rounded and put into the hole."""
    if filled.composite is not None:
        return filled.composite
    assert filled.raw is not None
    return np.where((case.hole_mask != 0)[..., None], to_bytes(filled.raw), case.image)


def to_bytes(colours: Floats) -> Bytes:
    """Round colours of about 0..1 to 0..255."""
    levels: Bytes = np.rint(np.nan_to_num(colours).clip(0, 1) * 255).astype(np.uint8)
    return levels


def judge(
    case: ParityInput, a: Filled, b: Filled, tolerance: float, reference_error: float | None
) -> ParityCase:
    """Compare the raw outputs with each other, and every composite with every raw output.

    So composites pass where one candidate rounds up and the other down within the tolerance.
    Two composites are compared only where neither candidate gives a raw output.
    """
    judged: list[ParityCase] = []
    for expected in (a, b):
        for found in (a, b):
            raw = found.raw if expected is a and found is b else None
            if expected.raw is not None and (raw is not None or found.composite is not None):
                judged.append(
                    compare(
                        case,
                        expected.raw,
                        filled=found.composite,
                        raw=raw,
                        tolerance=tolerance,
                        reference_error=reference_error,
                    )
                )
    if not judged:
        assert a.composite is not None
        colours = a.composite / 255.0
        judged = [compare(case, colours, filled=b.composite, raw=None, tolerance=tolerance)]
    inside, outside = ([getattr(j, f"error_{where}") for j in judged] for where in _WHERE)
    levels = [j.level_difference for j in judged if j.level_difference is not None]
    apart = [j.composite_difference for j in judged if j.composite_difference is not None]
    return msgspec.structs.replace(
        judged[0],
        error_inside=next((e for e in inside if e is not None), None),
        error_outside=next((e for e in outside if e is not None), None),
        level_difference=max(levels, default=None),
        composite_difference=max(apart, default=None),
        known_identical=_all({_known_identical(a, case), _known_identical(b, case)}),
        finite=all(j.finite for j in judged),
        reference_error=reference_error,
    )


def measure(
    case: ParityInput,
    hole_class: str,
    fills: tuple[Filled, Filled],
    *,
    allowed: float,
    failures: tuple[str, ...],
) -> CaseResult:
    """Measure one case; allowed error and failures are those of `judge`."""
    a, b = fills
    hole = case.hole_mask != 0
    finite_a, finite_b = _finite(a), _finite(b)
    raw: tuple[Difference | None, Difference | None] = (None, None)
    if a.raw is not None and b.raw is not None and finite_a and finite_b:
        raw = _both_sides_of(hole, a.raw, b.raw)
    composites = (composite_of(filled, case) / 255.0 for filled in (a, b))
    composite = _both_sides_of(hole, *composites)
    return CaseResult(
        name=case.name,
        hole_class=hole_class,
        hole_share=round(float(hole.mean()), 6),
        raw_inside=raw[0],
        raw_outside=raw[1],
        composite_inside=composite[0],
        composite_outside=composite[1],
        known_identical_a=_known_identical(a, case),
        known_identical_b=_known_identical(b, case),
        finite_a=finite_a,
        finite_b=finite_b,
        allowed=allowed,
        failures=failures,
    )


def summarise(hole_class: str, cases: list[CaseResult]) -> ClassResult:
    """Pool the cases of one class."""
    identical = {c.known_identical_a for c in cases} | {c.known_identical_b for c in cases}
    finite = {c.finite_a for c in cases} | {c.finite_b for c in cases}
    return ClassResult(
        hole_class=hole_class,
        cases=len(cases),
        failed=sum(bool(c.failures) for c in cases),
        raw_inside=pooled(c.raw_inside for c in cases),
        raw_outside=pooled(c.raw_outside for c in cases),
        composite_inside=pooled(c.composite_inside for c in cases),
        composite_outside=pooled(c.composite_outside for c in cases),
        known_identical=_all(identical),
        finite=_all(finite),
    )


def _both_sides_of(hole: Hole, a: Floats, b: Floats) -> tuple[Difference | None, Difference | None]:
    scale = float(np.abs(a).max()) or 1.0
    gap = np.abs(a.astype(np.float64) - b)  # (H, W, 3)
    return _difference(gap[hole], scale), _difference(gap[~hole], scale)


def _difference(gap: NDArray[np.float64], scale: float) -> Difference | None:
    if not gap.size:
        return None
    largest, mean_square = float(gap.max()), float(np.square(gap).mean())
    return Difference(
        values=gap.size,
        relative_error=largest / scale,
        levels=round(largest * 255, 9),  # whole for composites, but for rounding
        mean_square=mean_square,
        psnr=_psnr(mean_square),
    )


def pooled(differences: Iterable[Difference | None]) -> Difference | None:
    """The largest errors of several, and the PSNR of all their pixels together."""
    found = [d for d in differences if d is not None]
    if not found:
        return None
    values = sum(d.values for d in found)
    mean_square = sum(d.mean_square * d.values for d in found) / values
    return Difference(
        values=values,
        relative_error=max(d.relative_error for d in found),
        levels=max(d.levels for d in found),
        mean_square=mean_square,
        psnr=_psnr(mean_square),
    )


def _psnr(mean_square: float) -> float | None:
    return -10 * math.log10(mean_square) if mean_square else None


def _finite(filled: Filled) -> bool | None:
    return None if filled.raw is None else bool(np.isfinite(filled.raw).all())


def _known_identical(filled: Filled, case: ParityInput) -> bool | None:
    known = case.hole_mask == 0
    if filled.composite is None or not known.any():
        return None
    return bool((filled.composite[known] == case.image[known]).all())


def _all(answers: set[bool | None]) -> bool | None:
    return None if answers == {None} else False not in answers
