"""Photos in rows, stages in columns: one picture to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pconv_deploy.files import atomic_file

_TILE, _GAP, _HEADER = 240, 8, 28
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def write_contact_sheet(
    path: Path, columns: Sequence[str], rows: Mapping[str, Sequence[Image.Image]], note: str
) -> None:
    """Write a PNG: a header, a row of pictures for each photo, a note at the foot."""
    width = len(columns) * (_TILE + _GAP) + _GAP
    shown = {name: [_fit(picture) for picture in pictures] for name, pictures in rows.items()}
    heights = [max(p.height for p in pictures) + _GAP for pictures in shown.values()]
    sheet = Image.new("RGB", (width, _HEADER + sum(heights) + _HEADER), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for number, title in enumerate(columns):
        draw.text((_GAP + number * (_TILE + _GAP), 6), title, fill=_INK, font=font)
    top = _HEADER
    for height, pictures in zip(heights, shown.values(), strict=True):
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (_GAP + number * (_TILE + _GAP), top))
        top += height
    draw.text((_GAP, top + 4), note, fill=_INK, font=ImageFont.load_default(size=12))
    with atomic_file(path) as partial:
        sheet.save(partial, optimize=True)


def _fit(picture: Image.Image) -> Image.Image:
    height = round(picture.height * _TILE / picture.width)
    return picture.convert("RGB").resize((_TILE, height), Image.Resampling.LANCZOS)
