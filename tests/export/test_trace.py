"""Which torch may be installed, and what is said of others."""

import logging
import re
import tomllib
from pathlib import Path

import pytest
import torch

from pconv_deploy.export.trace import NEWEST_TESTED, OLDEST_TESTED, warn_if_untested_torch

OLDEST, NEWEST = (".".join(map(str, tried)) for tried in (OLDEST_TESTED, NEWEST_TESTED))


@pytest.mark.parametrize(
    ("installed", "warned"),
    [
        ("2.9.1", True),
        (f"{OLDEST}.0", False),
        ("2.13.0+cpu", False),
        (f"{NEWEST}.1+cu130", False),
        ("2.15.0a0+gitabc", True),
        ("3.0.0", True),
    ],
)
def test_other_releases_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    installed: str,
    warned: bool,
) -> None:
    monkeypatch.setattr(torch, "__version__", installed)
    with caplog.at_level(logging.WARNING, "pconv_deploy"):
        warn_if_untested_torch()
    told = f"torch {installed} is installed; export was tested with {OLDEST} to {NEWEST} only"
    assert [told in message for message in caplog.messages] == [True] * warned


def test_documents_and_requirements_name_the_releases_that_were_tried() -> None:
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    checkpoint = extras["optional-dependencies"]["checkpoint"]
    assert f"torch>={OLDEST}" in checkpoint
    tried = re.escape(f"torch {OLDEST} to {NEWEST}")
    assert re.search(tried, (root / "README.md").read_text())
    assert re.search(tried, (root / "docs" / "own-networks.md").read_text())
