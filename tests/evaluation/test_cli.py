import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pconv_deploy.errors import ImageError
from pconv_deploy.evaluation import perceptual, worker
from pconv_deploy.evaluation.methods import Method, MethodSpec, open_method
from pconv_deploy.training import vgg
from tests.cli.conftest import Result, Run
from tests.evaluation.conftest import smooth_picture
from tests.evaluation.made_up import inception_weights, lpips_heads, vgg16_weights
from tests.processes import start, wait_until


@pytest.fixture
def evaluate(run: Run, pictures: Path, masks: Path, tmp_path: Path) -> Run:
    def run_evaluate(*arguments: object, **paths: object) -> Result:
        options = {"images": pictures, "masks": masks, "output": tmp_path / "out"} | paths
        named = [x for name, path in options.items() if path for x in (f"--{name}", path)]
        return run("evaluate", *(arguments or ("mean", "telea")), *named)

    return run_evaluate


def test_table_json_markdown_and_grid(evaluate: Run, tmp_path: Path) -> None:
    result = evaluate()
    assert result.code == 0
    assert "4 of 4 pairs, filled by 2 methods." in result.out
    assert "each picture brought to its mask's size" in result.out
    for words in ("L1 (%)", "PSNR (dB)", "SSIM", "10-20%", "20-30%", "all", "telea"):
        assert words in result.out
    assert "LPIPS" not in result.out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "results.json", "table.md", "grid.png", "scores.jsonl", "settings.json", "examples"
    }  # fmt: skip
    again = evaluate("mean", "telea", "--resume", "--json")
    assert again.code == 0
    assert json.loads(again.out)["compared"] == 4


def test_pictures_that_are_not_read_are_listed_and_exit_8(
    evaluate: Run, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "z.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    result = evaluate()
    assert result.code == 8
    assert "4 of 4 pairs" in result.out
    assert "1 pictures were not read" in result.err
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "z.heic is a picture of a kind that is not read" in written["unread"][0]


def test_checkpoint_and_engine_side_by_side(
    evaluate: Run, checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    result = evaluate(checkpoint, f"ort={engine}", "--size", "48x64", "--threads", "1")
    assert result.code == 0
    cells = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    psnr = {
        cell["method"]: cell["psnr"] for cell in cells if cell["bucket"] is cell["border"] is None
    }
    assert psnr["ort"] == pytest.approx(psnr["tiny.safetensors"], abs=0.01)


def test_photos_and_holes_are_other_names_of_the_options(
    evaluate: Run, pictures: Path, masks: Path
) -> None:
    result = evaluate("mean", "--photos", pictures, "--holes", masks, images=None, masks=None)
    assert result.code == 0
    assert "4 of 4 pairs" in result.out


def test_drawn_holes(evaluate: Run) -> None:
    result = evaluate("mean", "--per-class", "1", masks=None)
    assert result.code == 0
    assert "12 of 12 pairs" in result.out
    assert "each picture at its own size; holes drawn with seed 0" in result.out


def test_metrics_of_networks(
    evaluate: Run, tmp_path: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg, "VGG16_SHA256_PREFIX", "")
    monkeypatch.setattr(perceptual, "LPIPS_SHA256_PREFIX", "")
    monkeypatch.setattr(perceptual, "INCEPTION_SHA256_PREFIX", "")
    torch.save(vgg16_weights(), tmp_path / "vgg.pth")
    torch.save(lpips_heads(), tmp_path / "heads.pth")
    torch.save(inception_weights(), tmp_path / "inception.pth")
    for name in ("a", "b"):
        (masks / f"{name}.png").unlink()
    files = {
        "vgg16": tmp_path / "vgg.pth",
        "lpips-heads": tmp_path / "heads.pth",
        "inception": tmp_path / "inception.pth",
    }
    result = evaluate("mean", "--threads", "1", **files)
    assert result.code == 0
    for title in ("LPIPS", "FID", "Inception score"):
        assert title in result.out
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    cell = stored["cells"][-1]
    assert cell["pictures"] == 2
    assert cell["lpips"] > 0
    assert cell["fid"] > 0
    assert cell["inception_score"] >= 1
    assert stored["inception_original"] >= 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "Inception score of the originals" in table
    other = evaluate("mean", "--resume", **files | {"inception": None})
    assert other.code == 2
    assert "the files of weights (--vgg16, --lpips-heads, --inception) differ" in other.err


def bad_masks(folder: Path, kind: str) -> None:
    for path in folder.iterdir():
        path.unlink()
    if kind == "all empty":
        Image.new("L", (64, 48), 0).save(folder / "m.png")
    elif kind == "all full":
        Image.new("L", (64, 48), 255).save(folder / "m.png")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("none", "holds no pictures"), ("all empty", "empty"), ("all full", "full")],
)
def test_unusable_masks_exit_3(evaluate: Run, masks: Path, kind: str, message: str) -> None:
    bad_masks(masks, kind)
    result = evaluate()
    assert result.code == 3
    assert message in result.err


