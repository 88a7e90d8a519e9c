import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
import pytest

from pconv_deploy.engines.shapes import Profile
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.export.rewrites.pipeline import select_rewrites
from pconv_deploy.graphs.file import ExportedGraph, read_graph
from tests.cli.conftest import run as run  # a fixture
from tests.engines.backends.tensorrt.forwarding import as_rtx, load_forwarded
from tests.graphs.small_graphs import rewritten

# One small profile: the builder takes a second for each.
SMALL = Profile(min=(1, 32, 32), opt=(1, 64, 64), max=(2, 64, 64))
Kind = Literal["deployment", "tensor"]
Exported = Callable[..., ExportedGraph]


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


@pytest.fixture(scope="session")
def exported(checkpoint: Path, graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Graphs of the tiny network at any level of rewriting.

    Each is traced once: that takes much longer than rewriting what was traced.
    """
    folder = tmp_path_factory.mktemp("exported")

    def export(kind: Kind = "deployment", static: bool = False, level: int = 2) -> ExportedGraph:
        if (kind, static, level) == ("deployment", False, 2):
            return read_graph(graph)
        path = folder / f"{kind}-{static}.onnx"
        # The size of the exporter's own tests, so that a run traces it once for both.
        fixed: dict[str, Any] = {"batch": 1, "size": (32, 48)} if static else {}
        if not path.exists():
            export_checkpoint(checkpoint, path, ExportOptions(kind=kind, level=0, **fixed))
        traced = read_graph(path)
        steps = [(None, traced.model), *rewritten(traced.model, select_rewrites(level))]
        rewrites = tuple(rewrite.name for rewrite in select_rewrites(level))
        contract = msgspec.structs.replace(traced.contract, rewrites=rewrites)
        return replace(traced, model=steps[-1][1], contract=contract)

    return export
