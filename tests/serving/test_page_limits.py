"""The page in a real browser: servers that refuse, keys, keyboards, phones and low masks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.serving.live import Held, encoded, serving, until, waiting_requests
from tests.serving.live import fill as request_fill
from tests.serving.pages import Open, drag, fill, hole_of, load, picture, place, read, saved, told


def test_two_engines_beside_each_other(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    drag(page, (0.4, 0.4), (0.6, 0.6))
    page.select_option("#beside", "other")
    fill(page)
    assert page.locator(".pane p").all_inner_texts() == ["tiny", "other", "difference"]
    assert page.locator("#timing tr").count() == 3
    page.select_option("#which", label="other")
    assert read(saved(page, "#download")).size == (128, 96)
    told = page.inner_text("#difference")
    assert "equal, pixel for pixel" in told or "of 255 on average" in told


def test_an_overloaded_server(open_page: Open, held: Held) -> None:
    """Said in words, where it happened, and the next try works."""
    with serving({"tiny": held}, max_queue=1) as address, ThreadPoolExecutor(2) as clients:
        page = open_page(address="http://{}:{}/".format(*address))
        load(page, encoded(picture()))
        drag(page, (0.4, 0.4), (0.6, 0.6))
        content = encoded(picture()), encoded(hole_of(page))
        others = [clients.submit(request_fill, address, *content) for _ in range(2)]
        until(lambda: waiting_requests(address) == 2)
        page.click("#fill")
        told(page, "The server is busy: 2 images wait for tiny already", "problem")
        held.open.set()
        assert [other.result().status for other in others] == [200, 200]
        page.click("#retry")
        page.wait_for_selector("#result:not([hidden])")
        assert page.is_hidden("#problem")


def test_a_server_that_is_gone_and_a_fill_that_is_cancelled(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    page.click("#fill")
    told(page, "Nothing is painted yet", "problem")
    drag(page, (0.4, 0.4), (0.6, 0.6))
    page.route("**/fill", lambda route: route.abort(), times=1)
    page.click("#fill")
    told(page, "The server cannot be reached", "problem")
    page.route("**/fill", lambda _route: None, times=1)  # never answered
    page.click("#fill")
    page.click("#cancel")
    told(page, "Cancelled.")
    assert page.is_visible("#fill")


def test_a_key(open_page: Open, engine: Path) -> None:
    with serving({"tiny": engine}, api_keys=("secret",)) as (host, port):
        page = open_page(address=f"http://{host}:{port}/")
        load(page, encoded(picture()))
        drag(page, (0.4, 0.4), (0.6, 0.6))
        page.click("#fill")
        page.wait_for_selector("#problem:not([hidden])")
        assert "this server needs a key" in page.inner_text("#problem")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        fill(page)
        # Asked for before a photo that the server must read, too.
        page = open_page(address=f"http://{host}:{port}/")
        content = encoded(picture(), "TIFF")
        page.set_input_files("#photo-file", {"name": "a.tif", "mimeType": "", "buffer": content})
        told(page, "this server needs a key", "notice")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        load(page, content, name="a.tif")


def test_by_keyboard_alone(open_page: Open) -> None:
    page = open_page()
    page.focus("#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage canvas")
    page.focus("#stage canvas")
    for key in ("ArrowRight", "ArrowDown", "Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert hole_of(page).any()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result:not([hidden])")
    page.focus("#slider")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#slider") == "499"


def test_a_photo_opened_during_a_fill_takes_its_place(open_page: Open, held: Held) -> None:
    with serving({"held": held}) as (host, port):
        page = open_page(address=f"http://{host}:{port}/")
        load(page, encoded(picture()))
        drag(page, (0.4, 0.4), (0.6, 0.6))
        page.click("#fill")
        assert held.begun.acquire(timeout=60)
        load(page, encoded(picture(80, 120)), name="next.png")
        held.open.set()
        page.wait_for_selector("#busy", state="hidden")
        assert page.is_hidden("#result")
        assert hole_of(page).shape == (80, 120)


def test_a_stroke_under_way_is_undone_alone(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    drag(page, (0.4, 0.4), (0.6, 0.4))
    first = hole_of(page)
    page.mouse.move(*place(page, 0.4, 0.6))
    page.mouse.down()
    page.mouse.move(*place(page, 0.5, 0.6))
    page.keyboard.press("Control+z")
    page.mouse.move(*place(page, 0.6, 0.7), steps=3)
    page.mouse.up()
    assert np.array_equal(hole_of(page), first)


def test_space_and_drag_move_the_photo(open_page: Open) -> None:
    page = open_page()
    load(page, encoded(picture()))
    page.keyboard.press("+")
    page.keyboard.down(" ")
    drag(page, (0.4, 0.4), (0.6, 0.6))
    page.keyboard.up(" ")
    assert not hole_of(page).any()
    assert page.is_disabled("#undo")


@pytest.mark.parametrize(("most", "says"), [(1, "loaded"), (0, "holds no hole"), (9, "too dark")])
def test_masks_of_low_values(most: int, says: str, open_page: Open) -> None:
    """Labels of 0 and 1 are hole where they are 1, as `infer` reads them."""
    page = open_page()
    photo = picture()
    load(page, encoded(photo))
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[:10] = most
    page.set_input_files("#mask-file", {"name": "m.png", "mimeType": "", "buffer": encoded(mask)})
    page.wait_for_function("says => document.body.innerText.includes(says)", arg=says)
    assert hole_of(page).any() == (most == 1)


def test_a_phone(open_page: Open) -> None:
    page = open_page(360, 740, has_touch=True)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 360
    page.tap("#examples button")
    page.wait_for_selector("#stage canvas")
    page.locator("#stage canvas").scroll_into_view_if_needed()
    page.touchscreen.tap(*place(page, 0.5, 0.5))
    assert hole_of(page).any()
    fill(page)
    assert page.evaluate(wide) <= 360


def test_every_control_has_a_name(open_page: Open) -> None:
    page = open_page()
    page.click("#examples button")
    page.wait_for_selector("#stage canvas")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input, canvas, img[alt]:not([alt=''])")]
        .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.alt || e.labels?.length
            || e.querySelector("img[alt]")))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_its_weight() -> None:
    folder = Path(__file__).parents[2] / "pconv_deploy/serving/page"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 64 * 1024
