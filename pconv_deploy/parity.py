"""Does a graph or an engine compute what its source computes? Cases, measures, verdict.

Both sides fill the same images through holes of every kind; what they return is compared
inside and outside the holes. Who computes the two sides is the caller's business.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE, OUTPUT, RAW_OUTPUT, GraphContract
from pconv_deploy.errors import ParityError
from pconv_deploy.holes import AREA_BUCKETS, irregular_hole

Bytes = NDArray[np.uint8]
Arrays = Mapping[str, NDArray[Any]]
# Largest |difference| allowed, relative to the largest |value| of the reference, by precision.
RELATIVE_TOLERANCE = {"fp32": 1e-5}
# Of the composite, in steps of 0..255: a value on the edge may round either way. Where a network
# answers far outside of 0..1, what the relative tolerance amounts to in steps comes on top.
LEVEL_TOLERANCE = 1


@dataclass(frozen=True)
class ParityInput:
    """An image (H, W, 3) and its hole mask (H, W), nonzero = fill, both uint8."""

    name: str
    image: Bytes
    hole_mask: Bytes


@dataclass(frozen=True)
class ParityOutput:
    """What one side returns for a ParityInput.

    filled  (H, W, 3) uint8, composited; None for a graph that ends in numbers
    raw     (H, W, 3) float, the network's output in the 0..1 scale; None where it is not seen
    """

    filled: Bytes | None
    raw: NDArray[np.floating] | None


class ParityCase(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one case; None where there is nothing to compare.

    error_inside, error_outside  max |candidate - reference| of the raw output over the hole's
                                 pixels and over the others, over max |reference|
    level_difference             max difference of the composites, in steps of 0..255
    scale                        max |reference| of the raw output; 1 is white
    known_identical              every known pixel of the candidate equals the input's bytes
    finite                       the candidate's raw output holds no NaN and no infinity
    """

    name: str
    hole_share: float
    error_inside: float | None
    error_outside: float | None
    level_difference: int | None
    scale: float | None
    known_identical: bool | None
    finite: bool


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """All cases of one comparison, with who was compared and how strictly."""

    reference: str
    candidate: str
    tolerance: float
    level_tolerance: int
    cases: tuple[ParityCase, ...]

    @property
    def worst_error(self) -> float | None:
        """Largest relative error of any case; None if no raw output was compared."""
        errors = [e for c in self.cases for e in (c.error_inside, c.error_outside) if e is not None]
        return max(errors, default=None)

    @property
    def worst_level_difference(self) -> int | None:
        levels = [c.level_difference for c in self.cases if c.level_difference is not None]
        return max(levels, default=None)

    def failures(self) -> list[str]:
        """One line for each case that fails, saying by how much."""
        return [f"{case.name}: {why}" for case in self.cases for why in self._complaints(case)]

    def require_success(self, artefact: str) -> None:
        """Raise ParityError, naming the failed cases, if any failed."""
        if failures := self.failures():
            raise ParityError(
                f"{artefact} differs from {self.reference} in {len(failures)} of "
                f"{len(self.cases)} cases: {'; '.join(failures[:4])}"
            )

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{len(self.cases)} holes"]
        if self.worst_error is not None:
            parts.append(f"relative error at most {self.worst_error:.1e}")
        if self.worst_level_difference is not None:
            parts.append(f"composite within {self.worst_level_difference} of 255")
            parts.append("known pixels identical")
        return f"{self.candidate} against {self.reference}: {', '.join(parts)}"

    def _complaints(self, case: ParityCase) -> Iterator[str]:
        if not case.finite:
            yield "NaN or infinity in the output"
        for where, error in (("inside", case.error_inside), ("outside", case.error_outside)):
            # Written so that NaN complains too.
            if error is not None and not error <= self.tolerance:
                yield f"relative error {error:.1e} {where} the hole, allowed {self.tolerance:.0e}"
        allowed = self.level_tolerance + int(255 * self.tolerance * (case.scale or 0))
        if case.level_difference is not None and case.level_difference > allowed:
            yield f"composite off by {case.level_difference} of 255, allowed {allowed}"
        if case.known_identical is False:
            yield "known pixels changed"


