import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.errors import HoleMaskError, ImageError, OutputError, UsageError
from pconv_deploy.images.arrays import to_pixels
from pconv_deploy.images.files import (
    _lasting_info,
    displayed_size,
    hole_as_stored,
    read_hole_mask,
    read_image,
)
from pconv_deploy.images.hole_rule import MaskConvention, MaskRule
from pconv_deploy.images.writing import OUTPUT_MODES, Compression, Encoding, save_image

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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_truncated(tmp_path: Path, photo: Photo, suffix: str) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"short{suffix}"
    Image.fromarray(photo(64, 64)).save(whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"short\.\w+ is (damaged|no image that can be read)"):
        read_image(path)


def test_empty_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="is empty"):
        read_image(path)
    path.write_bytes(b"%PDF-1.7")
    with pytest.raises(ImageError, match="is no image that can be read"):
        read_image(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(5001, 5000), (60_000, 60_000)])
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, 8, 2, b""))  # no pixels follow: decoding would fail
    with pytest.raises(ImageError, match=r"megapixels; at most|decompression bomb"):
        read_image(path)
    with pytest.raises(HoleMaskError, match=r"megapixels; at most|decompression bomb"):
        read_hole_mask(path)


def test_the_limit_can_be_set(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(20, 30)).save(path)
    assert read_image(path, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match="30x20"):
        read_image(path, max_pixels=599)


