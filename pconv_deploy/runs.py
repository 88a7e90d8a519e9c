"""Images of one size through an engine, in as many runs as it needs, whole or in parts."""

from collections.abc import Iterable, Sequence

import numpy as np

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.engines.sessions import Session, WindowedSession
from pconv_deploy.engines.shapes import Shapes, Size
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.images.prepared import Prepared, filled_images
from pconv_deploy.regions import Regions, cut, put_together


class Runs:
    """A session, in runs that it takes and that the memory suffices for."""

    def __init__(self, session: Session, shapes: Shapes, regions: Regions) -> None:
        self._session, self._shapes, self._regions = session, shapes, regions

    def run(self, prepared: Sequence[Prepared]) -> list[Bytes]:
        """Fill images of one padded size; each result (H', W', 3)."""
        whole = [item for item in prepared if not item.crops]
        filled = iter(self._run(whole))
        return [self._run_crops(item) if item.crops else next(filled) for item in prepared]

    def _run_crops(self, item: Prepared) -> Bytes:
        parts = []
        for box in item.crops:
            top, left, bottom, right = box
            parts.append(cut(item, box, self._shapes.padded(bottom - top, right - left)))
        filled: dict[int, Bytes] = {}
        for indices in by_size(parts, range(len(parts))):
            filled |= zip(indices, self._run([parts[i] for i in indices]), strict=True)
        return put_together(item, [filled[index] for index in range(len(parts))])

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


def by_size(prepared: Sequence[Prepared], indices: Iterable[int]) -> list[list[int]]:
    """Return the indices of images of one padded size together."""
    found: dict[Size, list[int]] = {}
    for index in indices:
        found.setdefault(prepared[index].padded_size, []).append(index)
    return list(found.values())
