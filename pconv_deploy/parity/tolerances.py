"""How far a result may be from its reference, by precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# What a result is judged by. "tf32" is single precision whose convolutions may, on a GPU, take ten
# bits of what they multiply, as many as fp16 has.
Arithmetic = Precision | Literal["tf32"]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a result may be from its reference.

    relative      |difference| of the raw output, over the largest |value| of the reference
    outside       whether the raw output is judged outside of the holes too
    levels        steps of 0..255 by which the composite may leave what the reference rounds to
                  anywhere within the relative error; None: it is judged by PSNR alone
    hole_psnr     dB, at least: in the holes of photographs, against the composite of the graph
    pattern_psnr  dB, at least: likewise, in holes of 1 to 60 % of drawn patterns together
    """

    relative: float
    levels: int | None
    outside: bool = False
    hole_psnr: float | None = None
    pattern_psnr: float | None = None


# The finest first. Nothing but rounding separates two fp32 results; a value on the edge may round
# either way. Half precisions are judged in the holes only: what a network says of known pixels
# was never trained and is dropped, and the demo's network magnifies rounding there to half of its
# range. In its holes it errs by 7e-4 (fp16) and 6e-3 (bf16) at 256x256, at 64x64 in single pixels
# by 1.2e-2 and 0.12, an untrained one of full size by 3e-3 and 2e-2. As single pixels may be far
# off, all holes together are judged by PSNR, too: those networks come to 57 dB and more in fp16
# and 40 in bf16, fills that are all 5 of 255 too bright to 34. TF32 has the bits of fp16, but a
# GPU may cut off the others instead of rounding them; computed so on a processor, it errs by
# 1.2e-2. Eight bits are judged by PSNR alone; their relative error only tells numbers of another
# size. In the patterns' holes int8 engines that kept 38 dB on photographs came out at 40 to 44
# dB, holes filled with the mean colour or grey at 17, with noise at 10, with black at 6.
TOLERANCES: Mapping[Arithmetic, Tolerance] = {
    "fp32": Tolerance(relative=1e-5, levels=1, outside=True),
    "fp16": Tolerance(relative=1e-2, levels=2, hole_psnr=45.0, pattern_psnr=45.0),
    "tf32": Tolerance(relative=2e-2, levels=2, hole_psnr=45.0, pattern_psnr=45.0),
    "bf16": Tolerance(relative=5e-2, levels=4, hole_psnr=35.0, pattern_psnr=35.0),
    "int8": Tolerance(relative=1.0, levels=None, hole_psnr=38.0, pattern_psnr=28.0),
}
# A trained network may magnify rounding. Where the reference itself, computed in the candidate's
# precision, errs by more than the tolerance, the candidate may err by this many times as much.
# Never more than the last two say: an absolute error, or so many times the tolerance.
_HEADROOM, _MOST_ALLOWED, _MOST_TIMES = 2.0, 1e-3, 5.0


def allowed_error(tolerance: float, reference_error: float | None) -> float:
    """The relative error a candidate may have, given the reference's own in its precision."""
    most = max(_MOST_ALLOWED, _MOST_TIMES * tolerance)
    return max(tolerance, min(_HEADROOM * (reference_error or 0.0), most))
