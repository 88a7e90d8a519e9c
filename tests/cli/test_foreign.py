import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checkpoints.foreign.projects import keras_layers, naoto_state, write_keras
from tests.checkpoints.foreign.wrappings import averaged
from tests.cli.conftest import Run


def test_from_anothers_checkpoint_to_a_filled_photo(run: Run, tmp_path: Path) -> None:
    path, graph, engine = (tmp_path / name for name in ("a.pth", "model.onnx", "model.engine"))
    torch.save({"n_iter": 5, "model": naoto_state((4, 5), (5, 3))}, path)
    result = run("export", path, "-o", graph)
    assert result.code == 0, result.err
    said = "naoto0804 (in its own mask files black is the hole; it scales them bilinearly)"
    assert f"checkpoint: {said}; U-Net of partial convolutions, 2 levels" in result.out
    for file in (path, graph):
        assert said in run("inspect", file).out
    assert run("build-engine", graph, "-o", engine).code == 0
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    hole = np.zeros((20, 30), np.uint8)
    hole[5:12, 8:20] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    filled = tmp_path / "filled.png"
    result = run("infer", engine, tmp_path / "photo.png", tmp_path / "mask.png", "-o", filled)
    assert result.code == 0, result.err
    with Image.open(filled) as picture:
        assert picture.size == (30, 20)


def test_convert(run: Run, tmp_path: Path) -> None:
    write_keras(tmp_path / "a.h5", keras_layers())
    ours = tmp_path / "ours.safetensors"
    result = run("convert", tmp_path / "a.h5", "-o", ours)
    assert result.code == 0, result.err
    assert "from pconv-keras (in its own mask files black is the hole)" in result.out
    assert "sigmoid head" in run("inspect", ours).out
    assert run("convert", tmp_path / "a.h5", "-o", ours).code == 2
    assert run("convert", tmp_path / "a.h5", "-o", ours, "--overwrite").code == 0
    assert run("convert", tmp_path / "nothing.h5", "-o", tmp_path / "b.safetensors").code == 3


def test_one_of_several_sets_of_weights(run: Run, tmp_path: Path) -> None:
    state = naoto_state((4,), (3,))
    path, ours = tmp_path / "a.pth", tmp_path / "ours.safetensors"
    torch.save({"params": state, "params_ema": averaged(state)}, path)
    for command in (("export", path, "-o", tmp_path / "a.onnx"), ("inspect", path)):
        result = run(*command)
        assert result.code == 3
        assert "2 sets of weights that fit: params, params_ema. Choose one: --weights" in result.err
    key = ("--weights-key", "params_ema")
    result = run("convert", path, "-o", ours, *key)
    assert result.code == 0, result.err
    assert "weights: params_ema in a.pth" in result.out
    assert "params_ema" in run("inspect", path, *key).out
    graph = tmp_path / "a.onnx"
    result = run("export", path, "-o", graph, *key)
    assert result.code == 0, result.err
    assert "weights: params_ema in a.pth" in result.out
    assert "params_ema in a.pth, sha256" in run("inspect", graph).out
    size = ("--size", "32", "--count", "1")
    assert run("verify", path, ours, *key, *size).code == 0
    assert run("verify", path, graph, *key, *size).code == 0
    assert run("verify", path, graph, "--weights-key", "params", *size).code == 4
    for wrong in (("verify", ours, graph, *key, *size), ("inspect", graph, *key)):
        result = run(*wrong)
        assert result.code == 2
        assert "leave --weights-key out" in result.err


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_a_pipe_is_refused_at_once(run: Run, tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    output = ("-o", tmp_path / "x") if command != "inspect" else ()
    result = run(command, tmp_path / "pipe.pth", *output)
    assert result.code == 3
    assert "is a pipe or a device; needed a regular file" in result.err
