"""`pconv-deploy export --module`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pconv_deploy.cli.export import refusals
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.graphs.passes import Site, Step
from tests.cli.conftest import Run
from tests.export.modules.networks import make_unet

UNET = "tests.export.modules.networks:make_unet"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the user's in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "their_nets.py"
    sys.modules.pop("their_nets", None)


def test_from_a_module_to_an_engine(run: Run, tmp_path: Path) -> None:
    weights, graph = tmp_path / "unet.pth", tmp_path / "unet.onnx"
    torch.save(make_unet().state_dict(), weights)
    named = ("--weights", weights, "--normalisation", "imagenet", "--size", "16x24")
    result = run("export", "--module", UNET, *named, "-o", graph)
    assert result.code == 0, result.err
    said = f"module {UNET}, 4 partial convolutions, called with a mask of 3 channels"
    assert said in result.out
    assert "normalisation: mean (0.485, 0.456, 0.406)" in result.out
    assert "against the module itself, PyTorch float64: 9 holes" in result.out
    engine = tmp_path / "unet.engine"
    assert run("build-engine", graph, "-o", engine).code == 0
    for path in (graph, engine):
        assert said in run("inspect", path).out
    assert run("verify", graph, engine).code == 0
    result = run("bench", engine, "--against", weights, "--rounds", "3")
    assert result.code == 2
    assert "made from a module" in result.err
    result = run("verify", weights, graph)
    assert result.code == 3
    assert "is of no known project" in result.err


def test_a_graph_without_functions_is_taken_by_every_command(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    graph, engine = tmp_path / "inlined.onnx", tmp_path / "x.engine"
    result = run("export", checkpoint, "-o", graph, "--inline")
    assert result.code == 0, result.err
    assert not read_graph(graph).model.functions
    assert run("inspect", graph).code == 0
    assert run("build-engine", graph, "-o", engine).code == 0
    assert run("verify", checkpoint, graph, "--size", "32", "--count", "1").code == 0


def test_the_example_of_another_call(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "own-networks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "for_export.py").write_text(example)
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "class Inpainting(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(4, 3, 3, padding=1)\n"
        "    def forward(self, batch):\n"
        "        picture = torch.cat([batch['picture'], batch['hole']], 1)\n"
        "        return {'filled': self.conv(picture), 'coarse': picture}\n"
    )
    torch.save({"conv.weight": torch.ones(3, 4, 3, 3), "conv.bias": torch.ones(3)}, "weights.pth")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (command,) = re.findall(r"`pconv-deploy (export --module for_export:[^`]+)`", text)
    result = run(*command.split(), "--size", "16")
    for name in ("nets", "for_export"):
        sys.modules.pop(name, None)
    assert result.code == 0, result.err
    assert read_graph(tmp_path / "model.onnx").parity is not None


def test_options_reach_the_graph(run: Run, tmp_path: Path) -> None:
    options = "--mean 0.1,0.2,0.3 --std 1,1,2 --size-multiple 8 -O 1 --explain --size 16"
    without = ("--without", "split-concat, fold-constants", "--without", "fold-batch-norm")
    result = run("export", "--module", UNET, *options.split(), *without, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.err
    assert "note: split-concat would run from a higher level than -O1 on; leaving it" in result.out
    assert "multiply-adds of the convolutions alone, at 16x16\n" in result.out
    assert re.search(r"PyTorch float64; up to \S+e-05 is allowed here: 1e-5, or twice", result.out)
    assert "left out" not in result.out  # what must be masked, the image, is no refusal
    contract = read_graph(tmp_path / "x.onnx").contract
    assert contract.normalisation.mean == (0.1, 0.2, 0.3)
    assert contract.normalisation.std == (1.0, 1.0, 2.0)
    assert contract.size_multiple == 8
    assert contract.rewrites == ("collapse-masks", "mask-once")


def test_refusals_name_two_places_of_each_reason() -> None:
    places = [Site(f"decoder.{i}.conv.renormalise", "a reason") for i in range(3)]
    step = Step("fuse-epilogue", (*places, Site("head", "another"), Site("fired")))
    assert list(refusals(step)) == [
        "fuse-epilogue left out decoder.0.conv.renormalise, decoder.1.conv.renormalise and 1 more: "
        "a reason",
        "fuse-epilogue left out head: another",
    ]


def test_a_module_without_partial_convolutions_is_told(run: Run, tmp_path: Path) -> None:
    factory = "tests.export.modules.networks:make_plain"
    arguments = ("--size", "16", "--batch", "1", "-o", tmp_path / "x.onnx")
    result = run("export", "--module", factory, *arguments)
    assert result.code == 0, result.err
    assert "note: no layer of this module was recognised as a partial convolution" in result.out


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("their_net:make", "there is no Python module their_net, neither in the current folder"),
        ("their_nets:mak", "their_nets has no mak; it has Thing, fails, gives, needs, stops"),
        ("their_nets:fails", "fails() raised ValueError: no such depth (their_nets.py, line 3)"),
        ("their_nets:needs", "their_nets:needs takes (depth); needed a callable without arguments"),
        ("their_nets:stops", "stops() raised SystemExit: 0"),
        ("their_nets:gives", "their_nets:gives() returned dict; needed a torch.nn.Module"),
    ],
)
def test_bad_factories_exit_3(run: Run, code: Path, factory: str, message: str) -> None:
    code.write_text(
        "class Thing: ...\n"
        "def fails():\n"
        "    raise ValueError('no such depth')\n"
        "def needs(depth): ...\n"
        "def stops(): raise SystemExit(0)\n"
        "def gives(): return {}\n"
    )
    result = run("export", "--module", factory, "-o", "x.onnx")
    assert result.code == 3
    assert message in result.err
    assert not (code.parent / "x.onnx").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "import nothing_there",
            "importing their_nets raised ModuleNotFoundError: No module named",
        ),
        ("import sys; sys.exit(0)", "importing their_nets raised SystemExit: 0 (their_nets.py, l"),
    ],
)
def test_code_that_fails_exits_3(run: Run, code: Path, content: str, message: str) -> None:
    code.write_text(content)
    result = run("export", "--module", "their_nets:make", "-o", "x.onnx")
    assert result.code == 3
    assert message in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--module", "nets"), "found --module 'nets'; needed PACKAGE.MODULE:FACTORY"),
        (("x.safetensors", "--weights", "w.pth"), "go with --module"),
        ((), "needed either a checkpoint alone, or --module"),
        (("--module", UNET, "--mean", "1,1,1"), "either --normalisation, or both --mean and --std"),
        (
            ("--module", UNET, "--mean", "1,1", "--std", "1,1,1"),
            "Invalid value for '--mean': found '1,1'; needed three numbers",
        ),
        (("--module", UNET, "--mean", "1,1,1", "--std", "0,1,1"), "needed finite, std > 0"),
        (("--module", UNET, "--size-multiple", "0"), "Invalid value for '--size-multiple'"),
        (("--module", UNET, "--size", "-512"), "Invalid value for '--size': found '-512'"),
    ],
)
def test_wrong_usage_exits_2_before_anything_heavy_is_imported(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "pconv_deploy.export.module_to_onnx", None)
    result = run("export", *arguments, "-o", tmp_path / "x.onnx")
    assert result.code == 2
    assert message in result.err
