"""From a checkpoint to an engine in one step."""

import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pconv_deploy import ExportOptions, build_engine
from pconv_deploy.cli.main import app
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.errors import InputError, MissingRuntimeError, ParityError, UsageError
from pconv_deploy.export import checkpoint_to_onnx
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.parity import ParityReport

FIXED = ExportOptions(batch=1, size=(32, 32))  # quick to export


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with engine and graph, made by the command."""
    folder = tmp_path_factory.mktemp("made")
    words = ["build-engine", checkpoint, "-o", folder / "new.engine", "--size", "32", "--batch", 1]
    words += ["-O", 1, "--keep-graph", folder / "new.onnx"]
    typed = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/usr/bin/pconv-deploy", *typed])
        result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("verified: ") == 2
    return folder


def test_the_manifest_has_both_parities_and_what_was_typed(made: Path) -> None:
    manifest = read_manifest(made / "new.engine")
    assert manifest.command.startswith("pconv-deploy build-engine ")
    assert shlex.split(manifest.command)[-2:] == ["--keep-graph", str(made / "new.onnx")]
    assert manifest.export_parity is not None
    assert manifest.export_parity.reference.startswith("the literal network")
    assert manifest.engine_parity is not None
    assert manifest.contract.size == (32, 32)
    Inpainter.load(made / "new.engine").close()


def test_the_graph_is_kept_as_export_writes_it(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == ["new.engine", "new.onnx"]
    exported = read_graph(made / "new.onnx")
    assert exported.contract == read_manifest(made / "new.engine").contract
    assert exported.parity is not None


def test_a_graph_that_differs_builds_no_engine(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(_self: ParityReport, what: str) -> None:
        raise ParityError(f"{what} differs")

    monkeypatch.setattr(ParityReport, "require_success", differs)
    with pytest.raises(
        ParityError, match=r"new\.engine was not written; the graph is in"
    ) as raised:
        build_engine(checkpoint, tmp_path / "new.engine", export=FIXED)
    assert raised.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["new.rejected.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{graph} -o {new} --size 32", "is no checkpoint, so nothing is exported"),
        ("{engine} --keep-graph x.onnx", "is no checkpoint, so nothing is exported"),
        ("{checkpoint}", "found no name for the engine"),
        ("{checkpoint} -o {new} --keep-graph {new}", "need names of their own"),
        ("{checkpoint} -o {there}", "already exists; pass --overwrite"),
        ("{checkpoint} -o {new} --keep-graph {there}", "already exists; pass --overwrite"),
        ("{checkpoint} -o {new} --precision fp16", "cannot build fp16 engines here"),
        ("{checkpoint} -o {new} --precision int8", "--calibration-photos"),
        ("{checkpoint} -o {new} --size 33", "multiples of 16"),
        ("{checkpoint} -o {new} --without nonsense", "nonsense"),
    ],
)
def test_refused_before_any_work(
    words: str,
    message: str,
    checkpoint: Path,
    graph: Path,
    engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_args: object) -> None:
        raise AssertionError("it was traced")

    monkeypatch.setattr(checkpoint_to_onnx, "trace_target", never)
    (tmp_path / "there").write_text("mine")
    places = {"new": tmp_path / "new", "there": tmp_path / "there"}
    filled = words.format(checkpoint=checkpoint, graph=graph, engine=engine, **places)
    result = CliRunner().invoke(app, ["build-engine", *filled.split()])
    assert isinstance(result.exception, UsageError), result.exception
    assert message in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "mine"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors does not exist"):
        build_engine(tmp_path / "none.safetensors", tmp_path / "x.engine")
    (tmp_path / "text").write_text("text")
    with pytest.raises(InputError, match="text"):
        build_engine(tmp_path / "text", tmp_path / "x.engine")


def test_the_graphs_precision_is_the_engines(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say the engine's precision instead"):
        build_engine(checkpoint, tmp_path / "x", export=ExportOptions(precision="fp16"))


def test_without_torch(
    checkpoint: Path, graph: Path, tmp_path: Path, uninstalled: "object"
) -> None:
    uninstalled("torch")  # type: ignore[operator]
    with pytest.raises(MissingRuntimeError, match=r"needs torch.*pconv-deploy\[export\]"):
        build_engine(checkpoint, tmp_path / "x.engine")
    build_engine(graph, tmp_path / "y.engine")
