from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pconv_deploy.errors import HoleMaskError, UsageError
from pconv_deploy.images.files import read_hole_mask, read_mask_file
from pconv_deploy.images.hole_rule import MaskConvention, MaskRule, read_mask
from tests.images.test_files import png

BOX = np.zeros((24, 32), np.uint8)
BOX[4:12, 6:20] = 255
HOLE = BOX == 255


def palette_mask() -> Image.Image:
    """Labels 1 and 2 in Pascal VOC's first colours: dark red and dark green."""
    labels = np.zeros(BOX.shape, np.uint8)
    labels[4:12, 6:10], labels[4:12, 10:20] = 1, 2
    image = Image.fromarray(labels).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image


def painted(colour: int, hidden: int) -> Image.Image:
    """The box painted on a transparent layer, whose transparent pixels have a hidden colour."""
    layer = np.full((*BOX.shape, 4), hidden, np.uint8)
    layer[..., 3] = BOX
    layer[HOLE, :3] = colour
    return Image.fromarray(layer)


# Every one of them is the box, as white holes.
ALIKE: dict[str, Image.Image] = {
    "bilevel": Image.fromarray(BOX).convert("1"),
    "grey": Image.fromarray(BOX),
    "grey and alpha": Image.fromarray(BOX).convert("LA"),
    "red": Image.fromarray(np.stack([BOX, 0 * BOX, 0 * BOX], -1)),
    "dark blue": Image.fromarray(np.stack([0 * BOX, 0 * BOX, BOX // 2 + BOX % 2], -1)),
    "palette": palette_mask(),
    "white on transparent black": painted(255, 0),
    "white on transparent white": painted(255, 255),
    "labels 0 and 1": Image.fromarray(BOX // 255),
    "16 bits": Image.fromarray(BOX.astype(np.uint16) * 257),
    "8 bits in 16": Image.fromarray(BOX.astype(np.uint16)),
    "labels 0 and 1 in 16 bits": Image.fromarray(BOX.astype(np.uint16) // 255),
}
ARRAYS: dict[str, Any] = {
    "booleans": HOLE,
    "integers": BOX.astype(np.int64),
    "16 bits": BOX.astype(np.uint16) * 257,
    "0 to 1": BOX / 255,
    "0 to 255": BOX.astype(np.float32),
    "one channel": BOX[..., None],
    "colour of 0 and 1": np.stack([HOLE, 0 * HOLE, 0 * HOLE], -1).astype(np.int32),
    "colour and alpha": np.asarray(painted(255, 255)),
    "colour and alpha, 0 to 1": np.asarray(painted(255, 255)) / 255,
    "float picture": Image.fromarray(BOX.astype(np.float32) / 255),
    "32 bits": Image.fromarray(BOX.astype(np.int32)),
    "a list": BOX.tolist(),
    "half precision": (BOX / 255).astype(np.float16),  # in which 65535 is infinite
}


@pytest.mark.parametrize("kind", ALIKE)
def test_a_mask_is_read_alike_as_array_picture_and_file(tmp_path: Path, kind: str) -> None:
    image = ALIKE[kind]
    path = tmp_path / "m.png"
    image.save(path)
    assert (read_hole_mask(path) == HOLE).all()
    with Image.open(path) as opened:
        assert (read_mask(opened).hole == HOLE).all()
        if opened.mode != "P":  # an array of a palette's indices has lost their colours
            assert (read_mask(np.asarray(opened)).hole == HOLE).all()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("m.tif", "F"),
        ("m.tif", "I"),
        ("m.tif", "I;16B"),
        ("m.jpg", "CMYK"),
        ("m.jpg", "L"),
        ("m.gif", "P"),
        ("m.webp", "RGBA"),
        ("m.jp2", "RGB"),
        ("m.avif", "RGBA"),
    ],
)
def test_files_of_every_kind(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / name
    if mode == "I;16B":
        image = Image.frombytes(mode, (32, 24), (BOX.astype(">u2") * 257).tobytes())
    else:
        image = Image.fromarray(BOX).convert(mode)
    image.save(path)
    with Image.open(path) as opened:
        assert (read_mask(opened).hole == HOLE).mean() > 0.99  # but for what compression does
        assert (read_hole_mask(path) == read_mask(opened).hole).all()
        assert (read_hole_mask(path, MaskRule("hole-black")) == ~HOLE).mean() > 0.9


@pytest.mark.parametrize("kind", ARRAYS)
def test_numbers_of_every_kind(kind: str) -> None:
    assert (read_mask(ARRAYS[kind]).hole == HOLE).all()


def test_hole_black_reads_the_negative_and_black_strokes_on_a_transparent_layer() -> None:
    black = MaskRule("hole-black")
    for kind in ("grey", "bilevel", "16 bits", "labels 0 and 1"):
        assert (read_mask(ALIKE[kind], black).hole == ~HOLE).all()
    for hidden in (0, 255):
        assert (read_mask(painted(0, hidden), black).hole == HOLE).all()


def test_alpha_takes_transparent_pixels_whatever_their_colour() -> None:
    rule = MaskRule("alpha")
    for mask in (painted(9, 200), np.asarray(painted(9, 200)), np.asarray(painted(9, 9)) / 255):
        assert (read_mask(mask, rule).hole == ~HOLE).all()
    with pytest.raises(HoleMaskError, match=r"no alpha channel.*hole-white"):
        read_mask(BOX, rule)


def test_the_threshold_is_the_least_level_of_a_hole() -> None:
    levels = np.array([[0, 1, 15, 16, 127, 128, 254, 255]], np.uint8)
    assert read_mask(levels).hole[0].tolist() == [False] * 3 + [True] * 5
    assert read_mask(levels, MaskRule(threshold=1)).hole[0].tolist() == [False] + [True] * 7
    assert read_mask(levels, MaskRule(threshold=128)).hole[0].tolist() == [False] * 5 + [True] * 3
    black = read_mask(levels, MaskRule("hole-black", 128)).hole[0].tolist()
    assert black == [True] * 5 + [False] * 3


@pytest.mark.parametrize("scale", [257, 256, 1 / 255])
def test_wider_numbers_are_judged_as_their_8_bits_would_be(scale: float) -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    wide = levels * np.float64(scale)
    wide = wide.astype(np.uint16 if scale > 1 else np.float32)
    assert (read_mask(wide).hole == read_mask(levels).hole).all()
    every = MaskRule(threshold=1)
    assert (read_mask(wide, every).hole == read_mask(levels, every).hole).all()


@pytest.mark.parametrize("largest", [2, 15])
def test_masks_of_low_values_only_are_a_question(tmp_path: Path, largest: int) -> None:
    labels = np.array([[0, 1, largest]], np.uint8)
    path = tmp_path / "m.png"
    Image.fromarray(labels).save(path)
    message = rf"no value above {largest} of 255.*labels\? --mask-threshold 1.*threshold 16 none"
    with pytest.raises(HoleMaskError, match=message):
        read_mask(labels)
    with pytest.raises(HoleMaskError, match=rf"m\.png: .*{message}"):
        read_hole_mask(path)
    assert read_hole_mask(path, MaskRule(threshold=1))[0].tolist() == [False, True, True]
    assert not read_hole_mask(path, MaskRule(threshold=16)).any()


def test_noise_of_jpeg_is_no_hole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (64, 64)).astype(np.uint8)
    path = tmp_path / "m.jpg"
    Image.fromarray(noise).save(path, quality=95)
    assert np.asarray(Image.open(path)).max() > 0
    assert not read_hole_mask(path).any()


@pytest.mark.parametrize("convention", ["hole-black", "alpha"])
def test_a_white_mask_of_16_bits_a_channel_has_no_hole(
    tmp_path: Path, convention: MaskConvention
) -> None:
    content = png(2, 2, 16, 6, (b"\0" + b"\xff" * 16) * 2)
    reading = read_mask_file(tmp_path / "white.png", MaskRule(convention), content=content)
    assert not reading.hole.any()


def test_a_hole_that_nobody_sees_is_a_question() -> None:
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[1, 1, :3] = 255
    with pytest.raises(HoleMaskError, match=r"1 pixels of the hole's colour.*transparent.*alpha"):
        read_mask(layer)


def test_low_labels_beside_high_ones_are_counted() -> None:
    labels = BOX // 2
    labels[14:20, 4:9] = 7
    assert read_mask(labels).low_labels == 30
    assert read_mask(Image.fromarray(labels)).low_labels == 30
    assert read_mask(labels, MaskRule(threshold=20)).low_labels == 0
    soft = np.minimum(np.arange(0, 255, 3, dtype=np.uint8)[None] + np.zeros((9, 1), np.uint8), 255)
    assert read_mask(soft).low_labels == 0


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1], [2, 3]], "is no array"),
        (np.array([["a", "b"]]), "needed numbers"),
        (np.zeros((2, 2, 5)), "1 to 4 channels"),
        (np.zeros((2, 2, 2, 1)), "1 to 4 channels"),
        (np.zeros((0, 2)), "no pixels"),
        (np.array([[np.nan, 0]]), "NaN"),
        (np.array([[np.inf, 0]]), "NaN or infinite"),
        (np.array([[0, -1]]), "values from -1 to 0; needed 0 to 1"),
        (np.array([[0, 65536]]), "values from 0 to 65536; needed"),
        ("m.png", "found a str as hole mask"),
        (None, "found a NoneType as hole mask"),
    ],
)
def test_what_is_no_mask(mask: Any, message: str) -> None:
    with pytest.raises(HoleMaskError, match=message):
        read_mask(mask)


