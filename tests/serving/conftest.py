from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import browser
from tests.serving.live import Held, serving

__all__ = ["browser"]


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
