"""Files that are exchanged between the check and the load: what runs is what was checked."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.engines.backends.onnxruntime.gpu import ONNXRUNTIME_CUDA
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.manifest import describe as describe_content
from pconv_deploy.errors import EngineError
from pconv_deploy.export.checkpoint_to_onnx import export_checkpoint
from pconv_deploy.held_file import HeldFile
from pconv_deploy.parity import Arrays, graph_inputs, parity_batches
from pconv_deploy.triton.repository import write_model
from tests.conftest import NORMALISATION, TINY, random_network
from tests.engines.backends.onnxruntime.test_gpu import Pretend
from tests.engines.backends.onnxruntime.test_gpu import pretend as pretend  # a fixture

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
    genuine, genuine_sha256, swapped = describe_content, HeldFile.sha256, list[str]()

    def exchange(name: str) -> None:
        swap(engine / name, other / name)
        swapped.append(name)

    def describe(content: bytes) -> Any:
        for path in sorted(engine.iterdir()):
            if path.name != "manifest.json" and path.read_bytes() == content:
                exchange(path.name)
        return genuine(content)

    def sha256(file: HeldFile) -> str:
        found = genuine_sha256(file)
        exchange(file.path.name)
        return found

    monkeypatch.setattr("pconv_deploy.engines.integrity.describe", describe)
    monkeypatch.setattr(HeldFile, "sha256", sha256)
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
        ("onnxruntime", ["model.onnx", "windows-model.onnx"]),
        ("openvino", ["model.xml", "model.bin", "windows-model.xml"]),
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
    if swap is written_over and files[0] == "model.onnx":  # the open file itself has changed
        with pytest.raises(EngineError, match=r"model\.onnx was changed while it was read"):
            open_engine(engine)
        assert swapped == files[:1]
    else:
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
