"""What `infer` says of masks and images that are probably not meant, and what it then needs."""

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.conftest import Result, Run
from tests.images.colour_profiles import GREY, cmyk_profile

Photo = Callable[..., NDArray[np.uint8]]
Fill = Callable[..., Result]
ORIENTATION = 0x0112
INVERTED = ("--mask-convention", "hole-black")


@pytest.fixture
def fill(run: Run, engine: Path, files: Path) -> Fill:
    """Fill an image's hole, both files or arrays; the result is in o.png."""

    def run_infer(image: Any, hole: Any, *options: object) -> Result:
        places = []
        for name, given in (("image.png", image), ("hole.png", hole)):
            if not isinstance(given, Path):
                Image.fromarray(given).save(files / name)
            places.append(given if isinstance(given, Path) else files / name)
        return run("infer", engine, *places, "-o", files / "o.png", "--overwrite", *options)

    return run_infer


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image)


def assert_filled(path: Path, before: NDArray[Any], hole: NDArray[np.bool_]) -> None:
    changed = (pixels(path) != before).any(axis=-1)
    assert changed[hole].mean() > 0.9
    assert not changed[~hole].any()


def test_an_inverted_mask_is_noted_with_its_share(fill: Fill, photo: Photo, box: Photo) -> None:
    result = fill(photo(), 255 - box())
    assert result.code == 0
    assert f"the hole covers {(box() == 0).mean():.0%} of the image" in result.err
    assert result.err.endswith("Is the mask inverted? Then use --mask-convention hole-black\n")
    right = fill(photo(), 255 - box(), *INVERTED)
    assert (right.code, right.err) == (0, "")
    wrong = fill(photo(), box(), *INVERTED)
    assert "inverted? Then use --mask-convention hole-white" in wrong.err


def test_notes_of_a_folder_are_one_line_a_kind(
    run: Run, engine: Path, files: Path, box: Photo
) -> None:
    Image.fromarray(255 - box()).save(files / "inverted.png")
    result = run("infer", engine, files / "in", files / "inverted.png", "-o", files / "out")
    assert result.code == 0
    (line,) = result.err.splitlines()
    assert line.startswith(f"note: {files / 'in/a.png'}, {files / 'inverted.png'}: the hole covers")
    assert line.endswith(f"[and 2 more like it: {files / 'in/b.png'}, {files / 'in/c.png'}]")


def test_a_hole_of_next_to_nothing_is_noted(fill: Fill, photo: Photo) -> None:
    dot = np.zeros((40, 56), np.uint8)
    dot[20, 20:22] = 255
    result = fill(photo(), dot)
    assert result.code == 0
    assert "the hole covers 0.089% of the image, 2 pixels. Is that all?" in result.err


