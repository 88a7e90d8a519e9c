"""Make the picture of the page: `python -m tests.serving.picture ENGINE docs/page.jpg`."""

import shutil
import sys

from playwright.sync_api import sync_playwright

from tests.serving.live import serving

# The name on the suit of the astronaut, in pixels of that photo.
SIDE = 512
STROKE = ((292, 350), (318, 364))


def main(engine: str, output: str) -> None:
    with serving({"demo": engine}) as (host, port), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 820})
        page.goto(f"http://{host}:{port}/")
        page.click("#examples img[alt=astronaut]")
        page.fill("#size", "58")
        box = page.locator("#stage canvas").bounding_box()
        assert box is not None
        scale = box["height"] / SIDE
        left = box["x"] + (box["width"] - SIDE * scale) / 2
        places = [(left + x * scale, box["y"] + y * scale) for x, y in STROKE]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=8)
        page.mouse.up()
        page.click("#fill")
        page.wait_for_selector("#result:not([hidden])")
        page.fill("#slider", "450")
        page.wait_for_timeout(300)  # until it is drawn
        page.screenshot(path=output, type="jpeg", quality=88)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
