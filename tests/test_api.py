"""The names of the package itself: lazy, and as docs/api.md has them."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pconv_deploy
from pconv_deploy import errors

PAGE = (Path(__file__).parents[1] / "docs/api.md").read_text()
VERBS = ("build_engine", "export_checkpoint", "verify", "open_engine")


@pytest.mark.parametrize("name", VERBS)
def test_the_page_has_its_arguments(name: str) -> None:
    (told,) = re.findall(rf"## `{name}\((.*)\)`", PAGE)
    words = [word for word in told.split(", ") if word != "*"]
    assert words == list(inspect.signature(getattr(pconv_deploy, name)).parameters)


@pytest.mark.parametrize("name", ["BuildOptions", "ExportOptions", "RegionOptions", "RunOptions"])
def test_the_page_has_the_options_and_their_defaults(name: str) -> None:
    (told,) = set(re.findall(rf"{name}\(([^`]*)\)`", PAGE))
    kind = getattr(pconv_deploy, name)
    options = dict(pair.split("=") for pair in re.split(r",\s+", told))
    assert list(options) == list(inspect.signature(kind).parameters)
    assert {name: eval(text) for name, text in options.items()} == vars(kind())


def test_all_names_are_there() -> None:
    assert set(pconv_deploy.__all__) - {"__version__"} == pconv_deploy._PLACES.keys()
    for name in pconv_deploy.__all__:
        assert getattr(pconv_deploy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'inpaint'"):
        _ = pconv_deploy.inpaint


def test_the_page_has_the_errors() -> None:
    for name in re.findall(r"`(\w+Error)`", PAGE):
        assert issubclass(getattr(errors, name), errors.PConvError)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, pconv_deploy; assert not {'torch', 'numpy', 'onnx'} & sys.modules.keys();"
        "pconv_deploy.Inpainter, pconv_deploy.open_engine, pconv_deploy.RunOptions;"
        "assert not {'torch', 'onnx'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_example_of_the_page(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network.safetensors").write_bytes(checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path)
    # Pictures of 32 pixels instead of 256: PyTorch computes them in double precision.
    monkeypatch.setattr("pconv_deploy.verification.compatibility._USUAL_SIDE", 32, raising=False)
    image = np.full((32, 48, 3), 99, np.uint8)
    hole_mask = np.zeros((32, 48), np.uint8)
    hole_mask[8:16, 8:16] = 1
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"image": image, "hole_mask": hole_mask}
    exec(compile(code, "docs/api.md", "exec"), names)
    assert names["verification"].passed  # type: ignore[attr-defined]
    assert np.array_equal(names["filled"][hole_mask == 0], image[hole_mask == 0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.engine",
        "network.safetensors",
    ]
