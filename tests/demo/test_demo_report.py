"""The demo's report in a browser, and what it says of figures that are not to be trusted."""

import dataclasses
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pconv_deploy.benchmark.contenders import REFERENCE
from pconv_deploy.demo.charts import charts, scientific
from pconv_deploy.demo.report import write_report
from pconv_deploy.demo.results import Score
from tests.browser import MILLISECONDS
from tests.demo.demo_results import MAIN, bench_result, figure, made_up_result, table_rows, timing
from tests.test_docs import resolved

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

WIDE, BUSY = "Wide spread", "Busy machine"


@pytest.fixture(scope="module")
def report(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, made_up_result(engine))
    return path


def written(path: Path, engine: Path, **different: object) -> str:
    write_report(path / "report.html", made_up_result(engine, **different))
    return (path / "report.html").read_text(encoding="utf-8")


def test_a_steady_run_on_a_quiet_machine_is_flagged_nowhere(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    assert (figure(html, "ratio"), figure(html, "peak")) == ("5.0", "300")
    assert "4.8 to 5.2 in eight of ten rounds" in html
    assert table_rows(html)[MAIN][3] == "4.80 to 5.20"
    for flag in (WIDE, BUSY, "Read these with care", 'class="rough"'):
        assert flag not in html
    assert "It is &lt;made up&gt;." in html


def test_an_engine_that_is_faster_than_the_demos_own_is_named(engine: Path, tmp_path: Path) -> None:
    result = made_up_result(engine)
    contenders = [*result.bench.contenders, timing("openvino, int8", 9, 8.9, 9.1)]
    manifests = dict(result.manifests) | {"openvino, int8": result.manifests[MAIN]}
    html = written(tmp_path, engine, bench=bench_result(contenders), manifests=manifests)
    assert "Fastest of the engines below: OpenVINO int8, 9.0×." in html
    assert "Fastest" not in written(tmp_path, engine)


def test_a_wide_spread_is_flagged_beside_its_figure(engine: Path, tmp_path: Path) -> None:
    contenders = [timing(REFERENCE, 1, 1, 1), timing(MAIN, 5, 4, 5.1)]
    html = written(tmp_path, engine, bench=bench_result(contenders))
    assert WIDE in html.split("</article>")[0]
    assert table_rows(html)[MAIN][3] == "4.00 to 5.10 wide"
    assert BUSY not in html


def test_a_busy_machine_is_flagged_beside_the_figures(engine: Path, tmp_path: Path) -> None:
    contenders = [timing(REFERENCE, 1, 1, 1), timing(MAIN, 5, 4.9, 5.1)]
    warned = bench_result(contenders, "the figures vary by a factor of 2.0")
    html = written(tmp_path, engine, load=1.6, bench=warned)
    assert "Busy machine: load 1.6 on 2 cores" in html.split("</article>")[0]
    assert "Other work was under way" in html
    assert "The figures vary by a factor of 2.0." in html


def test_changed_known_pixels_are_said_to_be_a_fault(engine: Path, tmp_path: Path) -> None:
    changed = {name: msgspec.structs.replace(s, known_changed=1234) for name, s in _scores(engine)}
    html = written(tmp_path, engine, scores=changed)
    assert figure(html, "changed") == "1,234"
    assert "This is a fault" in html
    assert "came back as it was" not in html


def _scores(engine: Path) -> list[tuple[str, Score]]:
    return list(made_up_result(engine).scores.items())


def test_without_memory_and_yardstick_neither_is_mentioned(engine: Path, tmp_path: Path) -> None:
    contenders = [timing(REFERENCE, 1, 1, 1, None), timing(MAIN, 5, 4.9, 5.1, None)]
    result = made_up_result(engine, left_out={"OpenCV, Telea": "it needs cv2"})
    result = dataclasses.replace(
        result,
        bench=bench_result(contenders),
        scores={MAIN: result.scores[MAIN]},
        photos=[dataclasses.replace(photo, by_telea=None) for photo in result.photos],
    )
    write_report(tmp_path / "report.html", result)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [chart.title for chart in charts(result)] == ["Speed", "Size on disk", "Quality"]
    assert 'data-figure="peak"' not in html
    assert 'value="telea"' not in html
    assert "<b>OpenCV Telea</b> is not here: it needs cv2." in html


def test_bars_are_as_long_as_their_figures(engine: Path) -> None:
    speed, memory, *_ = charts(made_up_result(engine))
    assert [round(bar.length, 1) for bar in speed.bars] == [19.2, 96.2, 38.5]
    low, high = speed.bars[1].low, speed.bars[1].high
    assert (round(low or 0, 1), high) == (92.3, 100)
    assert [(bar.length, bar.value) for bar in memory.bars] == [(100, "600 MiB"), (50, "300 MiB")]


def test_small_numbers_are_written_with_powers_of_ten() -> None:
    assert scientific(0.0000123).split() == ["1.2", "×", "10⁻⁵"]
    assert (scientific(0.0), scientific(None)) == ("0", "–")


def test_the_commands_exist(report: Path) -> None:
    html = unescape(report.read_text(encoding="utf-8"))
    commands = re.findall(r'id="command-\d">([^<]*)<', html)
    names = []
    for command in commands:
        program, name, rest = command.split(" ", 2)
        assert program == "pconv-deploy"
        resolved(name, rest, command)
        names.append(name)
    assert names == ["serve", "infer", "build-engine"]


@pytest.fixture
def page(browser: "Browser", report: Path) -> Iterator["Page"]:
    """The report at desktop width; any request but for the file itself fails the test."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(MILLISECONDS)
        page = context.new_page()
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(report.as_uri())
        yield page
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
        assert wrong == []


@pytest.fixture
def viewer(page: "Page") -> "Locator":
    return page.locator(".viewer[data-name=china]")


def seen(viewer: "Locator", name: str) -> str:
    """One of the numbers that style the pictures."""
    value: str = viewer.evaluate("(v, name) => v.style.getPropertyValue(name)", f"--{name}")
    return value


def visible(viewer: "Locator") -> list[str]:
    """The pictures on the left that show."""
    images = viewer.locator(".before img").all()
    return [image.get_attribute("class") or "" for image in images if image.is_visible()]


def test_the_divider_follows_slider_keys_and_pointer(page: "Page", viewer: "Locator") -> None:
    slider, stage = viewer.locator("input[type=range]"), viewer.locator(".stage")
    assert seen(viewer, "at") == "50%"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert seen(viewer, "at") == "51%"
    page.keyboard.press("End")
    assert seen(viewer, "at") == "100%"
    stage.focus()
    page.keyboard.press("ArrowLeft")
    assert (seen(viewer, "at"), slider.input_value()) == ("98%", "98")
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.up()
    page.mouse.move(box["x"], box["y"] + 20)
    assert slider.input_value() == "25"
    # What lies left of the divider is clipped there.
    clip = viewer.locator(".before").evaluate("e => getComputedStyle(e).clipPath")
    assert clip == "inset(0px 75% 0px 0px)"


def test_the_left_side_is_the_hole_the_original_or_the_yardstick(viewer: "Locator") -> None:
    assert visible(viewer) == ["original", "hole"]
    viewer.get_by_label("Original", exact=True).check()
    assert visible(viewer) == ["original"]
    viewer.get_by_label("Telea", exact=True).check()
    assert visible(viewer) == ["original", "telea"]
    assert viewer.locator(".before-tag").text_content() == "Telea"


def test_the_hole_is_white_where_it_is_and_clear_elsewhere(viewer: "Locator", engine: Path) -> None:
    """The page's overlay, decoded by the browser, pixel by pixel."""
    alpha = viewer.locator("img.hole").evaluate(
        """async (image) => {
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
          return data.reduce((sums, value, i) => (sums[i % 4] += value / 255, sums), [0, 0, 0, 0]);
        }"""
    )
    china = next(photo for photo in made_up_result(engine).photos if photo.name == "china")
    assert alpha == [pytest.approx(int(china.hole.sum()))] * 4


def test_zooms_around_the_middle_and_pans_no_further_than_the_edge(
    page: "Page", viewer: "Locator"
) -> None:
    stage = viewer.locator(".stage")
    viewer.get_by_label("2×").check()
    assert [seen(viewer, name) for name in ("zoom", "x", "y")] == ["2", "-50%", "-50%"]
    stage.focus()
    page.keyboard.press("+")
    assert [seen(viewer, name) for name in ("zoom", "x", "y")] == ["4", "-150%", "-150%"]
    assert viewer.get_by_label("4×").is_checked()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert (seen(viewer, "x"), seen(viewer, "y")) == ("-160%", "-140%")
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    for _ in range(3):
        page.mouse.move(box["x"] + box["width"], box["y"] + box["height"])
        page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.move(box["x"] + 3 * box["width"], box["y"] + 3 * box["height"])
    page.mouse.up()
    assert (seen(viewer, "x"), seen(viewer, "y")) == ("0%", "0%")
    assert seen(viewer, "at") == "50%"
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert [seen(viewer, name) for name in ("zoom", "x", "y")] == ["1", "0%", "0%"]


def test_commands_are_copied_or_selected(browser: "Browser", report: Path) -> None:
    command = "pconv-deploy serve 'a demo/model.engine'"
    allowed = ["clipboard-read", "clipboard-write"]
    for permissions in (allowed, []):
        with browser.new_context(permissions=permissions) as context:
            context.set_default_timeout(MILLISECONDS)
            page = context.new_page()
            if not permissions:
                page.add_init_script("delete Navigator.prototype.clipboard")
            page.goto(report.as_uri())
            page.get_by_role("button", name="Copy").first.click()
            if permissions:
                page.get_by_text("Copied.").wait_for(state="attached")
                assert page.evaluate("navigator.clipboard.readText()") == command
            else:
                page.get_by_text("Selected: copy it").wait_for(state="attached")
                assert page.evaluate("String(getSelection())") == command


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window_in_light_or_dark(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.images.length") == 4 * 2
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    paper = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == "rgb(247, 247, 245)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) == "rgb(19, 21, 22)"


def test_everything_that_is_operated_has_a_name_of_its_own(page: "Page") -> None:
    """As a screen reader reads them, by Chromium's own accessibility tree."""
    snapshot = page.locator("body").aria_snapshot()
    for role, names in (
        ("slider", ["china: share of the picture that shows the left side, in percent"]),
        ("group", ["Left: china", "Zoom: china"]),
        ("radio", ["Hole", "Original", "Telea", "1×", "2×", "4×"]),
        ("button", ["Copy the command pconv-deploy build-engine checkpoint.pth -o my.engine"]),
        ("heading", ["Before and after", "Engines beside each other", "Next", "Evidence"]),
        ("img", ["china, filled", "china, the original photo"]),
    ):
        for name in names:
            assert f'{role} "{name}"' in snapshot, snapshot
