"""How much of a photo the network sees, all or a part around each hole, and the runs it takes.

The whole photo is the exact result, and takes memory by its pixels. In parts the network sees less
of what is around a hole, so it fills the hole otherwise; notes say so.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.engines.memory import MemoryUse, free_memory
from pconv_deploy.engines.sessions import Session, WindowedSession
from pconv_deploy.engines.shapes import Shapes, Size
from pconv_deploy.errors import EngineError, PictureSizeError, UsageError
from pconv_deploy.images.arrays import Bytes, Hole, Pixels
from pconv_deploy.images.boxes import Box, crop_of, crops_around, hole_boxes
from pconv_deploy.images.prepared import Prepared, filled_images, finish

Region = Literal["auto", "exact", "crop"]
REGIONS: tuple[Region, ...] = ("auto", "exact", "crop")
DEFAULT_CONTEXT = 512  # pixels, where nobody knows what a network was trained at
_LEAST_CONTEXT = 16
_STEP = 128  # crops of equal size share a run


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """How much of a photo the network sees.

    region      "exact": all of it; "crop": a part around each hole; "auto": all of it where its
                memory is estimated to suffice, else parts
    context     pixels around a hole that such a part holds, from 16; None: the side that the
                network was trained at, or 512
    max_memory  bytes that one run may take; None: half of what is free when the engine is loaded,
                shared by the runs at the same time
    """

    region: Region = "auto"
    context: int | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise UsageError(f"found region={self.region!r}; needed {', '.join(REGIONS)}")
        if self.context is not None and self.context < _LEAST_CONTEXT:
            raise UsageError(f"found context={self.context}; needed at least {_LEAST_CONTEXT}")
        if self.max_memory is not None and self.max_memory < 1:
            raise UsageError(f"found max_memory={self.max_memory}; needed a number of bytes")


DEFAULT_REGIONS = RegionOptions()
WHOLE = RegionOptions(region="exact", max_memory=1 << 62)  # whatever memory it takes


class Regions:
    """Chooses for each photo what of it the network sees.

    Args:
        options: what was asked for.
        memory: that a run of the engine takes; None: not known, so every photo is taken whole.
        shapes: that the engine takes.
        trained_at: side of the images the network was trained at; None: not known.
        streams: runs at the same time, which share the free memory.
    """

    def __init__(
        self,
        options: RegionOptions,
        memory: MemoryUse | None,
        shapes: Shapes,
        trained_at: int | None,
        streams: int = 1,
    ) -> None:
        self._options, self._memory, self._shapes = options, memory, shapes
        self._streams = streams
        self._context = options.context or trained_at or DEFAULT_CONTEXT
        free = free_memory()
        self._limit = options.max_memory or (free // 2 // streams if free else None)

    def of(self, region: Region | None) -> "Regions":
        """Return the same for another choice of region; None: for this one."""
        other = copy.copy(self)
        other._options = replace(self._options, region=region or self._options.region)
        return other

    def padded(self, height: int, width: int) -> Size:
        """Return what a photo is padded to: nothing where the engine takes only parts of it.

        Raises:
            ImageError: the engine does not take it, and it is to be seen whole.
        """
        if self._options.region != "exact" and not self._shapes.takes(height, width):
            return height, width
        return self._shapes.padded(height, width)

    def crops(self, hole: Hole) -> tuple[Box, ...]:
        """Return the parts of a photo that the network is to see; none: all of it.

        Raises:
            PictureSizeError: what it is to see takes more memory than it may, or is larger than
                the engine takes.
        """
        size = (hole.shape[0], hole.shape[1])
        fits = self._shapes.takes(*size)
        whole = self._takes(size) if fits else 0
        may = fits and (self._limit is None or whole <= self._limit)
        if self._options.region != "crop" and may:
            return ()
        if self._options.region == "exact":
            raise PictureSizeError(
                f"the whole photo of {_wxh(size)} takes about {_mib(whole)}, more than "
                f"{self._named_limit()}; fill it in parts with --region crop, or see --max-memory"
            )
        step, largest = math.lcm(_STEP, self._shapes.multiple), self._shapes.largest
        crops = tuple(crops_around(hole, self._context, step, largest))
        if crops in ((), ((0, 0, *size),)) and may:
            return ()
        sizes = {(bottom - top, right - left) for top, left, bottom, right in crops}
        for crop in sorted(sizes, key=math.prod, reverse=True):
            self._require_possible(crop)
        return crops

    def _require_possible(self, crop: Size) -> None:
        if not self._shapes.takes(*crop):
            raise PictureSizeError(
                f"a hole needs a part of {_wxh(crop)} and the engine takes at most "
                f"{_wxh(self._shapes.largest)}; scale the photo down, or {self._shapes.wider}"
            )
        if self._limit is not None and self._takes(crop) > self._limit:
            raise PictureSizeError(
                f"a part of {_wxh(crop)} around the hole takes about {_mib(self._takes(crop))}, "
                f"more than {self._named_limit()}; see --context and --max-memory"
            )

    def at_once(self, size: Size) -> int:
        """Return how many images of a size one run may take."""
        if self._limit is None or not self._takes(size):
            return 1 << 20
        return max(1, self._limit // self._takes(size))

    def _takes(self, size: Size) -> int:
        return self._memory.of(math.prod(self._shapes.padded(*size))) if self._memory else 0

    def _named_limit(self) -> str:
        assert self._limit is not None
        what = "--max-memory" if self._options.max_memory else "half of the free memory"
        if self._streams > 1 and not self._options.max_memory:
            what += f" for {self._streams} runs at the same time"
        return f"{what}, {_mib(self._limit)}"


def _cut(item: Prepared, box: Box, padded: Size) -> Prepared:
    """Return a part of a photo as one of its own, padded to what the engine takes."""
    top, left, bottom, right = box
    below, beside = padded[0] - (bottom - top), padded[1] - (right - left)
    image, hole = item.image[top:bottom, left:right], item.hole[top:bottom, left:right]
    hole_mask = item.hole_mask[top:bottom, left:right]
    return Prepared(
        item.pixels[top:bottom, left:right],
        hole,
        np.pad(image, ((0, below), (0, beside), (0, 0))),
        np.pad(hole_mask, ((0, below), (0, beside)), constant_values=255),
    )


def _put_together(item: Prepared, parts: Sequence[Bytes]) -> Bytes:
    """Return the whole photo (H', W', 3) with the holes of its parts filled."""
    filled = item.image.copy()
    for box in hole_boxes(item.hole):
        number = crop_of(box, item.crops)  # it may lie at the border of another one
        top, left, bottom, right = box
        y, x = item.crops[number][:2]
        hole = item.hole[top:bottom, left:right]
        part = parts[number][top - y : bottom - y, left - x : right - x]
        filled[top:bottom, left:right][hole] = part[hole]
    return filled


def _wxh(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _mib(count: int) -> str:
    """Name a number of bytes in the unit of --max-memory."""
    return f"{count >> 20:,} MiB"


class Runs:
    """A session, in runs that it takes and that the memory suffices for."""

    def __init__(self, session: Session, shapes: Shapes, regions: Regions) -> None:
        self._session, self._shapes, self._regions = session, shapes, regions

    def fill(self, prepared: Sequence[Prepared]) -> list[Pixels]:
        """Fill images of any sizes; those of one padded size share runs.

        Returns:
            Of each image its own pixels (H, W, C) with the hole's colours replaced.
        """
        results = [item.pixels.copy() for item in prepared]
        # Without a hole there is nothing to compute.
        wanted = [index for index, item in enumerate(prepared) if item.hole.any()]
        for indices in _by_size(prepared, wanted):
            try:
                filled = self.run([prepared[i] for i in indices])
            except EngineError as error:
                which = f"images {indices} of the list: " if len(prepared) > 1 else ""
                raise EngineError(f"{which}{error}") from error
            for index, pixels in zip(indices, filled, strict=True):
                results[index] = finish(prepared[index], pixels)
        return results

    def run(self, prepared: Sequence[Prepared]) -> list[Bytes]:
        """Fill images of one padded size; each result (H', W', 3)."""
        whole = [item for item in prepared if not item.crops]
        filled = iter(self._run(whole))
        return [self._run_crops(item) if item.crops else next(filled) for item in prepared]

    def _run_crops(self, item: Prepared) -> Bytes:
        parts = []
        for box in item.crops:
            top, left, bottom, right = box
            parts.append(_cut(item, box, self._shapes.padded(bottom - top, right - left)))
        filled: dict[int, Bytes] = {}
        for indices in _by_size(parts, range(len(parts))):
            filled |= zip(indices, self._run([parts[i] for i in indices]), strict=True)
        return _put_together(item, [filled[index] for index in range(len(parts))])

    def _run(self, prepared: Sequence[Prepared]) -> list[Bytes]:
        results, start = list[Bytes](), 0
        while start < len(prepared):
            size = prepared[start].padded_size
            most = min(len(prepared) - start, self._regions.at_once(size))
            count = self._shapes.batch(size, most)
            batch = list(prepared[start : start + count])
            start += count
            padded = batch + batch[-1:] * (count - len(batch))  # where it takes no fewer
            inputs = {
                IMAGE: np.stack([item.image for item in padded]),
                HOLE_MASK: np.stack([item.hole_mask for item in padded]),
            }
            if isinstance(self._session, WindowedSession):
                sizes = [(item.hole.shape[0], item.hole.shape[1]) for item in padded]
                outputs = self._session.run_within(inputs, sizes)
            else:
                outputs = self._session.run(inputs)
            results.extend(filled_images(outputs, padded)[: len(batch)])
        return results


def _by_size(prepared: Sequence[Prepared], indices: Iterable[int]) -> list[list[int]]:
    """Return the indices of images of one padded size together."""
    found: dict[Size, list[int]] = {}
    for index in indices:
        found.setdefault(prepared[index].padded_size, []).append(index)
    return list(found.values())
