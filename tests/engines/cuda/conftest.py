import sys
from collections.abc import Iterator

import pytest

from pconv_deploy.engines.cuda.calls import Cuda
from tests.engines.cuda.fake_cuda import FakeCuda


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A fake GPU in the place of cuda-python's runtime; nothing undefined may happen on it."""
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    yield fake
    assert fake.violations == []


@pytest.fixture
def cuda(gpu: FakeCuda) -> Cuda:
    assert gpu is not None
    return Cuda.load()
