from collections.abc import Callable

import pytest
from torch import nn

from tests.export.modules import networks

Offer = Callable[[object], str]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Put a value where --module finds it; give its name."""

    def put(value: object) -> str:
        monkeypatch.setattr(networks, "offered", value, raising=False)
        return f"{networks.__name__}:offered"

    return put


@pytest.fixture
def unet() -> nn.Module:
    return networks.make_unet()
