"""The page in a real browser: what people do with it, and what they get."""

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from pconv_deploy.assets.photos import photo_file
from pconv_deploy.inpainter import Inpainter
from tests.serving.live import encoded
from tests.serving.pages import (
    Open,
    Pixels,
    drag,
    fill,
    hole_of,
    load,
    picture,
    read,
    saved,
    told,
)

if TYPE_CHECKING:
    from playwright.sync_api import Dialog


def test_paint_fill_and_save(open_page: Open, inpainter: Inpainter) -> None:
    page = open_page()
    photo = picture()
    load(page, encoded(photo))
    drag(page, (0.45, 0.4), (0.55, 0.6))
    hole_mask = hole_of(page)
    assert 0.005 < (hole_mask == 255).mean() < 0.5
    assert set(np.unique(hole_mask)) == {0, 255}
    fill(page)
    assert page.inner_text("#verdict").startswith("0 known pixels changed")
    download = saved(page, "#download")
    assert download.suggested_filename == "holiday-filled.png"
    filled = np.asarray(read(download))
    assert np.array_equal(filled[hole_mask == 0], photo[hole_mask == 0])
    assert np.array_equal(filled, inpainter(photo, hole_mask))
    times = page.locator("#timing td").all_inner_texts()
    assert times[0] == "tiny"
    assert all(float(text) >= 0 for text in times[1:])


def test_a_soft_edge_and_what_the_network_sees(open_page: Open, inpainter: Inpainter) -> None:
    page = open_page()
    photo = picture()
    load(page, encoded(photo))
    page.keyboard.press("r")
    drag(page, (0.3, 0.3), (0.6, 0.6))
    hole_mask = hole_of(page)
    page.fill("#feather", "101")
    page.click("#fill")
    assert page.is_hidden("#result")  # the browser says why
    page.fill("#feather", "4")
    page.select_option("#region", "exact")
    fill(page)
    filled = np.asarray(read(saved(page, "#download")))
    assert np.array_equal(filled, inpainter(photo, hole_mask, feather=4))
    assert not np.array_equal(filled, inpainter(photo, hole_mask))


def test_undo_and_redo(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    assert page.is_disabled("#undo")
    states = [hole_of(page)]
    drag(page, (0.4, 0.4), (0.6, 0.4))
    states.append(hole_of(page))
    page.keyboard.press("r")
    drag(page, (0.45, 0.5), (0.55, 0.7))
    states.append(hole_of(page))
    page.click("#invert")
    states.append(hole_of(page))
    page.keyboard.press("e")
    drag(page, (0.3, 0.2), (0.7, 0.8))
    states.append(hole_of(page))
    page.click("#clear")
    shares = [(state == 255).mean() for state in states]
    assert shares[0] == 0
    assert shares[0] < shares[1] < shares[2]
    assert np.array_equal(states[3], 255 - states[2])
    assert shares[4] < shares[3]
    assert not hole_of(page).any()
    for state in reversed(states):
        page.keyboard.press("Control+z")
        assert np.array_equal(hole_of(page), state)
    assert page.is_disabled("#undo")
    for state in states[1:]:
        page.keyboard.press("Control+Shift+z")
        assert np.array_equal(hole_of(page), state)


def test_masks_go_out_and_come_back(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    drag(page, (0.4, 0.4), (0.6, 0.6))
    download = saved(page, "#mask-save")
    assert download.suggested_filename == "holiday-hole.png"
    content = download.path().read_bytes()
    before = hole_of(page)
    page.click("#clear")
    page.set_input_files("#mask-file", {"name": "m.png", "mimeType": "", "buffer": content})
    told(page, "m.png")
    assert np.array_equal(hole_of(page), before)


def test_a_mask_of_another_size_is_asked_about(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    asked: list[str] = []

    def agree(dialog: "Dialog") -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.once("dialog", agree)
    half = np.zeros((48, 64), np.uint8)
    half[:24] = 255
    page.set_input_files("#mask-file", {"name": "m.png", "mimeType": "", "buffer": encoded(half)})
    told(page, "m.png")
    assert asked[0].startswith("m.png is 64 x 48, the photo 128 x 96.")
    expected = np.zeros((96, 128), np.uint8)
    expected[:48] = 255
    assert np.array_equal(hole_of(page), expected)


def as_shown(picture: Image.Image) -> Pixels:
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_photo_turned_by_exif(kind: str, open_page: Open) -> None:
    """Stored lying, shown upright: the hole is where it was painted, and so is the fill."""
    stored, stream = Image.fromarray(picture(64, 128)), io.BytesIO()
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(stream, kind, exif=exif)
    page = open_page()
    load(page, stream.getvalue(), "turned")
    assert "64 x 128" in page.inner_text("#told")
    page.keyboard.press("r")
    drag(page, (0.47, 0.1), (0.53, 0.3))
    hole_mask = hole_of(page)
    assert hole_mask.shape == (128, 64)
    assert hole_mask[:64].any()
    assert not hole_mask[64:].any()
    fill(page)
    assert page.inner_text("#verdict").startswith("0 known pixels changed")
    page.select_option("#format", "png")
    filled = as_shown(read(saved(page, "#download")))
    before = as_shown(Image.open(io.BytesIO(stream.getvalue())))
    assert np.array_equal(filled[hole_mask == 0], before[hole_mask == 0])
    assert (filled[hole_mask == 255] != before[hole_mask == 255]).any()


def test_saving_in_the_photos_own_format(open_page: Open) -> None:
    page = open_page()
    load(page, photo_file("coffee"), "coffee.jpg")
    drag(page, (0.45, 0.4), (0.5, 0.5))
    fill(page)
    assert page.input_value("#format") == "jpg"
    assert "known pixels are compressed anew" in page.inner_text("#format-note")
    download = saved(page, "#download")
    assert download.suggested_filename == "coffee-filled.jpg"
    with Image.open(io.BytesIO(photo_file("coffee"))) as before:
        assert (read(download).format, read(download).size) == ("JPEG", before.size)


def test_filling_again_from_the_result(open_page: Open, inpainter: Inpainter) -> None:
    page = open_page()
    photo = picture()
    load(page, encoded(photo))
    page.keyboard.press("r")
    drag(page, (0.4, 0.2), (0.5, 0.3))
    first = hole_of(page)
    fill(page)
    page.click("#again")
    assert not hole_of(page).any()
    drag(page, (0.5, 0.6), (0.6, 0.7))
    second = hole_of(page)
    fill(page)
    filled = np.asarray(read(saved(page, "#download")))
    assert np.array_equal(filled, inpainter(inpainter(photo, first), second))
    page.click("#back")
    page.click("#original")
    assert page.is_hidden("#original")
