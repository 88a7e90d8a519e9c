import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.cli.conftest import Run
from tests.processes import start, without_privileges

Photo = Callable[..., NDArray[np.uint8]]


def damaged(engine: Path, target: Path, how: str) -> Path:
    shutil.copytree(engine, target)
    model, manifest = target / "model.onnx", target / "manifest.json"
    if how == "missing file":
        model.unlink()
    elif how == "changed byte":
        content = bytearray(model.read_bytes())
        content[1000] ^= 255
        model.write_bytes(content)
    elif how == "future manifest":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    elif how == "other version":
        facts = json.loads(manifest.read_text())
        facts["built_with"]["version"] = "0.9.0"
        facts["golden"] = None  # as older releases built them
        manifest.write_text(json.dumps(facts))
    return target


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing file", "model.onnx is missing"),
        ("changed byte", "was changed after it was built"),
        ("future manifest", "has format 99; this pconv-deploy reads formats 1 to 3"),
        ("other version", "was built with onnxruntime 0.9.0; this machine has onnxruntime"),
    ],
)
def test_broken_engines_exit_5(run: Run, engine: Path, files: Path, how: str, message: str) -> None:
    broken = damaged(engine, files / "broken.engine", how)
    result = run("infer", broken, files / "in", files / "mask.png", "-o", files / "out")
    assert result.code == 5
    assert message in result.err
    assert "ebuild" in result.err
    assert not (files / "out").exists()


def test_missing_runtime_exits_6(
    run: Run, engine: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert result.code == 6
    assert "pip install 'pconv-deploy[onnxruntime]'" in result.err


def test_missing_torch_exits_6(
    run: Run, checkpoint: Path, tmp_path: Path, uninstalled: Callable[..., None]
) -> None:
    uninstalled("torch")
    result = run("export", checkpoint, "-o", tmp_path / "x.onnx")
    assert result.code == 6
    assert (
        "this needs torch, which is not installed: pip install 'pconv-deploy[export]'" in result.err
    )


def write_bad_image(path: Path, kind: str) -> Path:
    if kind == "missing":
        return path
    if kind == "truncated":
        Image.effect_noise((64, 64), 90).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "other size":
        Image.new("RGB", (10, 10)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("truncated", "damaged"),
        ("bomb", "decompression bomb"),
        ("other size", "needed the same size"),
    ],
)
def test_bad_images_exit_3(run: Run, engine: Path, files: Path, kind: str, message: str) -> None:
    bad = write_bad_image(files / "bad.png", kind)
    result = run("infer", engine, bad, files / "mask.png", "-o", files / "out.png")
    assert result.code == 3
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (files / "out.png").exists()


def test_masks_all_empty_and_all_full(run: Run, engine: Path, files: Path) -> None:
    Image.new("L", (56, 40), 0).save(files / "none.png")
    Image.new("L", (56, 40), 255).save(files / "all.png")
    output = ("-o", files / "out.png", "--overwrite")
    empty = run("infer", engine, files / "in/a.png", files / "none.png", *output)
    assert (empty.code, "has no hole" in empty.err) == (0, True)
    assert "--mask-convention" not in empty.err
    assert f"{files / 'out.png'}  0 filled, 1 unchanged" in empty.out
    full = run("infer", engine, files / "in/a.png", files / "all.png", *output)
    assert (full.code, "covers the whole image" in full.err) == (3, True)
    assert "--mask-convention" in full.err


def test_files_we_may_not_read_exit_3(
    run: Run, engine: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, **_: Any) -> Any:  # what the system says to anyone but root
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    result = run("infer", engine, files / "in/a.png", files / "mask.png", "-o", files / "o.png")
    assert result.code == 3
    assert "a.png: Permission denied" in result.err


def test_folders_we_may_not_write_exit_7(
    run: Run, engine: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Image.Image, "save", refuse)
    result = run("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert result.code == 7
    assert "Permission denied" in result.err
    assert list((files / "out").iterdir()) == []


def test_a_pickle_exits_3_and_does_not_run(run: Run, tmp_path: Path) -> None:
    witness = tmp_path / "pwned"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(witness),)

    torch.save(Bomb(), tmp_path / "evil.pth")
    for command in (
        ("export", tmp_path / "evil.pth", "-o", tmp_path / "x.onnx"),
        ("inspect", tmp_path / "evil.pth"),
    ):
        result = run(*command)
        assert result.code == 3
        assert "making one would run code; it was not loaded" in result.err
    assert not witness.exists()


def test_a_foreign_onnx_file_exits_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"")
    for command in (
        ("build-engine", tmp_path / "x.onnx", "-o", tmp_path / "e"),
        ("inspect", tmp_path / "x.onnx"),
    ):
        result = run(*command)
        assert result.code == 3
        assert "pconv-deploy export CHECKPOINT" in result.err


def test_warnings_are_called_so_and_told_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        run("--version")
    logging.getLogger("pconv_deploy.engines.x").warning("the %s is old", "cache")
    assert capsys.readouterr().err == "warning: the cache is old\n"


@pytest.mark.parametrize(
    ("command", "unreadable"), [("infer", "model.onnx"), ("triton-repo", "manifest.json")]
)
def test_an_engine_with_an_unreadable_file(
    command: str, unreadable: str, engine: Path, files: Path
) -> None:
    own = Path(shutil.copytree(engine, files / "own.engine"))
    (own / unreadable).chmod(0)
    arguments: tuple[object, ...] = {
        "infer": (own, files / "in", files / "mask.png", "-o", files / "out"),
        "triton-repo": (own, "-o", files / "repo"),
    }[command]
    process = start(command, *arguments, preexec_fn=without_privileges)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 5, complaint
    assert f"cannot read {own / unreadable}: Permission denied" in complaint
    assert "Traceback" not in complaint


def test_a_circle_of_links_is_named(run: Run, files: Path) -> None:
    loop = files / "loop"
    loop.symlink_to(loop)
    for command in (("bench", loop), ("export", loop, "-o", files / "m.onnx"), ("inspect", loop)):
        result = run(*command)
        assert (result.code, str(loop) in result.err) == (3, True)


def test_what_the_system_says_of_a_file_is_one_line(
    run: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, code in ((errno.EIO, 3), (errno.ENOSPC, 7)):

        def fail(*_arguments: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number), str(files / "x"))

        monkeypatch.setattr("pconv_deploy.commands.inspect.inspect_file", fail)
        result = run("inspect", files)
        assert (result.code, result.err) == (code, f"error: {files / 'x'}: {os.strerror(number)}\n")


@pytest.mark.parametrize("words", [("", "m.png", "-o", "out"), ("in", "m.png", "--output=")])
def test_empty_words_are_not_the_current_folder(
    run: Run, engine: Path, files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    result = run("infer", engine, *words)
    assert result.code == 2
    assert "found nothing after" in result.err
    assert sorted(files.rglob("*")) == before
