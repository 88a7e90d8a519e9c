"""The client of the document, against a stand-in for the server."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.engines.folder import build_engine
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.triton.configuration import ServeOptions
from pconv_deploy.triton.repository import write_model
from tests.triton.stand_in import serving

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "triton.md"
Photo = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def session_class() -> Any:
    """The class that the document shows."""
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
        if "class OnTriton" in block
    ]
    definitions, _, use = code.partition("\n\nsession = ")
    assert "with Inpainter(session.contract, session)" in use
    names: dict[str, Any] = {}
    exec(definitions, names)
    return names["OnTriton"]


def test_images_come_back_as_from_the_engine_itself(
    engine: Path, inpainter: Inpainter, session_class: Any, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    folder = write_model(engine, tmp_path, ServeOptions(max_batch_size=2), name="model").folder
    images = [photo(), photo(33, 70, 4), photo(), photo()]
    masks = [box(), box(33, 70), box(), box()]
    with serving(folder) as (address, batches):
        session = session_class(address, "model")
        assert session.contract == inpainter.contract
        with Inpainter(session.contract, session) as remote:
            filled = remote(images, masks)
    for there, here in zip(filled, inpainter(images, masks), strict=True):
        np.testing.assert_array_equal(there, here)
    # Three images of one padded size, two at most in a request.
    assert sorted(batches) == [1, 1, 2]


def test_an_engine_of_fixed_batch_and_size(
    checkpoint: Path, session_class: Any, tmp_path: Path, photo: Photo, box: Photo
) -> None:
    graph, engine = tmp_path / "fixed.onnx", tmp_path / "fixed.engine"
    export_checkpoint(checkpoint, graph, ExportOptions(batch=2, size=(48, 64)))
    build_engine(graph, engine)
    folder = write_model(engine, tmp_path / "repo").folder
    with serving(folder) as (address, batches):
        session = session_class(address, "fixed")
        with Inpainter(session.contract, session) as remote:
            filled = remote([photo()] * 3, box())
    with Inpainter.load(engine) as local:
        np.testing.assert_array_equal(filled[2], local(photo(), box()))
    assert batches == [2, 2]
