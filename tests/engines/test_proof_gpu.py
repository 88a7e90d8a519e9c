"""Engines of ONNX Runtime for GPUs on another GPU, or under another release."""

from pathlib import Path

import msgspec
import pytest

from pconv_deploy.engines.backends.onnxruntime import gpu as onnxruntime_gpu
from pconv_deploy.engines.backends.onnxruntime.gpu import ONNXRUNTIME_CUDA
from pconv_deploy.engines.folder import build_engine, open_engine
from pconv_deploy.errors import EngineError
from tests.engines.backends.onnxruntime.test_gpu import FP16, GPU, Pretend
from tests.engines.backends.onnxruntime.test_gpu import kept as kept  # fixtures
from tests.engines.backends.onnxruntime.test_gpu import pretend as pretend
from tests.explained import explained

OTHER = msgspec.structs.replace(GPU, name="NVIDIA Other", compute_capability="8.6")


def test_an_engine_proves_itself_on_another_compute_capability(
    pretend: Pretend, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(ONNXRUNTIME_CUDA)
    engine = tmp_path / "x.engine"
    manifest = build_engine(graph, engine, FP16)
    assert manifest.golden is not None
    assert manifest.golden.psnr == 45.0
    open_engine(engine)[1].close()
    assert not (engine / "proofs.json").exists()
    monkeypatch.setattr(onnxruntime_gpu, "gpu_here", lambda: OTHER)
    open_engine(engine)[1].close()
    assert "NVIDIA Other" in (engine / "proofs.json").read_text()


def test_one_that_never_ran_has_nothing_to_prove_itself_by(pretend: Pretend, kept: Path) -> None:
    stand_in = pretend(ONNXRUNTIME_CUDA)
    assert not (kept / "golden.png").exists()
    open_engine(kept)[1].close()
    stand_in.__version__ = "9.9.0"
    with explained(EngineError, match=rf"one release\.\n  Rebuild it: .*build-engine {kept}$"):
        open_engine(kept)
