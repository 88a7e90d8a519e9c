"""Notes on images and masks that can be filled but are probably mistakes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pconv_deploy.images.arrays import Bytes, Hole, Pixels
from pconv_deploy.images.boxes import Box, Size
from pconv_deploy.images.hole_rule import MaskReading

# Beyond these shares of the image a hole is rarely meant; the paper's holes end at 60 %.
_MOST, _LEAST = 0.6, 0.001
# Below this alpha of 255 a pixel can hardly be seen.
_VISIBLE = 16


class Note(NamedTuple):
    """An observation, and the option to use if it was not intended.

    kind  the same for facts of one kind, so that those of many files can be summarised
    text  of one image; options are those of the command line, `Inpainter`'s have the same names
    """

    kind: str
    text: str


def notes_on_mask(hole: Hole, mask: MaskReading, image: Bytes) -> list[Note]:
    """Return notes on the share of the image (H, W, 3) that is hole, and on the mask's values.

    `hole` is what is filled in the end: the mask's, perhaps scaled, turned or grown.
    """
    if not hole.any():
        return [Note("no hole", f"the mask has no hole, the image is unchanged{_where_else(mask)}")]
    share = float(np.count_nonzero(hole)) / hole.size
    covered = f"the hole covers {_percent(share)} of the image"
    other = _other_convention(mask)
    notes = []
    if mask.looks_like_photo:
        swapped = _two_valued(image)
        kind = "swapped" if swapped else "mask like a photo"
        looks = ", the image like a mask: are they swapped" if swapped else ": is it one"
        text = f"{covered}, and the mask looks like a photo{looks}? See also {other}"
        notes.append(Note(kind, text))
    elif share > _MOST:
        grown = np.count_nonzero(mask.hole) <= _MOST * mask.hole.size
        why = "Is --dilate too large?" if grown else f"Is the mask inverted? Then use {other}"
        notes.append(Note("mostly hole", f"{covered}. {why}"))
    elif share < _LEAST:
        count = int(np.count_nonzero(hole))
        pixels = f"{count} pixel{'s' * (count > 1)}"
        text = f"{covered}, {pixels}. Is that all? See {other} and --mask-threshold"
        notes.append(Note("hardly any hole", text))
    if mask.low_labels:
        text = (
            f"{mask.low_labels} pixels of the mask have values from 1 to {mask.rule.least - 1} of "
            "255 and count as known. Are these labels? --mask-threshold 1 fills them"
        )
        notes.append(Note("low labels", text))
    return notes


def notes_on_alpha(hole: Hole, pixels: Pixels) -> list[Note]:
    """Return a note if filled pixels are hidden by alpha, the last channel of (H, W, C)."""
    if pixels.shape[2] not in (2, 4) or not hole.any():
        return []
    alpha = pixels[:, :, -1][hole]
    hidden = float((alpha < _VISIBLE * (257 if alpha.dtype == np.uint16 else 1)).mean())
    if not hidden:
        return []
    text = (
        f"{_percent(hidden)} of the filled pixels stay transparent (alpha 0), so that the fill "
        "cannot be seen there; --opaque makes them opaque"
    )
    return [Note("invisible", text)]


def looks_swapped(mask: MaskReading, image: Bytes) -> bool:
    """Whether the mask looks like a photo and the image (H, W, 3) like a mask."""
    return mask.looks_like_photo and _two_valued(image)


def _two_valued(image: Bytes) -> bool:
    levels = np.array(Image.fromarray(image).convert("L").histogram())
    sixteenths = np.sort(levels.reshape(16, 16).sum(axis=1))  # noise of JPEG stays within one
    return bool(sixteenths[-2:].sum() > 0.98 * levels.sum())


def _other_convention(mask: MaskReading) -> str:
    alpha = mask.transparent and mask.rule.convention == "hole-white"
    return f"--mask-convention {'alpha' if alpha else _other_colour(mask)}"


def _other_colour(mask: MaskReading) -> str:
    return "hole-black" if mask.rule.convention == "hole-white" else "hole-white"


def _where_else(mask: MaskReading) -> str:
    """Suggest what may be the hole of a mask that has none."""
    if mask.transparent and mask.rule.convention != "alpha":
        return (
            ". Are its transparent pixels the hole (--mask-convention alpha), or its painted ones "
            f"({_other_colour(mask)})?"
        )
    if mask.levels.any() and mask.rule.convention == "hole-white":
        return f". Its largest value is {mask.levels.max()} of 255; see --mask-threshold"
    return ""


def _percent(share: float) -> str:
    # Never rounded to 0 or 100.
    return f"{100 * share:.2g}%" if share < 0.01 else f"{min(100 * share, 99 + (share == 1)):.0f}%"


def notes_on_crops(crops: Sequence[Box], size: Size) -> list[Note]:
    """Say that the network sees only parts of a photo, if so; size: its height and width."""
    if not crops:
        return []
    parts = ", ".join(f"{right - left}x{bottom - top}" for top, left, bottom, right in crops)
    text = (
        f"the network saw {parts} of {size[1]}x{size[0]} pixels, not the whole photo, with "
        "which the fill would differ; see --region"
    )
    return [Note("crops", text)]
