"""What a comparison found, and what is wrong with it, in words."""

from collections.abc import Iterator

import msgspec

from pconv_deploy.errors import ParityError
from pconv_deploy.parity.tolerances import allowed_error


class ParityCase(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one case; None where there is nothing to compare.

    error_inside, error_outside  max |candidate - reference| of the raw output over the hole's
                                 pixels and over the others, over max |reference|
    level_difference             steps of 0..255 by which the composite leaves, in the hole, what
                                 the reference rounds to anywhere within the allowed error: not
                                 how far the two composites are apart
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
            allowed = max(allowed_error(self.tolerance, c.reference_error) for c in self.cases)
            parts.append(
                f"composite at most {self.worst_level_difference} of 255 "
                f"beyond what a relative error of {allowed:.1e} makes"
            )
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
            yield (
                f"composite off by {case.level_difference} of 255 beyond what a relative error of "
                f"{allowed:.1e} makes, allowed {self.level_tolerance}"
            )
        if case.known_identical is False:
            yield "known pixels changed"
