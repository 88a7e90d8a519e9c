import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile

from pconv_deploy.errors import HoleMaskError, ImageError
from pconv_deploy.images.arrays import to_pixels
from pconv_deploy.images.files import (
    _lasting_info,
    displayed_size,
    hole_as_stored,
    read_hole_mask,
    read_image,
)
from pconv_deploy.images.writing import save_image

Photo = Callable[..., NDArray[np.uint8]]
ORIENTATION = 0x0112


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_truncated(tmp_path: Path, photo: Photo, suffix: str) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"short{suffix}"
    Image.fromarray(photo(64, 64)).save(whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"short\.\w+ is (damaged|no image that can be read)"):
        read_image(path)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"%PDF-1.7", "is no image that can be read"),
        (EPS, "is no image that can be read"),  # Pillow would start Ghostscript
        (png(0, 5, 8, 2, b""), r"a\.png is"),
        # No pixels follow: decoding would fail.
        (png(5001, 5000, 8, 2, b""), "megapixels; at most"),
        (png(60_000, 60_000, 8, 2, b""), "decompression bomb"),
    ],
)
def test_bad_files_are_refused_before_they_take_memory(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(path)
    with pytest.raises(ImageError, match=message):
        read_image(path, content=content)
    with pytest.raises(HoleMaskError, match=message):
        read_hole_mask(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)


def test_colours_that_conversion_would_change_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"mode CMYK; needed grey, RGB or palette"):
        read_image(tmp_path / "a.jpg")
    for colour, channels in ((2, 3), (6, 4)):
        deep = png(2, 2, 16, colour, (b"\0" + bytes(2 * channels * 2)) * 2)
        with pytest.raises(ImageError, match=r"16 bits a colour channel.*uint16 array"):
            read_image(tmp_path / "deep.png", content=deep)
    keyed = Image.fromarray(np.array([[0, 40_000]], np.uint16))
    keyed.save(tmp_path / "key.png", transparency=40_000)
    with pytest.raises(ImageError, match="16-bit grey with a transparent colour"):
        read_image(tmp_path / "key.png")
    keyed.info["transparency"] = 40_000
    with pytest.raises(ImageError, match="16-bit grey with a transparent colour"):
        to_pixels(keyed)


def test_a_colour_key_becomes_alpha(tmp_path: Path, photo: Photo) -> None:
    path, pixels = tmp_path / "key.png", photo(4, 4)
    Image.fromarray(pixels).save(path, transparency=tuple(pixels[1, 2].tolist()))
    converted = to_pixels(read_image(path))
    assert converted[1, 2, 3] == 0
    assert (converted[..., 3] == 255).sum() == 15
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    bits.save(path, transparency=0)
    assert to_pixels(read_image(path)).tolist() == [[[0, 0], [255, 255]], [[255, 255], [0, 0]]]


def test_the_limit_can_be_set(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(20, 30)).save(path)
    assert read_image(path, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match="30x20"):
        read_image(path, max_pixels=599)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_hole_drawn_on_the_displayed_image_finds_its_pixels(
    tmp_path: Path, photo: Photo, orientation: int
) -> None:
    stored = photo(6, 10)
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    read = read_image(path)
    shown = np.asarray(ImageOps.exif_transpose(read)).astype(int)
    assert displayed_size(read) == shown.shape[:2]
    hole = (shown == shown[1, 2]).all(axis=-1)  # one pixel, as a viewer shows it
    assert hole.sum() == 1
    turned = hole_as_stored(hole, read)
    assert turned.shape == (6, 10)
    assert (stored[turned] == shown[1, 2]).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profile_exif_and_resolution_are_kept_and_exif_of_another_layout_is_not(
    tmp_path: Path, photo: Photo, suffix: str
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(photo(16, 16))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    exif[0x0100], exif[0x0101], exif[0x011C] = 4000, 3000, 2
    exif[0x8769] = {0x829A: 0.5}  # exposure
    source, path = tmp_path / "a.png", tmp_path / f"b{suffix}"
    image.save(source, exif=exif, icc_profile=profile, dpi=(300, 300))
    save_image(path, read_image(source))
    with Image.open(path) as written:
        assert written.info["icc_profile"] == profile
        found = written.getexif()
        assert found[ORIENTATION] == 6
        assert found[0x010F] == "maker"
        assert float(found.get_ifd(0x8769)[0x829A]) == 0.5
        assert found.get(0x0100) in (None, 16) or suffix == ".tif"
        if suffix != ".webp":  # which has no resolution
            assert round(float(written.info["dpi"][0])) == 300
        if suffix == ".tif":  # Pillow turns TIFFs upright when it decodes them
            assert (np.asarray(written) == np.rot90(np.asarray(image), -1)).all()
        elif suffix != ".jpg":
            assert (np.asarray(written) == np.asarray(image)).all()


def test_a_tiff_keeps_what_it_says_of_its_picture(tmp_path: Path, photo: Photo) -> None:
    source, path = tmp_path / "a.tif", tmp_path / "b.png"
    Image.fromarray(photo(6, 10)).save(source, tiffinfo={0x010E: "a cat", ORIENTATION: 6})
    image = read_image(source)
    assert image.size == (6, 10)  # upright
    save_image(path, image)
    with Image.open(path) as written:
        assert written.getexif()[0x010E] == "a cat"
        assert ORIENTATION not in written.getexif()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"no"])
def test_damaged_exif_is_dropped(tmp_path: Path, photo: Photo, exif: bytes) -> None:
    path, out = tmp_path / "a.jpg", tmp_path / "b.png"
    Image.fromarray(photo(8, 8)).save(path, exif=exif)
    image = read_image(path)
    assert displayed_size(image) == (8, 8)
    save_image(out, image)
    with Image.open(out) as written:
        written.load()


def test_one_damaged_tag_does_not_turn_the_picture(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 3, "maker"
    exif[0x8769] = {0x829A: 0.5}
    Image.fromarray(photo(8, 8)).save(path, exif=exif)
    monkeypatch.setattr(Image.Exif, "get_ifd", lambda _self, _tag: _raise(TypeError("damaged")))
    image = read_image(path)
    monkeypatch.undo()
    assert image.getexif()[ORIENTATION] == 3
    assert image.getexif()[0x010F] == "maker"
    assert 0x8769 not in image.getexif()


def test_a_resolution_of_nonsense_is_dropped(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    for dpi in ((0, 0), (float("inf"), 1.0), (1e9, 1e9), "none"):
        image = Image.fromarray(photo(8, 8))
        image.format = "PNG"
        image.info["dpi"] = dpi
        assert "dpi" not in _lasting_info(image)
    Image.fromarray(photo(8, 8)).save(path, dpi=(72, 72))
    assert "dpi" in read_image(path).info


def test_decoders_may_raise_anything(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(8, 8)).save(path)
    for error in (RuntimeError("x"), TypeError("x"), struct.error("x"), KeyError("x")):
        monkeypatch.setattr(PngImageFile, "load", lambda _self, error=error: _raise(error))
        with pytest.raises(ImageError, match="damaged"):
            read_image(path)


def _raise(error: Exception) -> None:
    raise error


def test_warnings_of_the_program_around_us_are_left_alone(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(8, 8)).save(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_image(path), range(40)))
    assert list(warnings.filters) == before
