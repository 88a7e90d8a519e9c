"""The demo's photos filled: by its engine through files, by the others in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pconv_deploy.assets.photos import photos
from pconv_deploy.commands.infer import fill_jobs
from pconv_deploy.commands.jobs import Job
from pconv_deploy.demo.results import DemoPhoto, Score, score
from pconv_deploy.errors import MissingRuntimeError
from pconv_deploy.evaluation.methods import Method, MethodSpec, fill_hole, open_method
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.writing import save_image
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.masks.irregular import AREA_BUCKETS, irregular_hole

TELEA = "OpenCV, Telea"


def telea() -> Method:
    """OpenCV's method of Telea (2004), the yardstick.

    Raises:
        MissingRuntimeError: OpenCV is not installed.
    """
    return open_method(MethodSpec(label=TELEA, kind="baseline", source="telea"))


def fill_photos(folder: Path, engine: Path) -> tuple[list[DemoPhoto], str | None]:
    """Fill the demo's photos through files, as `infer` does, and once more with the yardstick.

    Args:
        folder: for photos/, holes/ and filled/.
        engine: the engine's folder.

    Returns:
        Photos, and why there is no yardstick, if there is none.

    Raises:
        PConvError: as `infer` does.
    """
    originals, holes = photos(), {}
    rng = np.random.default_rng(7)
    for (name, photo), area in zip(originals.items(), AREA_BUCKETS, strict=True):
        holes[name] = irregular_hole(rng, photo.height, photo.width, area)
        save_image(folder / "photos" / f"{name}.png", photo)
        save_image(folder / "holes" / f"{name}.png", Image.fromarray(holes[name]))
    jobs = [
        Job(folder / "photos" / name, folder / "holes" / name, folder / "filled" / name)
        for name in (f"{name}.png" for name in originals)
    ]
    filled = {}
    with Inpainter.load(engine) as inpainter:
        for outcome in fill_jobs(inpainter, jobs):
            if outcome.error is not None:
                raise outcome.error
            with Image.open(outcome.job.output) as result:
                filled[outcome.job.image.stem] = result.convert("RGB")
    try:
        yardstick, why = telea(), None
    except MissingRuntimeError as error:
        yardstick, why = None, str(error)
    found = []
    for name, photo in originals.items():
        hole = holes[name] != 0
        other = fill_hole(yardstick, np.asarray(photo), hole) if yardstick else None
        by_telea = None if other is None else Image.fromarray(other)
        found.append(DemoPhoto(name, photo, hole, filled[name], by_telea))
    return found, why


def score_fills(
    photos: Iterable[DemoPhoto], main: str, others: Mapping[str, Path]
) -> dict[str, Score]:
    """Compare fills with the originals; those of `main` and the yardstick are made already.

    Args:
        photos: what was filled.
        main: the contender that did it.
        others: further engines by contender.

    Raises:
        EngineError: an engine cannot be opened or failed.
    """
    photos = list(photos)
    fills = {main: {photo.name: np.asarray(photo.filled) for photo in photos}}
    for name, path in others.items():
        with Inpainter.load(path) as inpainter:
            fills[name] = {p.name: _filled(inpainter, p) for p in photos}
    by_telea = {p.name: np.asarray(p.by_telea) for p in photos if p.by_telea}
    if by_telea:
        fills[TELEA] = by_telea
    return {
        name: score({p.name: (of[p.name], np.asarray(p.photo), p.hole) for p in photos})
        for name, of in fills.items()
    }


def _filled(inpainter: Inpainter, photo: DemoPhoto) -> Bytes:
    filled: Bytes = np.asarray(inpainter(photo.photo, photo.hole))
    return filled
