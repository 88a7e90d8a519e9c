"""How `Inpainter` reads masks, and what it says of them and of images in a list."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy import Inpainter
from pconv_deploy.errors import EngineError, HoleMaskError, ImageError, UsageError

Photo = Callable[..., NDArray[np.uint8]]


def test_how_a_mask_is_read_can_be_said(inpainter: Inpainter, photo: Photo, box: Photo) -> None:
    expected = inpainter(photo(), box())
    dark = box() // 255 * np.uint8(9)
    with pytest.raises(HoleMaskError, match=r"labels\? --mask-threshold 1"):
        inpainter(photo(), dark)
    assert (inpainter(photo(), dark, mask_threshold=1) == expected).all()
    assert (inpainter(photo(), 255 - box(), mask_convention="hole-black") == expected).all()
    holed = np.dstack([photo(), 255 - box()])
    filled = inpainter(holed, holed, mask_convention="alpha")
    assert (filled == np.dstack([expected, 255 - box()])).all()
    assert (
        inpainter([holed], [holed], mask_convention="alpha", opaque=True)[0][..., 3] == 255
    ).all()
    with pytest.raises(UsageError, match="mask threshold 0"):
        inpainter(photo(), box(), mask_threshold=0)


@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint16), (4, np.uint8)])
def test_opaque_changes_alpha_in_the_hole_only(
    inpainter: Inpainter, photo: Photo, box: Photo, channels: int, dtype: Any
) -> None:
    image = photo(channels=channels).astype(dtype)
    result = inpainter(image, box(), opaque=True)
    assert (result[box() != 0, -1] == np.iinfo(dtype).max).all()
    assert (result[box() == 0] == image[box() == 0]).all()


def test_what_may_not_be_meant_is_logged_and_noted(
    inpainter: Inpainter, photo: Photo, box: Photo, caplog: pytest.LogCaptureFixture
) -> None:
    holed = np.dstack([photo(), 255 - box()])
    inpainter(holed, box())
    assert caplog.records == []
    with caplog.at_level("INFO", "pconv_deploy"):
        inpainter(holed, box())
        inpainter(photo(), 255 - box())
        inpainter([photo(), photo()], [box(), 255 - box()])
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "INFO"]
    assert "the image: 100% of the filled pixels stay transparent" in caplog.messages[0]
    assert "Is the mask inverted?" in caplog.messages[1]
    assert caplog.messages[2].startswith("images[1]: the hole covers")
    (note,) = inpainter.prepare(photo(), 255 - box()).notes
    assert note.kind == "mostly hole"


def test_an_error_names_the_image_of_a_list(
    inpainter: Inpainter, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    Image.fromarray(photo(20, 20)).save(tmp_path / "small.png")
    second = r"^images\[1\] \(.*small\.png\): the hole mask is"
    with (
        Image.open(tmp_path / "small.png") as small,
        pytest.raises(HoleMaskError, match=second),
    ):
        inpainter([Image.fromarray(photo()), small], box())
    with pytest.raises(HoleMaskError, match=r"^images\[2\]: the hole mask covers the whole image"):
        inpainter([photo()] * 3, [box(), box(), box() * 0 + 255])
    with pytest.raises(ImageError, match=r"^images\[0\]: found an array of float64"):
        inpainter([photo() / 255], [box()])


def test_an_error_of_the_runtime_names_the_images_of_its_batch(
    inpainter: Inpainter, photo: Photo, box: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prepared: Any) -> Any:
        if prepared[0].padded_size == (32, 96):
            raise EngineError("out of memory")
        return genuine(prepared)

    genuine = inpainter._runs.run
    monkeypatch.setattr(inpainter._runs, "run", fail)
    sizes = [(20, 90), (40, 56), (20, 90)]
    with pytest.raises(EngineError, match=r"^images \[0, 2\] of the list: out of memory"):
        inpainter([photo(*size) for size in sizes], [box(*size) for size in sizes])
    with pytest.raises(EngineError, match=r"^out of memory"):
        inpainter(photo(20, 90), box(20, 90))


def test_one_page_of_several_has_to_be_chosen(
    inpainter: Inpainter, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    for name, picture in (("photos", photo()), ("masks", box())):
        pages = [Image.fromarray(picture), Image.fromarray(picture[::-1])]
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "photos.tif") as images, Image.open(tmp_path / "masks.tif") as masks:
        with pytest.raises(ImageError, match=r"has pages \(2\).*image\.copy\(\)"):
            inpainter(images, box())
        with pytest.raises(HoleMaskError, match=r"has pages \(2\).*image\.copy\(\)"):
            inpainter(photo(), masks)
        images.seek(1)
        masks.seek(1)
        filled = np.asarray(inpainter(images.copy(), masks.copy()))
    assert (filled == inpainter(photo()[::-1], box()[::-1])).all()


def test_sizes_that_fit_turned_name_the_orientation(
    inpainter: Inpainter, photo: Photo, box: Photo
) -> None:
    image = Image.fromarray(photo())
    for mask in (box(56, 40), Image.fromarray(box(56, 40))):
        with pytest.raises(HoleMaskError, match=r"fits turned by 90.*stored.*exif_transpose"):
            inpainter(image, mask)
    turned = Image.fromarray(box())
    turned.getexif()[0x0112] = 3
    with pytest.raises(HoleMaskError, match="has EXIF orientation 3, its image 1"):
        inpainter(image, turned)
    image.getexif()[0x0112] = 3
    assert inpainter(image, turned).size == image.size
