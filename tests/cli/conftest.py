import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.cli.main import main
from tests.processes import WIDE

Photo = Callable[..., NDArray[np.uint8]]
COMMANDS = (
    "train",
    "convert",
    "export",
    "build-engine",
    "refit",
    "triton-repo",
    "package",
    "verify",
    "infer",
    "bench",
    "evaluate",
    "inspect",
    "doctor",
    "demo",
)


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
