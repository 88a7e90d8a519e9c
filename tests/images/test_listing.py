"""What is found in a folder of pictures, and what is said of the rest."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.errors import HoleMaskError, ImageError, InputError
from pconv_deploy.images.file_types import READ_SUFFIXES, UNREAD_SUFFIXES
from pconv_deploy.images.files import read_hole_mask, read_image
from pconv_deploy.images.listing import list_pictures

Photo = Callable[..., NDArray[np.uint8]]
HEIC = b"\0\0\0\x18ftypheic" + bytes(40)
READ_FORMATS = {"PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "AVIF"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "p"
    touch(place, "a.png", "deep/b.JPG")
    return place


def touch(root: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def png_bytes() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(20)


def test_every_name_that_pillow_knows_for_what_it_reads() -> None:
    Image.init()
    known = Image.registered_extensions().items()
    assert {suffix for suffix, kind in known if kind in READ_FORMATS} == READ_SUFFIXES
    assert not READ_SUFFIXES & UNREAD_SUFFIXES


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".apng", ".dib", ".j2k"])
def test_unusual_names_are_read(tmp_path: Path, photo: Photo, suffix: str) -> None:
    kinds = {".apng": "PNG", ".dib": "BMP", ".j2k": "JPEG2000"}
    Image.fromarray(photo(16, 16)).save(tmp_path / f"a{suffix}", kinds.get(suffix, "JPEG"))
    (path,) = list_pictures(tmp_path).paths
    assert read_image(path).size == (16, 16)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".dng", ".svg"])
def test_pictures_that_are_not_read_are_named(folder: Path, suffix: str) -> None:
    touch(folder, f"deep/c{suffix}")
    listed = list_pictures(folder)
    assert listed.names == ["a.png", "deep/b.JPG"]
    (unread,) = listed.unread
    assert f"deep/c{suffix} is a picture of a kind that is not read" in unread.why


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (png_bytes(), "is a PNG picture with another extension: rename it"),
        (b"\xff\xd8\xff\xe0", "is a JPEG picture with another extension"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is a WebP picture"),
        (b"BM\0\0\0\0\0\0\0\0", "is a BMP picture"),
        (HEIC, "is a HEIC picture with another extension: convert it"),
        (b"8BPS", "is a Photoshop picture"),
    ],
)
def test_pictures_are_known_by_their_first_bytes(folder: Path, start: bytes, said: str) -> None:
    touch(folder, "scan", "a.jpg_original", "photo.2024-05-01", content=start)
    assert [said in one.why for one in list_pictures(folder).unread] == [True] * 3


def test_what_is_no_picture_is_nobodys_business(folder: Path) -> None:
    touch(folder, "notes.txt", "README", "a.json", "a.xmp", "Thumbs.db", content=b"BMW and P5 \n")
    touch(folder, "film.mov", content=b"\0\0\0\x14ftypqt  ")
    os.mkfifo(folder / "pipe")
    listed = list_pictures(folder)
    assert (listed.unread, listed.notes) == ([], [])


def test_links_to_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/c.png")
    (folder / "album").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "deep")
    (folder / "deep" / "round").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    listed = list_pictures(folder)
    assert listed.names == ["a.png", "album/c.png", "deep/b.JPG"]
    assert listed.unread == []
    said = "\n".join(listed.notes)
    for link, why in (
        ("again", "is read already"),
        ("deep/round", "is read already"),
        ("up", "holds"),
    ):
        assert f"{folder / link}, a link to a folder that {why}" in said


def test_broken_links_and_pipes_named_as_pictures(folder: Path) -> None:
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "round.jpg").symlink_to(folder / "round.jpg")
    (folder / "album").symlink_to("/mnt/disk that is not here")
    (folder / "notes.txt").symlink_to("nowhere.txt")
    os.mkfifo(folder / "pipe.png")
    said = [one.why for one in list_pictures(folder).unread]
    assert said == [
        f"{folder}/album is a broken link",
        f"{folder}/gone.jpg is a broken link",
        f"{folder}/pipe.png is no regular file",
        f"{folder}/round.jpg is a broken link",
    ]


def test_folders_without_permission_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(place: Any) -> Any:
        if Path(place).name == "deep":
            raise PermissionError(13, "Permission denied")
        return genuine(place)

    genuine = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    listed = list_pictures(folder)
    assert [one.why for one in listed.unread] == [f"cannot read {folder}/deep: Permission denied"]
    assert listed.names == ["a.png"]


def test_hidden_pictures_are_left_out_and_said(folder: Path) -> None:
    touch(folder, ".thumbs/a.png", ".b.png", content=png_bytes())
    touch(folder, "._a.png", ".DS_Store", content=b"\0\5\x16\7")  # macOS writes these
    touch(folder, ".git/objects/00/ab")
    touch(folder, f".{'0' * 32}.partial.png", content=png_bytes())  # what a killed run left
    listed = list_pictures(folder)
    assert listed.names == ["a.png", "deep/b.JPG"]
    assert listed.notes == [f"{folder}/.b.png and 1 more, with pictures, hidden by a leading dot"]


def test_patterns_leave_out_files_and_folders(folder: Path) -> None:
    touch(folder, "a_preview.png", "old/c.png", "x.heic")
    exclude = ["*_preview.*", "old", "*.heic", f"{folder}/deep/*"]
    listed = list_pictures(folder, exclude=exclude)
    assert listed.names == ["a.png"]
    assert listed.unread == []


def test_an_empty_folder_says_what_was_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.heic", "p/b.dng", "p/out/a.png", "p/.c.png", content=png_bytes())
    with pytest.raises(InputError) as caught:
        list_pictures(tmp_path / "p", aside=[tmp_path / "p/out"]).require_some()
    for said in (
        "p holds no pictures (PNG, JPEG",
        "p/a.heic is a picture of a kind that is not read",
        "1 more cannot be read",
        "p/.c.png, with pictures, hidden",
        "p/out is left out",
    ):
        assert said in str(caught.value)


def test_readers_of_folders_log_what_they_leave_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(folder, "c.heic", "d.psd")
    list_pictures(folder).warn()
    assert "c.heic is a picture of a kind that is not read (.heic)" in caplog.text
    assert "1 more in" in caplog.text


def test_a_file_says_what_it_is_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", content=HEIC)
    with pytest.raises(
        ImageError, match=r"a\.jpg is a picture of a kind that is not read \(HEIC\)"
    ):
        read_image(tmp_path / "a.jpg")


def test_the_preview_in_a_raw_file_is_not_the_photo(tmp_path: Path, photo: Photo) -> None:
    for name in ("a.dng", "b.nef"):
        Image.fromarray(photo(16, 16)).save(tmp_path / name, "TIFF")
        with pytest.raises(ImageError, match=f"{name} is a camera's raw file"):
            read_image(tmp_path / name)
    Image.fromarray(photo(16, 16)).save(tmp_path / "c.tif", tiffinfo={254: 1})
    with pytest.raises(ImageError, match="the preview of a larger picture"):
        read_image(tmp_path / "c.tif")
    with pytest.raises(HoleMaskError, match="the preview of a larger picture"):
        read_hole_mask(tmp_path / "c.tif")
