"""The worst case as one image: inputs, both candidates' results and their difference."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pconv_deploy.images.arrays import Bytes
from pconv_deploy.verification.candidates import Floats
from pconv_deploy.verification.measures import composite_of, to_bytes
from pconv_deploy.verification.results import Compared

_SMALLEST, _LARGEST = 256, 512  # widths of a panel, pixels
_GAP, _LINE = 12, 22
_INK, _PAPER, _HOLE = (30, 30, 30), (255, 255, 255), (255, 255, 255)
_FRAME = (190, 190, 190)  # a hole up to the edge is as white as the paper
# Dark to light with even steps of lightness: the colour map "inferno" at five places, between
# which colours are interpolated. What is not finite gets a colour that is none of them.
_RAMP = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
_NOT_FINITE = (0, 200, 255)


def worst_picture(worst: Compared, names: tuple[str, str]) -> Image.Image:
    """Draw a case (RGB): image with its hole, A, B, and a map of their difference with its scale.

    The raw outputs are shown where both candidates give one, unless it is the composite alone that
    fails; `names` are those of A and B.
    """
    case, result = worst.case, worst.result
    what, a, b = _shown(worst)
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b).max(axis=2) * 255  # (H, W), levels
    finite = np.isfinite(gap)
    largest = float(gap[finite].max(initial=0.0))
    holed = np.where((case.hole_mask != 0)[..., None], np.array(_HOLE, np.uint8), case.image)
    panels = (
        ("image, hole in white", _fitted(holed)),
        (f"A: {names[0]}", _fitted(to_bytes(a))),
        (f"B: {names[1]}", _fitted(to_bytes(b))),
        (f"|A - B| of the {what}", Image.fromarray(_heat(_peaks(gap), largest))),
    )
    notes = [f"{result.name}, {result.hole_share * 100:.5g}% of the image is hole"]
    if largest:
        row, column = np.unravel_index(int(np.where(finite, gap, 0).argmax()), gap.shape)
        where = "in the hole" if case.hole_mask[row, column] else "outside of the hole"
        notes.append(
            f"largest difference {largest:.3g} levels of 255, {where}, at x={column}, y={row}"
        )
    else:
        notes.append(f"the {what} of both candidates is the same" if finite.all() else "")
    if not finite.all():
        notes[-1] += f" {(~finite).sum()} pixels are NaN or infinite (light blue)"
    notes += result.failures
    return _composed(panels, largest, notes)


def _shown(worst: Compared) -> tuple[str, Floats, Floats]:
    """Return the name of the output to draw, and both candidates' (H, W, 3) of about 0..1."""
    a, b = worst.a.raw, worst.b.raw
    raw_fails = not worst.judged.finite or (worst.error or 0.0) > worst.result.allowed
    if a is not None and b is not None and (raw_fails or not worst.result.failures):
        return "raw output", a.astype(np.float64), b.astype(np.float64)
    of_a, of_b = (composite_of(candidate, worst.case) / 255.0 for candidate in (worst.a, worst.b))
    return "composite", of_a, of_b


def _scale(width: int) -> tuple[int, int]:
    """Times a panel is enlarged, and reduced: whole numbers, so that pixels stay pixels."""
    return max(1, -(-_SMALLEST // width)), max(1, -(-width // _LARGEST))


def _fitted(image: Bytes) -> Image.Image:
    height, width = image.shape[:2]
    times, parts = _scale(width)
    shown = Image.fromarray(image)
    if parts > 1:
        return shown.reduce(parts)
    return shown.resize((width * times, height * times), Image.Resampling.NEAREST)


def _peaks(gap: Floats) -> Floats:
    """Scale a map as `_fitted` does, but keep the largest of what falls together."""
    times, parts = _scale(gap.shape[1])
    if parts > 1:
        below, right = (-side % parts for side in gap.shape)
        padded = np.pad(gap, ((0, below), (0, right)))
        blocks = padded.reshape(padded.shape[0] // parts, parts, padded.shape[1] // parts, parts)
        peaks: Floats = blocks.max(axis=(1, 3))
        return peaks
    return gap.repeat(times, axis=0).repeat(times, axis=1)


def _heat(gap: Floats, largest: float) -> Bytes:
    """(H, W) of 0..largest -> (H, W, 3) uint8 of the ramp."""
    finite = np.isfinite(gap)
    places = np.linspace(0, 1, len(_RAMP))
    share = np.where(finite, gap, 0) / (largest or 1.0)
    colours = np.stack([np.interp(share, places, c) for c in zip(*_RAMP, strict=True)], axis=-1)
    colours[~finite] = _NOT_FINITE
    return np.rint(colours).astype(np.uint8)


def _composed(
    panels: Sequence[tuple[str, Image.Image]], largest: float, notes: Sequence[str]
) -> Image.Image:
    """Titles over panels, the scale under the last one, notes at its left."""
    width, height = panels[0][1].size
    foot = max(2, len(notes)) * _LINE + _GAP
    sheet = Image.new(
        "RGB", (len(panels) * (width + _GAP) + _GAP, _LINE + height + foot + _GAP), _PAPER
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (title, panel) in enumerate(panels):
        left = _GAP + number * (width + _GAP)
        draw.text((left, 4), _cut(draw, title, font, width), fill=_INK, font=font)
        sheet.paste(panel, (left, _LINE))
        draw.rectangle((left - 1, _LINE - 1, left + width, _LINE + height), outline=_FRAME)
    top = _LINE + height + _GAP // 2
    for number, note in enumerate(notes):
        shown = _cut(draw, note, font, 3 * (width + _GAP) - 2 * _GAP)
        draw.text((_GAP, top + number * _LINE), shown, fill=_INK, font=font)
    left = sheet.width - width - _GAP
    ramp = np.broadcast_to(np.linspace(0, 1, width), (_LINE // 2, width))
    sheet.paste(Image.fromarray(_heat(ramp, 1.0)), (left, top + 4))
    labels = ((left, "la", "0"), (left + width // 2, "ma", f"{largest / 2:.2g}"))
    for x, anchor, text in (*labels, (left + width, "ra", f"{largest:.2g} of 255")):
        draw.text((x, top + 4 + _LINE // 2 + 2), text, fill=_INK, font=font, anchor=anchor)
    return sheet


def _cut(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """As much of a line as fits, its end kept: paths tell apart there."""
    while draw.textlength(text, font=font) > width and len(text) > 8:
        text = f"{text[:3]}…{text[5:]}"
    return text
