"""Fill every case with both candidates and compare the results, by class of holes."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from pconv_deploy.errors import UsageError
from pconv_deploy.parity import ParityInput, ParityReport, allowed_error
from pconv_deploy.verification.candidates import (
    Candidate,
    Filled,
    Size,
    open_candidate,
    shown,
)
from pconv_deploy.verification.compatibility import reasons_to_differ, settled_size, tolerance_of
from pconv_deploy.verification.measures import (
    CaseResult,
    Difference,
    judge,
    measure,
    pooled,
    summarise,
)
from pconv_deploy.verification.pictures import (
    BUCKETS,
    HOLE_CLASSES,
    PictureOptions,
    PlannedCase,
    load_case,
    plan_cases,
)
from pconv_deploy.verification.results import (
    Compared,
    Verification,
    VerifyRequest,
    VerifyResult,
)

# Three at a time show a batch that was baked in; larger pictures one at a time, for memory.
_BATCH, _BATCH_PIXELS = 3, 3 * 512 * 512


def verify(
    request: VerifyRequest, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> VerifyResult:
    """Open both candidates, fill every case with both, and compare.

    `progress` is called with the number of cases done and the total.

    Raises:
        UsageError: candidates or sizes that cannot be compared.
        PConvError: a candidate, a photo or a mask that cannot be used.
    """
    with contextlib.ExitStack() as stack:
        a = open_candidate(request.a, request.dtype, request.weights_key)
        stack.callback(a.close)
        b = open_candidate(request.b, request.dtype, request.weights_key)
        stack.callback(b.close)
        _require_key_used(request, a, b)
        size = settled_size(a, b, request.size, request.pictures.max_pixels)
        strictness = _strictness(a, b, request)
        planned = plan_cases(request.pictures)
        results: list[CaseResult] = []
        worst: Compared | None = None
        for compared in _compared((a, b), planned, request, size, strictness):
            results.append(compared.result)
            if worst is None or _severity(compared, strictness) > _severity(worst, strictness):
                worst = compared  # the only one whose arrays are kept
            progress(len(results), len(planned))
    assert worst is not None
    return VerifyResult(_verification(request, (a, b), size, strictness, results), worst)


def verify_files(
    a: Path | str,
    b: Path | str,
    *,
    size: Size | None = None,
    tolerance: float | None = None,
    weights_key: str | None = None,
    pictures: PictureOptions | None = None,
) -> Verification:
    """Compare two of checkpoint, exported graph and engine, on pictures with holes of all classes.

    Args:
        a: what `b` was made from, or is to be compared with.
        b: the other; its `failures` say where it differs.
        size: height and width; None takes a fixed one, or the smallest possible from 256 on.
        tolerance: relative error allowed; None takes that of the lower precision.
        weights_key: of a checkpoint of another project that holds several sets of weights.
        pictures: photos and holes; None draws both.

    Returns:
        The figures and the verdict, `passed`; `require_success()` raises ParityError.

    Raises:
        UsageError: two that cannot be compared, or a size that one of them does not take.
        PConvError: one of them, a photo or a mask that cannot be used.
    """
    request = VerifyRequest(
        a=Path(a),
        b=Path(b),
        size=size,
        tolerance=tolerance,
        weights_key=weights_key,
        pictures=pictures or PictureOptions(),
    )
    return verify(request).verification


def _require_key_used(request: VerifyRequest, a: Candidate, b: Candidate) -> None:
    keys = [
        candidate.facts.source.weights_key
        for candidate in (a, b)
        if candidate.facts.kind == "checkpoint"
    ]
    if request.weights_key not in (None, ".") and not any(keys):
        raise UsageError("neither A nor B has weights under keys; leave --weights-key out")


def _strictness(a: Candidate, b: Candidate, request: VerifyRequest) -> ParityReport:
    """Return the tolerances, as a report without cases that judges each."""
    allowed = tolerance_of(a, b)
    return ParityReport(
        reference=a.facts.path,
        candidate=b.facts.path,
        tolerance=allowed.relative if request.tolerance is None else request.tolerance,
        level_tolerance=allowed.levels,
        outside_judged=allowed.outside,
        cases=(),
    )


def _compared(
    candidates: tuple[Candidate, Candidate],
    planned: Sequence[PlannedCase],
    request: VerifyRequest,
    size: Size,
    strictness: ParityReport,
) -> Iterator[Compared]:
    a, b = candidates
    tolerance = strictness.tolerance
    count = min(_BATCH, max(1, _BATCH_PIXELS // (size[0] * size[1])))
    for start in range(0, len(planned), count):
        part = planned[start : start + count]
        cases = [load_case(one, request.pictures, size) for one in part]
        of_a, of_b = a.fill(cases), b.fill(cases)
        rounding: Sequence[float | None] = [None] * len(cases)
        if request.tolerance is None:
            rounding = _rounding(cases, ((a, of_a), (b, of_b)))
        for one, case, from_a, from_b, error in zip(part, cases, of_a, of_b, rounding, strict=True):
            judged = judge(case, from_a, from_b, tolerance, error)
            alone = msgspec.structs.replace(strictness, cases=(judged,))
            result = measure(
                case,
                one.hole_class,
                (from_a, from_b),
                allowed=allowed_error(tolerance, error),
                failures=tuple(strictness.complaints(judged)),
            )
            yield Compared(case, from_a, from_b, result, judged, alone.worst_error)


def _rounding(
    cases: Sequence[ParityInput], candidates: Sequence[tuple[Candidate, Sequence[Filled]]]
) -> list[float | None]:
    """Return the relative error that rounding alone makes in each case; it is allowed for.

    Measured if there is a checkpoint; otherwise the largest error recorded by the export. With a
    reduced precision, which only the export could measure, the larger of both.
    """
    recorded = max((s.recorded_rounding or 0.0 for s, _ in candidates), default=0.0) or None
    for candidate, filled in candidates:
        if candidate.rounded is not None:
            pairs = zip(filled, candidate.rounded(cases), strict=True)
            measured = [_rounding_of(one, other) for one, other in pairs]
            if any(s.facts.precision not in ("fp64", "fp32") for s, _ in candidates):
                return [max(error or 0.0, recorded or 0.0) or None for error in measured]
            return measured
    return [recorded] * len(cases)


def _rounding_of(one: Filled, other: Filled) -> float | None:
    assert one.raw is not None
    assert other.raw is not None
    error = float(np.abs(one.raw - other.raw).max()) / (float(np.abs(one.raw).max()) or 1.0)
    return error if math.isfinite(error) else None


def _severity(compared: Compared, strictness: ParityReport) -> float:
    """Return error over allowed error of a case; above 1 it fails."""
    judged = compared.judged
    if not judged.finite or judged.known_identical is False:
        return math.inf
    beyond, inside = judged.level_difference or 0, compared.result.composite_inside
    return max(
        (compared.error or 0.0) / (compared.result.allowed or math.ulp(0.0)),
        beyond / strictness.level_tolerance
        if strictness.level_tolerance
        else (inside.relative_error if inside else 0.0),
    )


def _verification(
    request: VerifyRequest,
    candidates: tuple[Candidate, Candidate],
    size: Size,
    strictness: ParityReport,
    results: Sequence[CaseResult],
) -> Verification:
    pictures = request.pictures
    in_holes = pooled(c.composite_inside for c in results if c.hole_class in BUCKETS)
    allowed = tolerance_of(*candidates)
    needed = allowed.hole_psnr if pictures.photos else allowed.pattern_psnr
    if request.tolerance is not None:
        needed = None
    failures = [f"{case.name}: {why}" for case in results for why in case.failures]
    failures += _psnr_complaint(in_holes, needed)
    return Verification(
        a=candidates[0].facts,
        b=candidates[1].facts,
        warnings=tuple(reasons_to_differ(*candidates)),
        height=size[0],
        width=size[1],
        photos=shown(pictures.photos) if pictures.photos else None,
        holes=shown(pictures.holes) if pictures.holes else None,
        seed=pictures.seed,
        tolerance=strictness.tolerance,
        outside_judged=strictness.outside_judged,
        level_tolerance=strictness.level_tolerance,
        hole_psnr=in_holes.psnr if in_holes else None,
        hole_psnr_needed=needed,
        raw_output_compared=all("raw_output" in candidate.facts.gives for candidate in candidates),
        passed=not failures,
        failures=tuple(failures),
        classes=tuple(
            summarise(name, of_class)
            for name in HOLE_CLASSES
            if (of_class := [r for r in results if r.hole_class == name])
        ),
        cases=tuple(results),
    )


def _psnr_complaint(in_holes: Difference | None, needed: float | None) -> list[str]:
    """Judge 8-bit engines by the PSNR of all pictures together."""
    if needed is None or in_holes is None or in_holes.psnr is None or in_holes.psnr >= needed:
        return []
    return [f"all holes: PSNR {in_holes.psnr:.1f} dB, needed {needed:.1f} dB"]
