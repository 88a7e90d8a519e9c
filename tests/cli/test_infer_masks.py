"""What `infer` says of masks and images that are probably not meant, and what it then needs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.conftest import Run
from tests.images.colour_profiles import GREY, cmyk_profile

Photo = Callable[..., NDArray[np.uint8]]
ORIENTATION = 0x0112


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image)


def test_an_inverted_mask_is_noted_with_its_share(
    run: Run, engine: Path, files: Path, box: Photo
) -> None:
    mask = files / "inverted.png"
    Image.fromarray(255 - box()).save(mask)
    share = f"{(box() == 0).mean():.0%}"
    result = run("infer", engine, files / "in/a.png", mask, "-o", files / "o.png")
    assert result.code == 0
    assert f"the hole covers {share} of the image" in result.err
    assert result.err.endswith("Is the mask inverted? Then use --mask-convention hole-black\n")
    right = run(
        "infer", engine, files / "in/a.png", mask, "-o", files / "o.png", "--overwrite",
        "--mask-convention", "hole-black",
    )  # fmt: skip
    assert (right.code, right.err) == (0, "")
    wrong = run(
        "infer", engine, files / "in/a.png", files / "mask.png", "-o", files / "o.png",
        "--overwrite", "--mask-convention", "hole-black",
    )  # fmt: skip
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


def test_a_hole_of_next_to_nothing_is_noted(run: Run, engine: Path, files: Path) -> None:
    dot = np.zeros((40, 56), np.uint8)
    dot[20, 20:22] = 255
    Image.fromarray(dot).save(files / "dot.png")
    result = run("infer", engine, files / "in/a.png", files / "dot.png", "-o", files / "o.png")
    assert result.code == 0
    assert "the hole covers 0.089% of the image, 2 pixels. Is that all?" in result.err


def test_swapped_arguments_are_named(run: Run, engine: Path, files: Path) -> None:
    output = files / "o.png"
    y, x = np.mgrid[:40, :56]
    grey = (x * 3 + y * 2) % 220
    Image.fromarray(grey.astype(np.uint8)).save(files / "grey.png")
    swapped = run("infer", engine, files / "mask.png", files / "grey.png", "-o", output)
    assert swapped.code == 0
    assert "looks like a photo, the image like a mask: are they swapped?" in swapped.err
    Image.fromarray((grey + 20).astype(np.uint8)).save(files / "grey.png")
    full = run("infer", engine, files / "mask.png", files / "grey.png", "-o", output, "--overwrite")
    assert full.code == 3
    assert "are they swapped?" in full.err
    Image.fromarray(pixels(files / "mask.png") // 2).save(files / "grey mask.png")
    half = run("infer", engine, files / "grey mask.png", files / "grey.png", "-o", files / "p.png")
    assert (half.code, "are they swapped?" in half.err) == (3, True)
    Image.fromarray(grey.astype(np.uint8)).save(files / "grey.png")
    photo = run(
        "infer", engine, files / "in/a.png", files / "grey.png", "-o", output, "--overwrite"
    )
    assert "the mask looks like a photo: is it one?" in photo.err


def test_low_labels_are_a_question_and_beside_high_ones_a_note(
    run: Run, engine: Path, files: Path, photo: Photo
) -> None:
    labels = np.zeros((40, 56), np.uint8)
    labels[5:15, 5:15] = 3
    mask, output = files / "labels.png", files / "o.png"
    Image.fromarray(labels).save(mask)
    refused = run("infer", engine, files / "in/a.png", mask, "-o", output)
    assert refused.code == 3
    assert "labels.png: the hole mask holds no value above 3 of 255" in refused.err
    labels[25:35, 30:40] = 200
    Image.fromarray(labels).save(mask)
    noted = run("infer", engine, files / "in/a.png", mask, "-o", output)
    assert "100 pixels of the mask have values from 1 to 15 of 255 and count as known" in noted.err
    whole = run(
        "infer", engine, files / "in/a.png", mask, "-o", output, "--overwrite",
        "--mask-threshold", 1,
    )  # fmt: skip
    assert (whole.code, whole.err) == (0, "")
    changed = (pixels(output) != photo()).any(axis=-1)
    assert changed[labels > 0].mean() > 0.9
    assert not changed[labels == 0].any()


@pytest.fixture
def turned(files: Path, photo: Photo) -> tuple[Path, Path, NDArray[np.bool_]]:
    """A photo that viewers turn by 90 degrees, and a mask drawn over it as it is stored."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(photo()).save(files / "turned.png", exif=exif)
    hole = np.zeros((40, 56), bool)
    hole[5:15, 30:50] = True
    Image.fromarray(hole).save(files / "stored.png")
    return files / "turned.png", files / "stored.png", hole


