import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy import errors
from pconv_deploy.cli.main import app, main

Photo = Callable[..., NDArray[np.uint8]]
COMMANDS = ("export", "build-engine", "infer", "bench", "inspect", "doctor", "demo")
# Words wrap where the terminal ends; messages are compared as one line.
WIDE = {"COLUMNS": "4000", "TERM": "dumb"}


@dataclass
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run_main(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["pconv-deploy", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capsys.readouterr())

    for name, value in WIDE.items():
        monkeypatch.setenv(name, value)
    return run_main


@pytest.fixture
def files(tmp_path: Path, photo: Photo, box: Photo) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(photo()).save(tmp_path / "in" / f"{name}.png")
    Image.fromarray(box()).save(tmp_path / "mask.png")
    return tmp_path


# --- help -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_names_every_option(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.code == 0
    assert "Usage: pconv-deploy" in result.out
    assert result.err == ""
    group = typer.main.get_command(app)
    shown = group.commands[command[0]] if command else group  # type: ignore[attr-defined]
    for parameter in shown.params:
        longest = max(parameter.opts, key=len)
        assert (longest if longest.startswith("-") else parameter.name) in result.out


def test_the_top_help_lists_commands_and_exit_codes(run: Run) -> None:
    text = run("--help").out
    for command in COMMANDS:
        assert command in text
    for code in ("0 done", "2 usage", "4 parity", "8 some files", "130 interrupted"):
        assert code in text


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("pconv-deploy 0.")


def test_exit_codes_are_all_different_and_documented() -> None:
    kinds = {
        kind.exit_code: kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.PConvError)
        and kind.__base__ is errors.PConvError
    }
    assert sorted(kinds) == [2, 3, 4, 5, 6, 7, 8]
    for code, name in kinds.items():
        assert f"{name}" in (errors.__doc__ or "")
        assert str(code) in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fill",),
        ("export",),
        ("export", "x.safetensors"),
        ("export", "x", "-o", "y", "--size", "big"),
        ("export", "x", "-o", "y", "--batch", "0"),
        ("infer", "e", "i", "m"),
        ("infer", "e", "i", "m", "-o", "o", "--mask-convention", "red"),
        ("infer", "e", "i", "m", "-o", "o", "--resume", "--overwrite"),
    ],
)
def test_wrong_usage_exits_2_with_a_hint(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.err
    assert "Traceback" not in result.err


# --- the way through --------------------------------------------------------------------


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
        assert facts["network"].startswith("U-Net, 4 levels")


def test_single_file(run: Run, engine: Path, files: Path) -> None:
    output = files / "result.webp"
    result = run("infer", engine, files / "in" / "a.png", files / "mask.png", "-o", output)
    assert result.code == 0
    assert output.is_file()
    assert str(output) in result.out


def test_formats(run: Run, engine: Path, files: Path) -> None:
    arguments = ("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert run(*arguments, "--format", "jpg", "--quality", "80").code == 0
    with Image.open(files / "out" / "a.jpg") as image:
        assert image.format == "JPEG"
    assert run(*arguments, "--format", "same").code == 0
    assert (files / "out" / "a.png").is_file()


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


def test_bench_without_checkpoint(run: Run, engine: Path) -> None:
    facts = json.loads(run("bench", engine, "--size", "32", "--rounds", "3", "--json").out)
    assert [t["name"] for t in facts["contenders"]] == ["onnxruntime, fp32"]
    assert facts["contenders"][0]["ratio"] is None


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("doctor").out
    assert "onnxruntime" in text
    assert json.loads(run("doctor", "--json").out)["backends"][0]["works"] is True
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    broken = json.loads(run("doctor", "--json").out)["backends"][0]
    assert broken["works"] is False
    assert "pip install 'pconv-deploy[onnxruntime]'" in broken["detail"]


# --- bad input: message and exit code ------------------------------------------------------


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
        manifest.write_text(json.dumps(facts))
    return target


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing file", "model.onnx is missing"),
        ("changed byte", "was changed after it was built"),
        ("future manifest", "has format 99; this pconv-deploy reads format 1"),
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
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("pconv_deploy.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
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
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cmyk":
        Image.new("CMYK", (56, 40)).save(path, "JPEG")
    elif kind == "animated":
        frames = [Image.new("RGB", (56, 40), (i, i, i)) for i in (0, 99)]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    elif kind == "other size":
        Image.new("RGB", (10, 10)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("truncated", "damaged"),
        ("bomb", "decompression bomb"),
        ("empty", "is empty"),
        ("cmyk", "is of mode CMYK"),
        ("animated", "is animated or has pages (2)"),
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


def test_palette_images_are_filled(run: Run, engine: Path, files: Path, photo: Photo) -> None:
    palette = Image.fromarray(photo()).convert("P")
    palette.save(files / "p.png")
    result = run("infer", engine, files / "p.png", files / "mask.png", "-o", files / "out.png")
    assert result.code == 0
    with Image.open(files / "out.png") as image:
        assert image.mode == "RGB"


def test_masks_all_empty_and_all_full(run: Run, engine: Path, files: Path) -> None:
    Image.new("L", (56, 40), 0).save(files / "none.png")
    Image.new("L", (56, 40), 255).save(files / "all.png")
    output = files / "out.png"
    empty = run("infer", engine, files / "in/a.png", files / "none.png", "-o", output)
    assert empty.code == 0
    assert "has no hole" in empty.err
    full = run("infer", engine, files / "in/a.png", files / "all.png", "-o", output, "--overwrite")
    assert full.code == 3
    assert "covers the whole image" in full.err
    assert "--mask-convention" in full.err
    inverted = run(
        "infer", engine, files / "in/a.png", files / "all.png", "-o", output, "--overwrite",
        "--mask-convention", "hole-black",
    )  # fmt: skip
    assert inverted.code == 0


def test_some_bad_files_exit_8_and_the_rest_is_done(run: Run, engine: Path, files: Path) -> None:
    (files / "in" / "b.png").write_bytes(b"nothing")
    result = run("infer", engine, files / "in", files / "mask.png", "-o", files / "out")
    assert result.code == 8
    assert "b.png is no image that can be read" in result.err
    assert "1 of 3 failed" in result.err
    assert sorted(p.name for p in (files / "out").iterdir()) == ["a.png", "c.png"]


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


def test_an_output_folder_that_cannot_be_made_exits_7(run: Run, engine: Path, files: Path) -> None:
    (files / "file").write_text("")
    result = run("infer", engine, files / "in", files / "mask.png", "-o", files / "file" / "out")
    assert result.code == 7
    assert "cannot write" in result.err


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
        assert "can run code when loaded; it was not opened" in result.err
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


def test_an_impossible_size_exits_2(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    result = run("export", checkpoint, "-o", tmp_path / "x.onnx", "--size", "100")
    assert result.code == 2
    assert "needs multiples of 16" in result.err


# --- whole processes ----------------------------------------------------------------------


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pconv_deploy", *map(str, arguments)],
        env=os.environ | WIDE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_ctrl_c_keeps_what_is_done_and_exits_130(
    engine: Path, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    (tmp_path / "in").mkdir()
    image = Image.fromarray(photo(256, 256))
    for number in range(400):
        image.save(tmp_path / "in" / f"{number:03}.png")
    Image.fromarray(box(256, 256)).save(tmp_path / "m.png")
    output = tmp_path / "out"
    process = start("infer", engine, tmp_path / "in", tmp_path / "m.png", "-o", output)
    deadline = time.monotonic() + 60
    while not (output.is_dir() and len(list(output.glob("[0-9]*.png"))) >= 5):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "continue with --resume" in complaint
    assert "Traceback" not in complaint
    done = sorted(output.iterdir())
    assert 5 <= len(done) < 400
    for path in done:  # all whole, none partial
        with Image.open(path) as picture:
            picture.load()


def test_a_full_disk_exits_7_and_leaves_no_partial_file(engine: Path, files: Path) -> None:
    import resource

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    output = files / "out"
    process = start(
        "infer", engine, files / "in", files / "mask.png", "-o", output,
        preexec_fn=small_files_only,
    )  # fmt: skip
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 7, complaint
    assert "cannot write" in complaint
    assert "Traceback" not in complaint
    assert list(output.iterdir()) == []


def test_help_needs_no_heavy_imports() -> None:
    check = (
        "import sys; sys.argv = ['pconv-deploy', 'infer', '--help']\n"
        "from pconv_deploy.cli.main import app, main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'onnx', 'onnxruntime', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


@pytest.mark.parametrize(
    "module", ["pconv_deploy", "pconv_deploy.inpainter", "pconv_deploy.batch", "pconv_deploy.jobs"]
)
def test_inference_never_imports_torch(module: str) -> None:
    check = (
        f"import sys, {module}; from pconv_deploy import Inpainter\n"
        "heavy = {'torch', 'onnx', 'onnxscript', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
