"""Two engines in one server: nobody gets the other's picture."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.images.arrays import Bytes
from pconv_deploy.inpainter import Inpainter, Prepared
from tests.serving.live import encoded, fill, serving

Photo = Callable[..., NDArray[np.uint8]]


class Inverted(Inpainter):
    def run(self, prepared: Sequence[Prepared]) -> list[Bytes]:
        return [np.uint8(255) - filled for filled in super().run(prepared)]


def test_two_engines_are_never_mixed_up(
    engine: Path, inpainter: Inpainter, photo: Photo, box: Photo
) -> None:
    content = encoded(photo()), encoded(box())
    filled = inpainter(photo(), box())
    inverted = np.where(box()[:, :, None] > 0, np.uint8(255) - filled, filled)
    expected = {"a": filled, "b": inverted}
    names = ["a", "b"] * 50
    engines: dict[str, str | Path | Inpainter] = {
        "a": engine,
        "b": Inverted.load(engine, threads=1),
    }
    with serving(engines, max_queue=200) as address, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda name: fill(address, *content, name), names))
    for name, answer in zip(names, answers, strict=True):
        assert np.array_equal(answer.pixels, expected[name])
