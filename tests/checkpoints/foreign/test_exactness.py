"""Imported networks compute what their projects compute, by an independent formulation."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pconv_deploy.checkpoints.native import Checkpoint, load_checkpoint
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.export.ends import TensorGraph
from pconv_deploy.export.verify import literal_fill
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.network.architectures import for_inference
from pconv_deploy.parity import parity_inputs
from tests.checkpoints.foreign.projects import (
    Array,
    keras_fill,
    keras_layers,
    mmagic_fill,
    mmagic_state,
    naoto_fill,
    naoto_state,
    write_keras,
)

DEEP = ((4, 6, 6, 7, 7, 6, 6), (7, 5, 5, 3, 3, 3, 3))
DEEPER = ((4, 6, 6, 7, 7, 6, 6, 5), (7, 5, 5, 3, 3, 3, 3, 3))
SHALLOW = ((5, 6, 8), (7, 5, 3))
ONE = ((4,), (3,))
Shape = tuple[tuple[int, ...], tuple[int, ...]]
Fill = Callable[[Array, Array], Array]


def naoto(path: Path, shape: Shape) -> tuple[Path, Fill]:
    state = naoto_state(*shape)
    path = path / "naoto.pth"
    torch.save(
        {"n_iter": 1000, "model": state, "optimizer": {"state": {}, "param_groups": []}}, path
    )
    return path, partial(naoto_fill, state)


def mmagic(path: Path, shape: Shape) -> tuple[Path, Fill]:
    state = mmagic_state(*shape)
    path = path / "mmagic.pth"
    torch.save({"meta": {"iter": 500, "config": "model = 1"}, "state_dict": state}, path)
    return path, partial(mmagic_fill, state)


def keras(path: Path, shape: Shape) -> tuple[Path, Fill]:
    layers = keras_layers(*shape)
    path = path / "keras.h5"
    write_keras(path, layers, first=7)  # ..., 9, 10: not the order of the alphabet
    return path, partial(keras_fill, layers)


FAMILIES = {"naoto0804": naoto, "mmagic": mmagic, "pconv-keras": keras}
CASES = [
    pytest.param(family, shape, id=f"{name}-{len(shape[0])} levels")
    for name, family in FAMILIES.items()
    for shape in (SHALLOW, {"naoto0804": DEEPER, "mmagic": ONE, "pconv-keras": DEEP}[name])
]


def collapsed_fill(checkpoint: Checkpoint, dtype: torch.dtype) -> Fill:
    model = for_inference(checkpoint.model)
    graph = TensorGraph(model, checkpoint.normalisation).to(dtype).eval()

    def fill(image: Array, known: Array) -> Array:
        with torch.no_grad():
            output = graph(
                torch.from_numpy(image).to(dtype), torch.from_numpy(1.0 - known).to(dtype)
            )
        array: Array = output.double().numpy()
        return array

    return fill


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_fills_as_its_project_does(
    tmp_path: Path, family: Callable[[Path, Shape], tuple[Path, Fill]], shape: Shape
) -> None:
    path, fill = family(tmp_path, shape)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.model.config.channels, checkpoint.model.config.kernels) == shape
    # Shallow networks keep a hole of their own far from a single known pixel.
    side = max(checkpoint.model.config.size_multiple, 64)
    holes = set()
    for case in parity_inputs(side, side)[0 if side == 64 else 4 :]:
        image = case.image.transpose(2, 0, 1)[None] / 255.0
        known = (case.hole_mask == 0).astype(np.float64)[None, None]
        holes.add(float(known.mean()))
        expected = fill(image, known)
        assert np.isfinite(expected).all()
        scale = np.abs(expected).max()
        for name, candidate in {
            "literal float64": literal_fill(checkpoint),
            "collapsed float64": collapsed_fill(checkpoint, torch.float64),
            "collapsed float32": collapsed_fill(checkpoint, torch.float32),
        }.items():
            error = np.abs(candidate(image, known.astype(np.float64)) - expected).max() / scale
            assert error < 1e-5, (name, case.name, error)
    assert {0.0, 1.0} < holes


def test_the_way_to_onnx(tmp_path: Path) -> None:
    """Of another head; of naoto0804's network see tests/cli/test_foreign.py."""
    path, _ = keras(tmp_path, ((5, 6), (5, 3)))
    options = ExportOptions(batch=1, size=(32, 48))
    result = export_checkpoint(path, tmp_path / "model.onnx", options)
    assert not result.parity.failures()
    source = read_graph(tmp_path / "model.onnx").contract.source
    assert source.family.name == "pconv-keras"
    assert source.file == path.name


def test_every_difference_between_projects_shows(tmp_path: Path) -> None:
    """The comparison would notice each convention, were it read as another project's."""
    path, _ = naoto(tmp_path, SHALLOW)
    case = parity_inputs(64, 64)[3]
    image = case.image.transpose(2, 0, 1)[None] / 255.0
    known = (case.hole_mask == 0).astype(np.float64)[None, None]
    ours = literal_fill(load_checkpoint(path))(image, known)
    state = naoto_state(*SHALLOW)
    swapped = dict(state)
    weight = state["dec_2.conv.input_conv.weight"]
    swapped["dec_2.conv.input_conv.weight"] = torch.cat([weight[:, 6:], weight[:, :6]], dim=1)
    scaled = {**state, "enc_2.conv.input_conv.weight": state["enc_2.conv.input_conv.weight"] / 125}
    for other in (swapped, scaled):
        theirs = naoto_fill(other, image, known)
        assert np.abs(theirs - ours).max() > 1e-3 * np.abs(ours).max()