def test_swapped_arguments_are_named(fill: Fill, photo: Photo, box: Photo) -> None:
    y, x = np.mgrid[:40, :56]
    grey = ((x * 3 + y * 2) % 220).astype(np.uint8)
    swapped = fill(box(), grey)
    assert swapped.code == 0
    assert "looks like a photo, the image like a mask: are they swapped?" in swapped.err
    for image in (box(), box() // 2):
        full = fill(image, grey + 20)
        assert (full.code, "are they swapped?" in full.err) == (3, True)
    assert "the mask looks like a photo: is it one?" in fill(photo(), grey).err


def test_low_labels_are_a_question_and_beside_high_ones_a_note(
    fill: Fill, files: Path, photo: Photo
) -> None:
    labels = np.zeros((40, 56), np.uint8)
    labels[5:15, 5:15] = 3
    refused = fill(photo(), labels)
    assert refused.code == 3
    assert "hole.png: the hole mask holds no value above 3 of 255" in refused.err
    labels[25:35, 30:40] = 200
    noted = fill(photo(), labels)
    assert "100 pixels of the mask have values from 1 to 15 of 255 and count as known" in noted.err
    whole = fill(photo(), labels, "--mask-threshold", 1)
    assert (whole.code, whole.err) == (0, "")
    assert_filled(files / "o.png", photo(), labels > 0)


def turned(files: Path, stored: NDArray[Any], orientation: int) -> Path:
    """A file that viewers turn."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = files / f"turned{stored.ndim}.png"
    Image.fromarray(stored).save(path, exif=exif)
    return path


def stored_hole() -> NDArray[np.bool_]:
    hole = np.zeros((40, 56), bool)
    hole[5:15, 30:50] = True
    return hole


def test_a_mask_that_fits_turned_names_the_orientation(
    fill: Fill, files: Path, photo: Photo
) -> None:
    image, hole = turned(files, photo(), 6), stored_hole()
    for options in ((), ("--fit-masks",)):
        refused = fill(image, hole, *options)
        assert refused.code == 3
        assert re.search(
            r"is 56x40.*is 40x56.*\(EXIF orientation 6\).*--masks-as-stored", refused.err
        )
        assert "--fit-masks" not in refused.err
    assert fill(image, hole, "--masks-as-stored").code == 0
    assert_filled(files / "o.png", photo(), hole)
    shown = np.rot90(hole, -1)  # as viewers show it
    assert "leave out --masks-as-stored" in fill(image, shown, "--masks-as-stored").err


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_as_stored_are_not_turned_by_their_own_orientation(
    fill: Fill, files: Path, photo: Photo, orientation: int
) -> None:
    hole = stored_hole()
    image, mask = turned(files, photo(), orientation), turned(files, hole, orientation)
    for options in ((), ("--masks-as-stored",)):  # both mean the same here
        assert fill(image, mask, *options).code == 0
        assert_filled(files / "o.png", photo(), hole)


def test_a_smaller_mask_is_not_stretched_the_other_way(
    fill: Fill, files: Path, photo: Photo
) -> None:
    hole = stored_hole()
    refused = fill(turned(files, photo(), 6), hole[::2, ::2], "--fit-masks")
    assert (refused.code, "EXIF orientation 6" in refused.err) == (3, True)
    assert fill(photo(), hole[::2, ::2], "--fit-masks").code == 0
    turned_mask = fill(photo(), np.rot90(hole))
    assert (turned_mask.code, "Turn the mask" in turned_mask.err) == (3, True)


def test_a_fill_that_alpha_hides_is_noted_and_can_be_made_opaque(
    fill: Fill, files: Path, photo: Photo, box: Photo
) -> None:
    holed = np.dstack([photo(), 255 - box()])
    alpha = ("--mask-convention", "alpha")
    hidden = fill(holed, holed, *alpha)
    assert hidden.code == 0
    assert "100% of the filled pixels stay transparent (alpha 0)" in hidden.err
    assert "--opaque" in hidden.err
    assert (pixels(files / "o.png")[..., 3] == 255 - box()).all()
    seen = fill(holed, holed, *alpha, "--opaque")
    assert (seen.code, seen.err) == (0, "")
    assert (pixels(files / "o.png")[..., 3] == 255).all()
    assert "--mask-convention alpha" in fill(holed, holed).err  # forgotten


def test_cmyk_is_converted_by_its_profile_on_request(fill: Fill, files: Path, box: Photo) -> None:
    cyan = Image.new("CMYK", (56, 40), (255, 0, 0, 0))
    cyan.save(files / "profile.tif", icc_profile=cmyk_profile())
    cyan.save(files / "plain.tif")
    refused = fill(files / "profile.tif", box())
    assert (refused.code, "--convert-cmyk" in refused.err) == (3, True)
    for name, colour, noted in (("profile", [GREY] * 3, False), ("plain", [0, 255, 255], True)):
        result = fill(files / f"{name}.tif", box(), "--convert-cmyk")
        assert result.code == 0
        assert ("has no colour profile of use" in result.err) is noted
        with Image.open(files / "o.png") as written:
            assert (written.mode, "icc_profile" in written.info) == ("RGB", False)
            assert list(written.getpixel((0, 0))) == colour  # type: ignore[arg-type]


def test_sixteen_bit_colour_is_taken_in_eight_on_request(
    fill: Fill, files: Path, box: Photo
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows = (b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 56) * 40
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 40, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    image = files / "deep.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    refused = fill(image, box())
    assert (refused.code, "--convert-16-bit" in refused.err) == (3, True)
    assert fill(image, box(), "--convert-16-bit").code == 0
    assert pixels(files / "o.png")[0, 0].tolist() == [0x12, 0x56, 0x9A]
