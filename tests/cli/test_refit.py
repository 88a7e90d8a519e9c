"""The command; what it does where there is a GPU, on a stand-in, is in tests/engines/tensorrt."""

from pathlib import Path

from tests.cli.conftest import Run


def test_no_engine_exits_5(run: Run, tmp_path: Path) -> None:
    result = run("refit", tmp_path, "x.safetensors", "-o", tmp_path / "new.engine")
    assert result.code == 5
    assert "has no manifest.json, so it is no engine" in result.err
    assert result.out == ""


def test_an_engine_of_another_backend_exits_5(run: Run, engine: Path, checkpoint: Path) -> None:
    before = {path.name: path.read_bytes() for path in engine.iterdir()}
    result = run("refit", engine, checkpoint, "--overwrite")
    assert result.code == 5
    assert "is an engine for onnxruntime, whose weights cannot be swapped" in result.err
    assert (
        f"Build one with these weights: pconv-deploy build-engine {checkpoint} -o new.engine "
        "--backend onnxruntime --precision fp32"
    ) in result.err
    assert {path.name: path.read_bytes() for path in engine.iterdir()} == before
