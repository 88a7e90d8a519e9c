import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.benchmark.contenders import Alone, peak_mib
from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.errors import EngineError
from tests.cli.conftest import Run
from tests.conftest import TINY, random_network

Photo = Callable[..., NDArray[np.uint8]]


def test_export_build_infer_inspect(
    run: Run, checkpoint: Path, files: Path, photo: Photo, box: Photo
) -> None:
    graph, engine, output = files / "m.onnx", files / "m.engine", files / "out"
    result = run("export", checkpoint, "-o", graph)
    assert (result.code, graph.is_file()) == (0, True)
    assert "verified: " in result.out
    result = run("build-engine", graph, "-o", engine, "--backend", "onnxruntime")
    assert (result.code, engine.is_dir()) == (0, True)
    assert "known pixels identical" in result.out
    result = run("infer", engine, files / "in", files / "mask.png", "-o", output, "--batch", "2")
    assert result.code == 0, result.err
    assert "3 filled" in result.out
    with Image.open(output / "a.png") as filled:
        pixels = np.array(filled)
    hole = box() != 0
    assert (pixels[~hole] == photo()[~hole]).all()
    assert (pixels[hole] != photo()[hole]).mean() > 0.9
    for file, what in ((checkpoint, "checkpoint"), (graph, "exported graph"), (engine, "engine")):
        text = run("inspect", file)
        assert text.code == 0
        assert what in text.out
        facts = json.loads(run("inspect", file, "--json").out)
        assert facts["network"].startswith("U-Net of partial convolutions, 4 levels")


