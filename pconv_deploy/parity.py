"""Does a graph or an engine compute what its source computes? Cases, measures, verdict.

Both sides fill the same images through holes of every kind; what they return is compared
inside and outside the holes. Who computes the two sides is the caller's business.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, OUTPUT, RAW_OUTPUT, GraphContract
from pconv_deploy.errors import ParityError
from pconv_deploy.holes import AREA_BUCKETS, irregular_hole

Bytes = NDArray[np.uint8]
Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a result may be from its reference.

    relative   |difference| of the raw output, over the largest |value| of the reference
    outside    whether the raw output is judged outside of the holes too
    levels     of the composite, in steps of 0..255
    hole_psnr  dB, at least: in the holes of photographs, against the composite of the graph
    """

    relative: float
    levels: int
    outside: bool = False
    hole_psnr: float | None = None


# The finest first. Nothing but rounding separates two fp32 results; a value on the edge may round
# either way. Half precisions are judged in the holes only: what a network says of known pixels
# was never trained and is dropped, and the demo's network magnifies rounding there to half of its
# range. In the holes it errs by 1e-3 (fp16) and 6e-3 (bf16), an untrained one of full size by
# 4e-3 and 3e-2. Eight bits are judged by what is seen: the rest only tells noise from garbage.
TOLERANCES: Mapping[Precision, Tolerance] = {
    "fp32": Tolerance(relative=1e-5, levels=1, outside=True),
    "fp16": Tolerance(relative=1e-2, levels=2),
    "bf16": Tolerance(relative=5e-2, levels=4),
    "int8": Tolerance(relative=1.0, levels=64, hole_psnr=38.0),
}
# A trained network may magnify rounding. Where the reference itself, computed in the candidate's
# precision, errs by more than the tolerance, the candidate may err by this many times as much.
# Never more than the last two say: an absolute error, or so many times the tolerance.
_HEADROOM, _MOST_ALLOWED, _MOST_TIMES = 2.0, 1e-3, 5.0
_MIN_PIXELS = 64  # fewer cannot show the area classes


@dataclass(frozen=True)
class ParityInput:
    """An image (H, W, 3) and its hole mask (H, W), nonzero = fill, both uint8."""

    name: str
    image: Bytes
    hole_mask: Bytes


