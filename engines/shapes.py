"""The shapes that an engine takes, and how images come to them: padded, and in batches."""

import math
from dataclasses import dataclass

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.tensorrt.options import PlanFacts
from pconv_deploy.errors import ImageError

Size = tuple[int, int]  # height, width
_Shape = tuple[int, int, int]  # batch, height, width
_ANY = 1 << 31
_USUAL: Size = (512, 512)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What an engine takes, wherever it was built.

    ranges    the smallest and the largest (batch, height, width) of each
    multiple  of which sides are
    usual     sizes that it is meant for
    wider     what to do for larger ones, in words
    """

    ranges: tuple[tuple[_Shape, _Shape], ...]
    multiple: int
    usual: tuple[Size, ...]
    wider: str

    def padded(self, height: int, width: int) -> Size:
        """The smallest size that holds an image of this one.

        Raises:
            ImageError: none does.
        """
        least = [side + -side % self.multiple for side in (height, width)]
        able = [
            (max(least[0], low[1]), max(least[1], low[2]))
            for low, high in self.ranges
            if least[0] <= high[1] and least[1] <= high[2]
        ]
        if not able:
            raise ImageError(
                f"found an image of {width}x{height}; this engine takes at most "
                f"{self._largest()}. Scale it down, or {self.wider}"
            )
        return min(able, key=math.prod)

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


def shapes_of(contract: GraphContract, plan: PlanFacts | None) -> Shapes:
    """What an engine takes by its graph and, of a TensorRT engine, by its profiles."""
    multiple = contract.size_multiple
    if plan:
        return Shapes(
            ranges=tuple((profile.min, profile.max) for profile in plan.profiles),
            multiple=multiple,
            usual=tuple(dict.fromkeys(profile.opt[1:] for profile in plan.profiles)),
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
