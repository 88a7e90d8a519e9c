import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.errors import HoleMaskError, ImageError, OutputError
from pconv_deploy.image_files import (
    as_displayed,
    hole_as_stored,
    read_hole_mask,
    read_image,
    save_image,
)

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


@pytest.mark.parametrize(("width", "height"), [(5000, 5000), (60_000, 60_000)])
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
    shown = np.asarray(as_displayed(read)).astype(int)
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


def test_a_format_that_cannot_hold_the_image(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(ImageError, match=r"cannot write .*a\.jpg as \.jpg: .*RGBA"):
        save_image(path, Image.fromarray(photo(4, 4, 4)))
    assert list(tmp_path.iterdir()) == []


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
    black = read_hole_mask(path, "hole-black")[0].tolist()
    assert black == [True, True, True, True, False, False]


def test_jpeg_noise_is_no_hole(tmp_path: Path) -> None:
    values = np.zeros((64, 64), np.uint8)
    values[16:32, 16:32] = 255
    path = tmp_path / "m.jpg"
    Image.fromarray(values).save(path, quality=50)
    hole = read_hole_mask(path)
    assert hole[16:32, 16:32].all()
    assert not hole[40:].any()


def test_alpha_convention(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = (0, 128, 255)
    Image.fromarray(rgba).save(path)
    assert read_hole_mask(path, "alpha")[0].tolist() == [True, True, False]
    opaque = mask_file(tmp_path / "o.png", [[0, 255]])
    with pytest.raises(HoleMaskError, match=r"no alpha channel.*hole-white"):
        read_hole_mask(opaque, "alpha")


def test_masks_of_every_mode(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 255]], np.uint8))
    for mode in ("1", "L", "RGB", "P", "LA", "RGBA"):
        path = tmp_path / f"{mode}.png"
        grey.convert(mode).save(path)
        assert read_hole_mask(path)[0].tolist() == [False, True], mode
    deep = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(deep)
    assert read_hole_mask(deep)[0].tolist() == [False, True]
