import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.processes import imported_by, start, wait_until

Photo = Callable[..., NDArray[np.uint8]]


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
    wait_until(lambda: len(list(output.glob("[0-9]*.png"))) >= 5, process)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "run it again with --resume" in complaint
    assert "Traceback" not in complaint
    done = sorted(output.iterdir())
    assert 5 <= len(done) < 400
    for path in done:  # all whole, none partial
        with Image.open(path) as picture:
            picture.load()


def test_a_polite_end_leaves_nothing_behind(graph: Path, tmp_path: Path) -> None:
    process = start("build-engine", graph, "-o", tmp_path / "x.engine")
    wait_until(lambda: list(tmp_path.glob(".*.partial")), process)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode in (143, 0)  # 0: it was quicker than the signal
    assert ("terminated" in complaint) == (process.returncode == 143)
    assert [p for p in tmp_path.iterdir() if p.name != "x.engine"] == []


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
    asks_for_help = (
        "import sys; sys.argv = ['pconv-deploy', 'infer', '--help']\n"
        "from pconv_deploy.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )
    heavy = {"torch", "numpy", "PIL", "onnx", "onnxruntime", "msgspec"}
    assert not imported_by(asks_for_help) & heavy


def test_inference_never_imports_torch() -> None:
    found = imported_by("import pconv_deploy.inpainter, pconv_deploy.commands.infer")
    assert not found & {"torch", "onnx", "onnxscript", "safetensors"}


INTERRUPTED_AT_IMPORT = """
import os, signal, sys

class Interrupt:
    module = sys.argv.pop(1)

    def find_spec(self, name, path=None, target=None):
        if name == self.module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from pconv_deploy.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("pconv_deploy.cli.main", -signal.SIGINT),  # a shell shows it as 130
        ("pconv_deploy.commands.infer", 130),
        ("numpy", 130),
    ],
)
def test_ctrl_c_during_imports_leaves_no_traceback(
    module: str, code: int, engine: Path, files: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-c", INTERRUPTED_AT_IMPORT, module, "infer", engine, files / "in",
            files / "mask.png", "-o", files / "out",
        ],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
