import re
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from pconv_deploy.demo.photos import photos, sample_photo
from pconv_deploy.demo.recipe import PHOTOGRAPHS
from pconv_deploy.demo.run import DemoResult, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, run_demo(folder, rounds=3)


def test_makes_what_it_promises(demo: tuple[Path, DemoResult]) -> None:
    folder, result = demo
    assert all(path.exists() for path in result.outputs)
    assert {p.relative_to(folder).parts[0] for p in result.outputs} <= {
        p.name for p in folder.iterdir()
    }
    assert result.export_parity.failures() == []
    assert result.engine_parity.failures() == []
    # Trained weights magnify rounding; the report says by how much for the reference itself.
    assert 0 < (result.export_parity.reference_error or 0) < 1e-3
    assert len(list((folder / "filled").iterdir())) == len(photos())


def test_the_report_is_one_file_that_says_what_the_network_is(
    demo: tuple[Path, DemoResult],
) -> None:
    folder, result = demo
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert result.caveat in unescape(html)
    assert "on 17 photographs and on computed pictures" in result.caveat
    assert len(PHOTOGRAPHS) == 17
    sources = re.findall(r'(?:src|href)="([^"]{5})', html)
    assert sources
    assert set(sources) == {"data:"}
    for words in ("PyTorch eager, literal", "float64", "identical", "torch", "Daniel Büchele"):
        assert words in html
    assert "CHANGED" not in html


def test_the_contact_sheet_has_a_row_for_each_photo(demo: tuple[Path, DemoResult]) -> None:
    with Image.open(demo[0] / "contact-sheet.png") as sheet:
        assert sheet.width > 3 * 240
        assert sheet.height > len(photos()) * 150


def test_it_can_be_repeated_with_another_network(
    demo: tuple[Path, DemoResult], checkpoint: Path
) -> None:
    folder, first = demo
    again = run_demo(folder, own_checkpoint=checkpoint, rounds=3)
    assert again.outputs.keys() == first.outputs.keys()
    assert again.caveat == "The network is tiny.safetensors."


def test_every_photo_names_its_source() -> None:
    sources = Path(__file__).parent.parent / "pconv_deploy/demo/pictures/SOURCES.md"
    text = sources.read_text(encoding="utf-8")
    for path in sources.parent.glob("*.jpg"):
        assert path.name in text
    assert {f"{name}.jpg" for name in photos()} == {p.name for p in sources.parent.glob("*.jpg")}
    assert sample_photo().size == (512, 512)
