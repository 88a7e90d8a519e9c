"""What of a photo the network sees: all of it, or parts, and when which."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.engines.memory import MemoryUse
from pconv_deploy.errors import PictureSizeError, UsageError
from pconv_deploy.images.hole_rule import DEFAULT_RULE, read_mask
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.regions import RegionOptions, Regions

Photo = Callable[..., NDArray[np.uint8]]
SIZE = (700, 900)
CROP = RegionOptions(region="crop", context=32)
HOLES = ((20, 30, 50, 60), (600, 800, 640, 880))


@pytest.fixture
def task(photo: Photo) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    hole_mask = np.zeros(SIZE, np.uint8)
    for top, left, bottom, right in HOLES:
        hole_mask[top:bottom, left:right] = 255
    return photo(*SIZE), hole_mask


def loaded(engine: Path, **options: Any) -> Inpainter:
    return Inpainter.load(engine, threads=1, regions=RegionOptions(**options))


def test_a_small_photo_is_seen_whole(engine: Path, task: Any) -> None:
    with loaded(engine) as auto, loaded(engine, region="exact") as exact:
        assert auto.prepare(*task).crops == ()
        np.testing.assert_array_equal(auto(*task), exact(*task))


def test_a_crop_is_filled_as_a_photo_of_its_own(engine: Path, task: Any) -> None:
    image, hole_mask = task
    with Inpainter.load(engine, threads=1, regions=CROP) as inpainter:
        crops = inpainter.prepare(*task).crops
        filled = inpainter(image, hole_mask)
    assert len(crops) == len(HOLES)
    with loaded(engine, region="exact") as exact:
        for top, left, bottom, right in crops:
            part = np.s_[top:bottom, left:right]
            np.testing.assert_array_equal(filled[part], exact(image[part], hole_mask[part]))
    known = hole_mask == 0
    np.testing.assert_array_equal(filled[known], image[known])


def test_photos_in_parts_and_whole_ones_in_one_call(engine: Path, task: Any) -> None:
    image, hole_mask = task
    everything = np.full(SIZE, 255, np.uint8)
    everything[350, 450] = 0
    with Inpainter.load(engine, threads=1, regions=CROP) as inpainter:
        both = inpainter([image, image], [hole_mask, everything])
        assert inpainter.prepare(image, everything).crops == ()
        np.testing.assert_array_equal(both[0], inpainter(image, hole_mask))
        np.testing.assert_array_equal(both[1], inpainter(image, everything))


def test_what_takes_too_much_memory_is_seen_in_parts(engine: Path, task: Any) -> None:
    memory = read_manifest(engine).memory
    assert memory is not None
    limit = memory.of(SIZE[0] * SIZE[1]) - 1
    with loaded(engine, max_memory=limit, context=32) as inpainter:
        assert len(inpainter.prepare(*task).crops) == len(HOLES)


def test_what_takes_too_much_memory_is_refused_before_it_is_taken(engine: Path, task: Any) -> None:
    with (
        loaded(engine, region="exact", max_memory=1 << 10) as inpainter,
        pytest.raises(
            PictureSizeError, match=r"the whole photo of 900x700 takes about .*--region crop"
        ),
    ):
        inpainter.prepare(*task)
    with (
        loaded(engine, max_memory=1 << 10, context=32) as inpainter,
        pytest.raises(PictureSizeError, match="a part of 256x128 around the hole takes about"),
    ):
        inpainter.prepare(*task)


@pytest.mark.parametrize(
    "options", [{"region": "some"}, {"context": 3}, {"max_memory": 0}], ids=str
)
def test_options_that_cannot_be(options: Any) -> None:
    with pytest.raises(UsageError, match=r"found .*; needed"):
        RegionOptions(**options)


def test_one_call_may_see_more_or_less_than_the_others(engine: Path, task: Any) -> None:
    image, hole_mask = task
    hole, reading = hole_mask != 0, read_mask(hole_mask, DEFAULT_RULE)
    with loaded(engine, context=32) as inpainter:
        assert inpainter.prepare_hole(image, hole, reading).crops == ()
        item = inpainter.prepare_hole(image, hole, reading, region="crop")
        assert len(item.crops) == len(HOLES)
        assert inpainter.prepare_hole(image, hole, reading).crops == ()


def test_runs_at_the_same_time_share_the_free_memory(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hole = np.zeros((1000, 1000), np.bool_)
    hole[:8, :8] = True
    monkeypatch.setattr("pconv_deploy.regions.free_memory", lambda: 4 << 20)
    with Inpainter.load(engine) as inpainter:
        shapes = inpainter._shapes

    def crops(streams: int) -> int:
        memory = MemoryUse(fixed=0, per_pixel=1)
        regions = Regions(RegionOptions(context=16), memory, shapes, None, streams)
        return len(regions.crops(hole))

    assert crops(1) == 0
    assert crops(4) == 1
