"""The demo as a user runs it, with the network that comes with the package."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from pconv_deploy.assets.photos import photos, sample_photo
from pconv_deploy.cli.demo import show_result
from pconv_deploy.demo import engines
from pconv_deploy.demo.engines import BESIDE, MAIN, Kind, build_beside, contender
from pconv_deploy.demo.fills import TELEA, fill_photos
from pconv_deploy.demo.measuring import MeasureRequest, measure
from pconv_deploy.demo.recipe import PHOTOGRAPHS
from pconv_deploy.demo.results import DemoResult
from pconv_deploy.demo.run import run_demo
from pconv_deploy.engines.registry import BACKENDS
from pconv_deploy.errors import EngineError, ParityError
from tests.demo.demo_results import figure, table_rows

OPENVINO = "openvino, fp32"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult, list[str]]:
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    beside: tuple[Kind, ...] = (("onnxruntime", "bf16"), ("openvino", "fp32"))
    result = run_demo(folder, rounds=3, beside=beside, memory=False, progress=said.append)
    return folder, result, said


Demo = tuple[Path, DemoResult, list[str]]


def test_makes_what_it_promises(demo: Demo) -> None:
    folder, result, _ = demo
    assert all(path.exists() for path in result.outputs)
    assert {p.relative_to(folder).parts[0] for p in result.outputs} <= {
        p.name for p in folder.iterdir()
    }
    for parity in (result.exactness, *result.parities):
        assert parity.failures() == []
        assert 0 < (parity.worst_error or 0) < 1e-3
    # Trained weights magnify rounding; the report says by how much for the reference itself.
    assert 0 < (result.exactness.reference_error or 0) < 1e-3
    assert "PyTorch float64" in result.exactness.reference
    assert len(list((folder / "filled").iterdir())) == len(photos())
    with Image.open(folder / "contact-sheet.png") as sheet:
        assert (sheet.width > 3 * 240, sheet.height > len(photos()) * 150) == (True, True)


def test_tells_every_step(demo: Demo) -> None:
    said = demo[2]
    beginnings = (
        "export: ", "build onnxruntime, fp32: ", "comparing the engine with the literal",
        "build openvino, fp32: ", "filling holes", "comparing the fills", "measuring speed",
        "measuring speed, round 5 of 5", "writing the report",
    )  # fmt: skip
    found = [next(i for i, step in enumerate(said) if step.startswith(b)) for b in beginnings]
    assert found == sorted(found)


def test_the_report_shows_the_figures_that_were_measured(demo: Demo) -> None:
    folder, result, _ = demo
    html = (folder / "report.html").read_text(encoding="utf-8")
    rows = table_rows(html)
    assert list(rows) == [
        "PyTorch eager, literal", "PyTorch eager, collapsed", "onnxruntime, fp32", OPENVINO, TELEA,
    ]  # fmt: skip
    for timing in result.bench.contenders:
        cells = rows[timing.name]
        assert (cells[0], cells[1]) == (f"{timing.p50:.1f}", f"{timing.p90:.1f}")
        assert cells[2] == f"{timing.ratio:.2f}"
        measured = result.scores.get(timing.name)
        assert cells[6] == (f"{measured.psnr:.2f}" if measured else "–")
        assert cells[7] == ("0" if measured else "–")
    main = result.timing("onnxruntime, fp32")
    assert figure(html, "ratio") == f"{main.ratio:.1f}"
    assert figure(html, "changed") == "0"
    files = sum(p.stat().st_size for p in (folder / "model.engine").iterdir() if p.suffix != ".png")
    graph = (folder / "model.engine" / "graph.onnx").stat().st_size
    manifest = (folder / "model.engine" / "manifest.json").stat().st_size
    assert figure(html, "size") == f"{(files - graph - manifest) / 2**20:.1f}"
    assert 'data-left-out="onnxruntime, bf16"' in html
    assert "ONNX Runtime has no convolution in bf16 for the CPU." in html


def test_its_fills_are_better_than_the_yardstick(demo: Demo) -> None:
    """As the page shows: engines in fp32 agree, and what was learned is worth something."""
    scores = demo[1].scores
    main, other, telea = (scores[name].psnr or 0 for name in (demo[1].main, OPENVINO, TELEA))
    assert abs(main - other) < 0.01
    assert main > telea + 0.1
    assert all(score.known_changed == 0 < score.known for score in scores.values())


def test_the_report_is_one_file_that_says_what_the_network_is(demo: Demo) -> None:
    folder, result, _ = demo
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert result.caveat in unescape(html)
    assert "on 17 photographs and on computed pictures" in result.caveat
    assert len(PHOTOGRAPHS) == 17
    sources = re.findall(r'(?:src|href)="([^"#]{5})', html)
    assert sources
    assert set(sources) == {"data:"}
    for words in ("PyTorch literal", "float64", "identical", "torch", "Daniel Büchele"):
        assert words in html
    assert "CHANGED" not in html


def test_ends_with_the_command_that_opens_the_page(
    demo: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result, _ = demo
    show_result(result)
    said = capsys.readouterr().out
    assert f"{folder / 'report.html'}  " in said
    assert said.rstrip().endswith(f"pconv-deploy serve {folder / 'model.engine'}")
    assert "without onnxruntime, bf16: ONNX Runtime has no convolution in bf16" in said


def test_it_can_be_repeated_with_another_network(
    demo: Demo, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first, _ = demo
    monkeypatch.setattr("pconv_deploy.demo.run.measure", lambda *_: first.bench)
    again = run_demo(folder, checkpoint, rounds=3, beside=(), memory=False)
    assert again.outputs.keys() == first.outputs.keys()
    assert again.caveat == "The network is tiny.safetensors."


def test_all_runtimes_and_precisions_of_processors_are_tried() -> None:
    here = {b.name for b in BACKENDS if b.traits.device == "cpu"}
    assert {MAIN, *BESIDE} == {(name, p) for name in here for p in ("fp32", "bf16", "int8")}


def test_engines_that_cannot_be_built_are_named_with_the_reason(
    graph: Path, tmp_path: Path, uninstalled: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(*_arguments: object, **_options: object) -> None:
        raise ParityError("in int8 the holes come out at 20 dB")

    monkeypatch.setattr(engines, "build_engine", lossy)
    uninstalled("openvino")
    kinds: tuple[Kind, ...] = (
        ("onnxruntime", "bf16"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
    )
    made, left_out = build_beside(graph, tmp_path, kinds, lambda _step: None)
    assert made == {}
    assert list(left_out) == [contender(kind) for kind in kinds]
    assert "no convolution in bf16" in left_out["onnxruntime, bf16"]
    assert "at 20 dB" in left_out["onnxruntime, int8"]
    assert "pip install 'pconv-deploy[openvino]'" in left_out["openvino, fp32"]


def test_without_opencv_there_is_no_yardstick(
    engine: Path, tmp_path: Path, uninstalled: Callable[..., None]
) -> None:
    uninstalled("cv2")
    found, why = fill_photos(tmp_path, engine)
    assert "cv2" in (why or "")
    assert [photo.by_telea for photo in found] == [None] * len(photos())


def test_an_engine_that_fails_while_it_is_measured_is_an_error_of_the_engine(
    checkpoint: Path, tmp_path: Path
) -> None:
    request = MeasureRequest(
        engines=(str(tmp_path / "none"),), checkpoint=str(checkpoint), rounds=3
    )
    with pytest.raises(EngineError, match=r"measuring failed: .*none"):
        measure(request, lambda _step: None)


def test_every_photo_names_its_source() -> None:
    sources = Path(__file__).parents[2] / "pconv_deploy/assets/pictures/SOURCES.md"
    text = sources.read_text(encoding="utf-8")
    for path in sources.parent.glob("*.jpg"):
        assert path.name in text
    assert {f"{name}.jpg" for name in photos()} == {p.name for p in sources.parent.glob("*.jpg")}
    assert sample_photo().size == (512, 512)
