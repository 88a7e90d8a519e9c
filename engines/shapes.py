"""The shapes that an engine takes, and how images come to them: padded, and in batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from pconv_deploy.contract import GraphContract
from pconv_deploy.errors import EngineError, ImageError, UsageError
from pconv_deploy.parity import Batch, few_inputs, parity_batches, parity_inputs

MOST_BATCH, MOST_SIDE = 1024, 1 << 14
Size = tuple[int, int]  # height, width
# batch, height, width
Shape = tuple[
    Annotated[int, Meta(ge=1, le=MOST_BATCH)],
    Annotated[int, Meta(ge=1, le=MOST_SIDE)],
    Annotated[int, Meta(ge=1, le=MOST_SIDE)],
]
_ANY = 1 << 31
_USUAL: Size = (512, 512)
# What is compared with the graph on a processor: pixels of one image, and of all in a batch.
_MOST_PIXELS, _MOST_IN_A_BATCH = 1 << 22, 1 << 26


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes that one optimization profile takes, each (batch, height, width).

    TensorRT is tuned for `opt` and works from `min` to `max`.
    """

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        for low, best, high in zip(self.min, self.opt, self.max, strict=True):
            if not low <= best <= high:
                shapes = ("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))
                raise ValueError(
                    "found min {}, opt {}, max {}; needed min <= opt <= max in batch, height and "
                    "width".format(*shapes)
                )

    def takes(self, shape: tuple[int, int, int]) -> bool:
        """Whether (batch, height, width) lies within it."""
        return all(low <= n <= high for low, n, high in zip(self.min, shape, self.max, strict=True))

    def describe(self) -> str:
        """One line for people: `1x256x256 .. 8x512x512, tuned for 1x512x512`."""
        low, best, high = ("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))
        return low if low == high else f"{low} .. {high}, tuned for {best}"


def require_distinct(profiles: Sequence[Profile]) -> None:
    """Refuse a list that holds a profile twice.

    Raises:
        UsageError: it does; the message describes the profile.
    """
    for number, profile in enumerate(profiles):
        if profile in profiles[:number]:
            raise UsageError(f"duplicate profile {profile.describe()}")


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What an engine takes, wherever it was built.

    ranges    the smallest and the largest (batch, height, width) of each
    multiple  of which sides are
    usual     sizes that it is meant for
    wider     what to do for larger ones, in words
    """

    ranges: tuple[tuple[Shape, Shape], ...]
    multiple: int
    usual: tuple[Size, ...]
    wider: str

    @property
    def largest(self) -> Size:
        """The size of most pixels that it takes."""
        return max((high[1:] for _, high in self.ranges), key=math.prod)

    def takes(self, height: int, width: int) -> bool:
        """Whether it takes images of this size, padded if need be."""
        return bool(self._able(height, width))

    def padded(self, height: int, width: int) -> Size:
        """The smallest size that holds an image of this one.

        Raises:
            ImageError: none does.
        """
        able = self._able(height, width)
        if not able:
            raise ImageError(
                f"found an image of {width}x{height}; this engine takes at most "
                f"{self._largest()}. Scale it down, or {self.wider}"
            )
        return min(able, key=math.prod)

    def _able(self, height: int, width: int) -> list[Size]:
        least = [side + -side % self.multiple for side in (height, width)]
        return [
            (max(least[0], low[1]), max(least[1], low[2]))
            for low, high in self.ranges
            if least[0] <= high[1] and least[1] <= high[2]
        ]

    def batch(self, size: Size, count: int) -> int:
        """How many images the next run is to have, of `count` that wait.

        As many of them as one run takes; or more than there are, where none takes so few. Of a
        size that it does not take, all: the engine says what it takes.

        Args:
            size: of all of them.
            count: from 1.
        """
        batches = [
            (low[0], high[0])
            for low, high in self.ranges
            if low[1] <= size[0] <= high[1] and low[2] <= size[1] <= high[2]
        ]
        able = [min(most, count) for least, most in batches if least <= count]
        return max(able) if able else min((least for least, _ in batches), default=count)

    def _largest(self) -> str:
        sizes = {high[1:] for _, high in self.ranges}
        kept = [
            (height, width)
            for height, width in sorted(sizes)
            if not any(h >= height and w >= width for h, w in sizes - {(height, width)})
        ]
        return " or ".join(f"{width}x{height}" for height, width in kept)


def shapes_of(contract: GraphContract, profiles: Sequence[Profile]) -> Shapes:
    """What an engine takes: by its profiles, or without any by its graph."""
    multiple = contract.size_multiple
    if profiles:
        return Shapes(
            ranges=tuple((profile.min, profile.max) for profile in profiles),
            multiple=multiple,
            usual=tuple(dict.fromkeys(profile.opt[1:] for profile in profiles)),
            wider="export without --size" if contract.size else "build with --max-shapes",
        )
    low = (contract.batch or 1, *(contract.size or (multiple, multiple)))
    high = (contract.batch or _ANY, *(contract.size or (_ANY, _ANY)))
    return Shapes(
        ranges=((low, high),),
        multiple=multiple,
        usual=(contract.size or _USUAL,),
        wider="export without --size",
    )


def choose(profiles: Sequence[Profile], shape: Shape) -> int:
    """Find the smallest profile that takes (batch, height, width), by its index.

    Raises:
        EngineError: none takes it; the message lists them.
    """
    able = [index for index, profile in enumerate(profiles) if profile.takes(shape)]
    if not able:
        batch, height, width = shape
        known = "\n  ".join(profile.describe() for profile in profiles)
        raise EngineError(
            f"found batch {batch} of {height}x{width}; "
            f"this engine takes (batch x height x width):\n  {known}"
        )
    # Of two that end alike, the narrower one was made for fewer shapes.
    return min(able, key=lambda i: (_volume(profiles[i].max), -_volume(profiles[i].min), i))


def judged_batches(profiles: Sequence[Profile], contract: GraphContract) -> list[Batch]:
    """Return what an engine is compared with its graph on: all kinds of holes, all profiles.

    The usual cases are batches of three, of small images. Where some profile takes no such, they
    have the least shape of the first profile instead. Then each profile has a batch of its best
    shape and one of its largest, as far as the reference can compute them and no other profile
    takes them; or else one of its least.
    """
    batches: list[Batch] = [*parity_batches(contract)]
    if not profiles:
        return batches
    shapes = {(contract.batch or len(batch), *batch[0].hole_mask.shape) for batch in batches}
    if not all(any(profile.takes((n, h, w)) for profile in profiles) for n, h, w in shapes):
        shapes = {profiles[0].min}
        count, height, width = profiles[0].min
        cases = parity_inputs(height, width)
        groups = (cases[start : start + count] for start in range(0, len(cases), count))
        batches = [_in_turn(group, count) for group in groups]
    # The same cases in all shapes of one size, so that the reference computes them once.
    few: dict[tuple[int, int], Batch] = {}
    wanted = [shape for index in range(len(profiles)) for shape in _affordable(profiles, index)]
    for shape in dict.fromkeys(wanted):
        if shape not in shapes:
            size = shape[1:]
            few[size] = few.get(size) or few_inputs(*size)
            batches.append(_in_turn(few[size], shape[0]))
    return batches


def _in_turn(cases: Batch, count: int) -> Batch:
    return [cases[index % len(cases)] for index in range(count)]


def _affordable(profiles: Sequence[Profile], index: int) -> list[Shape]:
    """A profile's best and largest shape, but for what the reference cannot compute; or its least.

    Only shapes for which it is the one that is chosen: none, if others take all of them.
    """
    profile = profiles[index]
    able = [
        shape
        for shape in (profile.opt, profile.max)
        if shape[1] * shape[2] <= _MOST_PIXELS and _volume(shape) <= _MOST_IN_A_BATCH
    ]
    best, least = (
        [shape for shape in shapes if choose(profiles, shape) == index]
        for shapes in (able, [profile.min])
    )
    return best or least


def _volume(shape: Shape) -> int:
    batch, height, width = shape
    return batch * height * width
