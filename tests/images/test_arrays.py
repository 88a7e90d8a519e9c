from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.errors import HoleMaskError, ImageError
from pconv_deploy.images.arrays import dilated, resized_hole, to_pixels, to_rgb8, with_hole_filled
from pconv_deploy.images.hole_rule import read_mask

Photo = Callable[..., NDArray[np.uint8]]


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 4, 3), np.float32, "float32; needed uint8"),
        ((4, 4, 3), np.bool_, "bool; needed uint8"),
        ((4,), np.uint8, "needed"),
        ((4, 4, 5), np.uint8, "needed"),
        ((1, 4, 4, 3), np.uint8, "needed"),
        ((0, 4, 3), np.uint8, "no pixels"),
        ((4, 0), np.uint8, "no pixels"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(
    shape: tuple[int, ...], dtype: type, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        to_pixels(np.zeros(shape, dtype))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGBX", "RGBa", "La", "PA"])
def test_modes_whose_colours_would_change_are_refused(mode: str) -> None:
    image = Image.new(mode, (4, 4))
    with pytest.raises(ImageError, match=rf"mode {mode}; needed one of .*convert") as refused:
        to_pixels(image)
    advised = str(refused.value).partition("image.convert('")[2].partition("'")[0]
    assert to_pixels(image.convert(advised)).shape[2] == len(advised)


@pytest.mark.parametrize(
    ("mode", "advice"), [("LAB", "PIL.ImageCms"), ("F", "an array"), ("I", "an array")]
)
def test_modes_that_convert_would_damage_get_another_advice(mode: str, advice: str) -> None:
    with pytest.raises(ImageError, match=rf"mode {mode}; needed one of .*{advice}"):
        to_pixels(Image.new(mode, (4, 4)))


def test_sixteen_bits_in_either_byte_order() -> None:
    values = np.array([[0, 1, 256, 65535]], np.uint16)
    for pixels in (values, values.astype(">u2"), Image.fromarray(values)):
        assert to_pixels(pixels)[0, :, 0].tolist() == [0, 1, 256, 65535]
    assert to_rgb8(to_pixels(values))[0, :, 1].tolist() == [0, 0, 1, 255]


def test_a_palette_with_transparency_becomes_rgba() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert to_pixels(image).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image.info["transparency"] = 0
    assert to_pixels(image).tolist() == [[[10, 20, 30, 0], [40, 50, 60, 255]]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_the_colours_of_the_hole_are_replaced(photo: Photo, channels: int, dtype: Any) -> None:
    factor = 257 if dtype is np.uint16 else 1
    pixels = photo(6, 5, channels).astype(dtype) * dtype(factor)
    hole = np.zeros((6, 5), bool)
    hole[2, 1:3] = True
    filled = np.full((6, 5, 3), (200, 100, 50), np.uint8)
    result = with_hole_filled(pixels, hole, filled)
    assert result.dtype == dtype
    assert (result[~hole] == pixels[~hole]).all()
    colours = 3 if channels >= 3 else 1
    assert (result[..., colours:] == pixels[..., colours:]).all()
    expected = [200, 100, 50] if colours == 3 else [124]  # 0.299 200 + 0.587 100 + 0.114 50
    assert (result[hole][:, :colours] == np.array(expected) * factor).all()


def test_dilation_grows_in_every_direction() -> None:
    hole = np.zeros((9, 9), bool)
    hole[4, 4] = True
    grown = dilated(hole, 2)
    assert grown[2:7, 2:7].all()
    assert grown.sum() == 25
    assert (dilated(hole, 0) == hole).all()
    assert dilated(hole, 200).all()


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (5, 7), (257, 3)])
@pytest.mark.parametrize("before", [(8, 8), (64, 100)])
def test_a_scaled_hole_covers_all_it_touches_and_no_more(
    before: tuple[int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    hole = rng.random(before) < 0.05
    expected = np.zeros(size, bool)
    for row, column in np.argwhere(hole):
        top, bottom = (Fraction(int(row) + i) * size[0] / before[0] for i in (0, 1))
        left, right = (Fraction(int(column) + i) * size[1] / before[1] for i in (0, 1))
        expected[floor(top) : ceil(bottom), floor(left) : ceil(right)] = True
    assert expected.any()
    assert (resized_hole(hole, size) == expected).all()


def test_a_truncated_lazy_image_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with Image.open(path) as image, pytest.raises(ImageError, match="cannot be decoded"):
        to_pixels(image)
    with Image.open(path) as mask, pytest.raises(HoleMaskError, match="cannot be decoded"):
        read_mask(mask)
