from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pconv_deploy.engines.folder import build_engine
from pconv_deploy.engines.options import BuildOptions
from tests.browser import MILLISECONDS, browser
from tests.cli.conftest import run
from tests.serving.live import Held, serving
from tests.serving.pages import Open, asks_here

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser", "run"]


@pytest.fixture(scope="session")
def address(engine: Path) -> Iterator[tuple[str, int]]:
    """Of a server with one engine, `tiny`, that all tests share."""
    with serving({"tiny": engine}) as found:
        yield found


@pytest.fixture(scope="session")
def small(engine: Path) -> Iterator[tuple[str, int]]:
    """Of one that accepts 10,000 pixels and 64 KiB a request."""
    with serving({"tiny": engine}, max_pixels=10_000, max_body_bytes=65536) as found:
        yield found


@pytest.fixture
def held(engine: Path) -> Iterator[Held]:
    held = Held.of(engine)
    yield held
    held.open.set()


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