def test_no_pictures_exit_3(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    for path in pictures.iterdir():
        path.unlink()
    for images in (pictures, tmp_path / "none"):
        result = evaluate(images=images)
        assert result.code == 3
        assert "holds no pictures" in result.err or "does not exist" in result.err


def test_some_damaged_pictures_exit_8_all_exit_3(
    evaluate: Run, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:900])
    result = evaluate("mean", "--per-class", "3")
    assert result.code == 8
    assert "failed: " in result.err
    assert "1.png is damaged" in result.err
    assert "pairs that every method filled" in result.err
    assert (tmp_path / "out" / "results.json").is_file()
    for path in pictures.iterdir():
        path.write_bytes(b"")
    result = evaluate("mean", "--overwrite")
    assert result.code == 3
    assert "none of the 4 pairs could be evaluated" in result.err


def test_many_failures_are_listed_in_short(
    evaluate: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def open_small(spec: MethodSpec, threads: int | None) -> Method:
        def refuse(*_: object) -> Any:
            raise ImageError("this engine takes at most 32x32")

        return Method(refuse, lambda: None) if spec.label == "small" else open_method(spec, threads)

    monkeypatch.setattr(worker, "open_method", open_small)
    result = evaluate("mean", "small=telea", "--per-class", "5")
    assert result.code == 8
    assert "small on " in result.err
    assert "this engine takes at most 32x32" in result.err
    assert "Without any result: small." in result.out
    assert result.err.count("failed: ") == 10
    assert "11 failures, listed in" in result.err
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["failures"]) == 11


def test_names_need_not_be_unicode(evaluate: Run, pictures: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"\xff.png")
    try:
        (pictures / "0.png").rename(pictures / strange)
    except OSError:
        pytest.skip("this file system wants Unicode")
    (pictures / "1.png").write_bytes(b"")
    (pictures / "2.png").unlink()
    named = tmp_path / os.fsdecode(b"\xfe")
    pictures.rename(named)
    result = evaluate("mean", "--per-class", "2", images=named)
    assert result.code == 8
    assert "1.png is empty" in result.err


def test_methods_that_cannot_be_used(evaluate: Run, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty.engine").mkdir()
    for method, code, message in (
        ("deepfill", 3, "deepfill does not exist; needed a checkpoint, an engine folder or one of"),
        (tmp_path / "x.safetensors", 3, "x.safetensors is damaged: File is not a zip file"),
        (tmp_path / "empty.engine", 5, "has no manifest.json, so it is no engine"),
    ):
        result = evaluate("mean", method)
        assert result.code == code
        assert message in result.err
        assert not (tmp_path / "out").exists()


def test_weights_of_another_network_exit_3(evaluate: Run, checkpoint: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"inception": checkpoint}, "is not pt_inception-2015-12-05"),
        ({"vgg16": checkpoint, "lpips-heads": checkpoint}, "is not torchvision's vgg16-397923af"),
        ({"vgg16": tmp_path / "none.pth"}, "none.pth does not exist; needed a file of weights"),
    ):
        result = evaluate("mean", **options)
        assert result.code == 3
        assert message in result.err
        assert not (tmp_path / "out").exists()


def test_a_missing_package_exits_6(evaluate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = evaluate("telea")
    assert result.code == 6
    assert "pip install 'pconv-deploy[evaluate]'" in result.err


def test_output_that_cannot_be_written(evaluate: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = evaluate(output=tmp_path / "file" / "out")
    assert inside.code == 7
    assert "cannot write" in inside.err
    there = evaluate(output=tmp_path / "file")
    assert there.code == 2
    assert "is no folder" in there.err
    assert (tmp_path / "file").read_text() == ""


def test_what_contradicts_itself_exits_2(evaluate: Run) -> None:
    for options, message in (
        (("--resume", "--overwrite"), "choose one"),
        (("--workers", "2", "--threads", "3"), "one thread each"),
        (("--size", "big"), "needed 512 or 512x768"),
        (("telea",), "2 methods are called 'telea'"),
    ):
        result = evaluate("mean", "telea", *options)
        assert result.code == 2
        assert message in result.err
    assert evaluate().code == 0
    result = evaluate()
    assert result.code == 2
    assert "pass --resume to go on with it, or --overwrite" in result.err
    result = evaluate("mean", "telea", "--resume", "--seed", "3")
    assert result.code == 2
    assert "--seed was 0, is 3" in result.err


def children_of(process: int) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if _parent(path) == process
    ]


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["ctrl-c", "kill -9"],
)
def test_stopped_from_outside_and_resumed(
    tmp_path: Path, run: Run, how: signal.Signals, code: int
) -> None:
    (tmp_path / "large").mkdir()
    for seed in range(2):
        smooth_picture(seed, 64, 64).save(tmp_path / "large" / f"{seed}.png")
    command = (
        "evaluate", "mean", "patchmatch", "--images", tmp_path / "large",
        "--output", tmp_path / "out", "--per-class", "1",
    )  # fmt: skip
    journal = tmp_path / "out" / "scores.jsonl"
    process = start(*command, "--workers", 2)
    wait_until(lambda: journal.exists() and journal.stat().st_size, process)
    children = children_of(process.pid)
    process.send_signal(how)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in complaints
    if how is signal.SIGINT:
        assert "--resume does the rest" in complaints
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{c}").exists() for c in children):
        time.sleep(0.05)
    assert not any(_alive(child) for child in children)
    done = journal.read_text().count("\n")
    assert 2 <= done < 24
    result = run(*command, "--resume")
    assert result.code == 0
    assert f"{done} scores kept from before" in result.out
    assert "12 of 12 pairs" in result.out


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
