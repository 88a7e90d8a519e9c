import sys
from pathlib import Path

import numpy as np
import pytest

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import UNetConfig
from pconv_deploy.errors import EngineError, InputError, MissingRuntimeError, UsageError
from pconv_deploy.evaluation.methods import (
    BASELINES,
    Method,
    fill_hole,
    open_method,
    parse_methods,
)
from tests.conftest import random_network
from tests.evaluation.conftest import box_hole, smooth_picture
from tests.processes import imported_by

IMAGE = np.asarray(smooth_picture(5))
HOLE = box_hole(0.15, border=False) != 0


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_fill_the_hole_and_nothing_else(name: str) -> None:
    image = IMAGE.copy()
    method = open_method(parse_methods([name])[0], threads=1)
    filled = fill_hole(method, image, HOLE)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(filled[~HOLE], IMAGE[~HOLE])
    assert filled.dtype == np.uint8
    # Nothing of what the hole held goes into it.
    blackened = np.where(HOLE[:, :, None], np.uint8(0), IMAGE)
    np.testing.assert_array_equal(fill_hole(method, blackened, HOLE)[HOLE], filled[HOLE])
    flat = np.full_like(IMAGE, 90)
    flat[HOLE] = 0
    # OpenCV's Telea is a few levels off even here.
    error = np.abs(fill_hole(method, flat, HOLE).astype(int) - 90).max()
    assert error <= (4 if name == "telea" else 1)


def test_without_a_hole_nothing_is_asked() -> None:
    def refuse(*_: object) -> np.ndarray:
        raise AssertionError

    method = Method(refuse, lambda: None)
    np.testing.assert_array_equal(fill_hole(method, IMAGE, HOLE & False), IMAGE)


def test_patchmatch_does_not_remember() -> None:
    method = open_method(parse_methods(["patchmatch"])[0])
    first = fill_hole(method, IMAGE, HOLE)
    fill_hole(method, IMAGE[::-1].copy(), HOLE)
    np.testing.assert_array_equal(fill_hole(method, IMAGE, HOLE), first)


def test_checkpoint_and_engine_agree(checkpoint: Path, engine: Path) -> None:
    specs = parse_methods([str(checkpoint), f"ort={engine}"])
    assert [(s.label, s.kind) for s in specs] == [
        ("tiny.safetensors", "checkpoint"),
        ("ort", "engine"),
    ]
    filled = []
    for spec in specs:
        method = open_method(spec, threads=1)
        filled.append(method.fill(IMAGE, HOLE).astype(int))  # networks composite by themselves
        np.testing.assert_array_equal(filled[-1][~HOLE], IMAGE[~HOLE])
        method.close()
    assert np.abs(filled[0] - filled[1]).max() <= 1
    assert not (filled[0][HOLE] == IMAGE[HOLE]).all()


def test_the_conv_baseline_is_another_checkpoint(tmp_path: Path) -> None:
    config = UNetConfig(channels=(8, 8), kernels=(3, 3), convolution="ordinary")
    save_checkpoint(tmp_path / "conv.safetensors", random_network(config))
    method = open_method(parse_methods([f"Conv={tmp_path / 'conv.safetensors'}"])[0], threads=1)
    filled = fill_hole(method, IMAGE, HOLE)
    np.testing.assert_array_equal(filled[~HOLE], IMAGE[~HOLE])
    assert not (filled[HOLE] == IMAGE[HOLE]).all()


def test_engines_and_baselines_need_no_torch(engine: Path) -> None:
    opens_all = f"""
from pconv_deploy.evaluation import report, run
from pconv_deploy.evaluation.methods import open_method, parse_methods
for spec in parse_methods(["mean", "telea", {str(engine)!r}]):
    open_method(spec, 1)
"""
    assert "torch" not in imported_by(opens_all)


@pytest.mark.parametrize(
    ("texts", "failure", "message"),
    [
        (["nothing"], InputError, "nothing does not exist; needed a checkpoint, an engine folder"),
        (["x=nothing"], InputError, "nothing does not exist"),
        (["=telea"], UsageError, "needed METHOD or LABEL=METHOD"),
        (["telea", "telea"], UsageError, "2 methods are called 'telea'"),
        (["original=telea"], UsageError, "means the unharmed pictures"),
    ],
)
def test_what_is_no_method(texts: list[str], failure: type[Exception], message: str) -> None:
    with pytest.raises(failure, match=message):
        parse_methods(texts)


def test_files_that_are_no_method(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no manifest\.json, so it is no engine"):
        parse_methods([str(tmp_path)])
    (tmp_path / "a=b.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="is a graph, no engine"):
        parse_methods([str(tmp_path / "a=b.onnx")])


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "patchmatch", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'pconv-deploy\[evaluate\]'"):
        open_method(parse_methods(["patchmatch"])[0])


def test_what_a_library_raises_is_ours() -> None:
    def fail(*_: object) -> np.ndarray:
        raise MemoryError("no room")

    with pytest.raises(EngineError, match="MemoryError: no room"):
        fill_hole(Method(fail, lambda: None), IMAGE, HOLE)