def test_formats(run: Run, engine: Path, files: Path) -> None:
    arguments = ("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert run(*arguments, "--format", "jpg", "--quality", "80").code == 0
    with Image.open(files / "out" / "a.jpg") as image:
        assert image.format == "JPEG"
    assert run(*arguments, "--format", "same").code == 0
    assert (files / "out" / "a.png").is_file()


def test_one_format_only(run: Run, engine: Path, files: Path) -> None:
    arguments = ("infer", engine, files / "in" / "a.png", files / "mask.png", "--format", "jpg")
    result = run(*arguments, "-o", files / "o.png")
    assert (result.code, "is not of --format jpg" in result.err) == (2, True)
    assert run(*arguments, "-o", files / "o.JPEG").code == 0


def test_inspect_tells_a_changed_engine(run: Run, engine: Path, files: Path) -> None:
    assert "as they were built" in run("inspect", engine).out
    own = Path(shutil.copytree(engine, files / "own.engine"))
    (own / "model.onnx").write_bytes(b"")
    assert "NOT as they were built" in run("inspect", own).out


def test_resume_and_overwrite(run: Run, engine: Path, files: Path) -> None:
    arguments = ("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert run(*arguments).code == 0
    (files / "out" / "b.png").unlink()
    (files / "out" / "c.png").write_bytes(b"kept as it is")
    refused = run(*arguments)
    assert refused.code == 2
    assert "2 of 3 outputs exist already" in refused.err
    resumed = run(*arguments, "--resume")
    assert resumed.code == 0
    assert "1 filled, 2 kept from before" in resumed.out
    assert (files / "out" / "c.png").read_bytes() == b"kept as it is"
    assert run(*arguments, "--overwrite").code == 0
    assert (files / "out" / "c.png").read_bytes() != b"kept as it is"


def test_build_engine_precisions(run: Run, graph: Path, files: Path) -> None:
    arguments = ("build-engine", graph, "-o", files / "x.engine")
    refused = run(*arguments, "--precision", "bf16")
    assert refused.code == 2
    assert "has no convolution in bf16 for the CPU. It can build: fp32, int8" in refused.err
    refused = run(*arguments, "--calibration-holes", files / "in")
    assert refused.code == 2
    assert "--calibration-holes goes with --calibration-photos" in refused.err
    refused = run(*arguments, "--precision", "int8", "--calibration-photos", files / "in")
    assert refused.code == 3
    assert "calibration needs at least 12" in refused.err
    assert not (files / "x.engine").exists()


def test_bench(run: Run, engine: Path, checkpoint: Path, files: Path) -> None:
    arguments = ("bench", engine, "--against", checkpoint, "--size", "32x48", "--rounds", "3")
    threads = torch.get_num_threads()
    try:
        shown = run(*arguments, "--batch", "2", "--threads", "1")
        machine = run(*arguments, "--photo", files / "in" / "a.png", "--json")
    finally:
        torch.set_num_threads(threads)
    assert shown.code == 0, shown.err
    for words in ("literal", "collapsed", "onnxruntime, fp32", "decode", "encode", "p99"):
        assert words in shown.out
    facts = json.loads(machine.out)
    assert [t["name"] for t in facts["stages"]] == ["decode", "pre", "infer", "post", "encode"]
    assert facts["contenders"][0]["name"] == "PyTorch eager, literal"
    assert facts["contenders"][0]["ratio"] == 1
    for timing in (*facts["contenders"], *facts["stages"]):
        assert 0 < timing["p50"] <= timing["p90"] <= timing["p99"]
    assert (facts["height"], facts["width"], facts["rounds"]) == (32, 48, 3)


def test_bench_of_two_engines_without_pytorch(run: Run, engine: Path, files: Path) -> None:
    """A copy stands for a second engine: what differs is only what the table says of it."""
    other = Path(shutil.copytree(engine, files / "other [b].engine"))
    arguments = ("bench", engine, other, "--size", "32", "--rounds", "3", "--threads", "1")
    shown = run(*arguments, "--memory")
    assert shown.code == 0, shown.err
    for words in ("peak MiB", f"onnxruntime, fp32, {other}", "onnxruntime 1."):
        assert words in shown.out
    facts = json.loads(run(*arguments, "--json").out)
    names = [f"onnxruntime, fp32, {path}" for path in (engine, other)]
    assert [(t["name"], t["ratio"]) for t in facts["contenders"]] == [(n, None) for n in names]
    assert [(e["contender"], e["precision"]) for e in facts["engines"]] == [
        (name, "fp32") for name in names
    ]


def test_memory_is_of_a_process_that_does_nothing_else(engine: Path) -> None:
    alone = Alone(path=str(engine), formulation=None, threads=1, batch=1, height=32, width=32)
    small = peak_mib(alone)
    large = peak_mib(msgspec.structs.replace(alone, height=1024, width=1024))
    assert small is not None
    assert large is not None
    assert 20 < small < 400  # not what this process took: it has torch in it
    assert large > small + 30  # a megapixel of eight channels in single precision is 32 MiB
    with pytest.raises(EngineError, match=r"run alone for its memory, failed: .*no engine"):
        peak_mib(msgspec.structs.replace(alone, path=str(engine.parent)))


def test_bench_refuses_what_cannot_be_compared(run: Run, engine: Path, files: Path) -> None:
    other = files / "other.safetensors"
    save_checkpoint(other, random_network(TINY, seed=5))
    result = run("bench", engine, "--against", other)
    assert result.code == 2
    assert "is not the checkpoint this engine was made from" in result.err
    assert result.err.startswith("error: ")  # no empty line of a bar that nobody sees
    result = run("bench", engine, engine)
    assert (result.code, "each only once" in result.err) == (2, True)
    result = run("bench", engine, "--size", "4")
    assert result.code == 2
    assert "needed at least 8x8" in result.err


def test_names_with_brackets_are_shown_as_they_are(
    run: Run, checkpoint: Path, graph: Path, engine: Path, files: Path
) -> None:
    odd = files / "m[/final] [bold].engine"
    assert str(odd) in run("build-engine", graph, "-o", odd).out
    photo = files / "in" / "a[red].png"
    photo.write_bytes(b"")
    result = run("infer", engine, files / "in", files / "mask.png", "-o", files / "o[ut]")
    assert "a[red].png is empty" in result.err
    assert str(files / "o[ut]") in result.err
    assert (files / "o[ut]" / "a.png").is_file()
    assert "checkpoint" in run("inspect", checkpoint).out
