"""Whole engines, built by NVIDIA's builder; none of them has run."""

import json
from pathlib import Path

import pytest

from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.engines.tensorrt.options import TensorRtOptions
from pconv_deploy.errors import EngineError
from tests.engines.tensorrt.conftest import SMALL

ONE_PROFILE = TensorRtOptions(profiles=(SMALL,))


pytestmark = pytest.mark.usefixtures("tensorrt")


@pytest.fixture
def engine(graph: Path, tmp_path: Path) -> Path:
    path = tmp_path / "fp16.engine"
    options = BuildOptions(backend="tensorrt", precision="fp16", tensorrt=ONE_PROFILE)
    build_engine(graph, path, options)
    return path


def test_an_engine_that_was_built_and_never_ran(engine: Path, graph: Path) -> None:
    names = ["engine.plan", "layers.json", "manifest.json"]
    assert sorted(path.name for path in engine.iterdir()) == names
    told = json.loads((engine / "layers.json").read_text())
    assert told == {"graph": {"fp16": 12}, "engine": None}
    facts = json.loads((engine / "manifest.json").read_text())
    assert facts["built_with"]["package"] == "tensorrt"
    assert facts["built_with"]["version"].startswith("11.")
    assert facts["built_with"]["gpu"] is None
    assert facts["precision"] == "fp16"
    assert facts["engine_parity"] is None
    assert facts["executed"] == {}
    assert facts["plan"]["layers"] is None
    assert facts["plan"]["build_seconds"] > 0
    assert facts["plan"]["profiles"] == [
        {"min": [1, 32, 32], "opt": [1, 64, 64], "max": [2, 64, 64]}
    ]
    assert facts["command"] == (
        f"pconv-deploy build-engine {graph} -o {engine} --backend tensorrt --precision fp16 "
        "--min-shapes 1x32x32 --opt-shapes 1x64x64 --max-shapes 2x64x64 --overwrite"
    )
    assert read_manifest(engine).plan is not None


def test_where_there_is_no_gpu_it_does_not_open(engine: Path) -> None:
    with pytest.raises(EngineError, match="cannot run on this machine: no NVIDIA driver"):
        open_engine(engine)
