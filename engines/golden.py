"""A golden case: one fill that an engine made when it was accepted, to be made again elsewhere.

It is kept as a picture of three parts, side by side: the image, its hole in white, the result.
"""

import io
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.contract import FILLED, IMAGE, OUTPUT, GraphContract
from pconv_deploy.engines.base import Built
from pconv_deploy.engines.sessions import Session
from pconv_deploy.engines.shapes import shapes_of
from pconv_deploy.errors import ParityError
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.parity import (
    TOLERANCES,
    Arithmetic,
    ParityInput,
    ParityReport,
    check_outputs,
    graph_inputs,
)

_SIDE = 64  # pixels, of the image where sizes are free, and of the hole at most
_MAX_PIXELS = 1 << 24
_HEADROOM = 2


class Allowance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the fill may differ elsewhere from the one that is kept: one of the two.

    levels  steps of 0..255 in the hole
    psnr    dB in the hole, at least
    """

    levels: int | None = None
    psnr: float | None = None


class GoldenCase(msgspec.Struct, frozen=True):
    """An image (H, W, 3), its hole (H, W) of booleans, and the result (H, W, 3)."""

    image: Bytes
    hole: NDArray[np.bool_]
    filled: Bytes

    def to_png(self) -> bytes:
        hole = np.repeat(self.hole[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
        content = io.BytesIO()
        strip = np.hstack([self.image, hole, self.filled])
        Image.fromarray(strip).save(content, "PNG", optimize=True)
        return content.getvalue()


def read_case(png: bytes) -> GoldenCase:
    """Read what `to_png` wrote.

    Raises:
        ValueError: it is something else.
    """
    width, height = (int.from_bytes(png[start : start + 4]) for start in (16, 20))  # of any PNG
    if width % 3 or width * height > 3 * _MAX_PIXELS:
        raise ValueError(f"found a picture of {width}x{height}")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            strip = np.asarray(picture)
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    if strip.shape != (height, width, 3):
        raise ValueError(f"found pixels {strip.shape}; needed {(height, width, 3)}")
    image, hole, filled = np.split(strip, 3, axis=1)
    return GoldenCase(image, hole[..., 0] != 0, filled)


def make_case(session: Session, contract: GraphContract, built: Built) -> GoldenCase | None:
    """Let an engine fill a small image, of the least size that it takes from 64x64 on.

    None where that is no small one.
    """
    low, high = shapes_of(contract, built.profiles).ranges[0]
    multiple = contract.size_multiple
    height, width = (
        min(max(_SIDE + -_SIDE % multiple, least), most)
        for least, most in zip(low[1:], high[1:], strict=True)
    )
    if height * width > _MAX_PIXELS:
        return None
    image, hole = _gradients(height, width), _box(height, width)
    return GoldenCase(image, hole, run_case(session, contract, built, image, hole))


def run_case(
    session: Session,
    contract: GraphContract,
    built: Built,
    image: Bytes,
    hole: NDArray[np.bool_],
) -> Bytes:
    """Fill it, as bytes whatever the engine returns.

    Raises:
        EngineError: the engine failed.
        ParityError: its outputs are not those of the contract, or not finite.
    """
    batch = shapes_of(contract, built.profiles).batch(hole.shape, 1)
    case = ParityInput("golden case", image, hole.astype(np.uint8) * np.uint8(255))
    inputs = graph_inputs([case] * batch, contract)
    outputs = session.run(inputs)
    check_outputs(outputs, contract, inputs[IMAGE])
    if contract.kind == "deployment":
        filled: Bytes = outputs[FILLED][0]
        return filled
    return _composite(outputs, image, hole)


def allowance(arithmetic: Arithmetic, parity: ParityReport) -> Allowance:
    """What a precision allows: by levels in fp32, by PSNR where single pixels may be far off.

    The PSNR is that of photographs, which is the stricter one in int8: fills of the same codes
    are nearer to each other than to the graph. Where a network magnifies rounding, so that the
    engine was further off its graph than the levels say, another way of computing it may be as far
    off again.
    """
    tolerance = TOLERANCES[arithmetic]
    if tolerance.hole_psnr is not None:
        return Allowance(psnr=tolerance.hole_psnr)
    assert tolerance.levels is not None
    apart = parity.worst_composite_difference or 0
    return Allowance(levels=tolerance.levels if apart <= tolerance.levels else _HEADROOM * apart)


class Difference(msgspec.Struct, frozen=True):
    """How much a fill differs from the one that is kept; infinite dB where nothing differs."""

    levels: int
    psnr: float
    known_identical: bool

    def within(self, allowed: Allowance) -> bool:
        if allowed.levels is not None:
            near = self.levels <= allowed.levels
        else:
            near = allowed.psnr is not None and self.psnr >= allowed.psnr
        return near and self.known_identical

    def describe(self, allowed: Allowance) -> str:
        """One phrase for people."""
        known = "" if self.known_identical else ", known pixels CHANGED"
        if self.levels == 0:
            return f"the same bytes{known}"
        if allowed.levels is not None:
            return f"at most {self.levels} of 255 off, allowed {allowed.levels}{known}"
        return f"PSNR {self.psnr:.1f} dB in the hole, needed {allowed.psnr or 0:.1f}{known}"


def difference(case: GoldenCase, filled: Bytes) -> Difference:
    """Compare a fill with the one that was kept."""
    apart = filled[case.hole].astype(np.int64) - case.filled[case.hole]
    mean = float(np.square(apart / 255.0).mean()) if apart.size else 0.0
    return Difference(
        levels=int(np.abs(apart).max(initial=0)),
        psnr=-10 * float(np.log10(mean)) if mean else float("inf"),
        known_identical=bool((filled[~case.hole] == case.image[~case.hole]).all()),
    )


def _composite(outputs: Mapping[str, NDArray[Any]], image: Bytes, hole: NDArray[np.bool_]) -> Bytes:
    colours = outputs[OUTPUT][0].transpose(1, 2, 0)
    if not np.isfinite(colours).all():
        raise ParityError("NaN or infinity in the output")
    filled = image.copy()
    filled[hole] = np.rint(colours[hole].clip(0, 1) * 255).astype(np.uint8)
    return filled


def _gradients(height: int, width: int) -> Bytes:
    """Red grows to the right, green downwards, blue in squares: it compresses well."""
    y, x = np.mgrid[:height, :width]
    squares = (x // 8 + y // 8) % 2 * 128 + 64
    planes = (255 * x // width, 255 * y // height, squares)
    return np.stack(planes, axis=-1).astype(np.uint8)


def _box(height: int, width: int) -> NDArray[np.bool_]:
    """A hole in the middle, of half the sides at most."""
    hole = np.zeros((height, width), np.bool_)
    tall, wide = (max(1, min(side // 2, _SIDE)) for side in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    hole[top : top + tall, left : left + wide] = True
    return hole
