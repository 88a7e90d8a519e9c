import json
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from pconv_deploy.verification.pictures import BUCKETS
from pconv_deploy.verification.results import Verification
from tests.cli.conftest import Run
from tests.verification.conftest import doctored_checkpoint, doctored_graph

SMALL = ("--size", "32x48", "--count", "1")


def test_two_that_agree(run: Run, checkpoint: Path, engine: Path, files: Path) -> None:
    result = run("verify", checkpoint, engine, *SMALL, "--picture", files / "worst.png")
    assert result.code == 0, result.err
    assert result.err == ""
    assert f"A  {checkpoint}: checkpoint, literal network, PyTorch" in result.out
    assert f"B  {engine}: engine, onnxruntime" in result.out
    assert "Raw outputs were not compared: B has only the composite." in result.out
    assert "Of A the composite is made from the raw output." in result.out
    for name in (*BUCKETS, "no hole", "all hole", "one hole pixel", "one known pixel"):
        assert any(line.strip().startswith(name) for line in result.out.splitlines())
    assert result.out.count(" ok") == 10
    assert " raw " not in result.out.partition("Raw outputs")[0]  # nothing to show there
    with Image.open(files / "worst.png") as picture:
        assert picture.width > picture.height
    again = run("verify", checkpoint, engine, *SMALL, "--picture", files / "worst.png")
    assert (again.code, "pass --overwrite to replace it" in again.err) == (2, True)


def test_a_doctored_weight_exits_4(
    run: Run, checkpoint: Path, graph: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctored = doctored_checkpoint(checkpoint, files / "doctored.safetensors")
    result = run("verify", graph, doctored, *SMALL)
    assert result.code == 4
    assert f"{doctored} differs from {graph} in" in result.err
    assert "hole 1-10%, pattern 1: relative error" in result.err
    assert "See where: --picture worst.png" in result.err
    assert "warning: they come from different checkpoints" in result.err
    shown = run("verify", graph, doctored, *SMALL, "--picture", files / "worst.png")
    assert (shown.code, (files / "worst.png").is_file()) == (4, True)
    assert "--picture" not in shown.err
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("verify", graph, doctored, *SMALL).out
    table = [line for line in narrow.splitlines() if line.rstrip().endswith(("FAIL", "ok"))]
    assert len(table) == 10
    assert all(len(line) <= 80 for line in table)
    header = [line for line in narrow.splitlines() if "PSNR" in line or "verdict" in line]
    assert [line.split() for line in header] == [
        ["error", "error", "PSNR", "PSNR", "levels", "filled", "known"],
        ["holes", "n", *("inside", "outside") * 2, "of", "255", "PSNR", "same", "verdict"],
    ]
    assert "…" not in narrow


def test_json_is_the_whole_outcome(run: Run, checkpoint: Path, graph: Path, files: Path) -> None:
    doctored = doctored_checkpoint(checkpoint, files / "doctored.safetensors")
    for other, code in ((graph, 0), (doctored, 4)):
        result = run("verify", checkpoint, other, *SMALL, "--json")
        assert result.code == code
        found = msgspec.json.decode(result.out, type=Verification)
        assert json.loads(result.out).keys() == set(Verification.__struct_fields__)
        assert found.passed is (code == 0)
        assert found.a.path == str(checkpoint)
        assert (found.height, found.width, len(found.cases)) == (32, 48, 10)
        assert found.raw_output_compared
        row = found.classes[0]
        assert (row.hole_class, row.cases, row.failed) == ("1-10%", 1, int(code == 4))
        assert row.raw_inside is not None
        assert (row.raw_inside.relative_error > found.tolerance) is (code == 4)
        assert bool(found.failures) is (code == 4)


def test_nan_in_the_table(run: Run, checkpoint: Path, graph: Path, files: Path) -> None:
    doctored = doctored_graph(graph, files / "nan.onnx", float("nan"))
    result = run("verify", checkpoint, doctored, *SMALL)
    assert result.code == 4
    assert "hole 1-10%, pattern 1: NaN or infinity in the output" in result.err
    line = next(line for line in result.out.splitlines() if line.strip().startswith("1-10%"))
    assert line.split()[-1] == "NaN"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("gone.onnx",), 3, "gone.onnx does not exist; needed a checkpoint, an exported ONNX file"),
        (("{graph}", "--holes", "gone"), 3, "gone does not exist"),
        (("{graph}", "--size", "40x40"), 2, "need multiples of 16"),
        (
            ("{graph}", "--size", "4096"),
            2,
            "4096x4096 is 16.8 megapixels; at most 8.4 are accepted",
        ),
        (("{graph}", "--picture", "worst.svg"), 2, "cannot write worst.svg: needed one of .png"),
        (("{graph}", "--dtype", "fp16"), 2, "'fp16' is not one of 'fp64', 'fp32'"),
    ],
)
def test_bad_input(
    run: Run, graph: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run("verify", graph, *(word.format(graph=graph) for word in arguments))
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err
