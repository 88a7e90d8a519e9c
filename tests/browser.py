"""The installed Chromium, driven by Playwright, for tests of pages."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MILLISECONDS = 60_000.0  # for anything a page is waited for; the machine may be busy


# Not for the session: while Playwright runs, asyncio.run fails in the same thread.
@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Started once for the tests of one file; each test opens a context of its own."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        # Without its sandbox, which does not start for root.
        launched = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"], timeout=MILLISECONDS
        )
        yield launched
        launched.close()
