"""The page in a real browser: what people do with it, and what they get."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pconv_deploy.assets.photos import photo_file
from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.options import BuildOptions
from pconv_deploy.inpainter import Inpainter
from tests.browser import MILLISECONDS
from tests.serving.live import Held, encoded, serving, until, waiting_requests
from tests.serving.live import fill as request_fill

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Download, Page

Pixels = NDArray[np.uint8]
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def other(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the same graph, in another runtime."""
    pytest.importorskip("openvino", reason="needs openvino")
    path = tmp_path_factory.mktemp("other") / "other.engine"
    build_engine(graph, path, BuildOptions(backend="openvino"))
    return path


@pytest.fixture(scope="module")
def site(engine: Path, other: Path) -> Iterator[str]:
    with serving({"tiny": engine, "other": other}) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture
def open_page(browser: "Browser", site: str) -> Iterator[Open]:
    """Opens the page; afterwards nothing may have gone wrong in it, nor asked another host."""
    contexts, wrong = [], list[str]()

    def opened(width: int = 1100, height: int = 800, address: str = site, **options: Any) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        page.on("request", lambda r: wrong.append(r.url) if not asks_here(r.url, address) else None)
        page.goto(address)
        page.wait_for_selector("#examples img")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [told for told in wrong if "Failed to load resource" not in told]


def asks_here(url: str, address: str) -> bool:
    return url.startswith((address, "blob:", "data:"))


def picture(height: int = 96, width: int = 128) -> Pixels:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def load(page: "Page", content: bytes, name: str = "holiday.png") -> None:
    page.set_input_files("#photo-file", {"name": name, "mimeType": "", "buffer": content})
    page.wait_for_selector("#stage canvas")
    told(page, name)


def told(page: "Page", start: str, where: str = "told") -> None:
    """Wait until the page says so."""
    starts = "([id, start]) => document.getElementById(id).innerText.startsWith(start)"
    page.wait_for_function(starts, arg=[where, start])


def place(page: "Page", across: float, down: float) -> tuple[float, float]:
    """Of a share of the stage's sides, which the photo is fitted into."""
    box = page.locator("#stage canvas").first.bounding_box()
    assert box is not None
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def drag(page: "Page", start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*place(page, *start))
    page.mouse.down()
    page.mouse.move(*place(page, *end), steps=4)
    page.mouse.up()


def fill(page: "Page") -> None:
    page.click("#fill")
    page.wait_for_selector("#result:not([hidden])")


def read(download: "Download") -> Image.Image:
    return Image.open(io.BytesIO(download.path().read_bytes()))


def saved(page: "Page", button: str) -> "Download":
    with page.expect_download() as download:
        page.click(button)
    return download.value


def hole_of(page: "Page") -> Pixels:
    """The mask as the page saves it; browsers let a page save no more than ten files in a row."""
    content = page.evaluate(
        """async () => {
            let saved;
            const { click } = HTMLAnchorElement.prototype, made = URL.createObjectURL;
            URL.createObjectURL = (blob) => made.call(URL, (saved = blob));
            HTMLAnchorElement.prototype.click = () => {};
            document.getElementById("mask-save").click();
            while (!saved) await new Promise((resolve) => setTimeout(resolve, 5));
            URL.createObjectURL = made;
            await new Promise((resolve) => setTimeout(resolve));
            HTMLAnchorElement.prototype.click = click;
            return [...new Uint8Array(await saved.arrayBuffer())];
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(bytes(content))).convert("L"))


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_turned_by_exif(kind: str, open_page: Open) -> None:
    """Stored lying, shown upright: the hole is where it was painted, and so is the fill."""
    stored, stream = Image.fromarray(picture(64, 128)), io.BytesIO()
    exif = stored.getexif()
    exif[0x0112] = 6
    options = {"lossless": True} if kind == "WEBP" else {}
    stored.save(stream, kind, exif=exif, **options)
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


def test_a_key_is_asked_for_before_a_photo_that_the_server_must_read(
    open_page: Open, engine: Path
) -> None:
    with serving({"tiny": engine}, api_keys=("secret",)) as (host, port):
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(scheme: str, open_page: Open) -> None:
    page = open_page(360, 740, has_touch=True, color_scheme=scheme)
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
