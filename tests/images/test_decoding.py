"""Sound files that Pillow alone refuses, and files that hold more than one picture."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pconv_deploy.errors import HoleMaskError, ImageError
from pconv_deploy.images.files import read_hole_mask, read_image, read_rgb
from pconv_deploy.images.writing import save_image

Photo = Callable[..., NDArray[np.uint8]]
ORIENTATION = 0x0112


def compressed_text() -> dict[str, Any]:
    text = PngInfo()
    text.add_itxt("workflow", "node " * 240_000, zip=True)
    text.add_text("parameters", "step " * 300_000, zip=True)
    return {"pnginfo": text}


def many_texts() -> dict[str, Any]:
    text = PngInfo()
    for number in range(70):
        text.add_text(f"page{number}", "a" * (1 << 20), zip=False)
    return {"pnginfo": text}


def text_after_the_picture() -> dict[str, Any]:
    text = PngInfo()
    text.add(b"zTXt", b"late\0\0" + zlib.compress(b"x" * 3_000_000), after_idat=True)
    return {"pnginfo": text}


@pytest.mark.parametrize("metadata", [compressed_text, many_texts, text_after_the_picture])
def test_large_texts_in_a_png_do_not_matter(
    tmp_path: Path, photo: Photo, metadata: Callable[[], dict[str, Any]]
) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(photo(16, 24))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    image.save(path, exif=exif, dpi=(300, 300), **metadata())
    read = read_image(path)
    assert (np.asarray(read) == photo(16, 24)).all()
    assert read.getexif()[ORIENTATION] == 6
    assert "dpi" in read.info
    assert read_rgb(path).size == (16, 24)  # upright
    assert (np.asarray(read_image(path, content=path.read_bytes())) == photo(16, 24)).all()
    assert read_hole_mask(path).shape == (24, 16)


def test_a_large_colour_profile_is_kept(tmp_path: Path, photo: Photo) -> None:
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    profile = np.random.default_rng(0).bytes(1_500_000)
    Image.fromarray(photo(16, 24)).save(path, icc_profile=profile)
    save_image(copy, read_image(path))
    assert read_image(copy).info["icc_profile"] == profile


def test_a_colour_profile_that_is_a_bomb_is_refused(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(16, 24)).save(path, icc_profile=bytes(100 << 20))
    with pytest.raises(ImageError, match=r"a\.png is refused as a decompression bomb.*profile"):
        read_image(path)


def test_large_texts_do_not_hide_what_is_broken(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(64, 64)).save(path, **compressed_text())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match=r"a\.png is damaged: .*truncated"):
        read_image(path)


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + content)
    end = struct.pack(">I", right if checksum is None else checksum)
    return struct.pack(">I", len(content)) + kind + content + end


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"tEXt", b"a\0b", checksum=1),
        chunk(b"zTXt", b"a\0\5b"),
        chunk(b"iCCP", b"a\0\5b"),
        chunk(b"iCCP", b""),
        chunk(b"pHYs", b"1"),
        chunk(b"prIv", b"a", checksum=1),
    ],
)
def test_damaged_metadata_of_a_png_is_dropped(tmp_path: Path, photo: Photo, damaged: bytes) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(photo(16, 24))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    image.save(path, exif=exif)
    content = path.read_bytes()
    path.write_bytes(content[:33] + damaged + content[33:])
    read = read_image(path)
    assert (np.asarray(read) == photo(16, 24)).all()
    assert read.getexif()[ORIENTATION] == 6


def test_a_damaged_picture_stays_so(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo(16, 24)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:16] + bytes([99]) + content[17:])  # its width, without the checksum
    with pytest.raises(ImageError, match=r"a\.png is no image that can be read"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp", ".avif"])
def test_a_file_of_several_pages_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    stack = [Image.fromarray(np.full((16, 16), 60 * i, np.uint8)) for i in range(3)]
    stack[0].save(path, save_all=True, append_images=stack[1:])
    with pytest.raises(HoleMaskError, match=rf"m\{suffix} is animated or has pages \(3\)"):
        read_hole_mask(path)
    with pytest.raises(ImageError, match=r"has pages \(3\).*file of its own"):
        read_image(path)


def test_a_preview_beside_a_photo_is_no_page(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(16, 16)).save(
        path, "MPO", save_all=True, append_images=[Image.fromarray(photo(8, 8))]
    )
    assert read_image(path).size == (16, 16)
    assert read_hole_mask(path).shape == (16, 16)
