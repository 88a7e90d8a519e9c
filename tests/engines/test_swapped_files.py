"""Files that are exchanged between the check and the load: what runs is what was checked."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pconv_deploy.checkpoint import save_checkpoint
from pconv_deploy.engines.backends.onnxruntime_gpu import ONNXRUNTIME_CUDA
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.manifest import describe as describe_content
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.parity import Arrays, graph_inputs, parity_batches
from pconv_deploy.triton.repository import write_model
from tests.conftest import NORMALISATION, TINY, random_network
from tests.engines.test_onnxruntime_gpu import Pretend
from tests.engines.test_onnxruntime_gpu import pretend as pretend  # a fixture

Swap = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def other_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same network with other weights: each of its engine's files has the same size."""
    folder = tmp_path_factory.mktemp("other")
    save_checkpoint(
        folder / "tiny.safetensors", random_network(TINY, seed=1), normalisation=NORMALISATION
    )
    export_checkpoint(folder / "tiny.safetensors", folder / "tiny.onnx")
    return folder / "tiny.onnx"


def renamed(genuine: Path, other: Path) -> None:
    shutil.copyfile(other, genuine.with_suffix(".other"))
    genuine.with_suffix(".other").rename(genuine)


def written_over(genuine: Path, other: Path) -> None:
    genuine.write_bytes(other.read_bytes())


def swap_once_checked(
    monkeypatch: pytest.MonkeyPatch, engine: Path, other: Path, swap: Swap
) -> list[str]:
    """Exchange a file as soon as its content was hashed; say which were."""
    genuine, swapped = describe_content, list[str]()

    def describe(content: bytes) -> Any:
        found = genuine(content)
        for path in sorted(engine.iterdir()):
            if path.name != "manifest.json" and path.read_bytes() == content:
                swap(path, other / path.name)
                swapped.append(path.name)
        return found

    monkeypatch.setattr("pconv_deploy.engines.integrity.describe", describe)
    return swapped


def fill(engine: Path) -> Arrays:
    manifest, session = open_engine(engine)
    filled = session.run(graph_inputs(parity_batches(manifest.contract)[0], manifest.contract))
    session.close()
    return filled


@pytest.mark.parametrize("swap", [renamed, written_over])
@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("onnxruntime", ["model.onnx"]),
        ("openvino", ["model.xml", "model.bin"]),
        ("onnxruntime-cuda", ["model.onnx"]),
    ],
)
def test_an_engine_runs_what_was_checked(
    graph: Path,
    other_graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pretend: Pretend,
    *,
    backend: str,
    files: list[str],
    swap: Swap,
) -> None:
    if backend == ONNXRUNTIME_CUDA.name:
        pretend(ONNXRUNTIME_CUDA)
    engine, other = tmp_path / "x.engine", tmp_path / "other.engine"
    build_engine(graph, engine, BuildOptions(backend=backend))
    build_engine(other_graph, other, BuildOptions(backend=backend))
    expected, wrong = fill(engine)["filled"], fill(other)["filled"]
    assert (expected != wrong).any()
    swapped = swap_once_checked(monkeypatch, engine, other, swap)
    np.testing.assert_array_equal(fill(engine)["filled"], expected)
    assert swapped == files


def test_triton_is_given_what_was_checked(
    graph: Path, other_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, other = tmp_path / "x.engine", tmp_path / "other.engine"
    build_engine(graph, engine)
    build_engine(other_graph, other)
    content = (engine / "model.onnx").read_bytes()
    swapped = swap_once_checked(monkeypatch, engine, other, written_over)
    served = write_model(engine, tmp_path / "repository")
    assert swapped == ["model.onnx"]
    assert (served.folder / "1" / "model.onnx").read_bytes() == content


def test_the_model_is_not_kept_twice_in_memory(engine: Path) -> None:
    """ONNX Runtime's Python class keeps the bytes that it was given, unless we stop it."""
    import gc

    content = (engine / "model.onnx").read_bytes()

    def copies() -> int:
        alive = [o for holder in gc.get_objects() for o in gc.get_referents(holder)]
        return len({id(o) for o in alive if type(o) is bytes and o == content})

    before = copies()
    _, session = open_engine(engine)
    assert copies() == before
    session.close()
