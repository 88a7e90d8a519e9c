"""The built wheel, alone, in a fresh environment: what an application developer installs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: setuptools leaves a build/ behind, whose old files would go into later wheels.
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pconv_deploy", "export", "engines"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # Without isolation: setuptools is pinned in requirements.txt like everything else.
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "-w", str(target), str(source))  # fmt: skip
    (built,) = target.glob("*.whl")
    return built


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if name.startswith("pconv_deploy/")}
        tops = {name.split("/")[0] for name in archive.namelist()}
    package = ROOT / "pconv_deploy"
    needed = {
        f"pconv_deploy/{path.relative_to(package)}"
        for folder in (package, package / "export", package / "engines")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == needed
    assert "pconv_deploy/py.typed" in found
    assert "pconv_deploy/engines/backends/onnxruntime/cpu.py" in found
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pconv_deploy"}


def test_the_wheel_alone_fills_a_hole_without_torch(
    wheel: Path, engine: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "env"
    run(sys.executable, "-m", "venv", str(environment))
    python = str(environment / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check",
        "-c", str(ROOT / "requirements.txt"), f"{wheel}[onnxruntime]")  # fmt: skip
    installed = run(python, "-m", "pip", "list", "--format", "freeze")
    assert "torch" not in installed
    assert "pconv-deploy==" in installed

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(tmp_path / "photo.png")
    hole = np.zeros((40, 56), np.uint8)
    hole[8:20, 10:30] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    program = (
        "import sys\n"
        "from PIL import Image\n"
        "from pconv_deploy import Inpainter\n"
        f"with Inpainter.load({str(engine)!r}) as inpaint:\n"
        f"    photo = Image.open({str(tmp_path / 'photo.png')!r})\n"
        f"    filled = inpaint(photo, Image.open({str(tmp_path / 'hole.png')!r}))\n"
        f"filled.save({str(tmp_path / 'api.png')!r})\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    run(python, "-c", program)
    tool = str(environment / "bin" / "pconv-deploy")
    run(tool, "infer", str(engine), str(tmp_path / "photo.png"), str(tmp_path / "hole.png"),
        "-o", str(tmp_path / "cli.png"))  # fmt: skip
    run(tool, "doctor")
    with (
        Image.open(tmp_path / "photo.png") as photo,
        Image.open(tmp_path / "api.png") as api,
        Image.open(tmp_path / "cli.png") as cli,
    ):
        before, after = np.array(photo), np.array(api)
        assert (after == np.array(cli)).all()
    assert (after[hole == 0] == before[hole == 0]).all()
    assert (after[hole != 0] != before[hole != 0]).mean() > 0.9


def test_a_gpu_is_looked_for_before_gigabytes_are_installed(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.txt"):
        (tmp_path / name).touch()
    python, log = tmp_path / "python", tmp_path / "log"
    # Recent enough, on a machine without libcuda.so.1.
    python.write_text(f'#!/bin/sh\necho "$2" >> {log}\ncase "$2" in *libcuda*) exit 1;; esac\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "gpu-report", f"PYTHON={python}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "needs an NVIDIA GPU with a driver for CUDA 13" in done.stderr
    looked = log.read_text().splitlines()
    assert len(looked) == 2
    assert "sys.version_info" in looked[0]