class ParityCase(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one case; None where there is nothing to compare.

    error_inside, error_outside  max |candidate - reference| of the raw output over the hole's
                                 pixels and over the others, over max |reference|
    level_difference             steps of 0..255 by which the composite leaves, in the hole, what
                                 the reference rounds to anywhere within the tolerance
    reference_error              of the reference itself in the candidate's precision, against the
                                 exact one, anywhere; measured likewise
    known_identical              every known pixel of the composite equals the input's bytes
    finite                       neither side's raw output holds NaN or infinity
    """

    name: str
    hole_share: float
    error_inside: float | None
    error_outside: float | None
    level_difference: int | None
    known_identical: bool | None
    finite: bool
    reference_error: float | None = None


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """All cases of one comparison, with who was compared and how strictly: see Tolerance."""

    reference: str
    candidate: str
    tolerance: float
    level_tolerance: int
    outside_judged: bool = True
    cases: tuple[ParityCase, ...]

    @property
    def worst_error(self) -> float | None:
        """Largest relative error of any case, where it is judged; None if none was compared."""
        errors = [c.error_inside for c in self.cases]
        if self.outside_judged:
            errors += [c.error_outside for c in self.cases]
        return max((error for error in errors if error is not None), default=None)

    @property
    def worst_level_difference(self) -> int | None:
        levels = [c.level_difference for c in self.cases if c.level_difference is not None]
        return max(levels, default=None)

    @property
    def reference_error(self) -> float | None:
        """Largest error of the reference itself in the candidate's precision, of any case."""
        errors = [c.reference_error for c in self.cases if c.reference_error is not None]
        return max(errors, default=None)

    def failures(self) -> list[str]:
        """One line for each complaint, saying by how much; none means that it passed."""
        if not self.cases:
            return ["nothing was compared"]
        return [f"{case.name}: {why}" for case in self.cases for why in self.complaints(case)]

    def require_success(self, artefact: str) -> None:
        """Raise ParityError, naming the failed cases, if any failed."""
        if failures := self.failures():
            failed = sum(any(self.complaints(case)) for case in self.cases)
            raise ParityError(
                f"{artefact} differs from {self.reference} in {failed} of {len(self.cases)} "
                f"cases: {'; '.join(failures[:4])}"
            )

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{len(self.cases)} holes"]
        if self.worst_error is not None:
            own = self.reference_error or 0.0
            beside = f" (its own in that precision {own:.1e})" if own > self.tolerance else ""
            where = "" if self.outside_judged else " in the holes"
            parts.append(f"relative error{where} at most {self.worst_error:.1e}{beside}")
        if self.worst_level_difference is not None:
            parts.append(f"composite within {self.worst_level_difference} of 255")
        identical = {case.known_identical for case in self.cases} - {None}
        if identical:
            parts.append("known pixels CHANGED" if False in identical else "known pixels identical")
        verdict = "FAILED, " if self.failures() else ""
        return f"{self.candidate} against {self.reference}: {verdict}{', '.join(parts)}"

    def complaints(self, case: ParityCase) -> Iterator[str]:
        """What is wrong with one case, saying by how much."""
        if not case.finite:
            yield "NaN or infinity in the output"
        allowed = allowed_error(self.tolerance, case.reference_error)
        outside = case.error_outside if self.outside_judged else None
        for where, error in (("inside", case.error_inside), ("outside", outside)):
            # Written so that NaN complains too.
            if error is not None and not error <= allowed:
                yield f"relative error {error:.1e} {where} the hole, allowed {allowed:.1e}"
        if case.level_difference is not None and case.level_difference > self.level_tolerance:
            yield f"composite off by {case.level_difference} of 255, allowed {self.level_tolerance}"
        if case.known_identical is False:
            yield "known pixels changed"


def parity_inputs(height: int, width: int, seed: int = 0) -> list[ParityInput]:
    """Nine cases: irregular holes of the six area buckets, none, all, all but one pixel.

    Fewer than 64 pixels cannot show the buckets; there the last three remain.
    """
    rng = np.random.default_rng(seed)
    cases = [
        ParityInput(
            f"irregular hole {low:.0%}-{high:.0%}, {width}x{height}",
            pattern(rng, height, width),
            irregular_hole(rng, height, width, (low, high)),
        )
        for low, high in (AREA_BUCKETS if height * width >= _MIN_PIXELS else ())
    ]
    full = np.full((height, width), 255, np.uint8)
    one_known = full.copy()
    one_known[height // 2, width // 3] = 0
    for name, hole in (
        ("no hole", full - full),
        ("all hole", full),
        ("one known pixel", one_known),
    ):
        cases.append(ParityInput(name, pattern(rng, height, width), hole))
    return cases


def parity_batches(contract: GraphContract) -> list[list[ParityInput]]:
    """The cases in batches that a graph of this contract takes.

    Where sizes are free, the nine cases are square and two more are twice as wide; batches are
    of three, so that neither batch size nor height and width can have been baked in unseen.
    """
    if contract.size is not None:
        cases = [parity_inputs(*contract.size)]
    else:
        side = contract.size_multiple * math.ceil(64 / contract.size_multiple)
        cases = [parity_inputs(side, side), parity_inputs(side, 2 * side, seed=1)[1:3]]
    count = contract.batch or 3
    return [
        group[start : start + count] for group in cases for start in range(0, len(group), count)
    ]


def allowed_error(tolerance: float, reference_error: float | None) -> float:
    """The relative error a candidate may have, given the reference's own in its precision."""
    most = max(_MOST_ALLOWED, _MOST_TIMES * tolerance)
    return max(tolerance, min(_HEADROOM * (reference_error or 0.0), most))


def own_error(exact: Run, rounded: Run, contract: GraphContract) -> float:
    """Largest relative error of a reference computed in fewer bits, over all cases."""
    raw_name = OUTPUT if contract.kind == "tensor" else RAW_OUTPUT
    errors = [0.0]
    for batch in parity_batches(contract):
        inputs = graph_inputs(batch, contract)
        pairs = zip(rounded(inputs)[raw_name], exact(inputs)[raw_name], strict=True)
        errors += [error for pair in pairs if (error := _error(*pair)) is not None]
    return max(errors)


def compare_runs(
    reference: Run,
    candidate: Run,
    contract: GraphContract,
    names: tuple[str, str],
    reference_in_precision: Run | float | None = None,
    precision: Precision | None = None,
) -> ParityReport:
    """Fill every case on both sides and compare.

    Args:
        reference: takes the inputs of the contract, returns the raw output alone: `output` of a
            tensor graph, `raw_output` (N, 3, H, W) of a deployment graph.
        candidate: returns every output of the contract, and `raw_output` if it can.
        contract: of the graph both stand for.
        names: who the reference and the candidate are, for the report.
        reference_in_precision: the reference computed in the candidate's precision: how exact
            an answer can be expected. Or by how much it was found to err in all such cases.
        precision: of the candidate; its row of TOLERANCES decides. None: the contract's.

    Raises:
        ParityError: the candidate's outputs are not those of the contract.
    """
    raw_name = OUTPUT if contract.kind == "tensor" else RAW_OUTPUT
    tolerance = TOLERANCES[precision or contract.precision]
    run_rounded = reference_in_precision if callable(reference_in_precision) else None
    found_before = None if callable(reference_in_precision) else reference_in_precision
    cases: list[ParityCase] = []
    for batch in parity_batches(contract):
        inputs = graph_inputs(batch, contract)
        expected = reference(inputs)[raw_name]
        rounded = run_rounded(inputs)[raw_name] if run_rounded else None
        found = candidate(inputs)
        check_outputs(found, contract, inputs[IMAGE])
        filled, raw = found.get(FILLED), found.get(raw_name)
        for i, case in enumerate(batch):
            cases.append(
                compare(
                    case,
                    expected[i].transpose(1, 2, 0),
                    filled=None if filled is None else filled[i],
                    raw=None if raw is None else raw[i].transpose(1, 2, 0),
                    reference_error=found_before
                    if rounded is None
                    else _error(rounded[i], expected[i]),
                    tolerance=tolerance.relative,
                )
            )
    return ParityReport(
        reference=names[0],
        candidate=names[1],
        tolerance=tolerance.relative,
        level_tolerance=tolerance.levels,
        outside_judged=tolerance.outside,
        cases=tuple(cases),
    )


def compare(
    case: ParityInput,
    expected: NDArray[np.floating],
    *,
    filled: Bytes | None,
    raw: NDArray[np.floating] | None,
    tolerance: float,
    reference_error: float | None = None,
) -> ParityCase:
    """Measure a candidate's composite and raw output (H, W, 3) against the expected raw output."""
    assert filled is not None or raw is not None
    hole = case.hole_mask != 0
    inside = outside = levels = identical = None
    finite = bool(np.isfinite(expected).all() and (raw is None or np.isfinite(raw).all()))
    scale = float(np.abs(expected).max()) if finite else 0.0
    if raw is not None and finite:
        error = np.abs(raw.astype(np.float64) - expected) / (scale or 1.0)
        inside = float(error[hole].max()) if hole.any() else None
        outside = float(error[~hole].max()) if not hole.all() else None
    if filled is not None:
        # A network that answers in thousands has steps far smaller than its tolerance: what
        # the reference rounds to is an interval then, of one value where it is saturated.
        slack = allowed_error(tolerance, reference_error) * scale
        low, high = (_levels(expected[hole] + by) for by in (-slack, slack))
        found = filled[hole].astype(np.int64)
        levels = int(np.maximum(low - found, found - high).max(initial=0))
        identical = bool((filled[~hole] == case.image[~hole]).all())
    return ParityCase(
        name=case.name,
        hole_share=round(float(hole.mean()), 4),
        error_inside=inside,
        error_outside=outside,
        level_difference=levels,
        known_identical=identical,
        finite=finite,
        reference_error=reference_error,
    )


def _error(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float | None:
    """Largest difference over the largest value; None where either is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return None
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(found.astype(np.float64) - expected).max()) / scale


def _levels(colours: NDArray[np.floating]) -> NDArray[np.int64]:
    """0..1 -> 0..255; NaN as 0, which is reported elsewhere."""
    levels: NDArray[np.int64] = np.rint(np.nan_to_num(colours).clip(0, 1) * 255).astype(np.int64)
    return levels


def graph_inputs(batch: list[ParityInput], contract: GraphContract) -> Arrays:
    """Stack cases of one size into what a graph of this contract takes."""
    # A fixed batch is filled up with repetitions, whose results are not looked at.
    padded = batch + batch[-1:] * ((contract.batch or len(batch)) - len(batch))
    image: NDArray[Any] = np.stack([case.image for case in padded])
    hole_mask: NDArray[Any] = np.stack([case.hole_mask for case in padded])
    if contract.kind == "tensor":
        image = np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        hole_mask = (hole_mask[:, None] != 0).astype(np.float32)
    return {IMAGE: image, HOLE_MASK: hole_mask}


def check_outputs(found: Arrays, contract: GraphContract, image: NDArray[Any]) -> None:
    """Compare what a graph returned with its contract.

    Every output of both kinds of graph has the shape of `image`, as the graph takes it.

    Raises:
        ParityError: an output is missing, or of another dtype or shape.
    """
    for spec in contract.outputs:
        output = found.get(spec.name) if isinstance(found, Mapping) else None
        if (
            not isinstance(output, np.ndarray)
            or output.dtype != spec.dtype
            or output.shape != image.shape
        ):
            what = (
                f"{output.dtype} {list(output.shape)}"
                if isinstance(output, np.ndarray)
                else "no array"
            )
            raise ParityError(f"{spec.name}: found {what}, needed {spec.dtype} {list(image.shape)}")


def pattern(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Colour gradients with texture: large and small structures, all byte values."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    frequency, phase = rng.uniform(1, 6, (3, 2)), rng.uniform(0, 6.28, 3)
    waves = [
        np.sin(6.28 * (f[0] * x + f[1] * y) + p) for f, p in zip(frequency, phase, strict=True)
    ]
    smooth = 127.5 + 100 * np.stack(waves, axis=-1)
    noisy = smooth + rng.normal(0, 15, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)
