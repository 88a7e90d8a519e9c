"""What a comparison found, and what is wrong with it, in words."""

import math
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from pconv_deploy.errors import ParityError
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.parity.tolerances import allowed_error

_Number = TypeVar("_Number", int, float)


class ParityCase(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one case; None where there is nothing to compare.

    error_inside, error_outside  max |candidate - reference| of the raw output over the hole's
                                 pixels and over the others, over max |reference|
    level_difference             steps of 0..255 by which the composite leaves, in the hole, what
                                 the reference rounds to anywhere within the allowed error
    composite_difference         steps of 0..255 by which the composite is, in the hole, from the
                                 reference rounded; None also in reports of before it was measured
    hole_square_error            mean square of that difference, or of the raw output's if there is
                                 no composite; white is 1
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
    composite_difference: int | None = None
    hole_square_error: float | None = None
    known_identical: bool | None
    finite: bool
    reference_error: float | None = None


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """All cases of one comparison, with who was compared and how strictly: see Tolerance.

    psnr_needed  in dB, of drawn patterns
    """

    reference: str
    candidate: str
    tolerance: float
    level_tolerance: int | None
    psnr_needed: float | None = None
    outside_judged: bool = True
    cases: tuple[ParityCase, ...]

    @property
    def worst_error(self) -> float | None:
        """Largest relative error of any case, where it is judged; None if none was compared."""
        outside = [c.error_outside for c in self.cases] if self.outside_judged else []
        return _largest(*(c.error_inside for c in self.cases), *outside)

    @property
    def worst_level_difference(self) -> int | None:
        return _largest(*(c.level_difference for c in self.cases))

    @property
    def worst_composite_difference(self) -> int | None:
        """Largest distance of the two composites in a hole, of any case."""
        return _largest(*(c.composite_difference for c in self.cases))

    @property
    def hole_psnr(self) -> float | None:
        """In all holes of 1 to 60 % together, dB, infinite where nothing differs; None of none."""
        low, high = AREA_BUCKETS[0][0], AREA_BUCKETS[-1][1]
        errors = [
            (case.hole_share, case.hole_square_error)
            for case in self.cases
            if case.hole_square_error is not None and low <= case.hole_share <= high
        ]
        if not errors:
            return None
        mean = sum(share * error for share, error in errors) / sum(share for share, _ in errors)
        return -10 * math.log10(mean) if mean else math.inf

    @property
    def reference_error(self) -> float | None:
        """Largest error of the reference itself in the candidate's precision, of any case."""
        return _largest(*(c.reference_error for c in self.cases))

    def failures(self) -> list[str]:
        """One line for each complaint, saying by how much; none means that it passed."""
        if not self.cases:
            return ["nothing was compared"]
        found = [f"{case.name}: {why}" for case in self.cases for why in self.complaints(case)]
        psnr = self.hole_psnr
        # Written so that NaN complains too.
        if self.psnr_needed is not None and psnr is not None and not psnr >= self.psnr_needed:
            found.append(f"all holes: PSNR {psnr:.1f} dB, needed {self.psnr_needed:.1f} dB")
        return found

    def require_success(self, artefact: str) -> None:
        """Raise ParityError, naming the failed cases, if any failed."""
        if failures := self.failures():
            failed = sum(any(self.complaints(case)) for case in self.cases)
            cases = f" in {failed} of {len(self.cases)} cases" if failed else ""
            raise ParityError(
                f"{artefact} differs from {self.reference}{cases}: {'; '.join(failures[:4])}"
            )

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{len(self.cases)} holes"]
        if self.worst_error is not None:
            own = self.reference_error or 0.0
            beside = f" (the reference's own rounding: {own:.1e})" if own > self.tolerance else ""
            where = "" if self.outside_judged else " in the holes"
            parts.append(f"relative error{where} at most {self.worst_error:.1e}{beside}")
        parts += self._of_composites()
        identical = {case.known_identical for case in self.cases} - {None}
        if identical:
            parts.append("known pixels CHANGED" if False in identical else "known pixels identical")
        verdict = "FAILED, " if self.failures() else ""
        return f"{self.candidate} against {self.reference}: {verdict}{', '.join(parts)}"

    def _of_composites(self) -> Iterator[str]:
        apart, beyond = self.worst_composite_difference, self.worst_level_difference
        said = [] if apart is None else [f"at most {apart} of 255 off"]
        if self.level_tolerance is not None and beyond is not None:
            allowed = max(allowed_error(self.tolerance, c.reference_error) for c in self.cases)
            said.append(f"{beyond} of 255 beyond what a relative error of {allowed:.1e} makes")
        if said:
            yield f"composite {', '.join(said)}"
        if self.psnr_needed is not None and self.hole_psnr is not None:
            yield f"PSNR {self.hole_psnr:.1f} dB in all holes, needed {self.psnr_needed:.1f}"

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
        beyond, most = case.level_difference, self.level_tolerance
        if beyond is not None and most is not None and beyond > most:
            yield (
                f"composite off by {beyond} of 255 beyond what a relative error of "
                f"{allowed:.1e} makes, allowed {most}"
            )
        if case.known_identical is False:
            yield "known pixels changed"


def _largest(*values: _Number | None) -> _Number | None:
    return max((value for value in values if value is not None), default=None)
