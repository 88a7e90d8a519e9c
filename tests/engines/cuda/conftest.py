import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.sessions import RunOptions
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, FakeTensorRt
from tests.engines.cuda.sessions import Open


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A fake GPU in the place of cuda-python's modules; nothing undefined may happen on it."""
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    yield fake
    assert fake.violations == []


@pytest.fixture
def cuda(gpu: FakeCuda) -> Cuda:
    assert gpu is not None
    return Cuda.load()


@pytest.fixture
def library(gpu: FakeCuda) -> FakeTensorRt:
    return FakeTensorRt(gpu, SMALL, LARGE)


@pytest.fixture
def opened(library: FakeTensorRt) -> Open:
    def open_session(plan: bytes = PLAN, streams: int = 1, **more: Any) -> TensorRtSession:
        return TensorRtSession(library, plan, RunOptions(streams=streams), **more)  # type: ignore[arg-type]

    return open_session


@pytest.fixture
def session(opened: Open) -> TensorRtSession:
    return opened()
