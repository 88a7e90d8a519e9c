"""What an engine takes, and how images come to it."""

from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.profiles import profiles_for
from pconv_deploy.engines.shapes import Profile, Shape, Shapes, choose, shapes_of
from pconv_deploy.errors import ImageError
from tests.engines.backends.tensorrt.test_profiles import contract

FREE = contract(64)


def within(*ranges: tuple[Shape, Shape]) -> Shapes:
    profiles = tuple(Profile(min=low, opt=high, max=high) for low, high in ranges)
    return shapes_of(FREE, profiles)


def runs(shapes: Shapes, size: tuple[int, int], count: int) -> list[int]:
    found = []
    while count > 0:
        found.append(shapes.batch(size, count))
        count -= found[-1]
    return found


LADDER = shapes_of(FREE, profiles_for(FREE))
# Of docs/tensorrt.md.
TWO = within(((1, 256, 256), (1, 512, 512)), ((1, 256, 256), (16, 512, 512)))
EXACT = within(((1, 512, 512), (1, 512, 512)))
FEW_OR_MANY = within(((1, 64, 64), (1, 64, 64)), ((4, 64, 64), (8, 64, 64)))
WIDE_OR_SQUARE = within(((1, 64, 512), (1, 64, 512)), ((1, 128, 128), (1, 256, 256)))


@pytest.mark.parametrize(
    ("shapes", "size", "padded"),
    [
        (shapes_of(FREE, ()), (500, 375), (512, 384)),
        (shapes_of(FREE, ()), (5000, 1), (5056, 64)),
        (shapes_of(contract(64, size=(512, 640)), ()), (500, 375), (512, 640)),
        (EXACT, (375, 500), (512, 512)),
        (TWO, (150, 500), (256, 512)),
        (LADDER, (700, 300), (704, 320)),
        (WIDE_OR_SQUARE, (60, 300), (64, 512)),
        (WIDE_OR_SQUARE, (60, 100), (128, 128)),  # of both, which hold it, the smaller
    ],
)
def test_an_image_is_padded_to_the_smallest_size_that_holds_it(
    shapes: Shapes, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert shapes.padded(*size) == padded


@pytest.mark.parametrize(
    ("shapes", "size", "message"),
    [
        (TWO, (150, 513), "513x150; this engine takes at most 512x512. Scale it down, or build"),
        (LADDER, (1025, 300), "300x1025; this engine takes at most 1024x1024. Scale it"),
        (WIDE_OR_SQUARE, (65, 512), "512x65; this engine takes at most 512x64 or 256x256."),
        (
            shapes_of(contract(64, size=(512, 640)), ()),
            (513, 1),
            "1x513; this engine takes at most 640x512. Scale it down, or export without --size",
        ),
    ],
)
def test_an_image_that_no_size_holds(shapes: Shapes, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ImageError, match=f"found an image of {message}"):
        shapes.padded(*size)


@pytest.mark.parametrize(
    ("shapes", "size", "count", "batches"),
    [
        (shapes_of(FREE, ()), (512, 512), 33, [33]),
        (shapes_of(contract(64, batch=4), ()), (512, 512), 9, [4, 4, 4]),
        (LADDER, (512, 512), 33, [32, 1]),
        (LADDER, (1024, 1024), 9, [8, 1]),
        (TWO, (512, 512), 40, [16, 16, 8]),
        (FEW_OR_MANY, (64, 64), 11, [8, 1, 1, 1]),
        (within(((4, 64, 64), (8, 64, 64))), (64, 64), 10, [8, 4]),
        (EXACT, (64, 64), 3, [3]),  # which it refuses
    ],
)
def test_images_go_in_batches_that_it_takes(
    shapes: Shapes, size: tuple[int, int], count: int, batches: list[int]
) -> None:
    assert runs(shapes, size, count) == batches


@pytest.mark.parametrize("fixed", [{}, {"batch": 3}, {"size": (128, 640)}])
def test_a_profile_takes_every_batch(fixed: Any) -> None:
    graph = contract(64, **fixed)
    profiles = profiles_for(graph)
    shapes = shapes_of(graph, profiles)
    for size in ((1, 1), (128, 640), (100, 500)):
        padded = shapes.padded(*size)
        for count in (1, 2, 7, 100):
            for batch in runs(shapes, padded, count):
                choose(profiles, (batch, *padded))  # raises where none takes it


def test_the_usual_sizes_are_those_it_is_fastest_at() -> None:
    assert LADDER.usual == ((512, 512), (1024, 1024))
    assert shapes_of(FREE, ()).usual == ((512, 512),)
    assert shapes_of(contract(64, size=(128, 64)), ()).usual == ((128, 64),)
