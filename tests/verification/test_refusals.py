import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from pconv_deploy.errors import (
    CheckpointError,
    EngineError,
    GraphError,
    HoleMaskError,
    ImageError,
    InputError,
    MissingRuntimeError,
    UsageError,
)
from pconv_deploy.network.reference import LiteralPConvUNet
from pconv_deploy.verification.candidates import open_candidate
from pconv_deploy.verification.compatibility import settled_size
from pconv_deploy.verification.pictures import PictureOptions
from tests.verification.conftest import (
    FEW,
    Compare,
)


def test_sizes(compare: Compare, checkpoint: Path, graph: Path, tensor_graph: Path) -> None:
    fixed = compare(checkpoint, tensor_graph, size=None).verification
    assert (fixed.height, fixed.width) == (32, 48)
    with pytest.raises(UsageError, match=r"found --size 64x64; .*tensor\.onnx takes 32x48 only"):
        compare(checkpoint, tensor_graph, size=(64, 64))
    with pytest.raises(UsageError, match=r"found size 30x32; .* need multiples of 16 up to 4096"):
        compare(checkpoint, graph, size=(30, 32))
    side = open_candidate(tensor_graph)
    facts = msgspec.structs.replace(side.facts, path="b.onnx")
    other = dataclasses.replace(side, facts=facts, size=(16, 16))
    with pytest.raises(UsageError, match=r"no size fits both: .*32x48, .*b.onnx takes 16x16"):
        settled_size(side, other, None, 10**6)


def test_what_cannot_be_compared(
    compare: Compare, graph: Path, engine: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"gone\.onnx does not exist; needed a checkpoint, an exp"):
        compare(graph, tmp_path / "gone.onnx")
    shutil.copyfile(graph, tmp_path / "graph.bin")
    assert open_candidate(tmp_path / "graph.bin").facts.kind == "graph"
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(GraphError, match="damaged or no ONNX file"):
        compare(tmp_path / "broken.onnx", graph)
    with pytest.raises(InputError, match=r"without manifest.json, so no engine; needed a checkpo"):
        compare(graph, tmp_path)
    Image.new("RGB", (32, 48)).save(tmp_path / "picture.png")
    with pytest.raises(CheckpointError, match=r"picture\.png is no checkpoint that can be read"):
        compare(graph, tmp_path / "picture.png")
    shutil.copytree(engine, tmp_path / "changed.engine")
    (tmp_path / "changed.engine" / "model.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="has 0 bytes, was built with"):
        compare(graph, tmp_path / "changed.engine")


def test_what_cannot_be_filled(compare: Compare, graph: Path, engine: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="holds no pictures"):
        compare(graph, engine, pictures=PictureOptions(photos=tmp_path / "empty"))
    with pytest.raises(ImageError, match=r"a.png is no image"):
        compare(graph, engine, pictures=PictureOptions(photos=tmp_path))
    with pytest.raises(HoleMaskError, match=r"1 of 1 masks in .* cannot be read"):
        compare(graph, engine, pictures=PictureOptions(holes=tmp_path))
    Image.new("L", (40, 40), 255).save(tmp_path / "a.png")
    with pytest.raises(HoleMaskError, match="all 1 masks are full"):
        compare(graph, engine, pictures=PictureOptions(holes=tmp_path))


def test_pytorch_that_fails_is_no_traceback(
    compare: Compare, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(LiteralPConvUNet, "forward", fail)
    with pytest.raises(
        EngineError, match=r"PyTorch failed on \[3, 3, 32, 48\] in torch.float64: c"
    ):
        compare(checkpoint, checkpoint)


def test_engines_need_no_torch(
    compare: Compare, engine: Path, checkpoint: Path, uninstalled: Callable[..., None]
) -> None:
    uninstalled("torch", "onnx")
    assert compare(engine, engine, pictures=FEW).verification.passed
    with pytest.raises(MissingRuntimeError, match="needs torch, which is not installed: pip inst"):
        compare(engine, checkpoint)
