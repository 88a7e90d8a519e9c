"""Engines under other releases of their runtimes and on other processors."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.commands.inspect import inspect_file
from pconv_deploy.engines import processor
from pconv_deploy.engines.backends.onnxruntime.cpu import OnnxRuntimeBackend
from pconv_deploy.engines.backends.onnxruntime.session import OnnxRuntimeSession
from pconv_deploy.engines.backends.openvino.backend import OpenVinoBackend
from pconv_deploy.engines.base import Runtime
from pconv_deploy.engines.folder import BuildOptions, build_engine, is_engine, open_engine
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.errors import EngineError
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # a fixture
from tests.engines.test_engine_folder import edit_manifest
from tests.explained import explained

LATER = Runtime(package="onnxruntime", version="9.9.0")


@pytest.fixture(scope="module")
def engine(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its first entry alone: tests/engines/windows proves the second."""
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(graph, path, BuildOptions(windows=False))
    return path


@pytest.fixture
def own(engine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(engine, tmp_path / "own.engine"))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release of ONNX Runtime, which computes the same."""
    monkeypatch.setattr(OnnxRuntimeBackend, "runtime", lambda _self: LATER)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of the image of every run of ONNX Runtime's sessions."""
    seen: list[tuple[int, ...]] = []
    genuine = OnnxRuntimeSession.run

    def run(self: OnnxRuntimeSession, inputs: Any) -> Any:
        seen.append(inputs["image"].shape)
        return genuine(self, inputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", run)
    return seen


def brighter(monkeypatch: pytest.MonkeyPatch, levels: int, *, known: bool = False) -> None:
    genuine = OnnxRuntimeSession.run

    def run(self: OnnxRuntimeSession, inputs: Any) -> Any:
        filled = genuine(self, inputs)["filled"].astype(int)
        where = (inputs["hole_mask"] != 0) | known
        filled[where] = np.where(
            filled[where] < 128, filled[where] + levels, filled[where] - levels
        )
        return {"filled": filled.astype(np.uint8)}

    monkeypatch.setattr(OnnxRuntimeSession, "run", run)


def test_under_what_built_it_nothing_runs_at_open(own: Path, runs: list[Any]) -> None:
    open_engine(own)[1].close()
    assert runs == []
    assert not (own / "proofs.json").exists()


@pytest.mark.usefixtures("later")
def test_under_another_release_it_proves_itself_once(own: Path, runs: list[Any]) -> None:
    for _ in range(2):
        open_engine(own)[1].close()
    assert runs == [(1, 64, 64, 3)]
    assert inspect_file(own)["proved itself"] == f"onnxruntime 9.9.0 on {processor.machine()}"
    assert is_engine(own)


def test_every_release_needs_its_own_proof(
    own: Path, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("9.9.0", "9.10.0", "9.9.0"):
        runtime = msgspec.structs.replace(LATER, version=version)
        monkeypatch.setattr(OnnxRuntimeBackend, "runtime", lambda _self, found=runtime: found)
        open_engine(own)[1].close()
    assert len(runs) == 2


def test_on_another_processor_it_proves_itself(
    own: Path, runs: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    built = json.loads((own / "manifest.json").read_text())["built_with"]
    assert built["processor"] == list(processor.instruction_sets() or ())
    edit_manifest(own, built_with=built | {"processor": ["avx2", "avx512_vnni", "fma"]})
    monkeypatch.setattr(processor, "instruction_sets", lambda: ("amx_int8", "avx2", "fma"))
    open_engine(own)[1].close()
    assert len(runs) == 1
    assert caplog.messages == [
        f"{own} has proved itself here (a processor with amx_int8; a processor without "
        "avx512_vnni): golden case the same bytes"
    ]
    monkeypatch.setattr(processor, "instruction_sets", lambda: None)  # the system does not say
    open_engine(own)[1].close()
    assert len(runs) == 1


def test_on_another_kind_of_machine_it_proves_itself(own: Path, runs: list[Any]) -> None:
    built = json.loads((own / "manifest.json").read_text())["built_with"]
    edit_manifest(own, built_with=built | {"machine": "s390x"})
    open_engine(own)[1].close()
    assert len(runs) == 1


def test_int8_without_instructions_for_it_is_said(
    own: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    built = json.loads((own / "manifest.json").read_text())["built_with"]
    edit_manifest(own, precision="int8", built_with=built | {"processor": ["avx2", "avx512_vnni"]})
    monkeypatch.setattr(processor, "instruction_sets", lambda: ("avx2",))
    open_engine(own)[1].close()
    assert caplog.messages[0].endswith("no instructions for int8, which may be slow")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    ("levels", "known", "found"),
    [
        (1, False, None),
        (2, False, r"at most 2 of 255 off, allowed 1"),
        (0, True, None),
        (1, True, "at most 1 of 255 off, allowed 1, known pixels CHANGED"),
    ],
)
def test_an_engine_that_computes_something_else_is_refused(
    own: Path, monkeypatch: pytest.MonkeyPatch, *, levels: int, known: bool, found: str | None
) -> None:
    brighter(monkeypatch, levels, known=known)
    if found is None:
        open_engine(own)[1].close()
        return
    text = rf"{own} computes something else here than when it was accepted \(onnxruntime 9\.9\.0, "
    with explained(
        EngineError,
        match=rf"{text}built with .*{found}\.\n  Rebuild it: pconv-deploy build-engine {own}$",
    ):
        open_engine(own)
    assert not (own / "proofs.json").exists()


@pytest.mark.usefixtures("later")
def test_an_engine_that_fails_on_its_golden_case_is_refused(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Any, _inputs: Any) -> Any:
        raise EngineError("ONNX Runtime failed on image [1, 64, 64, 3]: no memory")

    monkeypatch.setattr(OnnxRuntimeSession, "run", fail)
    with explained(EngineError, match=r"cannot prove itself here .*no memory\.\n  Rebuild it"):
        open_engine(own)
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda _self, _inputs: {})
    with explained(EngineError, match=r"cannot prove itself here .*found no array.*\n  Rebuild"):
        open_engine(own)


@pytest.mark.usefixtures("later")
def test_without_its_golden_case_it_is_refused(own: Path) -> None:
    path = own / "golden.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(EngineError, match=r"golden\.png was changed after it was built"):
        open_engine(own)
    path.unlink()
    with explained(EngineError, match=r"golden\.png was deleted\.\n  Rebuild it: pconv"):
        open_engine(own)
    edit_manifest(own, format=1, golden=None, kept={})
    (own / "graph.onnx").unlink()
    with explained(EngineError, match=r"accepted for one release\.\n  Rebuild it: .* -o "):
        open_engine(own)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("size", [(10, 10), (3 << 14, 3000), (0, 0)])
def test_a_golden_case_that_is_none(own: Path, size: tuple[int, int]) -> None:
    from pconv_deploy.engines.manifest import describe

    if all(size):
        Image.new("RGB", size, "red").save(own / "golden.png")
    else:
        (own / "golden.png").write_bytes(b"nonsense")
    written = msgspec.to_builtins(describe((own / "golden.png").read_bytes()))
    kept = json.loads((own / "manifest.json").read_text())["kept"]
    edit_manifest(own, kept=kept | {"golden.png": written})
    with pytest.raises(EngineError, match=r"golden\.png is no golden case"):
        open_engine(own)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b'{"format": 2, "proofs": []}', b"\xff\xfe", b"0" * (5 << 20)],
)
def test_what_is_no_proof_proves_nothing(own: Path, runs: list[Any], content: bytes) -> None:
    (own / "proofs.json").write_bytes(content)
    open_engine(own)[1].close()
    assert len(runs) == 1
    assert len(json.loads((own / "proofs.json").read_text())["proofs"]) == 1


