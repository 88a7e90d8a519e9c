from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pconv_deploy.checkpoints.native import load_checkpoint
from tests.cli.conftest import Run
from tests.training.conftest import SMALL

QUICK = [f"--set={setting}" for setting in SMALL]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


def test_trains_and_says_what_to_do_next(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("train", "-o", tmp_path / "run", "-c", "mini", "--images", photos, *QUICK)
    assert result.code == 0, result.err
    network = tmp_path / "run" / "network.safetensors"
    assert f"export it: pconv-deploy export {network} -o model.onnx" in result.out
    assert "step 8/8  loss " in result.err
    assert load_checkpoint(network).source.training["steps"] == 8

    # Three more steps, from where it stopped.
    longer = "--set=phases=[{steps=11, learning_rate=1e-3}]"
    result = run("train", tmp_path / "run", "--resume", longer)
    assert result.code == 0, result.err
    assert "step 10/11" in result.err
    assert "step 8/" not in result.err
    assert load_checkpoint(network).source.training["steps"] == 11


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--photos", "{photos}"], 2, "name the settings with --config: a preset, such as mini"),
        (["-c", "minni"], 2, "no preset 'minni' (did you mean mini?)"),
        (["-c", "mini"], 3, "no training images: pass their folder with --photos"),
        (["-c", "mini", "--photos", "{corrupt}"], 3, "50 images in a row cannot be read"),
        (["-c", "mini", "--photos", "{photos}", "--set", "data.sise=1"], 2, "did you mean size?"),
        (["-c", "mini", "--photos", "{photos}", "--set", "holes.folder={black}"], 3, "is empty:"),
        (["-c", "naoto-256", "--photos", "{photos}", "--vgg16", "{vgg}"], 3, "is not torch"),
        (["--resume"], 3, "is no training run"),
        (["--output", "other"], 2, "name one"),
        (["-c", "mini", "--images", "none", "--holes", "none"], 3, "none does not exist"),
        (["-c", "mini", "--set", "batch=-1"], 2, "--set batch: found -1. Expected `int` >= 1"),
        (["--resume", "-c", "mini"], 2, "a resumed run keeps its settings"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(
    run: Run, photos: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    places = {name: tmp_path / name for name in ("empty", "corrupt", "black")}
    for place in places.values():
        place.mkdir()
    (places["corrupt"] / "a.jpg").write_bytes(b"no picture")
    Image.new("L", (64, 64)).save(places["black"] / "a.png")
    (tmp_path / "vgg").write_bytes(b"another network")
    filled = [a.format(photos=photos, vgg=tmp_path / "vgg", **places) for a in arguments]
    result = run("train", tmp_path / "run", *filled)
    assert result.code == code, result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_folder(run: Run) -> None:
    result = run("train", "-c", "mini")
    assert result.code == 2
    assert "name the folder to write to, as an argument or with --output" in result.err


def test_a_folder_in_use_and_one_that_cannot_be_written(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").write_text("mine")
    result = run("train", tmp_path / "used", "-c", "mini", "--photos", photos, *QUICK)
    assert result.code == 2
    assert "is in use" in result.err
    (tmp_path / "file").write_text("no folder")
    result = run("train", tmp_path / "file" / "run", "-c", "mini", "--photos", photos, *QUICK)
    assert result.code == 7
    assert "cannot write" in result.err
