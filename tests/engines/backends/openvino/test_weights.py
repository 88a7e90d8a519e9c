"""One file of weights for both entries of an OpenVINO engine."""

import re
from pathlib import Path

import numpy as np
import pytest

from pconv_deploy.engines.backends.openvino.backend import OpenVinoBackend
from pconv_deploy.engines.backends.openvino.weights import share_weights
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.engines.windows.graph import windowed
from pconv_deploy.graphs.file import ExportedGraph, read_graph

PLACE = re.compile(r'offset="(\d+)" size="(\d+)"')


def constants(folder: Path) -> list[bytes]:
    """The constants of a model, in the order in which it names them."""
    weights = (folder / "model.bin").read_bytes()
    found = PLACE.findall((folder / "model.xml").read_text())
    assert found
    return [weights[int(start) : int(start) + int(size)] for start, size in found]


@pytest.fixture
def entries(graph: Path, tmp_path: Path) -> tuple[ExportedGraph, Path, Path]:
    """The graph, and the folders of both entries as OpenVINO writes them."""
    exported, backend = read_graph(graph), OpenVinoBackend()
    second, _rule = windowed(exported.model, 2)
    contents = {"first": exported.content, "second": second.SerializeToString()}
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        backend.build(content, exported.contract, "fp32", tmp_path / name)
    return exported, tmp_path / "first", tmp_path / "second"


def test_the_second_entry_has_the_weights_of_the_first_and_its_own(
    entries: tuple[ExportedGraph, Path, Path],
) -> None:
    _, first, second = entries
    expected, alone = constants(second), (second / "model.bin").stat().st_size
    weights = (first / "model.bin").read_bytes()
    assert share_weights(first, second) == ("model.bin",)
    shared = (second / "model.bin").read_bytes()
    assert shared.startswith(weights)
    assert len(shared) - len(weights) < alone / 10
    assert constants(second) == expected


def test_the_first_entry_computes_the_same_from_them(
    entries: tuple[ExportedGraph, Path, Path],
) -> None:
    _, first, second = entries
    inputs = {
        "image": np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8),
        "hole_mask": np.tri(64, dtype=np.uint8)[None],
    }
    filled = []
    for _ in range(2):
        session = OpenVinoBackend().open(files_just_built(first), "fp32", RunOptions())
        filled.append(session.run(inputs)["filled"])
        session.close()
        share_weights(first, second)
        (first / "model.bin").write_bytes((second / "model.bin").read_bytes())
    np.testing.assert_array_equal(filled[0], filled[1])
