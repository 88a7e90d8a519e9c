"""Standard output that is full, closed, or lacks characters."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.processes import WIDE

Photo = Callable[..., NDArray[np.uint8]]
COMMANDS = (("--help",), ("--version",))


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pconv_deploy", *map(str, arguments)]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, check=False, text=True, **({"env": os.environ | WIDE} | options)
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_standard_output_exits_7(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 7, done.stderr
    assert "cannot write to standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_full_standard_output_loses_no_result(engine: Path, files: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(
            "infer", engine, files / "in", files / "mask.png", "-o", files / "out",
            stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 7
    assert len(list((files / "out").iterdir())) == 3


def test_a_closed_pipe_exits_7_without_a_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("--help", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 7
    assert done.stderr.count("\n") == 1
    assert "Broken pipe" in done.stderr


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 2>&-"])
def test_a_closed_standard_output_exits_7_and_loses_no_result(
    engine: Path, files: Path, closed: str
) -> None:
    command = [sys.executable, "-m", "pconv_deploy"]
    arguments = ["infer", engine, files / "in", files / "mask.png", "-o", files / "out"]
    shell = f'exec "$@" 1>&- {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command, *map(str, arguments)],
        check=False, text=True, capture_output=True, env=os.environ | WIDE,
    )  # fmt: skip
    assert done.returncode == 7
    assert ("cannot write to standard output" in done.stderr) == ("2>" not in closed)
    assert "Traceback" not in done.stderr
    for path in (files / "out").iterdir():
        Image.open(path).load()
    assert len(list((files / "out").iterdir())) == 3


def test_a_full_standard_error_changes_no_exit_code(engine: Path, files: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("inspect", files / "nothing", stdout=subprocess.PIPE, stderr=full)
        assert done.returncode == 3
        done = run(
            "infer", engine, files / "in", files / "mask.png", "-o", files / "out",
            stdout=subprocess.PIPE, stderr=full,
        )  # fmt: skip
    assert (done.returncode, "3 filled" in done.stdout) == (0, True)


@pytest.mark.parametrize("name", ["\U0001f5bc", "broken\udce9"])
def test_names_that_standard_output_cannot_encode_are_escaped(
    name: str, engine: Path, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    for folder, pixels in (("in", photo()), ("holes", box())):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    ascii_only = os.environ | WIDE | {"PYTHONIOENCODING": "ascii"}
    done = run(
        "infer", engine, tmp_path / "in" / f"{name}.png", tmp_path / "holes", "-o",
        tmp_path / f"{name}.png", env=ascii_only, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{name}.png").is_file()
    assert name.encode("ascii", "backslashreplace").decode() in done.stdout


def test_json_is_valid_whatever_standard_output_encodes(engine: Path, tmp_path: Path) -> None:
    link = tmp_path / "caf\u00e9.engine"
    link.symlink_to(engine)
    done = run(
        "verify", link, link, "--count", "1", "--json",
        env=os.environ | WIDE | {"PYTHONIOENCODING": "ascii"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["a"]["path"].endswith("caf\u00e9.engine")
