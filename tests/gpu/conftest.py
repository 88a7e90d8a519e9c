"""Tests that need an NVIDIA GPU with TensorRT; elsewhere they are skipped, and said not to run."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.backend import PLAN
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, load
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.cuda.devices import why_no_gpu
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.engines.sessions import RunOptions
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.errors import MissingRuntimeError
from pconv_deploy.masks.irregular import irregular_hole

PROFILES = (
    Profile(min=(1, 16, 16), opt=(1, 256, 256), max=(1, 256, 256)),
    Profile(min=(1, 16, 16), opt=(8, 256, 256), max=(8, 512, 512)),
)


def _why_not() -> str | None:
    try:
        load(TENSORRT)
    except MissingRuntimeError as error:
        return str(error)
    return why_no_gpu()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needy = [item for item in items if item.get_closest_marker("gpu")]
    why = _why_not() if needy else None
    for item in needy if why else ():
        item.add_marker(pytest.mark.skip(reason=f"not run: {why}"))


def wanted(module: str) -> Any:
    """Import a library that is in no requirement; without it the test says that it did not run."""
    return pytest.importorskip(module, reason=f"not run: {module} is not installed")


def images(shape: tuple[int, int, int], seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """Inputs of (batch, height, width), with irregular holes."""
    rng = np.random.default_rng(seed)
    holes = [irregular_hole(rng, *shape[1:], (0.2, 0.3)) for _ in range(shape[0])]
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    return {IMAGE: image, HOLE_MASK: np.stack(holes)}


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def folder(
    request: pytest.FixtureRequest, graph: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An engine, accepted when it was built."""
    path = tmp_path_factory.mktemp("gpu") / "tiny.engine"
    options = TensorRtOptions(profiles=PROFILES)
    build_engine(
        graph,
        path,
        BuildOptions(backend="tensorrt", precision=request.param, backend_options=options),
    )
    return path


@pytest.fixture(scope="session")
def library() -> ModuleType:
    return load(TENSORRT)


@pytest.fixture
def session(folder: Path, library: ModuleType) -> Iterator[TensorRtSession]:
    opened = TensorRtSession(library, (folder / PLAN).read_bytes(), RunOptions(streams=2))
    yield opened
    opened.close()


@pytest.fixture
def direct(folder: Path, library: ModuleType) -> Iterator[TensorRtSession]:
    """The same without CUDA graphs."""
    opened = TensorRtSession(library, (folder / PLAN).read_bytes(), graphs=False)
    yield opened
    opened.close()
