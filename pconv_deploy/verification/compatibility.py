"""Size and tolerance for two candidates, and warnings about their sources."""

import math
from collections.abc import Iterator

from pconv_deploy.contract import MAX_SIDE
from pconv_deploy.errors import UsageError
from pconv_deploy.parity import TOLERANCES, Tolerance
from pconv_deploy.verification.candidates import Candidate, Size

_USUAL_SIDE = 256
_MIN_PIXELS = 64  # fewer cannot show the area classes


def settled_size(a: Candidate, b: Candidate, wanted: Size | None, max_pixels: int) -> Size:
    """The size both candidates take: the wanted one, the fixed one, or the smallest from 256 on.

    Raises:
        UsageError: there is none, or the wanted one is not possible, or it has too many pixels.
    """
    multiple = math.lcm(a.size_multiple, b.size_multiple)
    fixed = {candidate.size: candidate.facts.path for candidate in (a, b) if candidate.size}
    if len(fixed) > 1:
        what = ", ".join(f"{path} takes {_by(size)}" for size, path in fixed.items())
        raise UsageError(f"no size fits both: {what}. Export one of them without --size")
    usual = -(-_USUAL_SIDE // multiple) * multiple
    size = wanted or next(iter(fixed), (usual, usual))
    if fixed and size not in fixed:
        only, path = next(iter(fixed.items()))
        raise UsageError(f"found --size {_by(size)}; {path} takes {_by(only)} only")
    if any(side % multiple or side > MAX_SIDE for side in size) or math.prod(size) < _MIN_PIXELS:
        raise UsageError(
            f"found size {_by(size)}; {a.facts.path} and {b.facts.path} need multiples of "
            f"{multiple} up to {MAX_SIDE}, of at least {_MIN_PIXELS} pixels"
        )
    if math.prod(size) > max_pixels:
        raise UsageError(
            f"{_by(size)} is {math.prod(size) / 1e6:.1f} megapixels; at most "
            f"{max_pixels / 1e6:.1f} are accepted. Raise the limit with --max-megapixels if memory "
            "allows"
        )
    return size


def tolerance_of(a: Candidate, b: Candidate) -> Tolerance:
    """Of the lower precision; a checkpoint's weights are no more exact than single precision."""
    precisions = (candidate.facts.precision for candidate in (a, b))
    rows = (TOLERANCES["fp32" if p == "fp64" else p] for p in precisions)
    return max(rows, key=lambda row: row.relative)


def reasons_to_differ(a: Candidate, b: Candidate) -> Iterator[str]:
    """Yield the differences that are no fault of an export or a build."""
    one, other = a.facts.source, b.facts.source
    if (one.network, one.module) != (other.network, other.module):
        yield (
            f"the networks differ: A is a {one.describe_network()}; "
            f"B is a {other.describe_network()}"
        )
    if one.sha256 != other.sha256:
        yield (
            f"they come from different checkpoints: A from {one.file} (sha256 {one.sha256[:12]}), "
            f"B from {other.file} (sha256 {other.sha256[:12]})"
        )
    if a.normalisation != b.normalisation:
        yield (
            f"the normalisations differ: A has mean {a.normalisation.mean}, std "
            f"{a.normalisation.std}; B has mean {b.normalisation.mean}, std {b.normalisation.std}"
        )


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
