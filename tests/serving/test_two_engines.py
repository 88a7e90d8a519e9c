"""Two engines in one server: nobody gets the other's picture."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pconv_deploy import ExportOptions, build_engine
from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.inpainter import Inpainter
from tests.conftest import NORMALISATION, TINY, random_network
from tests.serving.live import encoded, fill, serving

Photo = Callable[..., NDArray[np.uint8]]


def test_two_engines_are_never_mixed_up(
    engine: Path, inpainter: Inpainter, photo: Photo, box: Photo, tmp_path: Path
) -> None:
    network = random_network(TINY, seed=1)
    save_checkpoint(tmp_path / "b.safetensors", network, normalisation=NORMALISATION, training={})
    export = ExportOptions(batch=1, size=(48, 64))  # quick
    build_engine(tmp_path / "b.safetensors", tmp_path / "b.engine", export=export)
    content = encoded(photo()), encoded(box())
    with Inpainter.load(tmp_path / "b.engine") as other:
        expected = {"a": inpainter(photo(), box()), "b": other(photo(), box())}
    assert not np.array_equal(expected["a"], expected["b"])
    names = ["a", "b"] * 50
    engines = {"a": engine, "b": tmp_path / "b.engine"}
    with serving(engines, max_queue=200) as address, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda name: fill(address, *content, name), names))
    for name, answer in zip(names, answers, strict=True):
        assert np.array_equal(answer.pixels, expected[name])
