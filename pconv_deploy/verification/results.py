"""Request and result of a verification."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from pconv_deploy.errors import ParityError
from pconv_deploy.parity import ParityCase, ParityInput
from pconv_deploy.verification.candidates import CandidateFacts, Dtype, Filled, Size
from pconv_deploy.verification.measures import CaseResult, ClassResult
from pconv_deploy.verification.pictures import PictureOptions


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """Candidates, pictures and tolerance of a verification.

    dtype        of checkpoints
    weights_key  of checkpoints of other projects: which weights, where a file holds several sets
    size         height and width; None takes the fixed one, or the smallest possible from 256 on
    tolerance    relative error allowed; None takes that of the lower precision from parity's table
    """

    a: Path
    b: Path
    dtype: Dtype = "fp64"
    weights_key: str | None = None
    pictures: PictureOptions = field(default_factory=PictureOptions)
    size: Size | None = None
    tolerance: float | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a verification, as --json prints it.

    warnings          why the two may differ without a fault
    tolerance         relative error of the raw output
    outside_judged    whether the raw output is judged outside of the holes too
    level_tolerance   steps of 0..255 by which a composite may leave what the other rounds to
                      anywhere within the relative error; None: they are judged by PSNR
    hole_psnr         dB, of the composites in all holes of 1 to 60 % together; None where nothing
                      differs
    hole_psnr_needed  of photographs, or less of drawn patterns; None of finer precisions
    failures          of everything, in words
    classes, cases    in the order of the holes' area
    """

    a: CandidateFacts
    b: CandidateFacts
    warnings: tuple[str, ...]
    height: int
    width: int
    photos: str | None
    holes: str | None
    seed: int
    tolerance: float
    outside_judged: bool
    level_tolerance: int | None
    hole_psnr: float | None
    hole_psnr_needed: float | None
    raw_output_compared: bool
    passed: bool
    failures: tuple[str, ...]
    classes: tuple[ClassResult, ...]
    cases: tuple[CaseResult, ...]

    def require_success(self) -> None:
        """Raise ParityError, with the first complaints, if there are any."""
        if self.failures:
            failed = sum(bool(case.failures) for case in self.cases)
            raise ParityError(
                f"{self.b.path} differs from {self.a.path} in {failed} of {len(self.cases)} "
                f"cases: {'; '.join(self.failures[:4])}"
            )


class Compared(NamedTuple):
    """One case with both candidates' outputs, the figures and the verdict.

    error  the largest relative error of the raw output where it is judged
    """

    case: ParityInput
    a: Filled
    b: Filled
    result: CaseResult
    judged: ParityCase
    error: float | None


class VerifyResult(NamedTuple):
    """`worst` is the case that differs most."""

    verification: Verification
    worst: Compared