def parity_inputs(height: int, width: int, seed: int = 0) -> list[ParityInput]:
    """Nine cases: irregular holes of the six area buckets, none, all, all but one pixel."""
    rng = np.random.default_rng(seed)
    cases = [
        ParityInput(
            f"irregular hole {low:.0%}-{high:.0%}, {width}x{height}",
            _pattern(rng, height, width),
            irregular_hole(rng, height, width, (low, high)),
        )
        for low, high in AREA_BUCKETS
    ]
    full = np.full((height, width), 255, np.uint8)
    one_known = full.copy()
    one_known[height // 2, width // 3] = 0
    for name, hole in (
        ("no hole", full - full),
        ("all hole", full),
        ("one known pixel", one_known),
    ):
        cases.append(ParityInput(name, _pattern(rng, height, width), hole))
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


def run_batches(
    run: Callable[[Arrays], Arrays], contract: GraphContract, batches: list[list[ParityInput]]
) -> list[ParityOutput]:
    """Run a graph of this contract on every batch; outputs in the order of the cases."""
    results = []
    for batch in batches:
        # A fixed batch is filled up with repetitions, whose results are dropped.
        padded = batch + batch[-1:] * ((contract.batch or len(batch)) - len(batch))
        image: NDArray[Any] = np.stack([case.image for case in padded])
        hole_mask: NDArray[Any] = np.stack([case.hole_mask for case in padded])
        if contract.kind == "tensor":
            image = np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
            hole_mask = (hole_mask[:, None] != 0).astype(np.float32)
        outputs = run({IMAGE: image, HOLE_MASK: hole_mask})
        filled = outputs.get(FILLED)
        raw = outputs.get(OUTPUT if contract.kind == "tensor" else RAW_OUTPUT)
        results += [
            ParityOutput(
                filled=None if filled is None else filled[i],
                raw=None if raw is None else raw[i].transpose(1, 2, 0),
            )
            for i in range(len(batch))
        ]
    return results


def compare(case: ParityInput, reference: ParityOutput, candidate: ParityOutput) -> ParityCase:
    """Measure how far `candidate` is from `reference` on one case."""
    hole = case.hole_mask != 0
    inside = outside = levels = identical = scale = None
    finite = True
    if reference.raw is not None:
        scale = float(np.abs(reference.raw).max())
    if reference.raw is not None and candidate.raw is not None:
        finite = bool(np.isfinite(candidate.raw).all())
        error = np.abs(candidate.raw.astype(np.float64) - reference.raw) / (scale or 1.0)
        inside = float(error[hole].max()) if hole.any() else None
        outside = float(error[~hole].max()) if not hole.all() else None
    if reference.filled is not None and candidate.filled is not None:
        difference = candidate.filled.astype(np.int16) - reference.filled
        levels = int(np.abs(difference).max())
        identical = bool((candidate.filled[~hole] == case.image[~hole]).all())
    return ParityCase(
        name=case.name,
        hole_share=round(float(hole.mean()), 4),
        error_inside=inside,
        error_outside=outside,
        level_difference=levels,
        scale=scale,
        known_identical=identical,
        finite=finite,
    )


def _pattern(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Colour gradients with texture: large and small structures, all byte values."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    frequency, phase = rng.uniform(1, 6, (3, 2)), rng.uniform(0, 6.28, 3)
    waves = [
        np.sin(6.28 * (f[0] * x + f[1] * y) + p) for f, p in zip(frequency, phase, strict=True)
    ]
    smooth = 127.5 + 100 * np.stack(waves, axis=-1)
    noisy = smooth + rng.normal(0, 15, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)