def test_rules_that_cannot_be() -> None:
    for threshold in (0, 256, 1.5, "16", True):
        with pytest.raises(UsageError, match="needed 1 to 255, or None"):
            MaskRule(threshold=threshold)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needed one of hole-white, hole-black, alpha"):
        MaskRule("white")  # type: ignore[arg-type]


def test_photos_and_masks_are_told_apart() -> None:
    y, x = np.mgrid[:64, :64]
    photo = np.stack([x * 3 % 256, y * 3 % 256, (x + y) % 256], -1).astype(np.uint8)
    soft = np.asarray(Image.fromarray(BOX).resize((320, 240), Image.Resampling.BICUBIC))
    assert read_mask(photo).looks_like_photo
    assert not read_mask(soft).looks_like_photo
    assert not read_mask(palette_mask()).looks_like_photo


@pytest.mark.parametrize("orientation", [1, 5, 6])
def test_mask_files_are_turned_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "m.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(BOX).save(path, exif=exif)
    with Image.open(path) as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened)) == 255
    assert (read_mask_file(path).hole == shown).all()


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_a_transparent_value_is_not_painted_in_8_and_16_bits(tmp_path: Path, mode: str) -> None:
    values = BOX if mode == "L" else BOX.astype(np.uint16) * 257
    Image.fromarray(values).save(path := tmp_path / "m.png", transparency=int(values.max()))
    with pytest.raises(HoleMaskError, match="all of them are transparent"):
        read_hole_mask(path)
    assert (read_hole_mask(path, MaskRule("alpha")) == HOLE).all()