@pytest.mark.usefixtures("later")
def test_a_proof_of_another_engine_or_through_a_link_proves_nothing(
    own: Path, runs: list[Any], tmp_path: Path
) -> None:
    open_engine(own)[1].close()
    elsewhere = tmp_path / "mine.json"
    (own / "proofs.json").rename(elsewhere)
    before = elsewhere.read_bytes()
    (own / "proofs.json").symlink_to(elsewhere)
    open_engine(own)[1].close()
    assert len(runs) == 2
    assert elsewhere.read_bytes() == before
    assert not (own / "proofs.json").is_symlink()
    edit_manifest(own, created="2026-01-01T00:00:00+00:00")
    open_engine(own)[1].close()
    assert len(runs) == 3


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("there", [None, Path.mkdir, lambda path: os.mkfifo(path)])
def test_where_no_proof_can_be_written_it_is_made_again(
    own: Path,
    runs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    there: Callable[[Path], None] | None,
) -> None:
    if there:
        there(own / "proofs.json")
    else:
        genuine = os.open

        def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, "Read-only file system")
            return genuine(path, flags, *more, **named)

        monkeypatch.setattr(os, "open", read_only)
    for _ in range(2):
        open_engine(own)[1].close()
    assert len(runs) == (1 if there and (own / "proofs.json").is_file() else 2)
    assert [path.name for path in own.iterdir() if "partial" in path.name] == []


def test_many_processes_prove_it_at_once(own: Path) -> None:
    edit_manifest(
        own,
        built_with=json.loads((own / "manifest.json").read_text())["built_with"]
        | {"version": "0.1.0"},
    )
    program = (
        "import sys; from pathlib import Path\n"
        "from pconv_deploy.engines.folder import open_engine\n"
        "for _ in range(3):\n"
        "    open_engine(Path(sys.argv[1]))[1].close()\n"
        "    Path(sys.argv[1], 'proofs.json').unlink(missing_ok=True)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, own], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert {path.name for path in own.iterdir()} - {"proofs.json"} == {
        *("golden.png", "graph.onnx", "manifest.json", "model.onnx")
    }


@pytest.mark.usefixtures("later")
def test_the_command_line_says_it_in_one_line(
    own: Path, run: Run, tmp_path: Path, photo: Callable[..., NDArray[np.uint8]], box: Any
) -> None:
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    Image.fromarray(box()).save(tmp_path / "hole.png")
    arguments = ["infer", own, tmp_path / "photo.png", tmp_path / "hole.png", "-o"]
    first = run(*arguments, tmp_path / "1.png")
    assert first.err.count("note: ") == 1
    assert f"note: {own} has proved itself here (onnxruntime 9.9.0, built with" in first.err
    assert "note: " not in run(*arguments, tmp_path / "2.png").err


def test_openvino_proves_itself_too(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "x.engine"
    build_engine(graph, engine, BuildOptions(backend="openvino"))
    later = Runtime(package="openvino", version="2099.1.0")
    monkeypatch.setattr(OpenVinoBackend, "runtime", lambda _self: later)
    open_engine(engine)[1].close()
    assert "2099.1.0" in (engine / "proofs.json").read_text()


def test_a_manifest_of_the_last_release_is_still_read(own: Path) -> None:
    facts = json.loads((own / "manifest.json").read_text())
    for name in ("kept", "quantised", "golden"):
        del facts[name]
    del facts["built_with"]["processor"]
    (own / "manifest.json").write_text(json.dumps(facts | {"format": 1}))
    for name in ("golden.png", "graph.onnx"):
        (own / name).unlink()
    assert read_manifest(own).format == 1
    open_engine(own)[1].close()
