import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.errors import ImageError, OutputError, UsageError
from pconv_deploy.images.writing import OUTPUT_MODES, Compression, Encoding, save_image

Photo = Callable[..., NDArray[np.uint8]]


@pytest.mark.parametrize("suffix", OUTPUT_MODES)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_lossless_formats_lose_nothing_and_others_are_refused(
    tmp_path: Path, photo: Photo, suffix: str, mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo(9, 7, 1)[:, :, 0].astype(np.uint16) * 251)
    else:
        image = Image.fromarray(photo(9, 7, 4)).convert(mode)
    path = tmp_path / f"a{suffix}"
    if mode not in OUTPUT_MODES[suffix]:
        with pytest.raises(ImageError, match=rf"a\{suffix}: .* is {mode}\. Use --format png"):
            save_image(path, image)
    if mode not in OUTPUT_MODES[suffix] or suffix.startswith(".j"):
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


def test_places_and_formats_that_are_not_written(tmp_path: Path, photo: Photo) -> None:
    with pytest.raises(UsageError, match="needed one of"):
        save_image(tmp_path / "a.bmp", Image.fromarray(photo(4, 4)))
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OutputError, match="exists and is no regular file"):
        save_image(tmp_path / "a.png", Image.fromarray(photo(4, 4)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


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