def test_a_mask_that_fits_turned_names_the_orientation(
    run: Run, engine: Path, turned: tuple[Path, Path, NDArray[np.bool_]], photo: Photo
) -> None:
    image, mask, hole = turned
    output = image.with_name("o.png")
    for options in ((), ("--fit-masks",)):
        refused = run("infer", engine, image, mask, "-o", output, *options)
        assert refused.code == 3
        assert re.search(
            r"is 56x40.*is 40x56.*\(EXIF orientation 6\).*--masks-as-stored", refused.err
        )
        assert "--fit-masks" not in refused.err
    result = run("infer", engine, image, mask, "-o", output, "--masks-as-stored")
    assert result.code == 0
    changed = (pixels(output) != photo()).any(axis=-1)
    assert changed[hole].mean() > 0.9
    assert not changed[~hole].any()
    Image.fromarray(np.rot90(hole, -1)).save(mask)  # as viewers show it
    again = run("infer", engine, image, mask, "-o", output, "--overwrite", "--masks-as-stored")
    assert "leave out --masks-as-stored" in again.err


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_as_stored_are_not_turned_by_their_own_orientation(
    run: Run, engine: Path, files: Path, photo: Photo, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    hole = np.zeros((40, 56), bool)
    hole[5:15, 30:50] = True
    Image.fromarray(photo()).save(files / "turned.png", exif=exif)
    Image.fromarray(hole).save(files / "m.png", exif=exif)
    for options in ((), ("--masks-as-stored", "--overwrite")):  # both mean the same here
        output = files / "o.png"
        assert (
            run("infer", engine, files / "turned.png", files / "m.png", "-o", output, *options).code
            == 0
        )
        changed = (pixels(output) != photo()).any(axis=-1)
        assert changed[hole].mean() > 0.9
        assert not changed[~hole].any()


def test_a_smaller_mask_is_not_stretched_the_other_way(
    run: Run, engine: Path, turned: tuple[Path, Path, NDArray[np.bool_]], files: Path
) -> None:
    image, mask, hole = turned
    Image.fromarray(hole[::2, ::2]).save(mask)
    refused = run("infer", engine, image, mask, "-o", files / "o.png", "--fit-masks")
    assert (refused.code, "EXIF orientation 6" in refused.err) == (3, True)
    plain = run("infer", engine, files / "in/a.png", mask, "-o", files / "o.png", "--fit-masks")
    assert plain.code == 0
    Image.fromarray(np.rot90(hole)).save(mask)
    turned_mask = run("infer", engine, files / "in/a.png", mask, "-o", files / "p.png")
    assert (turned_mask.code, "Turn the mask" in turned_mask.err) == (3, True)


def test_a_fill_that_alpha_hides_is_noted_and_can_be_made_opaque(
    run: Run, engine: Path, files: Path, photo: Photo, box: Photo
) -> None:
    image, output = files / "holed.png", files / "o.png"
    Image.fromarray(np.dstack([photo(), 255 - box()])).save(image)
    alpha = ("--mask-convention", "alpha")
    hidden = run("infer", engine, image, image, "-o", output, *alpha)
    assert hidden.code == 0
    assert "100% of the filled pixels stay transparent (alpha 0)" in hidden.err
    assert "--opaque" in hidden.err
    assert (pixels(output)[..., 3] == 255 - box()).all()
    seen = run("infer", engine, image, image, "-o", output, *alpha, "--opaque", "--overwrite")
    assert (seen.code, seen.err) == (0, "")
    assert (pixels(output)[..., 3] == 255).all()
    forgotten = run("infer", engine, image, image, "-o", output, "--overwrite")
    assert "--mask-convention alpha" in forgotten.err


def test_cmyk_is_converted_by_its_profile_on_request(run: Run, engine: Path, files: Path) -> None:
    cyan = Image.new("CMYK", (56, 40), (255, 0, 0, 0))
    output = files / "o.png"
    cyan.save(files / "profile.tif", icc_profile=cmyk_profile())
    cyan.save(files / "plain.tif")
    refused = run("infer", engine, files / "profile.tif", files / "mask.png", "-o", output)
    assert (refused.code, "--convert-cmyk" in refused.err) == (3, True)
    for name, colour, noted in (("profile", [GREY] * 3, False), ("plain", [0, 255, 255], True)):
        result = run(
            "infer", engine, files / f"{name}.tif", files / "mask.png", "-o", output,
            "--convert-cmyk", "--overwrite",
        )  # fmt: skip
        assert result.code == 0
        assert ("has no colour profile of use" in result.err) is noted
        with Image.open(output) as written:
            assert (written.mode, "icc_profile" in written.info) == ("RGB", False)
            assert list(written.getpixel((0, 0))) == colour  # type: ignore[arg-type]


def test_sixteen_bit_colour_is_taken_in_eight_on_request(
    run: Run, engine: Path, files: Path
) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows = (b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 56) * 40
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 40, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    image, output = files / "deep.png", files / "o.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    refused = run("infer", engine, image, files / "mask.png", "-o", output)
    assert (refused.code, "--convert-16-bit" in refused.err) == (3, True)
    result = run("infer", engine, image, files / "mask.png", "-o", output, "--convert-16-bit")
    assert result.code == 0
    assert pixels(output)[0, 0].tolist() == [0x12, 0x56, 0x9A]
