"""Whole engines, built by NVIDIA's builder; none of them has run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.int8.calibration import CalibrationFiles
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.errors import EngineError
from tests.cli.conftest import Run
from tests.engines.backends.tensorrt.conftest import SMALL
from tests.engines.cuda.test_devices import machine
from tests.engines.int8.test_int8 import crops as crops  # fixtures
from tests.engines.int8.test_int8 import trained as trained
from tests.processes import WIDE

ONE_PROFILE = TensorRtOptions(profiles=(SMALL,))


pytestmark = pytest.mark.usefixtures("tensorrt")


@pytest.fixture
def engine(graph: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of one that is built once."""
    built = tmp_path_factory.getbasetemp() / "fp16-of-tensorrt.engine"
    if not built.exists():
        options = BuildOptions(backend="tensorrt", precision="fp16", backend_options=ONE_PROFILE)
        build_engine(graph, built, options)
    return Path(shutil.copytree(built, tmp_path / "fp16.engine"))


def test_an_engine_that_was_built_and_never_ran(engine: Path) -> None:
    names = ["engine.plan", "graph.onnx", "layers.json", "manifest.json"]
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
    assert facts["engine"]["details"]["build_seconds"] > 0
    assert facts["engine"]["profiles"] == [
        {"min": [1, 32, 32], "opt": [1, 64, 64], "max": [2, 64, 64]}
    ]
    assert facts["command"] == ""  # a program built it


def test_where_there_is_no_gpu_it_does_not_open(engine: Path) -> None:
    with pytest.raises(EngineError, match="cannot run on this machine: no NVIDIA driver"):
        open_engine(engine)


@pytest.mark.parametrize(
    ("cuda", "code", "words"),
    [
        (None, 6, "needs cuda-bindings, which does not load"),
        (machine(12040, 35, None), 5, "the NVIDIA driver is too old: found one for CUDA 12.4"),
    ],
)
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_gpu_that_may_be_there_must_be_reached_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    graph: Path,
    tmp_path: Path,
    cuda: Any,
    code: int,
    words: str,
    backend: str,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    result = run("build-engine", graph, "-o", tmp_path / "x.engine", "--backend", backend)
    assert result.code == code
    assert words in result.err
    assert "reading the graph" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_int8_is_calibrated_and_judged_by_the_quantised_graph(
    trained: Path, crops: Path, tmp_path: Path
) -> None:
    options = BuildOptions(
        backend="tensorrt", precision="int8", calibration=CalibrationFiles(photos=crops)
    )
    manifest = build_engine(trained, tmp_path / "x.engine", options)
    assert manifest.quantisation is not None
    assert manifest.quantisation.judged_by == "graph"
    assert manifest.quantisation.psnr >= 38
    assert manifest.engine_parity is None
    counted = json.loads((tmp_path / "x.engine" / "layers.json").read_text())["graph"]
    assert counted["int8"] > len(manifest.quantisation.kept)
    assert [profile.describe() for profile in manifest.engine.profiles] == ["1x64x64"]


_LAUNCHER = """
import sys
from pathlib import Path
from tests.engines.backends.tensorrt.forwarding import install
install(Path(sys.argv.pop(1)))
sys.argv[0] = "pconv-deploy"
from pconv_deploy.cli.main import main
main()
"""


def command(tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    """`pconv-deploy ARGUMENTS`, in a process of its own that has TensorRT."""
    work = tmp_path / "forwarding"
    work.mkdir(exist_ok=True)
    words = [sys.executable, "-c", _LAUNCHER, str(work), *map(str, arguments)]
    root = Path(__file__).parents[4]
    return subprocess.Popen(
        words,
        cwd=root,
        env=os.environ | WIDE | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_shows_how_far_it_is_and_what_was_built(graph: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    options = ("--backend", "tensorrt-rtx", "--precision", "fp16", "--optShapes", "1x64x64")
    process = command(tmp_path, "build-engine", graph, "-o", output, *options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "tensorrt_rtx 1.7.1 on cuda, fp16" in out
    assert "takes, as batch x height x width:\n  1x64x64\n" in out
    assert "NOT compared with its graph when it was built: no NVIDIA driver" in out
    assert "compared" not in err
    steps = err.splitlines()
    assert steps[0] == "reading the graph"
    assert 5 < sum(step.startswith("TensorRT for RTX: ") for step in steps) <= 11
    assert [p.describe() for p in read_manifest(output).engine.profiles] == ["1x64x64"]


def test_ctrl_c_stops_the_command_and_leaves_nothing(graph: Path, tmp_path: Path) -> None:
    output = tmp_path / "engines" / "x.engine"
    process = command(tmp_path, "build-engine", graph, "-o", output, "--backend", "tensorrt")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("TensorRT: "):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert out == ""
    assert not output.parent.exists()