def test_zero_size(tmp_path: Path) -> None:
    path = tmp_path / "zero.png"
    path.write_bytes(png(0, 5, 8, 2, b""))
    with pytest.raises(ImageError, match=r"zero\.png is"):
        read_image(path)


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (8, 8)).save(path)
    with pytest.raises(ImageError, match=r"mode CMYK; needed grey, RGB or palette"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_animated(tmp_path: Path, photo: Photo, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    frames = [Image.fromarray(photo(16, 16 + 8 * i)).resize((16, 16)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"animated or has pages \(3\)"):
        read_image(path)


@pytest.mark.parametrize("colour", [2, 6])
def test_sixteen_bit_colour_is_not_silently_halved(tmp_path: Path, colour: int) -> None:
    path = tmp_path / "deep.png"
    channels = {2: 3, 6: 4}[colour]
    path.write_bytes(png(2, 2, 16, colour, (b"\0" + bytes(2 * channels * 2)) * 2))
    with pytest.raises(ImageError, match=r"16 bits a colour channel.*uint16 array"):
        read_image(path)


def test_palette_and_sixteen_bit_grey_are_read(tmp_path: Path, photo: Photo) -> None:
    palette = tmp_path / "p.gif"
    Image.fromarray(photo(16, 16)).convert("P").save(palette)
    assert read_image(palette).mode == "P"
    deep, values = tmp_path / "d.png", photo(4, 4, 1)[:, :, 0].astype(np.uint16) * 251
    Image.fromarray(values).save(deep)
    assert (np.asarray(read_image(deep)) == values).all()


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
def test_profile_exif_and_resolution_are_kept(tmp_path: Path, photo: Photo, suffix: str) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(photo(16, 16))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    source, path = tmp_path / "a.png", tmp_path / f"b{suffix}"
    image.save(source, exif=exif, icc_profile=profile, dpi=(300, 300))
    save_image(path, read_image(source))
    with Image.open(path) as written:
        assert written.info["icc_profile"] == profile
        assert written.getexif()[ORIENTATION] == 6
        assert written.getexif()[0x010F] == "maker"
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


def test_a_place_that_is_no_file(tmp_path: Path, photo: Photo) -> None:
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="exists and is no regular file"):
        save_image(pipe, Image.fromarray(photo(4, 4)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_format_that_cannot_hold_the_image(tmp_path: Path, photo: Photo) -> None:
    for suffix, channels in ((".jpg", 4), (".jpg", 2)):
        with pytest.raises(ImageError, match=rf"cannot write .*a\{suffix}: .*--format png"):
            save_image(tmp_path / f"a{suffix}", Image.fromarray(photo(4, 4, channels)))
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(ImageError, match=r"\.webp holds L, LA, RGB, RGBA, the image is I;16"):
        save_image(tmp_path / "a.webp", deep)
    with pytest.raises(UsageError, match="needed one of"):
        save_image(tmp_path / "a.bmp", deep)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_lossless_formats_lose_nothing(
    tmp_path: Path, photo: Photo, suffix: str, mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo(9, 7, 1)[:, :, 0].astype(np.uint16) * 251)
    else:
        image = Image.fromarray(photo(9, 7, 4)).convert(mode)
    path = tmp_path / f"a{suffix}"
    if mode not in OUTPUT_MODES[suffix]:
        return
    for compression in get_args(Compression):
        save_image(path, image, Encoding(compression=compression))
        with Image.open(path) as written:  # WebP has no grey: it comes back as equal RGB
            back = written if written.mode == mode else written.convert(mode)
            assert (np.asarray(back) == np.asarray(image)).all()


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_small_files_are_smaller(tmp_path: Path, suffix: str) -> None:
    size = {}
    for compression in get_args(Compression):
        path = tmp_path / f"{compression}{suffix}"
        save_image(path, sample_photo(), Encoding(compression=compression))
        size[compression] = path.stat().st_size
    assert size["small"] < size["fast"] < 1.3 * size["small"]


def test_a_bilevel_colour_key_becomes_alpha(tmp_path: Path) -> None:
    path = tmp_path / "key.png"
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    bits.save(path, transparency=0)
    assert to_pixels(read_image(path)).tolist() == [[[0, 0], [255, 255]], [[255, 255], [0, 0]]]


def test_a_deep_colour_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.png"
    Image.fromarray(np.array([[0, 40_000]], np.uint16)).save(path, transparency=40_000)
    with pytest.raises(ImageError, match="16-bit grey with a transparent colour"):
        read_image(path)


def test_a_colour_key_becomes_alpha(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "key.png"
    pixels = photo(4, 4)
    key = tuple(int(v) for v in pixels[1, 2])
    Image.fromarray(pixels).save(path, transparency=key)
    converted = to_pixels(read_image(path))
    assert converted.shape == (4, 4, 4)
    assert converted[1, 2, 3] == 0
    assert (converted[..., 3] == 255).sum() == 15


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


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_exif_that_speaks_of_another_layout_is_dropped(
    tmp_path: Path, photo: Photo, suffix: str
) -> None:
    source, path = tmp_path / "a.jpg", tmp_path / f"b{suffix}"
    exif = Image.Exif()
    exif[0x0100], exif[0x0101], exif[0x011C], exif[0x010F] = 4000, 3000, 2, "maker"
    exif[0x8769] = {0x829A: 0.5}  # exposure
    Image.fromarray(photo(16, 24)).save(source, exif=exif)
    save_image(path, read_image(source))
    with Image.open(path) as written:
        assert written.size == (24, 16)
        written.load()
        found = written.getexif()
        assert found[0x010F] == "maker"
        assert float(found.get_ifd(0x8769)[0x829A]) == 0.5
        assert 0x0100 not in found or suffix == ".tif"


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


def test_no_format_that_starts_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    for read in (read_image, read_hole_mask):
        with pytest.raises((ImageError, HoleMaskError), match="no image that can be read"):
            read(path)


def test_warnings_of_the_program_around_us_are_left_alone(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(8, 8)).save(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_image(path), range(40)))
    assert list(warnings.filters) == before


def test_full_disk_leaves_no_partial_file(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    save_image(path, Image.fromarray(photo(4, 4)))
    before = path.read_bytes()

    def fill_the_disk(_self: Any, target: Path, **_kept: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OutputError, match=r"cannot write .*a\.png: No space left on device"):
        save_image(path, Image.fromarray(photo(5, 5)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def mask_file(path: Path, values: list[list[int]]) -> Path:
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


def test_grey_counts_as_hole_in_both_conventions(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "m.png", [[0, 3, 40, 128, 250, 255]])
    assert read_hole_mask(path)[0].tolist() == [False, False, True, True, True, True]
    black = read_hole_mask(path, MaskRule("hole-black"))[0].tolist()
    assert black == [True, True, True, True, False, False]


def test_jpeg_noise_is_no_hole(tmp_path: Path) -> None:
    values = np.zeros((64, 64), np.uint8)
    values[16:32, 16:32] = 255
    path = tmp_path / "m.jpg"
    Image.fromarray(values).save(path, quality=50)
    hole = read_hole_mask(path)
    assert hole[16:32, 16:32].all()
    assert not hole[40:].any()


def test_sixteen_bit_masks_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 1000, 40_000, 65_535]], np.uint16)).save(path)
    assert read_hole_mask(path)[0].tolist() == [False, False, True, True]
    assert read_hole_mask(path, MaskRule("hole-black"))[0].tolist() == [True, True, True, False]


@pytest.mark.parametrize("convention", ["hole-black", "alpha"])
def test_a_white_mask_of_16_bits_a_channel_has_no_hole(
    tmp_path: Path, convention: MaskConvention
) -> None:
    path = tmp_path / "white.png"
    path.write_bytes(png(2, 2, 16, 6, (b"\0" + b"\xff" * 16) * 2))
    assert not read_hole_mask(path, MaskRule(convention)).any()
