"""What people do with the page, in a real browser."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Download, Page

Pixels = NDArray[np.uint8]
Open = Callable[..., "Page"]


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
