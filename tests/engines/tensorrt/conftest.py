import sys
from types import ModuleType

import pytest

from pconv_deploy.engines.tensorrt.options import Profile
from tests.cli.conftest import run as run  # a fixture
from tests.engines.tensorrt.forwarding import as_rtx, load_forwarded

# One small profile: the builder takes a second for each.
SMALL = Profile(min=(1, 32, 32), opt=(1, 64, 64), max=(2, 64, 64))


@pytest.fixture(scope="session")
def tensorrt_module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """NVIDIA's own Python module, with a builder that needs no GPU behind it."""
    return load_forwarded(tmp_path_factory.mktemp("forwarding"))


@pytest.fixture
def tensorrt(tensorrt_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """TensorRT, and TensorRT for RTX, as if they were installed."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", as_rtx(tensorrt_module))
    return tensorrt_module
